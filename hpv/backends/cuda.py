"""The CUDA backend: blocks go to a GPU, integers come back.

The GPU is the first one that CUDA_VISIBLE_DEVICES lets this process see; workers of dask-cuda see one each.
What is on another GPU is worked on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np

from hpv.backends import cpu, gpu, moving
from hpv.backends.moving import (
    DeviceCopies,
    Piece,
    PinnedBuffers,
    Slot,
    fetch,
    on_stream,
    pieces,
    rows_by_number,
    send_along,
    upload,
)
from hpv.backends.protocol import Room
from hpv.base.buffers import Buffers
from hpv.base.errors import InputError
from hpv.base.floats import FloatFormat
from hpv.base.words import MIB
from hpv.histograms.counts import LayerCounts
from hpv.kernels.cuda import counting, encoding, ranging, tallying
from hpv.kernels.cuda.device import SIMULATED, cuda

name = "cuda"
codes_again = True
LARGEST_TALLIES = 8 * MIB
"""Bytes of tallies, and of codes beside them, that are fetched at once."""
FEWEST_OF_A_CLASS = 256
"""Samples that are worth a pass of their own."""
ROOM_SHARE = 4
"""One part in so many of what is free on the GPU stays so."""


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
    with gpu.chosen(moving.FIRST):
        free = gpu.free_memory()
    return Room(moving.PLACES, moving.LARGEST_PLACE, None if free is None else free - free // ROOM_SHARE)


def make_buffers() -> Buffers:
    return PinnedBuffers()


class Coder:
    """Edges of n nodes as the kernels read them."""

    def __init__(self, edges: np.ndarray, float_format: FloatFormat) -> None:
        self.nodes, self.edges = edges.shape
        self.float_format = float_format
        self.wide = gpu.wide(float_format.key)
        self.tables = DeviceCopies(np.ascontiguousarray(edges.T, self.wide))


class _Accumulation:
    """Histograms of codes by class on one GPU."""

    def __init__(self, counter: Coder, classes: int) -> None:
        self.histograms = [upload(np.zeros((counter.edges + 1, counter.nodes), np.int64)) for _ in range(classes)]
        self.lowest = upload(np.full(counter.nodes, counter.float_format.no_edge, counter.wide))
        self.highest = upload(np.full(counter.nodes, counter.float_format.nan_key, counter.wide))


class Accumulator:
    """Counts on the way, by GPU."""

    def __init__(self, counter: Coder, classes: int) -> None:
        self.counter, self.classes = counter, classes
        self.parts: dict[int, _Accumulation] = {}
        self.streams: dict[tuple[int, int], Any] = {}
        """By GPU, and by the number that the driver knows a stream by."""
        self.seen = np.zeros(classes, np.int64)

    def on(self, number: int) -> _Accumulation:
        """On the GPU that is current now."""
        if number not in self.parts:
            self.parts[number] = _Accumulation(self.counter, self.classes)
        return self.parts[number]


def one_caller(threads: int) -> AbstractContextManager[int]:
    """See `Backend`; threads that call share a GPU."""
    return nullcontext(1)


def make_counter(edges: np.ndarray, float_format: FloatFormat) -> Coder:
    return Coder(edges, float_format)


def start_counts(counter: Coder, classes: int, float_format: FloatFormat, threads: int = 1) -> Accumulator:
    return Accumulator(counter, classes)


@gpu.plainly
def add_counts(accumulator: Accumulator, bits: Any, first: int, class_index: np.ndarray) -> None:
    """See `Backend`; returns while the GPU is at work."""
    counter = accumulator.counter
    accumulator.seen += np.bincount(class_index, minlength=accumulator.classes)
    for piece in pieces(bits, first, counter.nodes):
        state, (edges,) = accumulator.on(piece.number), counter.tables.on(piece.number)
        accumulator.streams[piece.number, gpu.handle(piece.stream)] = piece.stream
        for c, rows in rows_by_number(class_index[piece.rows], piece):
            into = state.histograms[c], state.lowest, state.highest
            counting.count(piece.values, piece.first, rows, edges, counter.float_format.infinity, *into, piece.stream)


@gpu.plainly
def finish_counts(accumulator: Accumulator) -> LayerCounts:
    for (number, _), stream in accumulator.streams.items():
        with gpu.chosen(number):
            stream.synchronize()
    counter = accumulator.counter
    # Of nothing too, where a thread got no block.
    histograms = np.zeros((accumulator.classes, counter.edges + 1, counter.nodes), np.int64)
    lowest = np.full(counter.nodes, counter.float_format.no_edge, counter.float_format.key)
    highest = np.full(counter.nodes, counter.float_format.nan_key, counter.float_format.key)
    for number, state in accumulator.parts.items():
        with gpu.chosen(number):
            histograms += np.stack([one.copy_to_host() for one in state.histograms])
            np.minimum(lowest, state.lowest.copy_to_host().astype(lowest.dtype), out=lowest)
            np.maximum(highest, state.highest.copy_to_host().astype(highest.dtype), out=highest)
    survivors = np.cumsum(histograms[:, ::-1], axis=1)[:, ::-1]
    return LayerCounts(
        np.ascontiguousarray(survivors[:, 1:].transpose(0, 2, 1)),
        np.ascontiguousarray(survivors[:, 0]),
        lowest,
        highest,
        accumulator.seen[:, None],
    )


def make_coder(edges: np.ndarray, float_format: FloatFormat) -> Coder:
    return Coder(edges, float_format)


@gpu.plainly
def encode(coder: Coder, bits: Any, first: int, codes: Any, threads: int = 1) -> None:
    def launch(piece: Piece, out: Sequence[Any]) -> None:
        (edges,) = coder.tables.on(piece.number)
        encoding.encode(piece.values, piece.first, edges, coder.float_format.infinity, out[0], piece.stream)

    _map(launch, bits, first, [codes])


class Ranges:
    """DeviceCopies of pmin and pmax by reference, code and node."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.tables = DeviceCopies(*(np.ascontiguousarray(table.transpose(0, 2, 1)) for table in (low, high)))

    def parts(self, reference: np.ndarray, piece: Piece) -> Iterator[tuple[Any, Any, tuple[Any, Any]]]:
        """Rows of a piece, which counts answer for them, and tables, as the kernels want them.

        Group by reference where there are many samples of each: then the tables of one are nearer.
        """
        low, high = self.tables.on(piece.number)
        present = len(np.unique(reference))
        if present > 1 and len(reference) < FEWEST_OF_A_CLASS * present:
            yield None, send_along("references", reference, piece), (low, high)
            return
        for g, rows in rows_by_number(reference, piece):
            yield rows, None, (low[g : g + 1], high[g : g + 1])


