"""hpv.fit, encode, pvalues, quantile and merge against the oracle: the invariants I1 to I4 on nasty data."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from hpv import blocks
from hpv.backends import cpu
from hpv.floats import FLOAT16, FLOAT32, FloatFormat
from hpv.kernels.cpu import parallel
from hpv.pilot import pilot_runs
from strategies import (
    KINDS,
    as_floats,
    as_input,
    columns,
    formats,
    labels,
    matrices,
    next_up,
    ordinals,
    pairs,
    round_up,
    seeds,
    sizes,
    splits,
    steps,
    ways,
)

BINNINGS = st.sampled_from(["balanced", "quantile", "uniform"])
BINS = st.one_of(st.integers(1, 12), st.sampled_from([32, 253, 254]))
FRACTIONS = st.sampled_from([Fraction(1, 10), Fraction(1, 10), Fraction(1, 3), Fraction(1, 50), Fraction(1)])
TAILS = st.sampled_from(naive.TAILS)
NAME = "activations"


def round_down(value: float, form: FloatFormat) -> float:
    return -round_up(-value, form)


def edges_of(background: hpv.Background, layer: str = NAME) -> list[list[float]]:
    closed = as_floats(background.edges(layer), background.layers[layer].form)
    return [[edge for edge in node if not math.isnan(edge)] for node in closed]


def survivors_of(background: hpv.Background, group: int = 0, layer: str = NAME) -> list[list[int]]:
    closed = background.closed(layer)
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


# --- the whole of a fit against the oracle ---


@given(pairs(), BINS, BINNINGS, FRACTIONS, TAILS, st.sampled_from(["auto", None, 1]))
def test_fit_codes_and_ranges_are_the_oracles(both, bins, binning, fraction, tail, pilot):
    (values, form), (test, other) = both
    background = hpv.fit(as_input(values, form), bins=bins, binning=binning, modal_fraction=fraction, pilot=pilot)
    next_one, rounded = steps(form)
    counted = columns(values, form)
    for node, (edges, survivors) in enumerate(zip(edges_of(background), survivors_of(background), strict=True)):
        inner = naive.inner_edges(binning, counted[node], bins, fraction, True, next_one, rounded, ordinals(form))
        assert edges == naive.closed_edges(inner, counted[node], next_one)
        assert survivors == naive.survivors(counted[node], edges)
    missing = [sum(map(math.isnan, node)) for node in counted]
    assert background.layers[NAME].missing.tolist() == [missing]
    check_ranges(background, counted, test, other, tail)


@given(formats, st.integers(65, 400), seeds, BINS, BINNINGS, TAILS, st.data())
@settings(max_examples=15)
def test_a_pilot_that_is_a_part(form, samples, seed, bins, binning, tail, data):
    values, _ = data.draw(matrices(st.just(form), st.just(samples), max_nodes=3))
    pilot = data.draw(st.integers(1, samples // 2))
    background = hpv.fit(as_input(values, form), bins=bins, binning=binning, pilot=pilot)
    runs = pilot_runs(samples, pilot)
    read = np.concatenate([values[run] for run in runs])
    next_one, rounded = steps(form)
    counted = columns(values, form)
    for node, edges in enumerate(edges_of(background)):
        sample = as_floats(read[:, node], form)
        inner = naive.inner_edges(
            binning, sample, bins, Fraction(1, 10), len(read) == samples, next_one, rounded, ordinals(form)
        )
        assert edges == naive.closed_edges(inner, counted[node], next_one)
    chosen = np.random.default_rng(seed).integers(0, samples, 12)
    check_ranges(background, counted, values[chosen], form, tail)


@pytest.mark.parametrize(
    ("values", "bins", "edges", "survivors"),
    [case[1:] for case in naive.HAND_WORKED],
    ids=[case[0] for case in naive.HAND_WORKED],
)
def test_nodes_worked_by_hand(values, bins, edges, survivors):
    background = hpv.fit(np.array(values, np.float64)[:, None], bins=bins, binning="uniform", pilot=None)
    assert edges_of(background) == [edges]
    assert survivors_of(background) == [survivors]


@given(matrices(), BINS, BINNINGS, st.sampled_from(["float32", "float64"]))
def test_right_tail_falls_with_the_value(activations, bins, binning, dtype):
    values, form = activations
    background = hpv.fit(as_input(values, form), bins=bins, binning=binning)
    order = [sorted(range(len(node)), key=lambda i: (math.isnan(node[i]), node[i])) for node in columns(values, form)]
    for tail, sign in (("right", -1), ("left", 1)):
        for ranges in background.pvalues(as_input(values, form), tail=tail, dtype=dtype):
            for node, places in enumerate(order):
                kept = [i for i in places if not math.isnan(as_floats(values[i, node], form))]
                assert (sign * np.diff(ranges[kept, node]) >= 0).all()


@given(pairs(), TAILS, st.booleans())
def test_one_edge_per_distinct_value_is_exact(both, tail, given_edges):
    (values, form), (test, other) = both
    counted = columns(values, form)
    distinct = [sorted(set(naive.numbers(node))) for node in counted]
    options = {"edges": distinct} if given_edges else {"bins": 254, "modal_fraction": 1}
    background = hpv.fit(as_input(values, form), **options)
    pmin, pmax = background.pvalues(as_input(test, other), tail=tail, dtype="float64")
    own = background.pvalues(as_input(values, form), tail=tail, dtype="float64")
    for node, found in enumerate(counted):
        for row, value in enumerate(found):
            exact = naive.empirical_range(found, value, tail)
            assert (own[0][row, node], own[1][row, node]) == (float(exact[0]), float(exact[1]))
        for row, value in enumerate(columns(test, other)[node]):
            known = not distinct[node] or value in distinct[node] or math.isnan(value)
            above = distinct[node] and value >= next_up(distinct[node][-1], form)
            if known or above or value < distinct[node][0]:
                exact = naive.empirical_range(found, value, tail)
                assert (pmin[row, node], pmax[row, node]) == (float(exact[0]), float(exact[1]))


# --- given edges ---


@st.composite
def edge_lists(draw: st.DrawFn, values: list[list[float]]) -> list[list[float]]:
    """Numbers near and far from the values of each node: unsorted, doubled, of both signs, infinite, NaN."""
    strange = st.floats(width=64)
    lists = []
    for node in values:
        near = st.sampled_from(node) if node else strange
        lists.append(draw(st.lists(st.one_of(near, strange), max_size=12)))
    return lists


@given(pairs(), TAILS, st.data())
def test_given_edges(both, tail, data):
    (values, form), (test, other) = both
    counted = columns(values, form)
    lists = data.draw(edge_lists(counted))
    background = hpv.fit(as_input(values, form), edges=lists)
    for node, edges in enumerate(edges_of(background)):
        inner = {round_up(edge, form) for edge in lists[node] if not math.isnan(edge)}
        closed = naive.closed_edges(sorted(inner), counted[node], lambda value: next_up(value, form))
        assert edges == (closed if naive.numbers(counted[node]) else [])
    check_ranges(background, counted, test, other, tail)


def test_given_edges_in_all_their_shapes():
    values = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], np.float32)
    one_list = hpv.fit(values, edges=[1, 3])
    for edges in ([3, 1], np.array([1.0, 3.0]), [[1, 3], [1, 3]], [[1.0, np.nan, 3.0]] * 2, {NAME: [3.0, 1.0, 1.0]},
                  torch.tensor([1.0, 3.0])):  # fmt: skip
        assert hpv.fit(values, edges=edges).fingerprint == one_list.fingerprint
    ragged = hpv.fit(values, edges=[[1], [1, 3, 4]])
    assert edges_of(ragged) == [[0, 1, next_up(4.0, FLOAT32)], [1, 3, 4, next_up(5.0, FLOAT32)]]
    assert survivors_of(ragged) == [[3, 2, 0], [3, 2, 1, 0]]


@pytest.mark.filterwarnings("ignore:merge.*same counts")
@given(pairs(), BINNINGS, TAILS)
def test_edges_of_a_background_of_another_format(both, binning, tail):
    """Counts at the edges stay exact; extremes between two numbers of the background's format move down."""
    (values, source), (new, wide) = both
    first = hpv.fit(as_input(values, source), binning=binning, bins=7)
    second = hpv.fit(as_input(new, wide), edges=first)
    counted = columns(new, wide)
    assert second.layers[NAME].form is source
    np.testing.assert_array_equal(second.layers[NAME].edges, first.layers[NAME].edges)
    inner = as_floats(hpv.edges(as_input(values, source), binning=binning, bins=7)[NAME], source)
    for node, edges in enumerate(edges_of(second)):
        proposed = {edge for edge in inner[node] if not math.isnan(edge)}
        known = naive.numbers(counted[node])
        if known:
            proposed.add(round_down(known[0], source))
            if known[-1] < math.inf:
                proposed.add(next_up(round_down(known[-1], source), source))
        assert edges == (sorted(proposed) if known else [])
    both_tests = [(new, wide), (values, source)]
    for test, other in both_tests:
        check_ranges(second, counted, test, other, tail)
    merged = hpv.merge([first, second])
    together = [a + b for a, b in zip(columns(values, source), counted, strict=True)]
    for test, other in both_tests:
        check_ranges(merged, together, test, other, tail)


