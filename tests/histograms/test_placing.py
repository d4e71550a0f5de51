"""The rules that place edges, against the oracle; and the pilot."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpv
import naive
from hpv.base.floats import FLOAT32, FLOAT64, from_keys, to_keys
from hpv.histograms.edges import Rule, pilot_runs, pilot_size
from hpv.histograms.placing import propose
from hpv.kernels.cpu import sorting
from hpv.kernels.cpu.vectors.stacks import ROWS, padded_rows
from strategies import as_floats, matrices, ordinals, steps

BINS = st.one_of(st.integers(1, 12), st.sampled_from([32, 100, 253, 254]))
FRACTIONS = st.sampled_from([Fraction(1, 10), Fraction(1, 10), Fraction(1, 3), Fraction(1, 50), Fraction(1)])


def packed_keys(values, form):
    packed = np.full(sorting.room_for(values.shape[1], len(values), form.key), form.nan_key, form.key)
    bits = np.ascontiguousarray(values).view(form.key)
    sorting.pack_keys(bits, padded_rows(np.arange(len(bits)), ROWS), 0, values.shape[1], form.infinity, packed, 0)
    return packed, values.shape[1]


@given(matrices(), BINS, st.sampled_from(["balanced", "quantile", "uniform"]), FRACTIONS, st.booleans())
def test_edges_are_the_rules(activations, bins, binning, fraction, covers_all):
    values, form = activations
    next_up, round_up = steps(form)
    proposed = propose(*packed_keys(values, form), form, Rule(bins, binning, fraction), covers_all)
    for node in range(values.shape[1]):
        expected = naive.inner_edges(
            binning, as_floats(values[:, node], form), bins, fraction, covers_all, next_up, round_up, ordinals(form)
        )
        found = proposed[node][proposed[node] != form.no_edge]
        assert as_floats(from_keys(found, form), form) == expected
        assert (np.diff(found.astype(object)) > 0).all()


@pytest.mark.parametrize("binning", ["balanced", "quantile", "uniform"])
@pytest.mark.parametrize("form", [FLOAT32, FLOAT64])
def test_edges_of_many_continuous_values(binning, form):
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=700), np.maximum(rng.normal(size=700), 0), rng.integers(0, 90, 700)], axis=1)
    values = values.astype(form.storage)
    next_up, round_up = steps(form)
    for bins in (1, 2, 10, 32, 254):
        proposed = propose(*packed_keys(values, form), form, Rule(bins, binning), False)
        for node in range(3):
            found = from_keys(proposed[node][proposed[node] != form.no_edge], form)
            expected = naive.inner_edges(
                binning,
                values[:, node].astype(float).tolist(),
                bins,
                Fraction(1, 10),
                False,
                next_up,
                round_up,
                ordinals(form),
            )
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("samples", "pilot", "size"),
    [(0, "auto", 0), (1, "auto", 1), (4096, "auto", 4096), (20_000, "auto", 4096), (100_000, "auto", 6250),
     (10**9, "auto", 16_384), (10**9, 1000, 1000), (50, 1000, 50), (5000, None, 5000)],
)  # fmt: skip
def test_pilot_size(samples, pilot, size):
    assert pilot_size(samples, pilot) == size


@given(st.integers(1, 10**7), st.one_of(st.none(), st.just("auto"), st.integers(1, 50_000)))
def test_pilot_runs_are_apart_and_inside(samples, pilot):
    runs = pilot_runs(samples, pilot)
    assert runs[0].start == 0
    assert all(before.stop <= after.start for before, after in zip(runs, runs[1:], strict=False))
    covered = sum(run.stop - run.start for run in runs)
    assert pilot_size(samples, pilot) <= covered
    assert covered == samples or covered < pilot_size(samples, pilot) + 64
    if len(runs) > 1 or covered == samples:
        assert runs[-1].stop == samples


@pytest.mark.parametrize(
    "wrong",
    [{"bins": 0}, {"bins": 255}, {"bins": 2.5}, {"bins": True}, {"binning": "even"}, {"modal_fraction": 0},
     {"modal_fraction": "x"}, {"modal_fraction": 2}, {"pilot": 0}, {"pilot": "some"}, {"pilot": 1.5}],
)  # fmt: skip
def test_wrong_rules_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(hpv.InputError, match=f"{name}={value!r}"):
        Rule(**wrong)


@given(matrices(), st.integers(0, 3))
def test_packed_and_sorted_keys(activations, first):
    values, form = activations
    first = min(first, values.shape[1] - 1)
    nodes = values.shape[1] - first
    packed = np.full(sorting.room_for(nodes, len(values) + 5, form.key), form.nan_key, form.key)
    bits = np.ascontiguousarray(values).view(form.key)
    sorting.pack_keys(bits, padded_rows(np.arange(len(bits)), ROWS), first, nodes, form.infinity, packed, 2)
    sorting.sort_lanes(packed)
    blocks, m, lanes = packed.shape
    keys = packed.transpose(0, 2, 1).reshape(blocks * lanes, m)
    expected = np.sort(to_keys(values[:, first:], form).T, axis=1)
    np.testing.assert_array_equal(keys[:nodes, m - len(values) :], expected)
    assert (keys[:nodes, : m - len(values)] == form.nan_key).all()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("m", [16, 32, 256, 512, 1024, 8192])
def test_sorting_network(dtype, m):
    packed = np.random.default_rng(m).integers(-3000, 3000, (2, m, 64 // np.dtype(dtype).itemsize)).astype(dtype)
    expected = np.sort(packed, axis=1)
    sorting.sort_lanes(packed)
    np.testing.assert_array_equal(packed, expected)
