"""The strategies: steps of the formats, which the oracle is given, and parts and labels of samples."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

import naive
import strategies
from hpv.base.floats import FLOAT16, FLOAT64
from naive import INF


@given(strategies.nodes())
def test_steps_of_the_formats(node: strategies.Activations):
    next_up, round_up = strategies.steps(node[1])
    for value in naive.numbers(strategies.as_floats(*node)):
        above = next_up(value)
        assert above > value or value == INF
        assert round_up(value) == value
        assert round_up(above) == above
        if math.isfinite(value) and math.isfinite(above):
            middle = value + (above - value) / 2
            assert middle in (value, above) or round_up(middle) == above


def test_steps_of_float64_are_those_of_the_language():
    assert strategies.next_up(1.0, FLOAT64) == math.nextafter(1.0, INF)
    assert strategies.next_up(-0.0, FLOAT16) == strategies.round_up(1e-300, FLOAT16) == 2.0**-24
    assert strategies.round_up(1e300, FLOAT16) == INF
    assert strategies.round_up(-1e300, FLOAT16) == -65504


@given(st.data(), st.integers(1, 60))
def test_splits_and_labels_cover_the_samples(data: st.DataObject, samples: int):
    parts = data.draw(strategies.splits(samples))
    assert [index for part in parts for index in range(samples)[part]] == list(range(samples))
    assert all(part.start < part.stop for part in parts)
    assert data.draw(strategies.labels(samples)).shape == (samples,)
