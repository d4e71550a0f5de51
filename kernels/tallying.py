"""Scanning: from codes to tallies, from tallies to scores.

A *tally* says how many nodes of a sample fall at each level of significance; level i means that thresholds[i] is the
smallest one with pmax <= threshold. Two more entries follow the thresholds: nodes above all of them, and nodes
without a p-value. Tallies of disjoint sets of nodes add up.

Shapes: s = samples, n = nodes, c = classes, t = entries of a node's table (codes 0..t-2, the last one for NaN),
g = thresholds.
"""

from __future__ import annotations

import math

import numpy as np

from hpv.kernels.compiling import kernel

BERK_JONES, HIGHER_CRITICISM, KOLMOGOROV_SMIRNOV = 0, 1, 2
SUBSET, WHOLE = 0, 1
# Scores this close (relative) count as equal, and the smaller alpha wins: rounding must not choose the subset.
NEAR = 1e-12


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


@kernel
def statistic_at(kind, form, reached, counted, alpha):
    """The scan statistic for ``reached`` of ``counted`` nodes at or below ``alpha``; 0 where they are no more than expected.

    Spec: Berk-Jones, Higher Criticism and Kolmogorov-Smirnov; form SUBSET takes the best subset of the nodes, which
    at a given alpha is all of the ``reached`` nodes and no other (linear-time subset scanning).
    """
    if form == SUBSET:
        counted = reached
    excess = reached - counted * alpha
    if excess <= NEAR * reached:
        return 0.0
    if kind == BERK_JONES:
        if reached == counted:
            return -counted * math.log(alpha)
        share = reached / counted
        return reached * math.log(share / alpha) + (counted - reached) * math.log1p((alpha - share) / (1.0 - alpha))
    if kind == HIGHER_CRITICISM:
        return excess / math.sqrt(counted * alpha * (1.0 - alpha))
    return excess / math.sqrt(counted)


@kernel
def score_tallies(tally, thresholds, kind, form, score, alpha, size):  # (s, g + 2), (g,) -> (s,), (s,), (s,)
    """The best statistic over the thresholds; score 0, alpha NaN and size 0 where none exceeds 0.

    Only occupied levels can be best: all three statistics fall in alpha while the same nodes are reached.
    """
    levels = thresholds.size
    for i in range(tally.shape[0]):
        counted = np.int64(0)
        for g in range(levels + 1):
            counted += tally[i, g]
        reached = np.int64(0)
        best = 0.0
        for g in range(levels):
            if tally[i, g] > 0:
                reached += tally[i, g]
                best = max(best, statistic_at(kind, form, reached, counted, thresholds[g]))
        score[i] = best
        alpha[i] = math.nan
        size[i] = 0
        if best == 0.0:
            continue
        reached = np.int64(0)
        for g in range(levels):
            if tally[i, g] > 0:
                reached += tally[i, g]
                if statistic_at(kind, form, reached, counted, thresholds[g]) >= best * (1.0 - NEAR):
                    alpha[i] = thresholds[g]
                    size[i] = reached
                    break
