"""The grid of alphas, and the level of every code: the first threshold that its pmax does not exceed."""

from __future__ import annotations

import numpy as np

GRID = 255
"""Thresholds of a grid."""


def alpha_grid(largest: int, alpha_max: float) -> np.ndarray:
    """255 thresholds in geometric progression from 1/(largest + 1), the smallest pmax there is, to ``alpha_max``.

    pmax is rounded up to the next threshold, at most by the factor r = (alpha_max (largest + 1))^(1/254). So the score
    never exceeds the exact one. With k of N nodes at the exact threshold t, and u = min(r t, alpha_max), it loses at
    most (n = k for the form ``subset``, n = N for ``whole``; a negative k - n u counts as 0)

        Berk-Jones            k ln(u/t)
        Higher Criticism      (k - n t) / sqrt(n t (1-t)) - (k - n u) / sqrt(n u (1-u))
        Kolmogorov-Smirnov    sqrt(n) (u - t)
    """
    first = min(1.0 / (largest + 1), alpha_max)
    thresholds = first * (alpha_max / first) ** (np.arange(GRID) / (GRID - 1))
    thresholds[-1] = alpha_max
    return np.maximum.accumulate(np.minimum(thresholds, alpha_max))


def level_table(pmax: np.ndarray, counted: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Level (references, nodes, entries) of every code: the first threshold that is not below its pmax.

    After the thresholds come two levels more: above all of them, and without a p-value (a missing value, or a node
    that has counted nothing).
    """
    levels = np.searchsorted(thresholds, pmax, side="left")
    levels[..., -1] = len(thresholds) + 1
    levels[counted == 0] = len(thresholds) + 1
    return levels.astype(np.uint16 if len(thresholds) + 2 <= 2**16 else np.int32)
