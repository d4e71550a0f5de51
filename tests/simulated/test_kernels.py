"""The CUDA kernels, simulated, against the CPU backend: the same integers, whatever the values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpv.backends import cpu
from hpv.base.floats import BFLOAT16, FLOAT64, FORMATS, FloatFormat, to_keys
from hpv.kernels.cuda import counting, encoding, ranging, tallying
from hpv.kernels.cuda.device import SIMULATED, cuda
from hpv.kernels.rules import NAN_CODE
from strategies import edge_keys, nasty

FORMS = list(FORMATS.values())
# Kernels of every capacity, and the formats by turns.
EDGES = (0, 1, 7, 8, 31, 34, 60, 90, 120, 180, 254)
BY_TURNS = [(FORMS[number % 4], k) for number, k in enumerate(EDGES)]


@dataclass
class Case:
    """A block (s, N) and edge keys (n, k) of its nodes ``first : first + n``."""

    float_format: FloatFormat
    bits: np.ndarray
    first: int
    edges: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and nodes."""
        return len(self.bits), len(self.edges)

    @property
    def wide(self) -> np.dtype:
        return np.dtype(np.int64 if self.float_format is FLOAT64 else np.int32)

    def on_device(self) -> tuple[object, object]:
        """Bits, and edges (k, n) as the kernels take them."""
        return cuda.to_device(self.bits), cuda.to_device(np.ascontiguousarray(self.edges.T.astype(self.wide)))

    def codes(self) -> np.ndarray:
        codes = np.full(self.shape, 77, np.uint8)
        cpu.encode(cpu.make_coder(self.edges, self.float_format), self.bits, self.first, codes)
        return codes


