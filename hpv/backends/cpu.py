"""The CPU backend: compiled kernels without the GIL, one caller per thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from hpv.backends.protocol import OWN_MEMORY, Room, coded_samples
from hpv.base.buffers import Buffers
from hpv.base.floats import FloatFormat
from hpv.histograms.counts import LayerCounts
from hpv.kernels.cpu import parallel, ranging, tallying
from hpv.kernels.cpu.coders import coding
from hpv.kernels.rules import COUNT

name = "cpu"
codes_again = False


def make_buffers() -> Buffers:
    return Buffers()


def room() -> Room:
    return OWN_MEMORY


def one_caller(threads: int) -> AbstractContextManager[int]:
    return parallel.one_caller(threads)


def make_counter(edges: np.ndarray, float_format: FloatFormat) -> Any:
    return coding.make_counter(edges, float_format.infinity)


def start_counts(counter: Any, classes: int, float_format: FloatFormat, threads: int = 1) -> Any:
    return [counter.start(float_format.key, threads) for _ in range(classes)], np.zeros(classes, COUNT)


def add_counts(accumulator: Any, bits: np.ndarray, first: int, class_index: np.ndarray) -> None:
    parts, seen = accumulator
    for c, part in enumerate(parts):
        rows = np.arange(len(bits)) if len(parts) == 1 else np.flatnonzero(class_index == c)
        seen[c] += len(rows)
        if len(rows):
            part.add(bits, first, rows)


def finish_counts(accumulator: Any) -> LayerCounts:
    parts, seen = accumulator
    counts = [part.finish() for part in parts]
    return LayerCounts(
        _stacked([part.survivors for part in counts]),
        _stacked([part.counted for part in counts]),
        np.min([part.lowest for part in counts], axis=0),
        np.max([part.highest for part in counts], axis=0),
        seen[:, None],
    )


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays of all classes (c, ...); that of a single one is not copied."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]


def make_coder(edges: np.ndarray, float_format: FloatFormat) -> Any:
    return coding.make_coder(edges, float_format.infinity)


def encode(coder: Any, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
    coder.encode(bits, first, codes, threads)


def make_look_up(tables: tuple[np.ndarray, np.ndarray]) -> Any:
    return ranging.pair_tables(*tables)


def look_up_ranges(codes: np.ndarray, reference: np.ndarray, tables: Any, out: tuple[Any, Any]) -> None:
    ranging.look_up(codes, reference, tables, *out)


def make_ranges(tables: tuple[np.ndarray, np.ndarray], edges: np.ndarray, float_format: FloatFormat) -> Any:
    return ranging.make_tables(*tables, edges, float_format.infinity)


def ranges(
    coder: Any,
    ranges: Any,
    bits: np.ndarray,
    first: int,
    reference: np.ndarray,
    space: Callable[[tuple[int, int]], np.ndarray],
    out: tuple[Any, Any],
    threads: int = 1,
) -> None:
    if ranging.fill_directly(bits, first, reference, ranges, *out, threads):
        return
    samples, nodes = out[0].shape
    step = threads * coded_samples(nodes)
    for start in range(0, samples, step):
        part = slice(start, min(samples, start + step))
        codes = space((part.stop - part.start, nodes))
        coder.encode(bits[part], first, codes, threads)
        ranging.look_up(codes, reference[part], ranges.pairs, out[0][part], out[1][part], threads)


def make_levels(levels: np.ndarray, thresholds: int) -> Any:
    return tallying.make_levels(levels, thresholds)


def make_tallier(
    edges: np.ndarray, float_format: FloatFormat, tables: Sequence[np.ndarray], thresholds: int
) -> Any | None:
    return tallying.make_tallier(edges, float_format.infinity, tables, thresholds)


def tally_values(
    tallier: Any,
    bits: np.ndarray,
    first: int,
    reference: np.ndarray,
    tallies: Sequence[np.ndarray],
    codes: np.ndarray | None,
) -> int | None:
    return tallying.tally_values(bits, first, reference, tallier, tallies, codes)


def tally(codes: np.ndarray, rows: np.ndarray, reference: np.ndarray, levels: Any, tally: np.ndarray) -> None:
    tallying.tally(codes, rows, reference, levels, tally)
