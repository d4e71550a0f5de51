"""A fit against the oracle: edges, counts, codes and ranges of nasty data, of pilots, and of blocks of all sizes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from checks import NAME, check_outward, check_ranges, edges_of, survivors_of
from hpv.histograms.edges import pilot_runs
from strategies import (
    KINDS,
    as_floats,
    as_input,
    bin_numbers,
    binnings,
    columns,
    formats,
    matrices,
    modal_fractions,
    ordinals,
    pairs,
    seeds,
    steps,
    tails,
)


@given(pairs(), bin_numbers, binnings, modal_fractions, tails, st.sampled_from(["auto", None, 1]))
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


@given(formats, st.integers(65, 400), seeds, bin_numbers, binnings, tails, st.data())
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
