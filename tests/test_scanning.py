"""Scans against the histograms forms of the oracle, the grid's losses against the bounds that its docstring states."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from hpv.scanning.scanner import GRID, grid
from hpv.scanning.scored import scan_pvalues, score_tallies
from strategies import as_floats, as_input, columns, labels, pairs, ways

TAILS = st.sampled_from(naive.TAILS)
STATISTICS = st.sampled_from(naive.STATISTICS)
FORMS = st.sampled_from(naive.FORMS)
ALPHA_MAX = st.sampled_from([0.5, 0.5, 1.0, 0.3, 0.05, 1e-3])
EXACT = 1e-12
NAME = "activations"
EVERY = [(statistic, form) for statistic in naive.STATISTICS for form in naive.FORMS]


def oracle_pmax(
    background: hpv.Background, counted: list[list[float]], test: list[list[float]], tail: str, layer: str = NAME
) -> list[dict[int, float]]:
    """For every sample the pmax of its nodes that have a p-value; by the oracle, at the background's edges."""
    histograms = as_floats(background.edges(layer), background.layers[layer].float_format)
    samples: list[dict[int, float]] = [{} for _ in test[0]]
    for node, (values, found) in enumerate(zip(test, counted, strict=True)):
        edges = [edge for edge in histograms[node] if not math.isnan(edge)]
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


# --- exact scans and the grid, on nasty data ---


@given(pairs(max_nodes=12), TAILS, STATISTICS, FORMS, ALPHA_MAX, st.integers(1, 40))
@settings(max_examples=80)
def test_scans_are_the_oracles(both, tail, statistic, form, alpha_max, bins):
    (values, source), (test, other) = both
    background = hpv.fit(as_input(values, source), bins=bins)
    pmax = oracle_pmax(background, columns(values, source), columns(test, other), tail)
    asked = {"statistic": statistic, "tail": tail, "form": form, "alpha_max": alpha_max}
    exact = background.scan(as_input(test, other), alphas="all", **asked)
    check_scan(exact, pmax, statistic, form, alpha_max)
    check_subset(exact, pmax)
    assert exact.score.dtype == exact.alpha.dtype == np.float64
    assert exact.size.dtype == np.int64
    assert exact.label.tolist() == [-1] * len(test)
    largest = max(len(naive.numbers(node)) for node in columns(values, source))
    thresholds = grid(largest, alpha_max)
    for _ in ways():
        rounded = background.scan(as_input(test, other), alphas="grid", **asked)
        check_scan(rounded, pmax, statistic, form, alpha_max, thresholds.tolist())
        check_subset(rounded, pmax)
    check_losses(exact.score, rounded.score, pmax, statistic, form, alpha_max, largest)


@given(
    pairs(max_nodes=8),
    TAILS,
    STATISTICS,
    FORMS,
    st.sampled_from(["all", "grid"]),
    st.sampled_from([1, 4, 15]),
    st.data(),
)
@settings(max_examples=60)
def test_scans_against_classes(both, tail, statistic, form, alphas, least, data):
    (values, source), (test, other) = both
    names = data.draw(labels(len(values)))
    background = hpv.fit(as_input(values, source), labels=names, min_class_size=least, bins=9)
    own = [name for name in sorted(set(names.tolist())) if (names == name).sum() >= least]
    small = len(own) < len(set(names.tolist()))
    asked = {"statistic": statistic, "tail": tail, "form": form, "alphas": alphas}
    given, found = as_input(test, other), columns(test, other)
    largest = max(len(naive.numbers(node)) for node in columns(values, source))
    thresholds = grid(largest, 0.5).tolist() if alphas == "grid" else None
    by_name = {
        name: oracle_pmax(background, columns(values if name < 0 else values[names == name], source), found, tail)
        for name in (-1, *own)
    }
    pooled = background.scan(given, against="pooled", **asked)
    check_scan(pooled, by_name[-1], statistic, form, 0.5, thresholds)
    assert (pooled.label == -1).all()
    wanted = data.draw(
        st.lists(st.sampled_from([*map(int, background.classes)]), min_size=len(test), max_size=len(test))
    )
    answered = [name if name in own else -1 for name in wanted]
    pmax = [by_name[name][row] for row, name in enumerate(answered)]
    for _ in ways():
        result = background.scan(given, labels=wanted, **asked)
        assert result.label.tolist() == answered
        check_scan(result, pmax, statistic, form, 0.5, thresholds)
        check_subset(result, pmax)
    lowest = background.scan(given, against="lowest", **asked)
    candidates = [-1, *own] if small else own
    scores = {
        name: [naive.scan(list(known.values()), statistic, form, 0.5, thresholds)[0] for known in by_name[name]]
        for name in candidates
    }
    best = [min(scores[name][row] for name in candidates) for row in range(len(test))]
    np.testing.assert_allclose(lowest.score, best, rtol=EXACT, atol=0)
    assert set(lowest.label.tolist()) <= set(candidates)
    pmax = [by_name[name][row] for row, name in enumerate(lowest.label.tolist())]
    check_scan(lowest, pmax, statistic, form, 0.5, thresholds)
    check_subset(lowest, pmax)


