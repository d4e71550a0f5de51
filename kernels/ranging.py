"""From codes to p-value ranges and to levels of the scan's grid: one look-up per value.

Shapes: s = samples, n = nodes, c = classes, t = entries of a node's table (codes 0..t-2, the last one for NaN).
"""

from __future__ import annotations

import numpy as np

from hpv.kernels.compiling import kernel

# Tables of this many nodes stay in the processor's nearest caches while these many samples pass over them.
TILE_NODES = 128
TILE_ROWS = 64
# Nodes whose answers are collected before they are written.
PIECE = 1024


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