# --- sums ---


@pytest.mark.filterwarnings("ignore:.* have the same counts")  # parts may be equal
@given(matrices(samples=sizes), BINNINGS, st.booleans(), st.randoms(use_true_random=False), st.data())
def test_parts_add_up_to_the_whole(activations, binning, by_class, shuffle, data):
    values, form = activations
    classes = data.draw(labels(len(values))) if by_class else None
    whole = hpv.fit(as_input(values, form), binning=binning, labels=classes, min_class_size=5)
    proposal = hpv.edges(as_input(values, form), binning=binning)
    parts = []
    for part in data.draw(splits(len(values))):
        own = None if classes is None else classes[part]
        start = data.draw(st.sampled_from([proposal, whole]))
        parts.append(hpv.fit(as_input(values[part], form), edges=start, labels=own, min_class_size=5))
    shuffle.shuffle(parts)
    assert hpv.merge(parts).fingerprint == whole.fingerprint
    assert hpv.merge([hpv.merge(parts[:1]), *parts[1:]]).fingerprint == whole.fingerprint
    for before, after in zip(parts, parts[1:], strict=False):
        assert hpv.merge([before, after]).fingerprint == hpv.merge([after, before]).fingerprint


@given(pairs(), TAILS, st.integers(1, 20), st.data())
def test_classes_have_their_own_counts(both, tail, least, data):
    (values, form), (test, other) = both
    classes = data.draw(labels(len(values)))
    background = hpv.fit(as_input(values, form), labels=classes, min_class_size=least, bins=6)
    pooled = hpv.fit(as_input(values, form), bins=6)
    assert edges_of(background) == edges_of(pooled)
    assert survivors_of(background) == survivors_of(pooled)
    assert background.classes.tolist() == sorted(set(classes.tolist()))
    assert background.samples.tolist() == [int((classes == name).sum()) for name in background.classes]
    check_ranges(background, columns(values, form), test, other, tail)
    asked = data.draw(st.lists(st.sampled_from([*map(int, background.classes), 12345]), min_size=1, max_size=3))
    for name in asked:
        members = values[classes == name]
        counted = columns(members if len(members) >= least else values, form)
        check_ranges(background, counted, test, other, tail, labels=np.full(len(test), name))


