"""From survivor counts to p-value ranges; everything about tails."""

from __future__ import annotations

import numpy as np

from hpv.base.errors import InputError
from hpv.kernels.rules import left_tail, right_tail

TAILS = ("right", "left", "two-sided")


def check_tail(tail: str) -> str:
    """``right`` (large values are significant), ``left`` (small ones) or ``two-sided``."""
    if tail not in TAILS:
        raise InputError(f"tail={tail!r}: give one of {', '.join(TAILS)}.")
    return tail


def range_tables(survivors: np.ndarray, counted: np.ndarray, tail: str) -> tuple[np.ndarray, np.ndarray]:
    """pmin and pmax (classes, nodes, edges + 2) of every code, float64; the last entry is that of a missing value.

    ``survivors`` (classes, nodes, edges) at the closed edges and ``counted`` (classes, nodes) are integers. A missing
    value, and a node that has counted nothing, have the range [0, 1].
    """
    references, nodes, edges = survivors.shape
    total = counted[:, :, None].astype(np.int64)
    at_or_above = np.empty((references, nodes, edges + 1), np.int64)
    at_or_above[:, :, :1], at_or_above[:, :, 1:] = total, survivors
    above = np.zeros_like(at_or_above)
    above[:, :, :-1] = survivors
    pmin, pmax = _ranges(at_or_above, above, total, check_tail(tail))
    tables = np.zeros((2, references, nodes, edges + 2))
    tables[0, :, :, :-1], tables[1, :, :, :-1] = pmin, pmax
    nothing = counted == 0
    tables[0][nothing] = 0.0
    tables[1][nothing] = 1.0
    tables[1, :, :, -1] = 1.0
    return tables[0], tables[1]


def _ranges(
    at_or_above: np.ndarray, above: np.ndarray, counted: np.ndarray, tail: str
) -> tuple[np.ndarray, np.ndarray]:
    if tail == "right":
        return right_tail(at_or_above, above, counted)
    if tail == "left":
        return left_tail(at_or_above, above, counted)
    right_min, right_max = right_tail(at_or_above, above, counted)
    left_min, left_max = left_tail(at_or_above, above, counted)
    return 2 * np.minimum(right_min, left_min), np.minimum(1.0, 2 * np.minimum(right_max, left_max))


def outward(pmin: np.ndarray, pmax: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 ranges as float32: pmin rounded down, pmax rounded up, so that they still contain the exact p-value."""
    low, high = pmin.astype(np.float32), pmax.astype(np.float32)
    low = np.where(low > pmin, np.nextafter(low, np.float32(-1)), low)
    high = np.where(high < pmax, np.nextafter(high, np.float32(2)), high)
    return low, high
