"""How blocks get to a GPU, and results back: through pinned memory by turns, or they are there already.

Every thread has two places for blocks, each with a stream of its own: while one is read into, the other is copied and
worked on.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpv.backends import gpu
from hpv.backends.gpu import plainly
from hpv.base.buffers import Buffers
from hpv.base.errors import InputError
from hpv.base.words import MIB
from hpv.kernels.cuda.device import cuda

LARGEST_PLACE = 8 * MIB
"""Bytes that are copied to pinned memory at once: for more, copying is no faster."""
PLACES = 2
FIRST = 0
"""The GPU that works on what is in this machine's memory."""


class OnDevice:
    """Values on a GPU, viewed as signed integers (samples, columns), and the stream that orders work on them."""

    def __init__(self, array: Any, stream: Any, number: int) -> None:
        self.array, self.stream, self.number = array, stream, number

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples and columns."""
        return tuple(self.array.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> OnDevice:
        return OnDevice(self.array[rows], self.stream, self.number)


def of_tensor(tensor: Any, key: np.dtype) -> OnDevice:
    """A C-contiguous torch tensor (samples, nodes), on the stream that torch works on; nothing is copied."""
    return on_stream(tensor.view(getattr(sys.modules["torch"], key.name)))


def on_stream(array: Any) -> OnDevice:
    """A tensor of torch, or an array of numba, on the stream that its library works on."""
    if hasattr(array, "copy_to_host"):
        number = gpu.number_of(array)
        with gpu.chosen(number):
            return OnDevice(array, cuda.default_stream(), number)
    torch, number = sys.modules["torch"], array.device.index
    with gpu.chosen(number):
        stream = gpu.external(torch.cuda.current_stream(array.device).cuda_stream)
        return OnDevice(gpu.adopted(array), stream, number)


def adopt(source: Any, origin: str) -> Any:
    """Numba's view of another library's array on a GPU; waits for the work on it that its interface tells of."""
    try:
        return gpu.adopted_source(source)
    except (TypeError, ValueError, BufferError, NotImplementedError) as error:
        raise InputError(f"{origin}: a {type(source).__name__} cannot be read where it is: {error}") from error


def of_array(array: Any, nodes: int, key: np.dtype) -> OnDevice:
    """Numba's array of some samples, on the stream that others wait for by default."""
    return on_stream(gpu.shaped(array.ravel(), (len(array), nodes), key))


def empty(shape: tuple[int, int], dtype: np.dtype, beside: Any) -> Any:
    """An array of numba on the same GPU."""
    with gpu.chosen(gpu.number_of(beside)):
        return cuda.device_array(shape, dtype)


def device_of(array: Any) -> str:
    """Where an array is, as torch says it."""
    return f"cuda:{gpu.number_of(gpu.adopted(array))}"


def put(part: Any, whole: Any, rows: slice, nodes: slice) -> None:
    """Copy results of some nodes to those of all, on one GPU."""
    if hasattr(part, "is_cuda"):
        if hasattr(whole, "is_cuda"):
            whole[rows, nodes] = part
            return
        sys.modules["torch"].cuda.current_stream(part.device).synchronize()
    source = gpu.adopted(part)
    with gpu.chosen(gpu.number_of(source)):
        gpu.adopted(whole)[rows, nodes] = source


