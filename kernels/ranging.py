"""From values or codes to p-value ranges.

With few edges straight from the values: they are compared with one edge after the other, and whatever reaches it takes
that edge's range. Else by a look-up per code.

Shapes: s = samples, N = columns of the block in memory, n = nodes, c = classes, k = edges, l = lanes, b = ceil(n / l),
r = chosen rows, filled up with -1, t = k + 2 = entries of a node's table (codes 0..t-2, the last one for NaN).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpv.kernels import coding
from hpv.kernels.choosing import (
    fence,
    fill_missing,
    load_entries,
    repeat,
    store_stack,
    stream_lanes,
    take_reached,
)
from hpv.kernels.compiling import kernel
from hpv.kernels.lanes import LANE_BYTES, ROWS, load_keys
from hpv.kernels.tiles import aligned

# Tables of this many nodes stay in the processor's nearest caches while these many samples pass over them.
TILE_NODES = 128
TILE_ROWS = 64
# Nodes whose answers are collected before they are written.
PIECE = 1024
# More edges than these are searched, and their ranges looked up.
FEW = 64
# Samples of one class that are worth a pass of their own.
FEWEST_ROWS = 4
# Nodes that are worked on before their ranges are written, in the order in which they lie in memory.
STREAMED_NODES = 4096
# A line of the cache holds so many ranges.
LINE = LANE_BYTES // 4
ONE = int(np.float32(1).view(np.int32))


class RangeTables(NamedTuple):
    """What turns values of n nodes into their p-value ranges; made once, used for many blocks."""

    pairs: tuple[np.ndarray, np.ndarray]
    """pmin and pmax by class, node and code (c, n, t), for look-ups."""
    edges: np.ndarray | None
    """Edge keys, packed (b, k, l); None where ranges are looked up."""
    low: np.ndarray
    """Bits of pmin by class and code, packed (c, b, k + 1, l)."""
    high: np.ndarray
    """The same of pmax."""
    infinity: int
    """Key of +inf in the format of the values."""


def make_tables(low: np.ndarray, high: np.ndarray, edges: np.ndarray, infinity: int) -> RangeTables:
    """Tables of pmin and pmax (c, n, t) for nodes with these edge keys (n, k); the last entries are 0 and 1."""
    pairs = pair_tables(low, high)
    if low.dtype != np.float32 or edges.shape[1] > FEW:
        nothing = np.empty((0, 0, 0, 0), np.int32)
        return RangeTables(pairs, None, nothing, nothing, infinity)
    lanes = LANE_BYTES // edges.dtype.itemsize
    one, two = (pack_entries(np.ascontiguousarray(table[:, :, :-1]).view(np.int32), lanes) for table in (low, high))
    return RangeTables(pairs, coding.pack_edges(edges), one, two, infinity)


def pack_entries(tables: np.ndarray, lanes: int) -> np.ndarray:
    """Tables (c, n, t) as packed blocks (c, b, t, l); 0 beyond the last node."""
    classes, n, entries = tables.shape
    blocks = -(-n // lanes)
    padded = np.zeros((classes, blocks * lanes, entries), tables.dtype)
    padded[:, :n] = tables
    packed = aligned((classes, blocks, entries, lanes), tables.dtype)
    packed[:] = padded.reshape(classes, blocks, lanes, entries).transpose(0, 1, 3, 2)
    return packed


def fill_directly(
    bits: np.ndarray, first: int, classes: np.ndarray, tables: RangeTables, pmin: np.ndarray, pmax: np.ndarray
) -> bool:
    """Write the ranges (s, n) of the nodes ``first : first + n`` of a block (s, N) if that needs no codes.

    False, and nothing is written, where the ranges have to be looked up by their codes.
    """
    present = np.unique(classes)
    if tables.edges is None or len(classes) < FEWEST_ROWS * len(present) * (len(tables.low) > 1):
        return False
    if not all(out.flags.c_contiguous and out.flags.aligned for out in (pmin, pmax)):
        return False
    targets = pmin.view(np.int32), pmax.view(np.int32)
    starts = [-(out.ctypes.data // 4) % LINE for out in (pmin, pmax)]
    for c in present:
        rows = coding.padded_rows(np.flatnonzero(classes == c), ROWS)
        what = tables.edges, tables.infinity, tables.low[c], tables.high[c]
        choose_ranges(bits, first, rows, *what, ONE, *targets, *starts)
    return True


def pair_tables(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of two tables whose entries lie side by side, as they are read: a look-up misses the caches once."""
    pairs = np.stack([low, high], axis=-1)
    return pairs[..., 0], pairs[..., 1]