def test_each_sample_is_answered_by_its_own_class():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 9)).astype(np.float32)
    classes = np.repeat([5, 3, 8], 20)
    background = hpv.fit(values, labels=classes, min_class_size=20)
    test, names = rng.normal(size=(30, 9)).astype(np.float32), rng.choice([3, 5, 8, 99], 30)
    together = background.pvalues(test, labels=names)
    for name in (3, 5, 8, 99):
        alone = background.pvalues(test[names == name], labels=np.full((names == name).sum(), name))
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(found[names == name], expected)


# --- what else a background says ---


@given(matrices(), BINNINGS, FRACTIONS)
def test_modal_bins(activations, binning, fraction):
    """Each value above the fraction has a bin of its own; no other bin of one number is called modal."""
    values, form = activations
    background = hpv.fit(as_input(values, form), binning=binning, modal_fraction=fraction, bins=8)
    modal = background.modal(NAME)
    for node, (found, edges) in enumerate(zip(columns(values, form), edges_of(background), strict=True)):
        total = len(naive.numbers(found))
        expected = sorted(value for value, count in Counter(naive.numbers(found)).items() if count > fraction * total)
        assert [edges[k] for k in np.flatnonzero(modal[node])] == expected


def test_the_modal_rule_is_strict_and_uses_all_samples():
    """6 of 60 is not more than a tenth, 7 of 61 is; the pilot of 64 of 1,000 sees fewer than there are."""
    common = np.concatenate([np.full(6, 2.5), np.arange(100.0, 154.0)])
    assert not hpv.fit(common[:, None]).modal(NAME).any()
    assert hpv.fit(np.append(common, 2.5)[:, None]).modal(NAME).sum() == 1
    values = np.arange(1000.0)
    values[:4] = values[500:600] = -7.0
    assert hpv.fit(values[:, None], pilot=64).modal(NAME).sum() == 1
    values[500:600] = np.arange(500.0, 600.0)
    assert not hpv.fit(values[:, None], pilot=64).modal(NAME).any()


