"""The kernels of in-memory calls over Numba's own threads, guarded.

Numba's simplest thread layer ends the process when two threads call it at once, another one hangs or dies in forked
children. So one thread at a time comes in; whoever finds it taken, and any child forked after the first use, does
the same work with the plain kernels in its own thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np

from hpv.kernels.cpu import coding, ranging
from hpv.kernels.cpu.compiling import parallel_kernel
from hpv.kernels.cpu.grid import encode_grid
from hpv.kernels.cpu.searching import GROUP
from hpv.kernels.cpu.tiles import Space, encode_many, make_space

_lock = threading.Lock()
_processes: set[int] = set()


@contextmanager
def _threads(wanted: int) -> Iterator[int]:
    """As many of Numba's threads as may be used now: 1 means that the plain kernels must do it."""
    if wanted < 2 or not _lock.acquire(blocking=False):
        yield 1
        return
    try:
        _processes.add(os.getpid())
        if len(_processes) > 1:
            yield 1
            return
        before, count = numba.get_num_threads(), min(wanted, numba.config.NUMBA_NUM_THREADS)
        numba.set_num_threads(count)
        try:
            yield count
        finally:
            numba.set_num_threads(before)
    finally:
        _lock.release()


def encode(bits: np.ndarray, first: int, coder: coding.Coder, codes: np.ndarray, threads: int) -> None:
    """``coding.encode`` with up to ``threads`` threads."""
    with _threads(threads) as count:
        if count == 1:
            coding.encode(bits, first, coder, codes)
            return
        borders = _borders(len(bits), count)
        if coder.grid is not None:
            encode_grid_parts(bits, first, borders, coder.grid.arrays, coder.infinity, codes)
            return
        if not coder.levels:
            encode_few_parts(bits, first, borders, coder.table, coder.infinity, codes)
            return
        longest = int(np.diff(borders).max())
        rows = np.full((count, -(-longest // GROUP) * GROUP), -1)
        for part, height in enumerate(np.diff(borders)):
            rows[part, :height] = np.arange(height)
        spaces = Space(*(np.stack(arrays) for arrays in zip(*[make_space(bits.dtype)] * count, strict=True)))
        encode_many_parts(bits, first, borders, rows, coder.table, coder.levels, coder.infinity, spaces, codes)


def look_up_ranges(
    codes: np.ndarray,
    classes: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    pmin: np.ndarray,
    pmax: np.ndarray,
    threads: int,
) -> None:
    """``ranging.look_up_ranges`` with up to ``threads`` threads."""
    with _threads(threads) as count:
        if count == 1:
            ranging.look_up_ranges(codes, classes, low, high, pmin, pmax)
        else:
            look_up_parts(codes, classes, low, high, _borders(len(codes), count), pmin, pmax)


def _borders(samples: int, parts: int) -> np.ndarray:
    return np.arange(parts + 1) * samples // parts


@parallel_kernel
def encode_few_parts(bits, first, borders, edges, infinity, codes):  # (s, N), (p + 1,), (b, k, l) -> (s, n)
    """The parts of the samples between the borders, each in a thread."""
    for p in numba.prange(borders.size - 1):
        coding.encode_few(bits[borders[p] : borders[p + 1]], first, edges, infinity, codes[borders[p] : borders[p + 1]])


@parallel_kernel
def encode_grid_parts(bits, first, borders, grid, infinity, codes):  # (s, N), (p + 1,) -> (s, n)
    """The same for edges on a grid."""
    for p in numba.prange(borders.size - 1):
        encode_grid(bits[borders[p] : borders[p + 1]], first, grid, infinity, codes[borders[p] : borders[p + 1]])


@parallel_kernel
def encode_many_parts(bits, first, borders, rows, trees, levels, infinity, spaces, codes):
    # (s, N), (p + 1,), (p, r), (n, t) -> (s, n)
    """The same with search trees; every part has working memory of its own."""
    for p in numba.prange(borders.size - 1):
        space = Space(spaces.keys[p], spaces.square[p], spaces.codes[p], spaces.answers[p], spaces.lines[p])
        part, target = bits[borders[p] : borders[p + 1]], codes[borders[p] : borders[p + 1]]
        encode_many(part, first, rows[p], trees, levels, infinity, space, target, -1)


@parallel_kernel
def look_up_parts(codes, classes, low, high, borders, pmin, pmax):
    # (s, n), (s,), (c, n, t), (c, n, t), (p + 1,) -> (s, n), (s, n)
    """The same for look-ups."""
    for p in numba.prange(borders.size - 1):
        a, b = borders[p], borders[p + 1]
        ranging.look_up_ranges(codes[a:b], classes[a:b], low, high, pmin[a:b], pmax[a:b])
