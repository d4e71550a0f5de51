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

@kernel
def tally_levels(codes, rows, classes, levels, tally):  # (s, n), (r,), (r,), (c, n, t) -> (s, g + 2)
    """Add the nodes of the chosen rows to their tallies."""
    nodes = codes.shape[1]
    last = levels.shape[2] - 1
    for r in range(rows.size):
        i = rows[r]
        group = classes[r]
        for j in range(nodes):
            at = min(np.intp(codes[i, j]), last)
            tally[i, levels[group, j, at]] += 1