@kernel
def choose_ranges(bits, first, rows, edges, infinity, low, high, certain, pmin, pmax, pmin_start, pmax_start):
    # (s, N), (r,), (b, k, l), (b, k + 1, l), (b, k + 1, l) -> (s, n), (s, n)
    """Ranges of the chosen rows as bits of float32; ``certain`` are those of 1, the pmax of NaN.

    ``pmin_start`` and ``pmax_start`` are the items of the results before the first whole line of the cache.
    """
    nodes = pmin.shape[1]
    blocks, k, lanes = edges.shape
    step = min(blocks * lanes, STREAMED_NODES) + LINE
    one, two = np.empty(ROWS * step, np.int32), np.empty(ROWS * step, np.int32)
    for j0 in range(0, nodes, STREAMED_NODES):
        j1 = min(nodes, j0 + STREAMED_NODES)
        for i in range(0, rows.size, ROWS):
            for j in range(j0, j1, lanes):
                keys = load_keys(bits, rows, i, first + j, nodes - j, infinity)
                at = j * k
                entry = at + j
                lowest = repeat(load_entries(low, entry, keys))
                highest = repeat(load_entries(high, entry, keys))
                for _ in range(k):
                    entry += lanes
                    edge = load_entries(edges, at, keys)
                    lowest = take_reached(lowest, keys, edge, load_entries(low, entry, keys))
                    highest = take_reached(highest, keys, edge, load_entries(high, entry, keys))
                    at += lanes
                store_stack(one, j - j0, step, fill_missing(lowest, keys, 0))
                store_stack(two, j - j0, step, fill_missing(highest, keys, certain))
            for q in range(ROWS):
                if rows[i + q] >= 0:
                    stream_row(one[q * step : q * step + j1 - j0], pmin, rows[i + q], j0, pmin_start)
            for q in range(ROWS):
                if rows[i + q] >= 0:
                    stream_row(two[q * step : q * step + j1 - j0], pmax, rows[i + q], j0, pmax_start)
    fence()


@kernel
def stream_row(items, array, row, column, start):  # (m,) -> (s, n)
    """Write items to ``array[row, column:]``; whole lines of the cache go past it, which saves reading them first."""
    head = min((start - row * array.shape[1] - column) % LINE, items.size)
    tail = head + (items.size - head) // LINE * LINE
    target = array[row, column : column + items.size]
    for c in range(head):
        target[c] = items[c]
    for c in range(head, tail, LINE):
        stream_lanes(array, row, column + c, items, c)
    for c in range(tail, items.size):
        target[c] = items[c]


@kernel
def look_up_ranges(codes, classes, low, high, pmin, pmax):  # (s, n), (s,), (c, n, t), (c, n, t) -> (s, n), (s, n)
    """``pmin = low[class, node, code]`` and ``pmax`` likewise; MISSING_CODE takes the last entry.

    Whole rows, because memory is written fastest in order; tables from ``pair_tables`` are read fastest.
    """
    samples, nodes = codes.shape
    last = np.uint64(low.shape[2] - 1)
    one, two = np.empty(PIECE, low.dtype), np.empty(PIECE, high.dtype)
    for i in range(samples):
        for j0 in range(0, nodes, PIECE):
            j1 = min(nodes, j0 + PIECE)
            lowest, highest, row = low[classes[i], j0:j1], high[classes[i], j0:j1], codes[i, j0:j1]
            for j in range(row.size):
                at = min(np.uint64(row[j]), last)
                one[j] = lowest[j, at]
                two[j] = highest[j, at]
            target, other = pmin[i, j0:j1], pmax[i, j0:j1]
            for j in range(row.size):
                target[j] = one[j]
            for j in range(row.size):
                other[j] = two[j]


@kernel
def round_down(exact, result):  # (m,) float64 -> (m,) float32
    """The largest float32 that is not above each number in [0, 1]."""
    for i in range(exact.size):
        near = np.float32(exact[i])
        result[i] = np.nextafter(near, np.float32(-1)) if near > exact[i] else near


@kernel
def round_up(exact, result):  # (m,) float64 -> (m,) float32
    """The smallest float32 that is not below each number in [0, 1]."""
    for i in range(exact.size):
        near = np.float32(exact[i])
        result[i] = np.nextafter(near, np.float32(2)) if near < exact[i] else near
