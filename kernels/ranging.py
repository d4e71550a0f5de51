"""From codes to p-value ranges and to levels of the scan's grid: one look-up per value.

Shapes: s = samples, n = nodes, c = classes, t = entries of a node's table (codes 0..t-2, the last one for NaN).
"""

from __future__ import annotations

import numpy as np

from hpv.kernels.compiling import kernel

# Tables of this many nodes stay in the processor's nearest caches while these many samples pass over them.
TILE_NODES = 128
TILE_ROWS = 64


@kernel
def look_up_ranges(codes, classes, low, high, pmin, pmax):  # (s, n), (s,), (c, n, t), (c, n, t) -> (s, n), (s, n)
    """``pmin = low[class, node, code]`` and ``pmax`` likewise; MISSING_CODE takes the last entry."""
    samples, nodes = codes.shape
    last = low.shape[2] - 1
    for i0 in range(0, samples, TILE_ROWS):
        for j0 in range(0, nodes, TILE_NODES):
            j1 = min(nodes, j0 + TILE_NODES)
            for i in range(i0, min(samples, i0 + TILE_ROWS)):
                group = classes[i]
                for j in range(j0, j1):
                    at = min(np.intp(codes[i, j]), last)
                    pmin[i, j] = low[group, j, at]
                    pmax[i, j] = high[group, j, at]


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