class Slot:
    """Pinned memory of this machine and as much on the GPU; what is done there is ordered by a stream of its own."""

    def __init__(self) -> None:
        self.stream = cuda.stream()
        self.host: dict[str, np.ndarray] = {}
        self.there: dict[str, Any] = {}
        self.sent: tuple[tuple[Any, ...], Any] | None = None
        """Which values were sent last, and their copy, until others are read."""

    def here(self, purpose: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Pinned memory of this machine; whatever the last array for this purpose held is lost."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.sent = None if purpose == "values" else self.sent
        memory = self.host.get(purpose)
        if memory is None or memory.size < size:
            self.stream.synchronize()
            memory = self.host[purpose] = cuda.pinned_array(max(size, 1), np.uint8)
        return memory[:size].view(dtype).reshape(shape)

    def on_device(self, purpose: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory of the GPU, likewise."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self.there.get(purpose)
        if memory is None or memory.size < size:
            self.stream.synchronize()
            memory = self.there[purpose] = cuda.device_array(max(size, 1), np.uint8)
        return gpu.shaped(memory[:size], shape, np.dtype(dtype))

    def send(self, purpose: str, values: np.ndarray) -> Any:
        """A copy on the GPU of what is in pinned memory."""
        self.sent = None if purpose == "values" else self.sent
        target = self.on_device(purpose, values.shape, values.dtype)
        target.copy_to_device(values, stream=self.stream)
        return target

    def send_once(self, values: np.ndarray) -> Any:
        """The same of values that were read into pinned memory; tallied again, for another class, they are there."""
        key = values.ctypes.data, values.shape, values.dtype
        if self.sent is None or self.sent[0] != key:
            self.sent = key, self.send("values", values)
        return self.sent[1]


class _Slots(threading.local):
    """A thread's places for blocks, by GPU."""

    def __init__(self) -> None:
        self.all: dict[int, deque[Slot]] = {}

    def next(self, number: int = FIRST) -> Slot:
        """The one that was not used last, once nothing is on its way to or from it; on the GPU that is chosen."""
        if number not in self.all:
            self.all[number] = deque(Slot() for _ in range(PLACES))
        places = self.all[number]
        places.rotate()
        places[0].stream.synchronize()
        return places[0]

    def of(self, values: np.ndarray) -> Slot | None:
        """The place whose pinned memory these values are in."""
        for place in self.all.get(FIRST, ()):
            if "values" in place.host and np.may_share_memory(values, place.host["values"]):
                return place
        return None


_slots = _Slots()


class PinnedBuffers(Buffers):
    """Values are read into the pinned memory of the thread's next place."""

    on_device = True

    def get(self, purpose: str, shape: tuple[int, ...], dtype: Any) -> Any:
        if purpose != "values":
            return super().get(purpose, shape, dtype)
        return _read_into(shape, dtype)


@plainly
def _read_into(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    with gpu.chosen(FIRST):
        return _slots.next().here("values", shape, dtype)


class Piece(NamedTuple):
    """Some rows of a block on a GPU."""

    rows: slice
    """Of the block."""
    values: Any
    """Their bits (rows, columns)."""
    first: int
    """Column of the first node."""
    place: Slot
    """Where there is room beside them."""
    stream: Any
    """That orders the work on them."""
    number: int
    """Number of the GPU, which is chosen."""

    def part(self, step: int) -> Iterator[Piece]:
        """A few rows at a time."""
        count = self.rows.stop - self.rows.start
        for start in range(0, count, step):
            stop = min(count, start + step)
            rows = slice(self.rows.start + start, self.rows.start + stop)
            yield self._replace(rows=rows, values=self.values[start:stop])


def pieces(bits: Any, first: int, nodes: int) -> Iterator[Piece]:
    """A block as it is there: all at once where it is on a GPU or in pinned memory, else as it is copied there."""
    if isinstance(bits, OnDevice):
        with gpu.chosen(bits.number):
            place = _slots.next(bits.number)
            yield Piece(slice(0, len(bits)), bits.array, first, place, bits.stream, bits.number)
        return
    with gpu.chosen(FIRST):
        pinned = _slots.of(bits)
        if pinned is not None:
            values = pinned.send_once(bits)
            yield Piece(slice(0, len(bits)), values, first, pinned, pinned.stream, FIRST)
            return
        step = max(1, LARGEST_PLACE // (nodes * bits.itemsize))
        # The caller's own memory may be pinned.
        in_place = nodes == bits.shape[1] and gpu.is_pinned(bits)
        for start in range(0, len(bits), step):
            rows, place = slice(start, min(len(bits), start + step)), _slots.next()
            values = bits[rows, first : first + nodes]
            if not in_place:
                here = place.here("values", values.shape, values.dtype)
                np.copyto(here, values)
                values = here
            yield Piece(rows, place.send("values", values), 0, place, place.stream, FIRST)


class DeviceCopies:
    """Arrays of a coder on every GPU that has needed them."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays
        self._copies: dict[int, tuple[Any, ...]] = {}
        self._copying = threading.Lock()

    def on(self, number: int) -> tuple[Any, ...]:
        """On the GPU that is current now, whose number this is."""
        with self._copying:
            if number not in self._copies:
                self._copies[number] = tuple(map(upload, self.arrays))
            return self._copies[number]


def upload(array: np.ndarray) -> Any:
    """A copy on the current GPU that is there for every stream: those of other libraries do not wait for it."""
    there = cuda.to_device(array)
    cuda.synchronize()
    return there


def rows_by_number(numbers: np.ndarray, piece: Piece) -> Iterator[tuple[int, Any]]:
    """Every number that is there, and its rows of a piece on the GPU; None stands for all of them."""
    present, counts = np.unique(numbers, return_counts=True)
    if len(present) == 1:
        yield int(present[0]), None
        return
    rows, end = send_along("rows", np.argsort(numbers, kind="stable"), piece), np.cumsum(counts)
    for c, start, stop in zip(present, end - counts, end, strict=True):
        yield int(c), rows[int(start) : int(stop)]


def send_along(purpose: str, numbers: np.ndarray, piece: Piece) -> Any:
    """A few numbers for every sample of a piece, int32, on the GPU with it."""
    numbers = numbers.astype(np.int32)
    if (
        piece.stream is not piece.place.stream
    ):  # nobody waits for another library's stream before the place is used again
        return cuda.to_device(numbers, stream=piece.stream)
    here = piece.place.here(purpose, numbers.shape, numbers.dtype)
    np.copyto(here, numbers)
    return piece.place.send(purpose, here)


def fetch(piece: Piece, made: Sequence[Any], targets: Sequence[np.ndarray]) -> Callable[[], None]:
    """Begin to copy results to pinned memory; the call that waits for them and puts them in their place."""
    here = [piece.place.here(f"out {k}", one.shape, one.dtype) for k, one in enumerate(made)]
    for array, host in zip(made, here, strict=True):
        array.copy_to_host(host, stream=piece.stream)

    def finish() -> None:
        piece.stream.synchronize()
        for target, host in zip(targets, here, strict=True):
            np.copyto(target, host)

    return finish