SHARES = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.25, 1 / 3]), st.floats(0, 1).map(lambda q: round(q, 6))
)  # fmt: skip


@given(matrices(), BINNINGS, BINS, st.lists(SHARES, min_size=1, max_size=4))
def test_quantile_bounds(activations, binning, bins, asked):
    values, form = activations
    background = hpv.fit(as_input(values, form), binning=binning, bins=bins)
    low, high = background.quantile(asked)
    assert low.shape == high.shape == (len(asked), values.shape[1])
    one_low, one_high = background.quantile(asked[0])
    np.testing.assert_array_equal((one_low, one_high), (low[0], high[0]))
    for node, found in enumerate(columns(values, form)):
        known = naive.numbers(found)
        for place, q in enumerate(asked):
            if not known:
                assert math.isnan(low[place, node])
                assert math.isnan(high[place, node])
                continue
            share = Fraction(q).limit_denominator(10**9)
            value = known[max(math.ceil(share * len(known)), 1) - 1]
            assert low[place, node] <= value <= high[place, node]
            assert known[0] <= low[place, node]
            assert high[place, node] <= known[-1]


@given(pairs(), SHARES)
def test_quantile_bounds_of_wider_values(both, q):
    """Values of a wider format lie below the next number of the background's format after the upper bound."""
    (values, form), (new, other) = both
    first = hpv.fit(as_input(values, form), bins=5)
    low, high = hpv.fit(as_input(new, other), edges=first).quantile(q)
    for node, found in enumerate(columns(new, other)):
        known = naive.numbers(found)
        if known:
            value = known[max(math.ceil(Fraction(q).limit_denominator(10**9) * len(known)), 1) - 1]
            assert low[node] <= value
            assert round_down(value, form) <= high[node]


def test_quantile_of_several_layers_is_a_mapping():
    values = np.arange(20.0).reshape(10, 2)
    background = hpv.fit({"a": values, "b": values[:, :1].astype(np.float16)})
    found = background.quantile([0.5, 1.0])
    next_down = -next_up(-10.0, FLOAT16)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"][0], [[8.0, 9.0], [18.0, 19.0]])
    np.testing.assert_array_equal(found["a"][1], [[math.nextafter(10, 0), math.nextafter(11, 0)], [18.0, 19.0]])
    np.testing.assert_array_equal(found["b"], [[[8.0], [18.0]], [[next_down], [18.0]]])


