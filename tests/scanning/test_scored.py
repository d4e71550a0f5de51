"""Scans of given p-values, and scores of tallies: against the oracle and against all subsets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpv
import naive
from checks import EVERY, EXACT
from hpv.scanning.scored import scan_pvalues, score_tallies
from strategies import largest_alphas, scan_forms, scan_statistics

PVALUES = st.lists(
    st.one_of(st.sampled_from([1.0, 0.5, 0.1, 1e-9, 0.25]), st.integers(1, 999).map(lambda i: i / 1000)), max_size=9
)


@given(st.lists(PVALUES, min_size=1, max_size=4), scan_statistics, scan_forms, largest_alphas)
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


@given(PVALUES.filter(lambda row: len(row) <= 6), scan_statistics)
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


def test_near_ties_take_the_smallest_alpha():
    """k ln(1/t) is the same for 1 node at 1/9 and 2 nodes at 1/3."""
    score, alpha, size = scan_pvalues(np.array([[1 / 9, 1 / 3]]))
    assert score[0] == pytest.approx(math.log(9), rel=EXACT)
    assert (alpha[0], size[0]) == (1 / 9, 1)
