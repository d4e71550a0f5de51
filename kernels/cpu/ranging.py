"""From values or codes to p-value ranges.

Many samples: straight from values, with a bisection and look-ups in registers. Few samples, and processors that cannot
look up in registers: by a look-up per code, in memory.

Shapes: s = samples, N = columns of the block in memory, n = nodes, c = classes, k = edges,
t = k + 2 = entries of a node's table (codes 0..t-2, the last one for NaN), e = the same as the search trees have them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpv.kernels.cpu import coding
from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.lanes import LANE_BYTES, aligned
from hpv.kernels.cpu.searching import GROUP, looks_up_in_registers
from hpv.kernels.cpu.tiles import range_many, space_of_thread

# Samples of one class that are worth a group of their own.
FEWEST_ROWS = 16
# Nodes whose answers are collected before they are written.
PIECE = 1024


class RangeTables(NamedTuple):
    """What turns values of n nodes into their p-value ranges; made once, used for many blocks."""

    pairs: tuple[np.ndarray, np.ndarray]
    """pmin and pmax by class, node and code (c, n, t), for look-ups in memory."""
    trees: np.ndarray | None
    """Edge keys as search trees; None where look-ups in registers are not to be had."""
    levels: tuple[int, ...]
    """Their levels."""
    low: np.ndarray
    """Bits of pmin by class, node and code (c, n', e), for whole vectors of nodes; the last entry is NaN's."""
    high: np.ndarray
    """The same of pmax."""
    infinity: int
    """Key of +inf in the format of the values."""


def make_tables(low: np.ndarray, high: np.ndarray, edges: np.ndarray, infinity: int) -> RangeTables:
    """Tables of pmin and pmax (c, n, t) for nodes with these edge keys (n, k); the last entries are 0 and 1."""
    pairs = pair_tables(low, high)
    if not looks_up_in_registers():
        nothing = np.empty((0, 0, 0), np.int32)
        return RangeTables(pairs, None, (), nothing, nothing, infinity)
    trees, levels = coding.plant_trees(edges)
    wide = [spread(table, 1 << len(levels)) for table in (low, high)]
    return RangeTables(pairs, trees, levels, wide[0], wide[1], infinity)


def spread(table: np.ndarray, entries: int) -> np.ndarray:
    """Bits of a table (c, n, t) with more entries, the last one of them being the table's last."""
    classes, n, t = table.shape
    lanes = LANE_BYTES // table.itemsize
    bits = np.dtype(f"i{table.itemsize}")
    wide = aligned((classes, -(-n // lanes) * lanes, entries), bits)
    as_bits = np.ascontiguousarray(table).view(bits)
    wide[:, :n, : t - 1], wide[:, :n, -1] = as_bits[:, :, :-1], as_bits[:, :, -1]
    return wide


def fill_directly(
    bits: np.ndarray, first: int, classes: np.ndarray, tables: RangeTables, pmin: np.ndarray, pmax: np.ndarray
) -> bool:
    """Write the ranges (s, n) of the nodes ``first : first + n`` of a block (s, N) if that needs no codes.

    False, and nothing is written, where the ranges have to be looked up by their codes.
    """
    present = np.unique(classes)
    if tables.trees is None or len(classes) < FEWEST_ROWS * len(present):
        return False
    if not all(out.flags.c_contiguous and out.flags.aligned for out in (pmin, pmax)):
        return False
    targets = [out.reshape(-1).view(tables.low.dtype) for out in (pmin, pmax)]
    starts = tuple(coding.line_start(target) for target in targets)
    space = space_of_thread(bits.dtype)
    for c in present:
        rows = coding.padded_rows(np.flatnonzero(classes == c), GROUP)
        what = tables.trees, tables.levels, tables.infinity, space, tables.low[c], tables.high[c]
        range_many(bits, first, pmin.shape[1], rows, *what, *targets, starts)
    return True


def pair_tables(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of two tables whose entries lie side by side, as they are read: a look-up misses the caches once."""
    pairs = np.stack([low, high], axis=-1)
    return pairs[..., 0], pairs[..., 1]


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