@given(matrices(), st.integers(1, 20))
def test_results_are_written_where_the_caller_says(activations, bins):
    values, form = activations
    background = hpv.fit(as_input(values, form), bins=bins)
    given = as_input(values, form)
    codes = np.zeros(values.shape, np.uint8)
    assert background.encode(given, out=codes) is codes
    np.testing.assert_array_equal(codes, background.encode(given))
    pair = np.zeros(values.shape, np.float32), np.zeros(values.shape, np.float32)
    found = background.pvalues(given, out=pair)
    assert found[0] is pair[0]
    assert found[1] is pair[1]
    np.testing.assert_array_equal(pair, background.pvalues(given))


def test_mappings_answer_with_mappings():
    rng = np.random.default_rng(2)
    wide, narrow = rng.normal(size=(40, 7)), rng.normal(size=(40, 3)).astype(np.float16)
    background = hpv.fit({"wide": wide, "narrow": narrow})
    alone = hpv.fit(narrow)
    codes = background.encode({"narrow": narrow, "wide": wide, "more": wide})
    assert set(codes) == {"wide", "narrow"}
    np.testing.assert_array_equal(codes["narrow"], alone.encode(narrow))
    out = {"wide": np.zeros((40, 7), np.uint8), "narrow": np.zeros((40, 3), np.uint8)}
    assert background.encode({"wide": wide, "narrow": narrow}, out=out)["wide"] is out["wide"]
    ranges = background.pvalues({"wide": wide, "narrow": narrow}, tail="left")
    np.testing.assert_array_equal(ranges["narrow"], alone.pvalues(narrow, tail="left"))
    only = background.select(["narrow"])
    np.testing.assert_array_equal(only.encode(narrow), alone.encode(narrow))
    assert only.layers["narrow"] is background.layers["narrow"]


@given(
    formats, formats, st.sampled_from([1, 7, 8, 65, 130, 700, 2100]), st.sampled_from([1, 8, 17, 33, 64, 150]), seeds
)
@settings(max_examples=60)
def test_blocks_of_all_sizes(form, other, samples, nodes, seed):
    """Whole and partial stacks, lanes and tiles, few and many edges: against numpy's binary search."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(sorted(KINDS), nodes)
    values = np.stack([KINDS[kind](rng, samples, form) for kind in chosen], axis=1)
    test = np.stack([KINDS[kind](rng, samples, other) for kind in chosen], axis=1)
    names = rng.integers(0, 3, samples) ** 2
    bins, binning = int(rng.choice([1, 3, 10, 32, 100, 254])), str(rng.choice(["balanced", "uniform", "quantile"]))
    background = hpv.fit(as_input(values, form), labels=names, min_class_size=1, bins=bins, binning=binning)
    codes, (pmin, pmax) = background.encode(as_input(test, other)), background.pvalues(as_input(test, other))
    plain, asked = np.array(as_floats(values, form)), np.array(as_floats(test, other))
    counts = [survivors_of(background, group) for group in range(1 + len(background.classes))]
    for node, edges in enumerate(edges_of(background)):
        missing = np.isnan(asked[:, node])
        expected = np.where(missing, 255, np.searchsorted(edges, asked[:, node], side="right"))
        np.testing.assert_array_equal(codes[:, node], expected)
        for group, name in enumerate([None, *background.classes.tolist()]):  # pooled, and every class
            members = np.sort(plain[:, node] if name is None else plain[names == name, node])
            members = members[~np.isnan(members)]
            survivors = len(members) - np.searchsorted(members, edges, side="left")
            assert counts[group][node] == survivors.tolist()
        members = np.sort(plain[~np.isnan(plain[:, node]), node])
        borders = np.array([len(members), *(len(members) - np.searchsorted(members, edges, side="left")), 0])
        known = ~missing & (len(members) > 0)
        at = np.where(known, expected, 0)
        low = np.where(known, borders[at + 1 if len(edges) else at] / (len(members) + 1), 0)
        high = np.where(known, (borders[at] + 1) / (len(members) + 1), 1)
        check_outward(low, high, pmin[:, node], pmax[:, node])


def test_counters_of_sixteen_bits_do_not_overflow():
    """Blocks of more samples than a 16-bit counter holds, in one class and in three."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 5, (70_001, 3)).astype(np.float16)
    classes = np.where(np.arange(70_001) < 66_000, 4, rng.integers(0, 2, 70_001))
    for options in ({}, {"labels": classes}):
        background = hpv.fit(values, edges=[1, 2, 3, 4], **options)
        expected = [[int((values[:, node] >= edge).sum()) for edge in range(5)] + [0] for node in range(3)]
        assert survivors_of(background) == expected
    for group, name in enumerate(background.classes, start=1):
        members = values[classes == name]
        expected = [[int((members[:, node] >= edge).sum()) for edge in range(5)] + [0] for node in range(3)]
        assert survivors_of(background, group) == expected


