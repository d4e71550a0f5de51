"""What tests check of backgrounds, of ranges and of scans: every number against the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import hpv
import naive
from hpv.base.floats import FloatFormat
from strategies import as_floats, as_input, columns, round_up, ways

NAME = "activations"
"""Of the one layer of an array."""
EXACT = 1e-12
"""Relative error of scores that are equal but for rounding."""
EVERY = [(statistic, form) for statistic in naive.STATISTICS for form in naive.FORMS]

# --- backgrounds ---


def round_down(value: float, form: FloatFormat) -> float:
    return -round_up(-value, form)


def edges_of(background: hpv.Background, layer: str = NAME) -> list[list[float]]:
    closed = as_floats(background.edges(layer), background.layers[layer].float_format)
    return [[edge for edge in node if not math.isnan(edge)] for node in closed]


def survivors_of(background: hpv.Background, group: int = 0, layer: str = NAME) -> list[list[int]]:
    closed = background.histograms(layer)
    lengths = [len(edges) for edges in edges_of(background, layer)]
    return [list(map(int, closed.survivors[group, node, :used])) for node, used in enumerate(lengths)]


def check_ranges(
    background: hpv.Background,
    counted: list[list[float]],
    test: np.ndarray,
    form: FloatFormat,
    tail: str,
    **options: Any,
) -> None:
    """Every code and range equals the oracle's at the background's own edges, and contains the empirical range."""
    given = as_input(test, form)
    codes = background.encode(given)
    assert codes.dtype == np.uint8
    for _ in ways():
        pmin, pmax = background.pvalues(given, tail=tail, dtype="float64", **options)
        low, high = background.pvalues(given, tail=tail, **options)
        assert pmin.dtype == pmax.dtype == np.float64
        assert low.dtype == high.dtype == np.float32
        check_outward(pmin, pmax, low, high)
        check_against_oracle(background, counted, columns(test, form), tail, codes, pmin, pmax)


def check_against_oracle(background, counted, test, tail, codes, pmin, pmax):
    for node, (values, edges) in enumerate(zip(test, edges_of(background), strict=True)):
        survivors = naive.survivors(counted[node], edges)
        total = len(naive.numbers(counted[node]))
        for row, value in enumerate(values):
            code = naive.code(value, edges)
            assert codes[row, node] == code
            wide = naive.histogram_range(code, survivors, total, tail)
            assert (pmin[row, node], pmax[row, node]) == (float(wide[0]), float(wide[1]))
            exact = naive.empirical_range(counted[node], value, tail)
            assert wide[0] <= exact[0] <= exact[1] <= wide[1]


def check_outward(pmin: np.ndarray, pmax: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """float32 contains float64, and no closer float32 does."""
    assert (low <= pmin).all()
    assert (high >= pmax).all()
    assert ((np.nextafter(low, np.float32(2)) > pmin) | (low == pmin)).all()
    assert ((np.nextafter(high, np.float32(-1)) < pmax) | (high == pmax)).all()


# --- scans ---


def oracle_pmax(
    background: hpv.Background, counted: list[list[float]], test: list[list[float]], tail: str, layer: str = NAME
) -> list[dict[int, float]]:
    """For every sample the pmax of its nodes that have a p-value; by the oracle, at the background's edges."""
    closed = as_floats(background.edges(layer), background.layers[layer].float_format)
    samples: list[dict[int, float]] = [{} for _ in test[0]]
    for node, (values, found) in enumerate(zip(test, counted, strict=True)):
        edges = [edge for edge in closed[node] if not math.isnan(edge)]
        known = naive.numbers(found)
        survivors = naive.survivors(known, edges)
        for row, value in enumerate(values):
            if known and not math.isnan(value):
                code = naive.code(value, edges)
                samples[row][node] = float(naive.histogram_range(code, survivors, len(known), tail)[1])
    return samples


def check_scan(
    result: Any, pmax: list[dict[int, float]], statistic: str, form: str, alpha_max: float, thresholds: Any = None
) -> None:
    for row, known in enumerate(pmax):
        score, alpha, size = naive.scan(list(known.values()), statistic, form, alpha_max, thresholds)
        assert result.score[row] == pytest.approx(score, rel=EXACT, abs=0)
        assert result.size[row] == size
        assert result.alpha[row] == alpha or (math.isnan(alpha) and math.isnan(result.alpha[row]))


def check_subset(result: Any, pmax: list[dict[int, float]], layer: str = NAME) -> None:
    """nodes(i) are exactly those with pmax <= alpha."""
    for row, known in enumerate(pmax):
        found = result.nodes(row)[layer]
        assert found.tolist() == [node for node, p in sorted(known.items()) if p <= result.alpha[row]]
        assert len(found) == result.size[row]


def loss_bound(
    statistic: str, form: str, reached: int, nodes: int, alpha: float, alpha_max: float, largest: int
) -> float:
    """What `hpv.scanning.scanner.grid` states: the largest loss of an exact score of ``reached`` nodes at ``alpha``."""
    ratio = (alpha_max / min(1 / (largest + 1), alpha_max)) ** (1 / 254)
    rounded = min(ratio * alpha, alpha_max)
    if statistic == "berk_jones":
        return reached * math.log(rounded / alpha)
    if statistic == "kolmogorov_smirnov":
        return math.sqrt(reached if form == "subset" else nodes) * (rounded - alpha)
    counted = reached if form == "subset" else nodes

    def score(t: float) -> float:
        excess = reached - counted * t
        return excess / math.sqrt(counted * t * (1 - t)) if 0 < t < 1 and excess > 0 else 0.0

    return score(alpha) - score(rounded)


def check_losses(
    exact: np.ndarray, rounded: np.ndarray, pmax: list[dict[int, float]], statistic: str, form: str,
    alpha_max: float, largest: int,
) -> None:  # fmt: skip
    for row, known in enumerate(pmax):
        score, alpha, size = naive.scan(list(known.values()), statistic, form, alpha_max)
        slack = EXACT * max(score, 1)
        assert rounded[row] <= exact[row] + slack
        if score > 0:
            bound = loss_bound(statistic, form, size, len(known), alpha, alpha_max, largest)
            assert exact[row] - rounded[row] <= bound + slack
