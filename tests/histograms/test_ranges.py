"""Ranges of p-values: the right tail falls with the value; one edge per distinct value makes them exact."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import hpv
import naive
from strategies import as_floats, as_input, bin_numbers, binnings, columns, matrices, next_up, pairs, tails


@given(matrices(), bin_numbers, binnings, st.sampled_from(["float32", "float64"]))
def test_right_tail_falls_with_the_value(activations, bins, binning, dtype):
    values, form = activations
    background = hpv.fit(as_input(values, form), bins=bins, binning=binning)
    order = [sorted(range(len(node)), key=lambda i: (math.isnan(node[i]), node[i])) for node in columns(values, form)]
    for tail, sign in (("right", -1), ("left", 1)):
        for ranges in background.pvalues(as_input(values, form), tail=tail, dtype=dtype):
            for node, places in enumerate(order):
                kept = [i for i in places if not math.isnan(as_floats(values[i, node], form))]
                assert (sign * np.diff(ranges[kept, node]) >= 0).all()


@given(pairs(), tails, st.booleans())
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
