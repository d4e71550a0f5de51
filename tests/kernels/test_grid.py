"""Edges on a grid: compared as 16-bit cells, with the same codes and counts as any other way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpv
from hpv.base.floats import FLOAT32, to_keys
from hpv.kernels.cpu.coders import coding
from hpv.kernels.cpu.coders.grid import NO_PLACE, OnGrid, lay_out

UNUSED = FLOAT32.no_edge


def edges_of(rng: np.random.Generator, nodes: int, count: int, step: int) -> np.ndarray:
    """Edge keys, most of them multiples of 2**step, some next to each other, of different numbers per node."""
    keys = to_keys(rng.standard_normal((nodes, count)).astype(np.float32) * 3, FLOAT32).astype(np.int64)
    keys = (keys >> step) << step
    loose = rng.random(keys.shape) < 0.2
    keys += loose * rng.integers(0, 3, keys.shape)
    edges = np.full(keys.shape, UNUSED, np.int32)
    for row, wanted in zip(edges, keys, strict=True):
        chosen = np.unique(rng.choice([*wanted, 0, 1, FLOAT32.infinity, -FLOAT32.infinity], rng.integers(0, count + 1)))
        row[: len(chosen)] = chosen
    return edges


def values_near(rng: np.random.Generator, edges: np.ndarray, samples: int) -> np.ndarray:
    """Float32 values at, just below and just above edges, and others."""
    nodes = len(edges)
    near = edges[np.arange(nodes), rng.integers(0, edges.shape[1], (samples, nodes))].astype(np.int64)
    keys = np.clip(near + rng.integers(-2, 3, near.shape), -FLOAT32.infinity, FLOAT32.infinity).astype(np.int32)
    bits = np.where(keys < 0, FLOAT32.nan_key - keys, keys)
    values = bits.astype(np.int32).view(np.float32)
    other = rng.standard_normal(values.shape).astype(np.float32)
    values = np.where(rng.random(values.shape) < 0.5, values, other)
    values[rng.random(values.shape) < 0.05] = np.nan
    values[rng.random(values.shape) < 0.05] = -0.0
    return np.ascontiguousarray(values)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(21, 60), st.integers(1, 40), st.integers(0, 18))
def test_codes_and_counts(seed, nodes, count, samples, step):
    rng = np.random.default_rng(seed)
    edges = edges_of(rng, nodes, count, step)
    values = values_near(rng, np.concatenate([np.zeros((2, count), np.int32), edges]), samples)
    keys = to_keys(values, FLOAT32)[:, 2:]
    coder = OnGrid(lay_out(edges), FLOAT32.infinity)
    codes = np.zeros((samples, nodes), np.uint8)
    coder.encode(values.view(np.int32), 2, codes)
    expected = np.count_nonzero((keys[:, :, None] >= edges) & (edges != UNUSED), axis=2)
    np.testing.assert_array_equal(codes, np.where(keys == FLOAT32.nan_key, 255, expected))
    rows = np.sort(rng.choice(samples, rng.integers(0, samples + 1), replace=False))
    counts = coding.count(values.view(np.int32), 2, rows, coder)
    chosen = keys[rows]
    reached = np.count_nonzero((chosen[:, :, None] >= edges), axis=0) * (edges != UNUSED)
    np.testing.assert_array_equal(counts.survivors, reached)
    numbers = chosen != FLOAT32.nan_key
    np.testing.assert_array_equal(counts.counted, numbers.sum(axis=0))
    np.testing.assert_array_equal(counts.lowest, np.where(numbers, chosen, UNUSED).min(axis=0, initial=UNUSED))
    np.testing.assert_array_equal(counts.highest, chosen.max(axis=0, initial=FLOAT32.nan_key))


def test_small_counters_do_not_overflow():
    """Blocks are added up beyond what 16 bits hold."""
    edges = np.array([[-65536, 0, 65536]], np.int32)
    coder = OnGrid(lay_out(edges), FLOAT32.infinity)
    state = coder.start(np.dtype(np.int32))
    bits = np.full((30_000, 1), 65536, np.int32)
    for _ in range(3):
        state.add(bits, 0, np.arange(30_000))
    counts = state.finish()
    assert counts.survivors.tolist() == [[90_000] * 3]
    assert counts.counted.tolist() == [90_000]


@pytest.mark.parametrize("relu", [False, True])
def test_proposed_edges_lie_on_a_grid(relu):
    values = np.random.default_rng(1).standard_normal((5000, 40)).astype(np.float32)
    background = hpv.fit(np.maximum(values, 0) if relu else values)
    edges = background.histograms("activations").edges
    grid = lay_out(edges)
    off = np.count_nonzero((grid.places < 0) & (grid.places != NO_PLACE), axis=1)
    assert off.max() <= 4  # the two outer edges, and the pair of a modal value
    assert isinstance(coding.make_coder(edges, FLOAT32.infinity), OnGrid)