def make_case(form: FloatFormat, k: int, samples: int, nodes: int, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    first = int(rng.integers(0, 4))
    bits = nasty(rng, samples, first + nodes + int(rng.integers(0, 3)), form)
    keys = to_keys(bits.view(form.storage), form)[:, first : first + nodes]
    return Case(form, bits, first, edge_keys(rng, keys, k, form))


@st.composite
def cases(draw: st.DrawFn, values: int = 60) -> Case:
    """At most so many values."""
    form, k = draw(st.sampled_from(FORMS)), draw(st.sampled_from(EDGES))
    nodes = draw(st.integers(1, 9))
    return make_case(form, k, draw(st.integers(0, values // nodes)), nodes, draw(st.integers(0, 2**32)))


@st.composite
def choices(draw: st.DrawFn, samples: int) -> np.ndarray | None:
    """Numbers of some rows, ascending; None for all."""
    numbers = st.sets(st.integers(0, samples - 1), max_size=samples) if samples else st.just(set())
    chosen = draw(st.none() | numbers)
    return None if chosen is None else np.array(sorted(chosen), np.int64)


def test_this_is_the_simulator() -> None:
    assert SIMULATED


# --- codes ---


def check_codes(case: Case) -> None:
    codes = cuda.to_device(np.full(case.shape, 77, np.uint8))
    bits, edges = case.on_device()
    encoding.encode(bits, case.first, edges, case.float_format.infinity, codes, 0)
    np.testing.assert_array_equal(codes.copy_to_host(), case.codes())


@given(cases())
def test_codes(case: Case) -> None:
    check_codes(case)


@pytest.mark.parametrize(("form", "k"), BY_TURNS, ids=str)
def test_codes_of_any_number_of_edges(form: FloatFormat, k: int) -> None:
    check_codes(make_case(form, k, 11, 5))


# --- counts ---


def check_counts(case: Case, rows: np.ndarray | None) -> None:
    """Twice, because counts are added to what is there."""
    nodes, k, form = len(case.edges), case.edges.shape[1], case.float_format
    bits, edges = case.on_device()
    histogram = cuda.to_device(np.zeros((k + 1, nodes), np.int64))
    lowest = cuda.to_device(np.full(nodes, form.no_edge, case.wide))
    highest = cuda.to_device(np.full(nodes, form.nan_key, case.wide))
    chosen = None if rows is None else cuda.to_device(rows.astype(np.int32))
    state = cpu.start_counts(cpu.make_counter(case.edges, form), 1, form)
    for _ in range(2):
        counting.count(bits, case.first, chosen, edges, form.infinity, histogram, lowest, highest, 0)
        counted = case.bits if rows is None else np.ascontiguousarray(case.bits[rows])
        cpu.add_counts(state, counted, case.first, np.zeros(len(counted), np.int64))
    expected = cpu.finish_counts(state)
    reached = histogram.copy_to_host()[::-1].cumsum(axis=0)[::-1]
    np.testing.assert_array_equal(reached[0], expected.counted[0])
    np.testing.assert_array_equal(reached[1:].T, expected.survivors[0])
    np.testing.assert_array_equal(lowest.copy_to_host(), expected.lowest)
    np.testing.assert_array_equal(highest.copy_to_host(), expected.highest)


@given(cases(), st.data())
def test_counts(case: Case, data: st.DataObject) -> None:
    check_counts(case, data.draw(choices(len(case.bits))))


@pytest.mark.parametrize(("form", "k"), BY_TURNS, ids=str)
def test_counts_of_any_number_of_edges(form: FloatFormat, k: int) -> None:
    check_counts(make_case(form, k, 11, 5), None)


def test_counts_of_nothing_but_nan() -> None:
    case = make_case(BFLOAT16, 3, 9, 5)
    case.bits[:] = BFLOAT16.infinity + 1
    case.bits[::2] |= BFLOAT16.nan_key
    check_counts(case, None)


# --- ranges ---


def check_ranges(case: Case, groups: int | None, rows: np.ndarray | None, dtype: type, seed: int) -> None:
    """From values and from codes; rows that are not chosen stay as they were."""
    (samples, nodes), rng = case.shape, np.random.default_rng(seed)
    shape = groups or 1, case.edges.shape[1] + 2, nodes
    tables = rng.random(shape).astype(dtype), rng.random(shape).astype(dtype)
    group = rng.integers(0, groups or 1, samples).astype(np.int32)
    expected, codes = [np.full(case.shape, 7, dtype) for _ in range(2)], case.codes()
    cpu.look_up_ranges(codes, group, tuple(np.ascontiguousarray(one.swapaxes(1, 2)) for one in tables), expected)
    if rows is not None:
        for one in expected:
            one[np.setdiff1d(np.arange(samples), rows)] = 7
    bits, edges = case.on_device()
    chosen = None if rows is None else cuda.to_device(rows.astype(np.int32))
    grouped = None if groups is None else cuda.to_device(group)
    there = tuple(cuda.to_device(one) for one in tables)
    for straight in (True, False):
        out = tuple(cuda.to_device(np.full(case.shape, 7, dtype)) for _ in range(2))
        if straight:
            ranging.ranges(bits, case.first, chosen, grouped, edges, case.float_format.infinity, there, out, 0)
        else:
            ranging.look_up(cuda.to_device(codes), chosen, grouped, there, out, 0)
        for one, other in zip(out, expected, strict=True):
            np.testing.assert_array_equal(one.copy_to_host(), other)


@given(cases(), st.none() | st.integers(1, 3), st.data())
def test_ranges(case: Case, groups: int | None, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    check_ranges(case, groups, data.draw(choices(len(case.bits))), dtype, data.draw(st.integers(0, 2**32)))


@pytest.mark.parametrize(("form", "k"), BY_TURNS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranges_of_any_number_of_edges(form: FloatFormat, dtype: type, k: int) -> None:
    check_ranges(make_case(form, k, 7, 5), None, None, dtype, k)


# --- tallies ---


def make_levels(rng: np.random.Generator, case: Case, thresholds: int) -> np.ndarray:
    """Levels (n, k + 2) as the scanner makes them: NaN and some nodes have no p-value."""
    levels = rng.integers(0, thresholds + 1, (case.shape[1], case.edges.shape[1] + 2))
    levels[:, -1] = thresholds + 1
    levels[rng.random(len(levels)) < 0.2] = thresholds + 1
    return levels.astype(np.uint16)


def expected_tally(codes: np.ndarray, rows: np.ndarray, levels: np.ndarray, thresholds: int) -> np.ndarray:
    tally = np.zeros((len(codes), thresholds + 2), np.int32)
    cpu.tally(codes, rows, np.zeros(len(rows), np.int64), cpu.make_levels(levels[None], thresholds), tally)
    return tally


def check_tallies(case: Case, tails: int, rows: np.ndarray | None, thresholds: int, keep: bool) -> None:
    """Twice, because nodes are added to what is there."""
    (samples, _), rng = case.shape, np.random.default_rng(tails)
    levels = [make_levels(rng, case, thresholds) for _ in range(tails)]
    packed = cuda.to_device(tallying.pack_levels(levels, thresholds))
    tallies = cuda.to_device(np.zeros((tails, samples, thresholds + 2), np.int32))
    codes = cuda.to_device(np.full(case.shape, 77, np.uint8)) if keep else None
    missing = cuda.to_device(np.zeros(1, np.int64))
    chosen = None if rows is None else cuda.to_device(rows.astype(np.int32))
    bits, edges = case.on_device()
    for _ in range(2):
        where = bits, case.first, chosen, edges, case.float_format.infinity
        tallying.tally(*where, packed, tallies, codes, missing, 0)
    rows = np.arange(samples) if rows is None else rows
    coded = case.codes()
    for v, one in enumerate(levels):
        expected = 2 * expected_tally(coded, rows, one, thresholds)
        np.testing.assert_array_equal(tallies.copy_to_host()[v], expected)
    assert missing.copy_to_host()[0] == 2 * (coded[rows] == NAN_CODE).sum()
    if codes is not None:
        np.testing.assert_array_equal(codes.copy_to_host()[rows], coded[rows])
        left = np.setdiff1d(np.arange(samples), rows)
        assert (codes.copy_to_host()[left] == 77).all()


@given(cases(20), st.integers(1, 3), st.sampled_from([255, 255, 256, 3, 1]), st.booleans(), st.data())
def test_tallies(case: Case, tails: int, thresholds: int, keep: bool, data: st.DataObject) -> None:
    check_tallies(case, tails, data.draw(choices(len(case.bits))), thresholds, keep)


@pytest.mark.parametrize(("form", "k"), BY_TURNS, ids=str)
def test_tallies_of_any_number_of_edges(form: FloatFormat, k: int) -> None:
    check_tallies(make_case(form, k, 7, 5), 1 + k % 3, None, 255, k % 2 == 0)


def test_tallies_of_many_columns() -> None:
    """Shared out among blocks."""
    check_tallies(make_case(BFLOAT16, 7, 5, 29), 2, None, 255, True)


@given(cases(), st.sampled_from([255, 3, 70_000]), st.data())
def test_tallies_of_codes(case: Case, thresholds: int, data: st.DataObject) -> None:
    samples, codes = len(case.bits), case.codes()
    levels = make_levels(np.random.default_rng(0), case, min(thresholds, 60_000))
    if thresholds > 60_000:
        levels = levels.astype(np.int32)
        levels[levels > 60_000] = thresholds + 1
    rows = data.draw(choices(samples))
    rows = np.arange(samples) if rows is None else rows
    tally = cuda.to_device(np.zeros((samples, thresholds + 2), np.int32))
    there = cuda.to_device(codes), cuda.to_device(rows.astype(np.int32)), cuda.to_device(levels)
    tallying.tally_codes(*there, tally, 0)
    np.testing.assert_array_equal(tally.copy_to_host(), expected_tally(codes, rows, levels, thresholds))
