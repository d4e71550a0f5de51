"""Scans of samples against the oracle: every statistic, form and tail, by class, of several layers; corner cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from checks import EXACT, NAME, check_losses, check_scan, check_subset, oracle_pmax
from hpv.scanning.thresholds import alpha_grid
from strategies import as_input, columns, labels, largest_alphas, pairs, scan_forms, scan_statistics, tails, ways

# --- exact scans and the grid, on nasty data ---


@given(pairs(max_nodes=12), tails, scan_statistics, scan_forms, largest_alphas, st.integers(1, 40))
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
    thresholds = alpha_grid(largest, alpha_max)
    for _ in ways():
        rounded = background.scan(as_input(test, other), alphas="grid", **asked)
        check_scan(rounded, pmax, statistic, form, alpha_max, thresholds.tolist())
        check_subset(rounded, pmax)
    check_losses(exact.score, rounded.score, pmax, statistic, form, alpha_max, largest)


@given(
    pairs(max_nodes=8),
    tails,
    scan_statistics,
    scan_forms,
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
    thresholds = alpha_grid(largest, 0.5).tolist() if alphas == "grid" else None
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


@given(pairs(max_nodes=6), tails, st.sampled_from(["all", "grid"]), st.data())
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


@given(
    pairs(max_nodes=6), st.sampled_from(["all", "grid"]), scan_statistics, scan_forms, st.randoms(use_true_random=False)
)
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


def test_a_label_is_a_class_of_its_own_whatever_its_number():
    names = np.repeat([0, 2**31 - 1], 100)
    values = np.random.default_rng(5).normal(size=(200, 5)) + names[:, None] / 2**31
    background = hpv.fit(values, labels=names)
    result = background.scan(values[[0, 150]], labels=names[[0, 150]])
    assert result.label.tolist() == [0, 2**31 - 1]
