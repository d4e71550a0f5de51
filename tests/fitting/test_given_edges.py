"""Fits at edges that are given: as numbers in any shape, or as a background of any float format."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hpv
import naive
from checks import NAME, check_ranges, edges_of, round_down, survivors_of
from hpv.base.floats import FLOAT32
from strategies import as_floats, as_input, binnings, columns, next_up, pairs, round_up, tails


@st.composite
def edge_lists(draw: st.DrawFn, values: list[list[float]]) -> list[list[float]]:
    """Numbers near and far from the values of each node: unsorted, doubled, of both signs, infinite, NaN."""
    strange = st.floats(width=64)
    lists = []
    for node in values:
        near = st.sampled_from(node) if node else strange
        lists.append(draw(st.lists(st.one_of(near, strange), max_size=12)))
    return lists


@given(pairs(), tails, st.data())
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
@given(pairs(), binnings, tails)
def test_edges_of_a_background_of_another_format(both, binning, tail):
    """Counts at the edges stay exact; extremes between two numbers of the background's format move down."""
    (values, source), (new, wide) = both
    first = hpv.fit(as_input(values, source), binning=binning, bins=7)
    second = hpv.fit(as_input(new, wide), edges=first)
    counted = columns(new, wide)
    assert second.layers[NAME].float_format is source
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
