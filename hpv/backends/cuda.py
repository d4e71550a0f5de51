"""The CUDA backend: blocks go to a GPU through pinned memory, or are there already; the integers come back.

Every thread has two places for blocks, each with a stream of its own: while one is read into, the other is copied and
worked on. The GPU is the first one that CUDA_VISIBLE_DEVICES lets this process see; workers of dask-cuda see one each.
What is on another GPU is worked on there.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from hpv.backends import Counted, Room, cpu, gpu
from hpv.buffers import Buffers
from hpv.errors import DataError, HpvError, InputError
from hpv.floats import FloatFormat
from hpv.kernels.cuda import counting, encoding, ranging, tallying
from hpv.kernels.cuda.device import SIMULATED, cuda
from hpv.resources import MIB, human

name = "cuda"
codes_again = True
LARGEST_PLACE = 8 * MIB
"""Bytes that are copied to pinned memory at once: for more, copying is no faster."""
LARGEST_TALLIES = 64 * MIB
"""Bytes of tallies, and of codes beside them, that are fetched at once."""
PLACES = 2
FIRST = 0
"""The GPU that works on what is in this machine's memory."""
FEWEST_OF_A_GROUP = 256
"""Samples that are worth a pass of their own."""
ROOM_SHARE = 4
"""One part in so many of what is free on the GPU stays so."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


# --- whether it is there ---


def missing() -> str | None:
    """What is missing for this backend, and the next step; None if nothing is."""
    if not SIMULATED and find_spec("numba_cuda") is None:
        return "the package numba-cuda is not installed: pip install 'hpv[cuda]' (CUDA 13) or 'hpv[cuda12]' (CUDA 12)"
    if not cuda.is_available():
        return f"no GPU that can be used ({gpu.why_not()}); nvidia-smi shows whether the driver sees one"
    return None


def check() -> None:
    """``InputError`` that says what is missing for this backend."""
    what = missing()
    if what is not None:
        raise InputError(f"backend='cuda': {what}. Or give backend='cpu'.")


def room() -> Room:
    """See `Backend`."""
    free = gpu.free_memory()
    return Room(PLACES, LARGEST_PLACE, None if free is None else free - free // ROOM_SHARE)


def _plainly(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Errors of the driver in plain words."""

    @functools.wraps(function)
    def call(*given: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            return function(*given, **options)
        except HpvError:
            raise
        except Exception as error:
            trouble = gpu.trouble(error)
            if trouble is None:
                raise
            if trouble == gpu.NO_MEMORY:
                free = gpu.free_memory()
                left = "" if free is None else f", {human(free)} are free"
                raise InputError(f"the GPU has no room for the next block or table{left}; end what else uses it, or "
                                 "give less memory or backend='cpu'.") from error  # fmt: skip
            raise DataError(f"the GPU failed: {trouble}; start anew and run the same command again, it continues. "
                            "nvidia-smi and the system's log tell more.") from error  # fmt: skip

    return call


# --- where blocks are ---


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
    except (TypeError, ValueError, BufferError) as error:
        raise InputError(f"{origin}: a {type(source).__name__} cannot be read where it is: {error}") from error


def of_array(array: Any, nodes: int, key: np.dtype) -> OnDevice:
    """Numba's array of some samples, on the stream that others wait for by default."""
    return on_stream(gpu.shaped(array.ravel(), (len(array), nodes), key))


def empty(shape: tuple[int, int], dtype: np.dtype, beside: Any) -> Any:
    """An array of numba on the same GPU."""
    with gpu.chosen(gpu.number_of(beside)):
        return cuda.device_array(shape, dtype)


class Place:
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
        target = self.on_device(purpose, values.shape, values.dtype)
        target.copy_to_device(values, stream=self.stream)
        return target

    def send_once(self, values: np.ndarray) -> Any:
        """The same of values that were read into pinned memory; tallied again, for another class, they are there."""
        key = values.ctypes.data, values.shape, values.dtype
        if self.sent is None or self.sent[0] != key:
            self.sent = key, self.send("values", values)
        return self.sent[1]


class _Places(threading.local):
    """A thread's places for blocks, by GPU."""

    def __init__(self) -> None:
        self.all: dict[int, deque[Place]] = {}

    def next(self, number: int = FIRST) -> Place:
        """The one that was not used last, once nothing is on its way to or from it; on the GPU that is chosen."""
        places = self.all.setdefault(number, deque(Place() for _ in range(PLACES)))
        places.rotate()
        places[0].stream.synchronize()
        return places[0]

    def of(self, values: np.ndarray) -> Place | None:
        """The place whose pinned memory these values are in."""
        for place in self.all.get(FIRST, ()):
            if "values" in place.host and np.may_share_memory(values, place.host["values"]):
                return place
        return None


_places = _Places()


class PinnedBuffers(Buffers):
    """Values are read into the pinned memory of the thread's next place."""

    on_device = True

    def get(self, purpose: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """See `Buffers`."""
        if purpose != "values":
            return super().get(purpose, shape, dtype)
        return _read_into(shape, dtype)


@_plainly
def _read_into(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    with gpu.chosen(FIRST):
        return _places.next().here("values", shape, dtype)


def make_buffers() -> Buffers:
    """See `Backend`."""
    return PinnedBuffers()


class Piece(NamedTuple):
    """Some rows of a block on a GPU."""

    rows: slice
    """Of the block."""
    values: Any
    """Their bits (rows, columns)."""
    first: int
    """Column of the first node."""
    place: Place
    """Where there is room beside them."""
    stream: Any
    """That orders the work on them."""
    number: int
    """Of the GPU, which is chosen."""

    def part(self, step: int) -> Iterator[Piece]:
        """A few rows at a time."""
        count = self.rows.stop - self.rows.start
        for start in range(0, count, step):
            stop = min(count, start + step)
            rows = slice(self.rows.start + start, self.rows.start + stop)
            yield self._replace(rows=rows, values=self.values[start:stop])


def _pieces(bits: Any, first: int, nodes: int) -> Iterator[Piece]:
    """A block as it is there: all at once where it is on a GPU or in pinned memory, else as it is copied there."""
    if isinstance(bits, OnDevice):
        with gpu.chosen(bits.number):
            place = _places.next(bits.number)
            yield Piece(slice(0, len(bits)), bits.array, first, place, bits.stream, bits.number)
        return
    with gpu.chosen(FIRST):
        pinned = _places.of(bits)
        if pinned is not None:
            values = pinned.send_once(bits)
            yield Piece(slice(0, len(bits)), values, first, pinned, pinned.stream, FIRST)
            return
        step = max(1, LARGEST_PLACE // (nodes * bits.itemsize))
        # The caller's own memory may be pinned.
        ready = nodes == bits.shape[1] and gpu.is_pinned(bits)
        for start in range(0, len(bits), step):
            rows, place = slice(start, min(len(bits), start + step)), _places.next()
            values = bits[rows, first : first + nodes]
            if not ready:
                here = place.here("values", values.shape, values.dtype)
                np.copyto(here, values)
                values = here
            yield Piece(rows, place.send("values", values), 0, place, place.stream, FIRST)


class _Tables:
    """Arrays of a coder on every GPU that has needed them."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays
        self._copies: dict[int, tuple[Any, ...]] = {}
        self._copying = threading.Lock()

    def on(self, number: int) -> tuple[Any, ...]:
        """On the GPU that is current now, whose number this is."""
        with self._copying:
            if number not in self._copies:
                self._copies[number] = tuple(map(_sent, self.arrays))
            return self._copies[number]


def _sent(array: np.ndarray) -> Any:
    """A copy on the current GPU that is there for every stream: those of other libraries do not wait for it."""
    there = cuda.to_device(array)
    cuda.synchronize()
    return there


class Coder:
    """Edges of n nodes as the kernels read them."""

    def __init__(self, edges: np.ndarray, form: FloatFormat) -> None:
        self.nodes, self.edges = edges.shape
        self.form = form
        self.wide = gpu.wide(form.key)
        self.tables = _Tables(np.ascontiguousarray(edges.T, self.wide))


# --- counting ---


class _Accumulation:
    """Histograms of codes by class on one GPU."""

    def __init__(self, counter: Coder, classes: int) -> None:
        self.histograms = [_sent(np.zeros((counter.edges + 1, counter.nodes), np.int64)) for _ in range(classes)]
        self.lowest = _sent(np.full(counter.nodes, counter.form.unused, counter.wide))
        self.highest = _sent(np.full(counter.nodes, counter.form.missing, counter.wide))


class Accumulator:
    """Counts on the way, by GPU."""

    def __init__(self, counter: Coder, classes: int) -> None:
        self.counter, self.classes = counter, classes
        self.parts: dict[int, _Accumulation] = {}
        self.streams: dict[int, tuple[int, Any]] = {}
        self.seen = np.zeros(classes, np.int64)

    def on(self, number: int) -> _Accumulation:
        """On the GPU that is current now."""
        if number not in self.parts:
            self.parts[number] = _Accumulation(self.counter, self.classes)
        return self.parts[number]


def make_counter(edges: np.ndarray, form: FloatFormat) -> Coder:
    """See `Backend`."""
    return Coder(edges, form)


def start_counts(counter: Coder, classes: int, form: FloatFormat) -> Accumulator:
    """See `Backend`."""
    return Accumulator(counter, classes)


@_plainly
def add_counts(accumulator: Accumulator, bits: Any, first: int, group: np.ndarray) -> None:
    """See `Backend`; returns while the GPU is at work."""
    counter = accumulator.counter
    accumulator.seen += np.bincount(group, minlength=accumulator.classes)
    for piece in _pieces(bits, first, counter.nodes):
        state, (edges,) = accumulator.on(piece.number), counter.tables.on(piece.number)
        accumulator.streams[id(piece.stream)] = piece.number, piece.stream
        for c, rows in _rows_by_group(group[piece.rows], piece.stream):
            into = state.histograms[c], state.lowest, state.highest
            counting.count(piece.values, piece.first, rows, edges, counter.form.infinity, *into, piece.stream)


def _rows_by_group(group: np.ndarray, stream: Any) -> Iterator[tuple[int, Any]]:
    """Every group that is there, and its rows on the GPU; None stands for all of them."""
    present = np.unique(group)
    if len(present) == 1:
        yield int(present[0]), None
        return
    for c in present:
        yield int(c), cuda.to_device(np.flatnonzero(group == c).astype(np.int32), stream=stream)


@_plainly
def finish_counts(accumulator: Accumulator) -> Counted:
    """See `Backend`."""
    for number, stream in accumulator.streams.values():
        with gpu.chosen(number):
            stream.synchronize()
    counter = accumulator.counter
    # Of nothing too, where a thread got no block.
    histograms = np.zeros((accumulator.classes, counter.edges + 1, counter.nodes), np.int64)
    lowest = np.full(counter.nodes, counter.form.unused, counter.form.key)
    highest = np.full(counter.nodes, counter.form.missing, counter.form.key)
    for number, state in accumulator.parts.items():
        with gpu.chosen(number):
            histograms += np.stack([one.copy_to_host() for one in state.histograms])
            np.minimum(lowest, state.lowest.copy_to_host().astype(lowest.dtype), out=lowest)
            np.maximum(highest, state.highest.copy_to_host().astype(highest.dtype), out=highest)
    survivors = np.cumsum(histograms[:, ::-1], axis=1)[:, ::-1]
    return Counted(
        np.ascontiguousarray(survivors[:, 1:].transpose(0, 2, 1)),
        np.ascontiguousarray(survivors[:, 0]),
        lowest,
        highest,
        accumulator.seen,
    )


# --- codes and ranges ---


def make_coder(edges: np.ndarray, form: FloatFormat) -> Coder:
    """See `Backend`."""
    return Coder(edges, form)


@_plainly
def encode(coder: Coder, bits: Any, first: int, codes: Any) -> None:
    """See `Backend`."""

    def launch(piece: Piece, out: Sequence[Any]) -> None:
        (edges,) = coder.tables.on(piece.number)
        encoding.encode(piece.values, piece.first, edges, coder.form.infinity, out[0], piece.stream)

    _map(launch, bits, first, [codes])


class Ranges:
    """Tables of pmin and pmax by group, code and node."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.tables = _Tables(*(np.ascontiguousarray(table.transpose(0, 2, 1)) for table in (low, high)))

    def parts(self, group: np.ndarray, piece: Piece) -> Iterator[tuple[Any, Any, tuple[Any, Any]]]:
        """Rows of a piece, their groups, and tables, as the kernels want them.

        Group by group where there are many samples of each: then the tables of one are nearer.
        """
        low, high = self.tables.on(piece.number)
        if len(group) < FEWEST_OF_A_GROUP * len(np.unique(group)):
            yield None, cuda.to_device(group.astype(np.int32), stream=piece.stream), (low, high)
            return
        for g, rows in _rows_by_group(group, piece.stream):
            yield rows, None, (low[g : g + 1], high[g : g + 1])


def make_ranges(tables: tuple[np.ndarray, np.ndarray], edges: np.ndarray, form: FloatFormat) -> Ranges:
    """See `Backend`."""
    return Ranges(*tables)


@_plainly
def ranges(
    coder: Coder,
    ranges: Ranges,
    bits: Any,
    first: int,
    group: np.ndarray,
    space: Callable[[tuple[int, int]], np.ndarray],
    out: tuple[Any, Any],
) -> None:
    """See `Backend`."""

    def launch(piece: Piece, out: Sequence[Any]) -> None:
        (edges,) = coder.tables.on(piece.number)
        for rows, own, tables in ranges.parts(group[piece.rows], piece):
            what = rows, own, edges, coder.form.infinity, tables
            ranging.ranges(piece.values, piece.first, *what, out, piece.stream)

    _map(launch, bits, first, out)


def make_look_up(tables: tuple[np.ndarray, np.ndarray]) -> Ranges:
    """See `Backend`."""
    return Ranges(*tables)


@_plainly
def look_up_ranges(codes: Any, group: np.ndarray, tables: Any, out: tuple[Any, Any]) -> None:
    """See `Backend`."""
    made = tables if isinstance(tables, Ranges) else Ranges(*tables)

    def launch(piece: Piece, out: Sequence[Any]) -> None:
        for rows, own, tables in made.parts(group[piece.rows], piece):
            ranging.look_up(piece.values, rows, own, tables, out, piece.stream)

    _map(launch, codes if isinstance(codes, np.ndarray) else on_stream(codes), 0, out)


Launch = Callable[[Piece, Sequence[Any]], None]


def _map(launch: Launch, bits: Any, first: int, out: Sequence[Any]) -> None:
    """Results (s, n) for every value of a block, where their arrays are: on the GPU with it, or here."""
    nodes = out[0].shape[1]
    pending: tuple[Place, Callable[[], None]] | None = None
    for piece in _pieces(bits, first, nodes):
        if not isinstance(out[0], np.ndarray):
            launch(piece, [gpu.adopted(one) for one in out])
            continue
        for part in piece.part(max(1, LARGEST_PLACE // (nodes * sum(one.itemsize for one in out)))):
            shape = (part.rows.stop - part.rows.start, nodes)
            if pending is not None and pending[0] is part.place:
                pending[1]()
                pending = None
            made = [part.place.on_device(f"out {k}", shape, one.dtype) for k, one in enumerate(out)]
            launch(part, made)
            following = part.place, _fetch(part, made, [one[part.rows] for one in out])
            if pending is not None:  # these came here while the next piece went there
                pending[1]()
            pending = following
    if pending is not None:
        pending[1]()


def _fetch(piece: Piece, made: Sequence[Any], targets: Sequence[np.ndarray]) -> Callable[[], None]:
    """Begin to copy results to pinned memory; the call that waits for them and puts them in their place."""
    here = [piece.place.here(f"out {k}", one.shape, one.dtype) for k, one in enumerate(made)]
    for array, host in zip(made, here, strict=True):
        array.copy_to_host(host, stream=piece.stream)

    def finish() -> None:
        piece.stream.synchronize()
        for target, host in zip(targets, here, strict=True):
            np.copyto(target, host)

    return finish


# --- tallies ---


class Tallier:
    """Edges, and levels of all tails packed into one integer by group, code and node."""

    def __init__(self, edges: np.ndarray, form: FloatFormat, tables: Sequence[np.ndarray], thresholds: int) -> None:
        self.coder = Coder(edges, form)
        self.tails, self.entries = len(tables), thresholds + 2
        self.levels = _Tables(*(tallying.pack_levels(group, thresholds) for group in zip(*tables, strict=True)))


def make_tallier(edges: np.ndarray, form: FloatFormat, tables: Sequence[np.ndarray], thresholds: int) -> Tallier:
    """See `Backend`."""
    return Tallier(edges, form, tables, thresholds)


@_plainly
def tally_values(
    tallier: Tallier,
    bits: Any,
    first: int,
    group: np.ndarray,
    tallies: Sequence[Any],
    codes: Any | None,
) -> int | None:
    """See `Backend`."""
    nodes, form = tallier.coder.nodes, tallier.coder.form
    step = max(1, LARGEST_TALLIES // (tallier.tails * tallier.entries * 4 + (codes is not None) * nodes))
    nan = 0
    for whole in _pieces(bits, first, nodes):
        (edges,), levels = tallier.coder.tables.on(whole.number), tallier.levels.on(whole.number)
        for piece in whole.part(step):
            samples = piece.rows.stop - piece.rows.start
            counts = _zeros(piece, "tallies", (tallier.tails, samples, tallier.entries), np.int32)
            missing = _zeros(piece, "missing", (1,), np.int64)
            left, kept = _left(piece, codes, nodes)
            for g, rows in _rows_by_group(group[piece.rows], piece.stream):
                what = rows, edges, form.infinity, levels[g], counts, left, missing
                tallying.tally(piece.values, piece.first, *what, piece.stream)
            fetched, found = [missing], [np.zeros(1, np.int64)]
            if kept is not None:
                fetched.append(left)
                found.append(kept)
            into = [tally[piece.rows] for tally in tallies]
            if isinstance(tallies[0], np.ndarray):
                fetched.append(counts)
                found.append(np.empty(counts.shape, np.int32))
            else:
                tallying.add(counts, [gpu.adopted(one) for one in into], piece.stream)
            _fetch(piece, fetched, found)()
            nan += int(found[0][0])
            if isinstance(tallies[0], np.ndarray):
                for one, more in zip(into, found[-1], strict=True):
                    one += more
    return nan


def _zeros(piece: Piece, purpose: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """Zeros beside a piece."""
    array = piece.place.on_device(purpose, shape, dtype)
    tallying.clear(array, piece.stream)
    return array


def _left(piece: Piece, codes: Any | None, nodes: int) -> tuple[Any | None, np.ndarray | None]:
    """Where on the GPU a piece leaves its codes, and where here they are wanted, if they are."""
    if codes is None:
        return None, None
    own = codes[piece.rows]
    if not isinstance(own, np.ndarray):
        return gpu.adopted(own), None
    return piece.place.on_device("codes", (len(own), nodes), np.uint8), own


class Levels:
    """Levels by group, node and code, for codes here and on GPUs."""

    def __init__(self, levels: np.ndarray, thresholds: int) -> None:
        self.here = cpu.make_levels(levels, thresholds)
        self.tables = _Tables(*levels)


def make_levels(levels: np.ndarray, thresholds: int) -> Levels:
    """See `Backend`."""
    return Levels(levels, thresholds)


@_plainly
def tally(codes: Any, rows: np.ndarray, group: np.ndarray, levels: Levels, tally: Any) -> None:
    """See `Backend`; codes that are here are not worth the way to the GPU."""
    if isinstance(codes, np.ndarray):
        cpu.tally(codes, rows, group, levels.here, tally)
        return
    there = on_stream(codes)
    with gpu.chosen(there.number):
        tables, into = levels.tables.on(there.number), gpu.adopted(tally)
        for g in np.unique(group[rows]):
            chosen = cuda.to_device(rows[group[rows] == g].astype(np.int32), stream=there.stream)
            tallying.tally_codes(there.array, chosen, tables[g], into, there.stream)