def make_ranges(tables: tuple[np.ndarray, np.ndarray], edges: np.ndarray, float_format: FloatFormat) -> Ranges:
    return Ranges(*tables)


@gpu.plainly
def ranges(
    coder: Coder,
    ranges: Ranges,
    bits: Any,
    first: int,
    reference: np.ndarray,
    space: Callable[[tuple[int, int]], np.ndarray],
    out: tuple[Any, Any],
    threads: int = 1,
) -> None:
    def launch(piece: Piece, out: Sequence[Any]) -> None:
        (edges,) = coder.tables.on(piece.number)
        for rows, own, tables in ranges.parts(reference[piece.rows], piece):
            what = rows, own, edges, coder.float_format.infinity, tables
            ranging.ranges(piece.values, piece.first, *what, out, piece.stream)

    _map(launch, bits, first, out)


def make_look_up(tables: tuple[np.ndarray, np.ndarray]) -> Ranges:
    return Ranges(*tables)


@gpu.plainly
def look_up_ranges(codes: Any, reference: np.ndarray, tables: Any, out: tuple[Any, Any]) -> None:
    made = tables if isinstance(tables, Ranges) else Ranges(*tables)

    def launch(piece: Piece, out: Sequence[Any]) -> None:
        for rows, own, tables in made.parts(reference[piece.rows], piece):
            ranging.look_up(piece.values, rows, own, tables, out, piece.stream)

    _map(launch, codes if isinstance(codes, np.ndarray) else on_stream(codes), 0, out)


Launch = Callable[[Piece, Sequence[Any]], None]


