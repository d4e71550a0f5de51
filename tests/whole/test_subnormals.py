"""Processors that flush subnormal numbers to zero, as torch can tell them to, give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from checks import NAME
from hpv.base.floats import FLOAT64, FloatFormat
from strategies import as_floats, as_input, binnings, formats, matrices, seeds

FIELDS = ("score", "alpha", "size", "label")


def answers(
    values: np.ndarray, form: FloatFormat, test: np.ndarray, other: FloatFormat, binning: str, edges: Any
) -> Any:
    """All that can depend on how the processor treats subnormals."""
    given, asked = as_input(values, form), as_input(test, other)
    background = hpv.fit(given, binning=binning, bins=7)
    bound = hpv.fit(asked, edges=edges)
    moved = hpv.fit(asked, edges=background)
    prints = [one.fingerprint for one in (background, bound, moved)]
    arrays = [background.encode(asked), *background.pvalues(asked), *background.quantile(0.3), background.edges(NAME)]
    arrays += [getattr(background.scan(asked, alphas="all"), field) for field in FIELDS]
    return prints, [np.ascontiguousarray(array).view(np.uint8) for array in arrays]


SMALLEST = np.float64(5e-324)


@given(formats, formats, binnings, st.integers(1, 60), seeds, st.data())
@settings(max_examples=40)
def test_flush_to_zero_changes_nothing(form, other, binning, samples, seed, data):
    values, _ = data.draw(matrices(st.just(form), st.just(samples)))
    rng = np.random.default_rng(seed)
    unit = rng.choice([1, 2**20, 2**50])
    bits = np.dtype(f"u{form.storage.itemsize}")
    small = (rng.integers(0, 40, values.shape) * unit % (1 << form.mantissa_bits)).astype(bits)
    sign = (rng.integers(0, 2, values.shape) << (8 * bits.itemsize - 1)).astype(bits)
    values = np.where(rng.random(values.shape) < 0.7, small | sign, values.view(bits)).view(form.storage)
    test = rng.integers(0, 30, (9, values.shape[1])).astype(f"u{other.storage.itemsize}").view(other.storage)
    edges = rng.integers(-9, 9, (values.shape[1], 4)).astype(np.float64) * SMALLEST
    if data.draw(st.booleans()):
        edges = rng.integers(0, 9, (values.shape[1], 4)).astype(np.uint32).view(np.float32)
    expected = answers(values, form, test, other, binning, edges)
    assert torch.set_flush_denormal(True), "this processor cannot flush subnormals to zero"
    try:
        assert (np.full(2, SMALLEST) * np.ones(2) == 0).all()
        found = answers(values, form, test, other, binning, edges)
        still_on = (np.full(2, SMALLEST) * np.ones(2) == 0).all()
    finally:
        torch.set_flush_denormal(False)
    assert still_on
    assert (np.full(2, SMALLEST) * np.ones(2) > 0).all()
    assert found[0] == expected[0]
    for one, another in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(one, another)


def test_uniform_edges_of_subnormals_under_flush_to_zero():
    """Equal widths between subnormals, next to normal numbers, and quartiles that differ by one subnormal."""
    unit = float(SMALLEST)
    nodes = [
        [i * unit for i in range(24)],
        [i * unit for i in range(23)] + [1.0],
        [i * 2.0**-1030 for i in range(24)],
        [2.0**-1000 + i * 2.0**-1052 for i in range(23)] + [1.0],
        [-1.0] + [i * unit * 2.0**40 for i in range(22)] + [2.0**-1000],
    ]
    values = np.array(nodes).T
    torch.set_flush_denormal(True)
    try:
        background = hpv.fit(values, binning="uniform", bins=10)
        found = background.edges(NAME)
    finally:
        torch.set_flush_denormal(False)
    for node, edges in zip(nodes, as_floats(found, FLOAT64), strict=True):
        kept = [edge for edge in edges if edge == edge]
        step = lambda value: np.nextafter(value, np.inf)  # noqa: E731
        inner = naive.uniform_edges(node, 10, hpv.fit(values).rule.modal_fraction, True, step)
        assert kept == naive.closed_edges(inner, node, step)
        assert len(kept) > 5


def test_a_subnormal_quartile_next_to_a_large_value():
    """Flushed to zero, the quartiles of what is not modal would be equal, and the bins wider."""
    step = 2.0**-1022 / 4
    values = np.array(
        [-1] * 3 + [0] * 10 + [-3 * step] + [-2 * step] * 5 + [-step, step, 2 * step] + [3 * step] * 3 + [1]
    )
    expected = hpv.edges(values[:, None], binning="uniform")["activations"]
    assert torch.set_flush_denormal(True)
    try:
        found = hpv.edges(values[:, None], binning="uniform")["activations"]
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))
