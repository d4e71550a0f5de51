"""Scanning: from codes to tallies.

A *tally* says how many nodes of a sample fall at each level of significance; level i means that thresholds[i] is the
smallest one with pmax <= threshold. Two more entries follow the thresholds: nodes above all of them, and nodes
without a p-value. Tallies of disjoint sets of nodes add up.

Shapes: s = samples, n = nodes, c = classes, t = entries of a node's table (codes 0..t-2, the last one for NaN),
g = thresholds.
"""

from __future__ import annotations

import numpy as np

from hpv.kernels.compiling import kernel
from hpv.kernels.ranging import TILE_NODES, TILE_ROWS


@kernel
def tally_levels(codes, rows, classes, levels, tally):  # (s, n), (r,), (r,), (c, n, t) -> (s, g + 2)
    """Add the nodes of the chosen rows, all different, to their tallies."""
    nodes = codes.shape[1]
    for r0 in range(0, rows.size, TILE_ROWS):
        r1 = min(rows.size, r0 + TILE_ROWS)
        for j0 in range(0, nodes, TILE_NODES):
            j1 = min(nodes, j0 + TILE_NODES)
            paired = r0 + (r1 - r0) // 4 * 4
            for r in range(r0, paired, 4):
                add_four(codes[:, j0:j1], rows[r : r + 4], classes[r : r + 4], levels[:, j0:j1], tally)
            for r in range(paired, r1):
                add_one(codes[rows[r], j0:j1], levels[classes[r], j0:j1], tally[rows[r]])


@kernel
def add_one(codes, levels, tally):  # (n,), (n, t) -> (g + 2,)
    """Add the nodes of one sample to its tally."""
    last = levels.shape[1] - 1
    for j in range(codes.size):
        tally[levels[j, min(np.intp(codes[j]), last)]] += 1


@kernel
def add_four(codes, rows, classes, levels, tally):  # (s, n), (4,), (4,), (c, n, t) -> (s, g + 2)
    """The same for four samples in turns: an entry that has just been written is slow to read again."""
    last = levels.shape[2] - 1
    one, two, three, four = codes[rows[0]], codes[rows[1]], codes[rows[2]], codes[rows[3]]
    first, second, third, fourth = tally[rows[0]], tally[rows[1]], tally[rows[2]], tally[rows[3]]
    a, b, c, d = levels[classes[0]], levels[classes[1]], levels[classes[2]], levels[classes[3]]
    for j in range(codes.shape[1]):
        first[a[j, min(np.intp(one[j]), last)]] += 1
        second[b[j, min(np.intp(two[j]), last)]] += 1
        third[c[j, min(np.intp(three[j]), last)]] += 1
        fourth[d[j, min(np.intp(four[j]), last)]] += 1
