"""The oracle itself, against numbers worked by hand and against the laws that it is the judge of."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive
import strategies
from hpv.base.floats import FLOAT16, FloatFormat
from naive import INF, NAN

TENTH = Fraction(1, 10)
BINNINGS = ("uniform", "quantile", "balanced")


def up(value: float) -> float:
    return math.nextafter(value, INF)


def inner(binning: str, pilot: list[float], bins: int, fraction: Fraction = TENTH, covers_all: bool = True) -> list:
    return naive.inner_edges(binning, pilot, bins, fraction, covers_all, up)


# --- ranges ---


def test_empirical_ranges_of_five_values():
    background = [1, 2, 2, -INF, NAN, 3]  # M = 5
    sixths = {
        (2, "right"): (1, 4),
        (2, "left"): (2, 5),
        (2, "two-sided"): (2, 6),
        (4, "right"): (0, 1),
        (4, "left"): (5, 6),
        (4, "two-sided"): (0, 2),
        (-INF, "right"): (4, 6),
        (-INF, "left"): (0, 2),
        (-INF, "two-sided"): (0, 4),
    }
    for (value, tail), (low, high) in sixths.items():
        assert naive.empirical_range(background, value, tail) == (Fraction(low, 6), Fraction(high, 6)), (value, tail)


@pytest.mark.parametrize("tail", naive.TAILS)
def test_what_has_no_p_value_has_the_whole_range(tail: str):
    assert naive.empirical_range([1.0, 2.0], NAN, tail) == (0, 1)
    assert naive.empirical_range([NAN, NAN], 1.0, tail) == (0, 1)
    assert naive.histogram_range(naive.code(NAN, [1.0]), [4], 4, tail) == (0, 1)
    assert naive.histogram_range(0, [], 0, tail) == (0, 1)


def test_negative_zero_is_zero():
    assert naive.code(-0.0, [-1.0, 0.0, up(0.0)]) == 2
    assert naive.survivors([-0.0, 0.0, NAN, -5e-324], [0.0]) == [2]


def test_codes_survivors_and_ranges_of_a_small_node():
    background = [0, 0, 1, 2, 5, 5, 9]
    edges = naive.closed_edges([0, 2, 5], background, up)
    assert edges == [0, 2, 5, 9.000000000000002]
    counts = naive.survivors(background, edges)
    assert counts == [7, 4, 3, 0]
    assert [naive.code(a, edges) for a in (-1, 0, 1.5, 2, 9, 10, INF)] == [0, 1, 1, 2, 3, 4, 4]
    right = [naive.histogram_range(code, counts, 7, "right") for code in range(5)]
    eighths = [(7, 8), (4, 8), (3, 5), (0, 4), (0, 1)]
    assert right == [(Fraction(low, 8), Fraction(high, 8)) for low, high in eighths]
    left = [naive.histogram_range(code, counts, 7, "left") for code in range(5)]
    eighths = [(0, 1), (0, 4), (3, 5), (4, 8), (7, 8)]
    assert left == [(Fraction(low, 8), Fraction(high, 8)) for low, high in eighths]
    assert naive.histogram_range(4, counts, 7, "two-sided") == (0, Fraction(1, 4))


def test_there_is_no_edge_above_infinity():
    assert naive.closed_edges([1.0], [INF, 0.0, NAN], up) == [0.0, 1.0]
    assert naive.closed_edges([], [NAN], up) == []
    assert naive.closed_edges([], [-INF], up) == [-INF, -1.7976931348623157e308]


# --- where the edges go ---


@pytest.mark.parametrize(("name", "values", "bins", "edges", "survivors"), naive.HAND_WORKED)
def test_the_uniform_rule_worked_by_hand(name: str, values: list, bins: int, edges: list, survivors: list):
    closed = naive.closed_edges(inner("uniform", values, bins), values, up)
    assert closed == edges, name
    assert naive.survivors(values, closed) == survivors, name


def test_uniform_edges_move_up_to_numbers_of_the_type():
    values = [1000.0 + step / 2 for step in range(12)]  # float16 has every half there; 6 bins of 5.5/6

    def half(value: float) -> float:
        return strategies.round_up(value, FLOAT16)

    def half_up(value: float) -> float:
        return strategies.next_up(value, FLOAT16)

    edges = naive.uniform_edges(values, 5, TENTH, True, half_up, half)  # 5 bins of 1.1
    assert edges == [1000, 1001.5, 1002.5, 1003.5, 1004.5, 1006]


def test_uniform_spans_that_overflow():
    far = 2.0**1023
    edges = inner("uniform", [-far, *range(-5, 6), far], 4)
    assert edges == [-far, -far / 2, 0, far / 2, up(far)]


def test_uniform_spans_whose_width_underflows():
    assert inner("uniform", [0.0, 5e-324] * 5, 10, Fraction(1, 2)) == [0, 5e-324, 1e-323]


def test_modal_values_are_above_the_fraction_strictly():
    values = [0.0] * 10 + [-0.0] * 2 + [1.0] * 10 + [2.0] * 5 + [3.0] * 6 + [NAN] * 50 + list(range(10, 77))
    assert naive.modal_values(values, TENTH, True) == [0]  # M = 100: 12 > 10, 10 > 10 is false
    assert naive.modal_values(values, TENTH, False) == [0, 1, 3]


def test_quantile_edges_by_hand():
    twenty = [float(value) for value in range(1, 21)]
    assert inner("quantile", twenty, 4) == [6, 11, 16]
    assert inner("quantile", twenty, 8) == [4, 6, 9, 11, 14, 16, 19]  # the larger of two equally near values
    assert inner("quantile", twenty, 20) == twenty
    assert inner("quantile", [0.0] * 10 + twenty, 4) == [0, 5e-324, 6, 11, 16]


def test_edges_already_used_move_to_the_next_larger_value():
    values = [float(value) for value in [*range(9)] * 10 + [*range(9, 19)]]
    assert inner("quantile", values, 15) == list(range(1, 15))


def test_balanced_edges_by_hand():
    # L = ln 40: G(1/2) = 1/2; G(7/40) = .2516 and G(8/40) = .2747 and G(6/40) = .2266; G(1-p) = 1 - G(p).
    assert inner("balanced", [float(value) for value in range(1, 41)], 4) == [8, 21, 34]


def test_balanced_edges_take_the_modal_values_away():
    # The zeros hold shares 40/80 to 1, half of the measure: the cuts are at G = 1/8, 1/4, 3/8. With L = ln 80:
    # G(5/80) = .1481, G(4/80) = .1260 and G(3/80) = .0989; G(14/80) = .2737, G(12/80) = .2514 and G(11/80) = .2395;
    # G(24/80) = .3689, G(25/80) = .3775 and G(26/80) = .3860.
    values = [0.0] * 40 + [float(value) for value in range(1, 41)]
    assert inner("balanced", values, 4) == [0, 5e-324, 16, 29, 37]


def test_infinities_are_ordinary_for_quantile_and_balanced():
    values = [-INF, *(float(value) for value in range(30)), INF]
    for binning in ("quantile", "balanced"):
        assert inner(binning, values, 32) == values
        assert inner(binning, [INF] * 10 + values[1:-1], 40) == [*values[1:-1], INF]


def test_degenerate_pilots():
    for binning in BINNINGS:
        assert inner(binning, [], 10) == []
        assert inner(binning, [NAN], 10) == []
        assert inner(binning, [2.0, NAN], 10) == [2, 2.0000000000000004]
        assert inner(binning, [2.0, NAN], 10, Fraction(1)) == [2] + [2.0000000000000004] * (binning == "uniform")
        assert inner(binning, [-INF, INF], 10) == [-INF, -1.7976931348623157e308, INF]


@pytest.mark.parametrize("binning", BINNINGS)
def test_inner_edges_leave_room_for_the_outer_two(binning: str):
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.standard_normal(400), np.repeat(np.arange(9.0), 15), [1e3, -1e3]]).tolist()
    edges = inner(binning, values, 254, Fraction(1, 50), covers_all=True)
    assert len(naive.modal_values(values, Fraction(1, 50), True)) == 9
    assert len(edges) <= 252
    if binning != "uniform":
        assert len(edges) == 252


# --- laws ---


@given(strategies.pairs(max_nodes=1), st.sampled_from(BINNINGS), st.integers(1, 12), st.booleans())
def test_the_range_of_the_code_contains_the_empirical_range(
    pair: tuple[strategies.Activations, strategies.Activations], binning: str, bins: int, covers_all: bool
):
    (background, form), (test, other) = pair
    values = strategies.as_floats(background[:, 0], form)
    edges, counts = _histogram(values, form, binning, bins, covers_all)
    counted = len(naive.numbers(values))
    for value in strategies.as_floats(test[:, 0], other):
        code = naive.code(value, edges)
        for tail in naive.TAILS:
            low, high = naive.histogram_range(code, counts, counted, tail)
            exact_low, exact_high = naive.empirical_range(values, value, tail)
            assert 0 <= low <= exact_low <= exact_high <= high <= 1


def _histogram(
    values: list[float], form: FloatFormat, binning: str, bins: int, covers_all: bool
) -> tuple[list[float], list[int]]:
    next_up, round_up = strategies.steps(form)
    edges = naive.inner_edges(binning, values, bins, TENTH, covers_all, next_up, round_up)
    assert len(edges) <= 252
    assert all(strategies.round_up(edge, form) == edge for edge in edges)
    edges = naive.closed_edges(edges, values, next_up)
    return edges, naive.survivors(values, edges)


@given(strategies.nodes(), st.sampled_from(naive.TAILS))
def test_one_edge_per_distinct_value_is_exact(node: strategies.Activations, tail: str):
    values = strategies.as_floats(*node)
    next_up, _ = strategies.steps(node[1])
    edges = naive.closed_edges(naive.numbers(values), values, next_up)
    counts = naive.survivors(values, edges)
    for value in values:
        code = naive.code(value, edges)
        exact = naive.empirical_range(values, value, tail)
        assert naive.histogram_range(code, counts, len(naive.numbers(values)), tail) == exact


# --- scans ---


def check(found: tuple[float, float, int], score: float, alpha: float, size: int) -> None:
    assert math.isclose(found[0], score, rel_tol=1e-12)
    assert found[1:] == (alpha, size)


def test_scans_by_hand():
    pmax = [0.05, 0.05, 0.1, 0.4, 0.9]
    # 3 ln 10 = 6.91, 2 ln 20 = 5.99, 4 ln 2.5 = 3.67.
    check(naive.scan(pmax, "berk_jones", "subset", 0.5), 3 * math.log(10), 0.1, 3)
    check(naive.scan(pmax, "higher_criticism", "subset", 0.5), math.sqrt(2 * 0.95 / 0.05), 0.05, 2)
    check(naive.scan(pmax, "kolmogorov_smirnov", "subset", 0.5), math.sqrt(3) * 0.9, 0.1, 3)
    # 2.5 / sqrt(.45) = 3.73, 1.75 / sqrt(.2375) = 3.59.
    check(naive.scan(pmax, "higher_criticism", "whole", 0.5), 2.5 / math.sqrt(0.45), 0.1, 3)
    check(naive.scan(pmax, "kolmogorov_smirnov", "whole", 0.5), 2.5 / math.sqrt(5), 0.1, 3)
    check(naive.scan(pmax, "berk_jones", "whole", 0.5), 3 * math.log(6) + 2 * math.log(0.4 / 0.9), 0.1, 3)
    check(naive.scan([0.25, 0.125], "berk_jones", "whole", 0.5), 2 * math.log(4), 0.25, 2)  # N_alpha = N


def test_near_ties_take_the_smallest_alpha():
    check(naive.scan([1 / 16, 1 / 4], "berk_jones", "subset", 0.5), math.log(16), 1 / 16, 1)  # ln 16 = 2 ln 4


@pytest.mark.parametrize("statistic", naive.STATISTICS)
def test_scans_that_find_nothing(statistic: str):
    cases = [("subset", []), ("subset", [0.6]), ("subset", [1.0]), ("whole", [0.4, 0.9, 0.9]), ("whole", [0.5, 1.0])]
    for form, pmax in cases:
        score, alpha, size = naive.scan(pmax, statistic, form, 1.0 if pmax == [1.0] else 0.5)
        assert (score, size) == (0, 0)
        assert math.isnan(alpha)


def test_a_grid_rounds_up_to_its_thresholds():
    check(naive.scan([0.01, 0.3, 0.31, 0.6], "berk_jones", "subset", 0.5, [0.02, 0.4, 0.5]), math.log(50), 0.02, 1)
    thresholds = naive.grid(99, 0.5)
    assert (len(thresholds), thresholds[0], thresholds[-1]) == (255, 0.01, 0.5)
    ratios = [high / low for low, high in pairwise(thresholds)]
    assert all(math.isclose(ratio, 50 ** (1 / 254), rel_tol=1e-12) for ratio in ratios)


p_values = st.integers(1, 40).map(lambda count: count / 40)


@given(st.lists(p_values, max_size=7), st.sampled_from(naive.STATISTICS), st.sampled_from([0.1, 0.5, 1.0]))
def test_the_subset_form_is_the_best_of_all_subsets(pmax: list[float], statistic: str, alpha_max: float):
    score, alpha, size = naive.scan(pmax, statistic, "subset", alpha_max)
    assert math.isclose(score, naive.brute_force_subset(pmax, statistic, alpha_max), rel_tol=1e-12)
    assert size == (0 if score == 0 else sum(p <= alpha for p in pmax))


@given(st.lists(p_values, max_size=30), st.sampled_from(naive.STATISTICS), st.sampled_from(naive.FORMS))
def test_a_grid_never_exceeds_all_alphas(pmax: list[float], statistic: str, form: str):
    exact, _, _ = naive.scan(pmax, statistic, form, 0.5)
    on_grid, _, _ = naive.scan(pmax, statistic, form, 0.5, naive.grid(39, 0.5))
    assert on_grid <= exact * (1 + 1e-12)