@given(pairs(max_nodes=6), TAILS, st.sampled_from(["all", "grid"]), st.data())
def test_several_layers_are_one_set_of_nodes(both, tail, alphas, data):
    (values, source), (test, other) = both
    cut = data.draw(st.integers(1, values.shape[1]))
    parts = [slice(0, cut), slice(cut, None)] if cut < values.shape[1] else [slice(None)]
    names, starts = [f"layer {i}" for i in range(len(parts))], [0, cut]
    background = hpv.fit({n: as_input(values[:, part], source) for n, part in zip(names, parts, strict=True)})
    given = {n: as_input(test[:, part], other) for n, part in zip(names, parts, strict=True)}
    whole = hpv.fit(as_input(values, source)).scan(as_input(test, other), tail=tail, alphas=alphas)
    result = background.scan(given, tail=tail, alphas=alphas)
    for field in ("score", "alpha", "size"):
        np.testing.assert_array_equal(getattr(result, field), getattr(whole, field))
    for row in range(len(test)):
        subset = result.nodes(row)
        joined = np.concatenate([start + subset[name] for start, name in zip(starts, names, strict=False)])
        np.testing.assert_array_equal(joined, whole.nodes(row)[NAME])
    chosen = data.draw(st.sampled_from(names))
    one = hpv.fit(as_input(values[:, parts[names.index(chosen)]], source))
    alone = one.scan(as_input(test[:, parts[names.index(chosen)]], other), tail=tail, alphas=alphas)
    for layers in (chosen, [chosen]):
        # The grid ends at the pooled counts of the chosen layers, so it is that of the layer alone.
        result = background.scan(given, layers=layers, tail=tail, alphas=alphas)
        np.testing.assert_array_equal(result.score, alone.score)
        assert list(result.nodes(0)) == [chosen]
    only = background.scan({chosen: given[chosen]}, layers=[chosen], tail=tail, alphas=alphas)
    np.testing.assert_array_equal(only.score, alone.score)