def test_the_most_edges_that_codes_have_room_for():
    """254 edges: codes 0 to 254, and 255 for NaN."""
    values = np.arange(1000.0)[:, None]
    background = hpv.fit(values, bins=254, binning="quantile")
    given = hpv.fit(values, edges=np.arange(1.0, 253.0))
    for found in (background, given):
        assert len(edges_of(found)[0]) == 254
        codes = found.encode(np.array([[-1.0], [0.0], [np.nan], [5000.0], [np.inf], [-np.inf]]))
        assert codes.ravel().tolist() == [0, 1, 255, 254, 254, 0]
        pmax = found.pvalues(np.array([[np.nan], [5000.0]]), dtype="float64")[1]
        assert pmax.ravel().tolist() == [1.0, 1 / 1001]


def test_fingerprints_tell_states_apart():
    values = np.arange(30.0).reshape(15, 2)
    first = hpv.fit(values)
    others = [
        hpv.fit(values[:14]),
        hpv.fit(values, bins=3),
        hpv.fit({"other": values}),
        hpv.fit(values.astype(np.float32)),
        hpv.fit(values, labels=np.zeros(15, int)),
        hpv.fit(values, labels=np.ones(15, int)),
        hpv.fit(values, labels=np.ones(15, int), min_class_size=3),
        hpv.fit(np.where(values == 3, np.nan, values), edges=first),
    ]
    found = [first.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(found)) == len(found)
    assert hpv.fit(values.copy()).fingerprint == first.fingerprint
    assert hpv.fit(values, edges=first).fingerprint == first.fingerprint
    assert hpv.fit({"other": values}, edges={"other": first.edges("activations")[:, 1:-1]}).nodes == first.nodes


@pytest.mark.parametrize("bins", [10, 32, 254])
def test_one_caller_has_loops_with_threads(bins, monkeypatch):
    """In-memory fits, codes and ranges of some size: the same bits as with one thread."""
    values = np.random.default_rng(bins).standard_normal((1100, 260)).astype(np.float32)
    values[::7, 3] = np.nan
    edges, asked = hpv.edges(values, bins=bins), []
    one = hpv.fit(values, edges=edges, threads=1)
    expected = one.encode(values[:9]), *one.pvalues(values[:9])

    def one_caller(threads):
        asked.append(threads)
        return parallel.one_caller(threads)

    monkeypatch.setattr(cpu, "one_caller", one_caller)
    monkeypatch.setattr(blocks, "thread_count", lambda threads: threads or 2)
    background = hpv.fit(values, edges=edges, threads=2)
    assert background.fingerprint == one.fingerprint
    results = background.encode(values), *background.pvalues(values)
    assert asked == [2, 2, 2]
    for found, few in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found[:9], few)
    codes = one.encode(np.asfortranarray(values))
    assert asked[3:] == [1]  # blocks are copied, by threads that call
    np.testing.assert_array_equal(codes, results[0])
