"""From tallies to scan scores, in float64 and on the host for every backend.

Shapes: s = samples, g = thresholds. What a tally is stands in tallying.py.
"""

from __future__ import annotations

import math

import numpy as np

from hpv.kernels.cpu.compiling import kernel

BERK_JONES, HIGHER_CRITICISM, KOLMOGOROV_SMIRNOV = 0, 1, 2
SUBSET, WHOLE = 0, 1
# Scores this close (relative) count as equal, and the smaller alpha wins: rounding must not choose the subset.
NEAR = 1e-12
# The quick estimates are closer to the exact statistics than this: relative, and per node.
ESTIMATE, ESTIMATE_PER_NODE = 1e-9, 1e-12


@kernel
def _excess(reached, counted, alpha):
    """``reached - counted * alpha`` with the digits that the rounded product loses (T. J. Dekker, 1971)."""
    product = counted * alpha
    scaled = 134217729.0 * alpha  # 2**27 + 1 splits alpha into two halves whose products are exact
    high = scaled - (scaled - alpha)
    low = alpha - high
    lost = (counted * high - product) + counted * low
    return (reached - product) - lost


@kernel
def _log1p_beyond(x):
    """``log(1 + x) - x`` without cancellation."""
    if abs(x) > 0.25:
        return math.log1p(x) - x
    total = 0.0
    power = -x
    for n in range(2, 30):
        power *= -x
        total -= power / n
    return total


@kernel
def statistic_at(kind, form, reached, counted, alpha):
    """The scan statistic for ``reached`` of ``counted`` nodes at or below ``alpha``; 0 where no more are expected.

    Spec: Berk-Jones, Higher Criticism and Kolmogorov-Smirnov; form SUBSET takes the best subset of the nodes, which
    at a given alpha is all of the ``reached`` nodes and no other (linear-time subset scanning).
    """
    if form == SUBSET:
        counted = reached
    excess = _excess(float(reached), float(counted), alpha)
    if excess <= NEAR * reached:
        return 0.0
    if kind == BERK_JONES:
        if reached == counted:
            return -counted * math.log(alpha)
        return counted * _divergence(reached / counted, excess / counted, alpha)
    if kind == HIGHER_CRITICISM:
        return excess / math.sqrt(counted * alpha * (1.0 - alpha))
    return excess / math.sqrt(counted)


@kernel
def _divergence(share, excess, alpha):
    """KL(share, alpha) of two Bernoulli distributions, share = alpha + excess < 1."""
    up, down = excess / alpha, -excess / (1.0 - alpha)
    if up > 0.25 or down < -0.25:
        return share * math.log1p(up) + (1.0 - share) * math.log1p(down)
    # The two logarithms nearly cancel: their linear parts, taken together, are excess^2 / (alpha (1 - alpha)).
    return excess * excess / (alpha * (1.0 - alpha)) + share * _log1p_beyond(up) + (1.0 - share) * _log1p_beyond(down)


@kernel
def _weights(thresholds, kind):
    """What the estimates need of every threshold: ln alpha and ln(1 - alpha), or one factor."""
    first, second = np.empty(thresholds.size), np.zeros(thresholds.size)
    for g in range(thresholds.size):
        alpha = thresholds[g]
        if kind == BERK_JONES:
            first[g] = math.log(alpha)
            second[g] = math.log1p(-alpha) if alpha < 1.0 else 0.0
        elif kind == HIGHER_CRITICISM:
            first[g] = 1.0 / math.sqrt(alpha * (1.0 - alpha)) if alpha < 1.0 else 0.0
        else:
            first[g] = 1.0
    return first, second


@kernel
def _logarithms(tally):
    """ln n for every number of nodes that can occur; ln 0 stands for the limit of n ln n, 0."""
    most = np.int64(0)
    for i in range(tally.shape[0]):
        counted = np.int64(0)
        for g in range(tally.shape[1]):
            counted += tally[i, g]
        most = max(most, counted)
    logs = np.zeros(most + 1)
    for n in range(1, most + 1):
        logs[n] = math.log(n)
    return logs


@kernel
def _estimate(kind, form, reached, counted, alpha, first, second, logs, estimates):  # (g,) -> (g,)
    """The statistic at every threshold, close but not to the last digits: loops without branches inside."""
    if form == SUBSET and kind == BERK_JONES:
        for g in range(alpha.size):
            estimates[g] = -reached[g] * first[g]
    elif form == SUBSET:
        for g in range(alpha.size):
            estimates[g] = math.sqrt(reached[g]) * (1.0 - alpha[g]) * first[g]
    elif kind == BERK_JONES:
        for g in range(alpha.size):
            rest = counted - reached[g]
            inside = reached[g] * (logs[reached[g]] - logs[counted] - first[g])
            estimate = inside + rest * (logs[rest] - logs[counted] - second[g])
            estimates[g] = estimate if reached[g] > counted * alpha[g] else 0.0
    else:
        scale = 1.0 / math.sqrt(counted) if counted else 0.0
        for g in range(alpha.size):
            estimates[g] = max(reached[g] - counted * alpha[g], 0.0) * first[g] * scale


@kernel
def score_tallies(tally, thresholds, kind, form, score, alpha, size):  # (s, g + 2), (g,) -> (s,), (s,), (s,)
    """The best statistic over the thresholds; score 0, alpha NaN and size 0 where none exceeds 0.

    While the same nodes are reached all three statistics fall in alpha, so a level that no node falls at is never
    better than the one before. Only thresholds whose estimate comes near the best estimate are worked out.
    """
    levels = thresholds.size
    first, second = _weights(thresholds, kind)
    logs = _logarithms(tally) if kind == BERK_JONES and form == WHOLE else np.zeros(1)
    estimates, reached = np.empty(levels), np.empty(levels, np.int64)
    # Positive numbers have the order of their bits, of which the processor takes the highest of many at once.
    bits, above = estimates.view(np.int64), np.empty(1, np.int64)
    for i in range(tally.shape[0]):
        total = np.int64(0)
        for g in range(levels):
            total += tally[i, g]
            reached[g] = total
        counted = total + tally[i, levels]
        _estimate(kind, form, reached, counted, thresholds, first, second, logs, estimates)
        top = np.int64(0)
        for g in range(levels):
            top = max(top, bits[g])
        above[0] = top
        highest = above.view(np.float64)[0]
        bar = highest - ESTIMATE * highest - ESTIMATE_PER_NODE * counted
        best = 0.0
        for g in range(levels):
            if estimates[g] >= bar and reached[g] > 0:
                estimates[g] = statistic_at(kind, form, reached[g], counted, thresholds[g])
                best = max(best, estimates[g])
            else:
                estimates[g] = -1.0
        score[i], alpha[i], size[i] = best, math.nan, 0
        for g in range(levels):
            if best > 0.0 and estimates[g] >= best * (1.0 - NEAR):
                alpha[i], size[i] = thresholds[g], reached[g]
                break