@given(pairs(max_nodes=6), st.sampled_from(["all", "grid"]), STATISTICS, FORMS, st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_its_batch(both, alphas, statistic, form, shuffle):
    (values, source), (test, other) = both
    background = hpv.fit(as_input(values, source))
    asked = {"alphas": alphas, "statistic": statistic, "form": form}
    together = background.scan(as_input(test, other), **asked)
    order = list(range(len(test)))
    shuffle.shuffle(order)
    again = background.scan(as_input(test[order], other), **asked)
    alone = background.scan(as_input(test[order[0]][None], other), **asked)
    for field in ("score", "alpha", "size"):
        np.testing.assert_array_equal(getattr(again, field), getattr(together, field)[order])
        np.testing.assert_array_equal(getattr(alone, field), getattr(together, field)[order[:1]])


# --- scans of given p-values ---

PVALUES = st.lists(
    st.one_of(st.sampled_from([1.0, 0.5, 0.1, 1e-9, 0.25]), st.integers(1, 999).map(lambda i: i / 1000)), max_size=9
)


@given(st.lists(PVALUES, min_size=1, max_size=4), STATISTICS, FORMS, ALPHA_MAX)
def test_scan_of_given_pvalues(rows, statistic, form, alpha_max):
    width = max(map(len, rows))
    table = np.full((len(rows), width), np.nan)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    score, alpha, size = scan_pvalues(table, statistic, form, alpha_max)
    for i, row in enumerate(rows):
        expected = naive.scan(row, statistic, form, alpha_max)
        assert score[i] == pytest.approx(expected[0], rel=EXACT, abs=0)
        assert (size[i], math.isnan(alpha[i])) == (expected[2], math.isnan(expected[1]))
        assert math.isnan(alpha[i]) or alpha[i] == expected[1]


@given(PVALUES.filter(lambda row: len(row) <= 6), STATISTICS)
def test_no_subset_scores_higher(row, statistic):
    """Linear-time subset scanning against all subsets at all alphas."""
    score, _, _ = scan_pvalues(np.array([row]).reshape(1, -1), statistic)
    assert score[0] == pytest.approx(naive.brute_force_subset(row, statistic, 0.5), rel=EXACT, abs=0)


def test_pvalues_that_are_none_are_refused():
    for wrong in (0.0, -0.1, 1.1, np.inf):
        with pytest.raises(hpv.InputError, match=r"p-values.*above 0 and up to 1"):
            scan_pvalues(np.array([[0.5, wrong]]))
    with pytest.raises(hpv.InputError, match=r"shape \(3,\); give \(samples, nodes\)"):
        scan_pvalues(np.full(3, 0.5))
    assert [part.tolist() for part in scan_pvalues(np.zeros((0, 4)))] == [[], [], []]


def test_statistics_of_small_excess_keep_their_digits():
    """One of three nodes just below a third; fifty of a hundred just below a half: differences of near numbers."""
    for reached, counted, alpha in ((1, 3, 0.3333), (50, 100, 0.4999), (500, 1000, 0.49995), (1, 1, 0.9999)):
        tally = np.array([[reached, counted - reached, 0]], np.int32)
        for statistic, form in EVERY:
            score, _, _ = score_tallies(tally, np.array([alpha]), statistic, form)
            nodes = reached if form == "subset" else counted
            expected = naive.general_statistic(statistic, reached, nodes, alpha)
            assert score[0] == pytest.approx(float(expected), rel=EXACT, abs=0)


# --- the grid ---


@pytest.mark.parametrize("alpha_max", [1.0, 0.5, 0.05, 1e-3, 1e-7])
@pytest.mark.parametrize("largest", [0, 1, 2, 60, 999, 10**6, 2**33])
def test_thresholds(largest, alpha_max):
    found = grid(largest, alpha_max)
    assert len(found) == GRID
    np.testing.assert_allclose(found, naive.grid(largest, alpha_max), rtol=1e-13)
    assert (found[0], found[-1]) == (min(1 / (largest + 1), alpha_max), alpha_max)
    assert (np.diff(found) >= 0).all()
    if found[0] < alpha_max:
        ratio = (alpha_max * (largest + 1)) ** (1 / 254)
        assert (np.diff(found) > 0).all()
        np.testing.assert_allclose(found[1:] / found[:-1], ratio, rtol=1e-12)


def loss_bound(
    statistic: str, form: str, reached: int, nodes: int, alpha: float, alpha_max: float, largest: int
) -> float:
    """What `hpv.scanning.grid` states: the largest loss of an exact score of ``reached`` nodes at ``alpha``."""
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


def worst_alpha(largest: int, alpha_max: float, below: float) -> Fraction:
    """A pmax j / (largest + 1) that is rounded up by nearly the whole factor between two thresholds."""
    thresholds = grid(largest, alpha_max)
    j = np.arange(2, int(below * (largest + 1)))
    p = j / (largest + 1)
    factor = thresholds[np.searchsorted(thresholds, p)] / p
    return Fraction(int(j[np.argmax(factor)]), largest + 1)


@pytest.mark.parametrize(("statistic", "form"), EVERY)
@pytest.mark.parametrize("samples", [300, 5000])
def test_losses_are_tight_within_a_factor_of_two(statistic, form, samples):
    """All significant nodes at one pmax just above a threshold; the others, if any, are not significant at all."""
    nodes, few = 40, 30
    alpha = worst_alpha(samples, 0.5, 0.45)
    values = np.arange(float(samples))[:, None] + np.zeros(nodes)
    edge = float(samples - alpha.numerator + 1)  # alpha.numerator - 1 values survive there
    background = hpv.fit(values, edges=[edge])
    test = np.where(np.arange(nodes) < few, edge, 0.0)[None]
    asked = {"statistic": statistic, "form": form, "tail": "right"}
    exact, rounded = (background.scan(test, alphas=alphas, **asked) for alphas in ("all", "grid"))
    assert exact.alpha[0] == float(alpha)
    assert exact.size[0] == rounded.size[0] == few
    loss = exact.score[0] - rounded.score[0]
    bound = loss_bound(statistic, form, few, nodes, float(alpha), 0.5, samples)
    assert bound / 2 <= loss <= bound * (1 + 1e-9)


@given(st.integers(2, 10**6), st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from(EVERY), ALPHA_MAX)
@settings(max_examples=300)
def test_losses_of_random_pvalues(largest, shares, kind, alpha_max):
    """pmax of any background of this size: j / (largest + 1), many of them small."""
    pmax = np.array([[(1 + int(share**6 * largest)) / (largest + 1) for share in shares]])
    thresholds = grid(largest, alpha_max)
    exact, _, _ = scan_pvalues(pmax, *kind, alpha_max)
    level = np.searchsorted(thresholds, pmax[0])
    tally = np.append(np.bincount(level, minlength=GRID + 1), 0).astype(np.int32)[None]
    rounded, _, _ = score_tallies(tally, thresholds, *kind)
    check_losses(exact, rounded, [dict(enumerate(pmax[0].tolist()))], *kind, alpha_max, largest)


# --- corner cases ---


@pytest.mark.parametrize("alphas", ["all", "grid"])
@pytest.mark.parametrize("form", naive.FORMS)
def test_nothing_significant(alphas, form):
    """Score 0, alpha NaN, no nodes: nothing at or below alpha_max, no p-value at all, no value."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(50, 3)), np.full((50, 1), np.nan)], axis=1)
    background = hpv.fit(values)
    tests = np.array([np.median(values, axis=0), np.full(4, np.nan), [np.nan, np.nan, np.nan, 99.0]])
    for statistic in naive.STATISTICS:
        result = background.scan(tests, alphas=alphas, form=form, statistic=statistic, alpha_max=0.4)
        assert result.score.tolist() == [0, 0, 0]
        assert np.isnan(result.alpha).all()
        assert result.size.tolist() == [0, 0, 0]
        assert [result.nodes(row)[NAME].tolist() for row in range(-3, 3)] == [[]] * 6
        tiny = background.scan(np.full((1, 4), 99.0), alphas=alphas, form=form, statistic=statistic, alpha_max=1e-4)
        assert (tiny.score[0], tiny.size[0]) == (0, 0)
    with pytest.raises(IndexError):
        result.nodes(3)


@pytest.mark.parametrize("alphas", ["all", "grid"])
def test_missing_values_are_not_counted(alphas):
    """N of the whole form is the number of nodes with a p-value."""
    values = np.arange(99.0)[:, None] + np.zeros(4)
    background = hpv.fit(np.concatenate([values, np.full((99, 1), np.nan)], axis=1), edges=[90.0])
    with_nan = background.scan(np.array([[95.0, 1.0, np.nan, np.nan, 5.0]]), form="whole", tail="right", alphas=alphas)
    without = hpv.fit(values[:, :2], edges=[90.0]).scan(
        np.array([[95.0, 1.0]]), form="whole", tail="right", alphas=alphas
    )
    assert with_nan.score[0] == without.score[0] > 0
    assert with_nan.size[0] == without.size[0] == 1
    assert with_nan.nodes(0)[NAME].tolist() == [0]


def test_unknown_labels_use_the_pooled_counts_with_a_warning():
    rng = np.random.default_rng(4)
    values, names = rng.normal(size=(400, 20)), np.repeat([0, 1], 200)
    background = hpv.fit(values + names[:, None], labels=names)
    test = rng.normal(size=(5, 20))
    with pytest.warns(hpv.HpvWarning, match="2 of 5 samples have a label that the background was not fitted with"):
        result = background.scan(test, labels=[0, 7, 1, 9, 0])
    assert result.label.tolist() == [0, -1, 1, -1, 0]
    pooled = background.scan(test, against="pooled")
    np.testing.assert_array_equal(result.score[[1, 3]], pooled.score[[1, 3]])
    assert result.nodes(3)[NAME].tolist() == pooled.nodes(3)[NAME].tolist()
    assert result.score[0] != pooled.score[0]


def test_near_ties_take_the_smallest_alpha():
    """k ln(1/t) is the same for 1 node at 1/9 and 2 nodes at 1/3."""
    score, alpha, size = scan_pvalues(np.array([[1 / 9, 1 / 3]]))
    assert score[0] == pytest.approx(math.log(9), rel=EXACT)
    assert (alpha[0], size[0]) == (1 / 9, 1)


def test_a_label_is_a_class_of_its_own_whatever_its_number():
    names = np.repeat([0, 2**31 - 1], 100)
    values = np.random.default_rng(5).normal(size=(200, 5)) + names[:, None] / 2**31
    background = hpv.fit(values, labels=names)
    result = background.scan(values[[0, 150]], labels=names[[0, 150]])
    assert result.label.tolist() == [0, 2**31 - 1]