def _map(launch: Launch, bits: Any, first: int, out: Sequence[Any]) -> None:
    """Results (s, n) for every value of a block, where their arrays are: on the GPU with it, or here."""
    nodes = out[0].shape[1]
    pending: tuple[Slot, Callable[[], None]] | None = None
    for piece in pieces(bits, first, nodes):
        if not isinstance(out[0], np.ndarray):
            launch(piece, [gpu.adopted(one) for one in out])
            _leave(piece.stream, out)
            continue
        for part in piece.part(max(1, moving.LARGEST_PLACE // (nodes * sum(one.itemsize for one in out)))):
            shape = (part.rows.stop - part.rows.start, nodes)
            if pending is not None and pending[0] is part.place:
                pending[1]()
                pending = None
            made = [part.place.on_device(f"out {k}", shape, one.dtype) for k, one in enumerate(out)]
            launch(part, made)
            following = part.place, fetch(part, made, [one[part.rows] for one in out])
            if pending is not None:  # these came here while the next piece went there
                pending[1]()
            pending = following
    if pending is not None:
        pending[1]()


def _leave(stream: Any, out: Sequence[Any]) -> None:
    """Results that torch reads on the stream that they are made on need not be there yet; others do not wait."""
    if not (gpu.is_external(stream) and all(hasattr(one, "is_cuda") for one in out)):
        stream.synchronize()


class Tallier:
    """Edges, and levels of all tails packed into one integer by reference, code and node."""

    def __init__(
        self, edges: np.ndarray, float_format: FloatFormat, tables: Sequence[np.ndarray], thresholds: int
    ) -> None:
        self.coder = Coder(edges, float_format)
        self.tails, self.entries = len(tables), thresholds + 2
        self.levels = DeviceCopies(*(tallying.pack_levels(one, thresholds) for one in zip(*tables, strict=True)))


def make_tallier(
    edges: np.ndarray, float_format: FloatFormat, tables: Sequence[np.ndarray], thresholds: int
) -> Tallier:
    return Tallier(edges, float_format, tables, thresholds)


@gpu.plainly
def tally_values(
    tallier: Tallier,
    bits: Any,
    first: int,
    reference: np.ndarray,
    tallies: Sequence[Any],
    codes: Any | None,
) -> int | None:
    nodes, float_format = tallier.coder.nodes, tallier.coder.float_format
    step = max(1, LARGEST_TALLIES // (tallier.tails * tallier.entries * 4 + (codes is not None) * nodes))
    nan = 0
    for whole in pieces(bits, first, nodes):
        (edges,), levels = tallier.coder.tables.on(whole.number), tallier.levels.on(whole.number)
        for piece in whole.part(step):
            samples = piece.rows.stop - piece.rows.start
            counts = _zeros(piece, "tallies", (tallier.tails, samples, tallier.entries), np.int32)
            missing = _zeros(piece, "missing", (1,), np.int64)
            left, kept = _left(piece, codes, nodes)
            for g, rows in rows_by_number(reference[piece.rows], piece):
                what = rows, edges, float_format.infinity, levels[g], counts, left, missing
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
            fetch(piece, fetched, found)()
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
    """Levels by reference, node and code, for codes here and on GPUs."""

    def __init__(self, levels: np.ndarray, thresholds: int) -> None:
        self.here = cpu.make_levels(levels, thresholds)
        self.tables = DeviceCopies(*levels)


def make_levels(levels: np.ndarray, thresholds: int) -> Levels:
    return Levels(levels, thresholds)


@gpu.plainly
def tally(codes: Any, rows: np.ndarray, reference: np.ndarray, levels: Levels, tally: Any) -> None:
    """See `Backend`; codes that are here are not worth the way to the GPU."""
    if isinstance(codes, np.ndarray):
        cpu.tally(codes, rows, reference, levels.here, tally)
        return
    there = on_stream(codes)
    with gpu.chosen(there.number):
        tables, into = levels.tables.on(there.number), gpu.adopted(tally)
        for g in np.unique(reference[rows]):
            chosen = cuda.to_device(rows[reference[rows] == g].astype(np.int32), stream=there.stream)
            tallying.tally_codes(there.array, chosen, tables[g], into, there.stream)
