"""What counts alone answer: the bins of modal values, and bounds of quantiles."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import hpv
import naive
from checks import NAME, edges_of, round_down
from hpv.base.floats import FLOAT16
from strategies import as_input, bin_numbers, binnings, columns, matrices, modal_fractions, next_up, pairs


@given(matrices(), binnings, modal_fractions)
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


@given(matrices(), binnings, bin_numbers, st.lists(SHARES, min_size=1, max_size=4))
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
