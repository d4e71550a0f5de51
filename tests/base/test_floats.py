"""hpv/base/floats.py against numpy's own comparisons and conversions."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from hpv.base.errors import InputError
from hpv.base.floats import (
    BFLOAT16,
    FLOAT16,
    FLOAT64,
    FORMATS,
    FloatFormat,
    convert_keys,
    format_of,
    from_keys,
    keys_as_float64,
    to_keys,
)
from hpv.kernels.rules import is_nan, key_of_number

FORMS = list(FORMATS.values())
SMALL = [FLOAT16, BFLOAT16]
PAIRS = list(itertools.product(FORMS, FORMS))


def ids(forms: FloatFormat | tuple[FloatFormat, FloatFormat]) -> str:
    return forms.name if isinstance(forms, FloatFormat) else "-".join(form.name for form in forms)


def all_values(form: FloatFormat) -> np.ndarray:
    """Every bit pattern of a 16-bit format."""
    return np.arange(1 << 16, dtype=np.uint16).view(form.storage)


def doubles(values: np.ndarray, form: FloatFormat) -> np.ndarray:
    return np.array(strategies.as_floats(values, form), dtype=np.float64)


def near_the_numbers_of(target: FloatFormat, source: FloatFormat) -> np.ndarray:
    """Values of ``source`` on, beside and halfway between numbers of ``target`` from all over its range."""
    ends = [0, 1, 2, 3, (1 << target.mantissa_bits) - 1, 1 << target.mantissa_bits, target.infinity - 1]
    magnitudes = {*ends, target.infinity, *np.random.default_rng(3).integers(0, target.infinity, 500).tolist()}
    bits = np.array(sorted(magnitudes), dtype=strategies.unsigned_bits(target))
    numbers = doubles(bits.view(target.storage), target)
    above = doubles((bits[:-1] + bits.dtype.type(1)).view(target.storage), target)
    with np.errstate(all="ignore"):
        halfway = numbers[:-1] / 2 + above / 2
        points = np.concatenate([numbers, halfway, [5e-324, 1e-310, 1.7976931348623157e308, 2.0**128, 65520.0]])
        points = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf), [np.nan]])
    return strategies.from_floats(np.concatenate([points, -points]), source)


def check_conversion(values: np.ndarray, source: FloatFormat, target: FloatFormat) -> None:
    """Both directions of ``convert_keys`` against the oracle's rounding."""
    keys = to_keys(values, source)
    up = keys_as_float64(convert_keys(keys, source, target), target)
    down = keys_as_float64(convert_keys(keys, source, target, down=True), target)
    exact = strategies.as_floats(values, source)
    np.testing.assert_array_equal(up, [strategies.round_up(value, target) for value in exact])
    np.testing.assert_array_equal(down, [-strategies.round_up(-value, target) for value in exact])


# --- order ---


@pytest.mark.parametrize("form", SMALL, ids=ids)
def test_keys_have_the_order_of_all_numbers(form: FloatFormat):
    numbers, keys = doubles(all_values(form), form), to_keys(all_values(form), form).astype(np.int64)
    missing = np.isnan(numbers)
    assert keys.dtype == np.int64
    assert (keys[missing] == form.nan_key).all()
    assert (keys[~missing] > form.nan_key).all()
    order = np.argsort(numbers[~missing], kind="stable")
    numbers, keys = numbers[~missing][order], keys[~missing][order]
    np.testing.assert_array_equal(np.diff(keys), (np.diff(numbers) > 0).astype(int))
    assert keys[0] == -form.infinity
    assert keys[-1] == form.infinity < form.no_edge
    assert keys[numbers == 0].tolist() == [0, 0]


@given(strategies.nodes(), st.integers(0, 59))
def test_keys_compare_as_numbers_do(node: strategies.Activations, shift: int):
    values, form = node
    numbers, keys = doubles(values, form), to_keys(values, form)
    assert keys.dtype == form.key
    assert keys.shape == values.shape
    np.testing.assert_array_equal(keys == form.nan_key, np.isnan(numbers))
    other_numbers, other_keys = np.roll(numbers, shift), np.roll(keys, shift)
    there = ~np.isnan(numbers) & ~np.isnan(other_numbers)
    np.testing.assert_array_equal((keys >= other_keys)[there], (numbers >= other_numbers)[there])
    assert not (keys >= form.no_edge).any()


@given(strategies.nodes())
def test_the_next_key_is_the_next_number(node: strategies.Activations):
    values, form = node
    keys = to_keys(values, form)
    finite = np.isfinite(doubles(values, form))
    following = keys_as_float64(keys[finite] + form.key.type(1), form)
    expected = [strategies.next_up(value, form) for value in doubles(values, form)[finite]]
    np.testing.assert_array_equal(following, expected)


# --- there and back ---


@given(strategies.matrices())
def test_values_come_back_from_their_keys(matrix: strategies.Activations):
    values, form = matrix
    back = from_keys(to_keys(values, form), form)
    assert back.dtype == form.storage
    assert back.shape == values.shape
    np.testing.assert_array_equal(doubles(back, form), doubles(values, form))
    np.testing.assert_array_equal(keys_as_float64(to_keys(values, form), form), doubles(values, form))
    assert not np.signbit(doubles(back, form)[doubles(back, form) == 0]).any()


@given(strategies.matrices())
def test_one_value_has_the_key_that_many_have(matrix: strategies.Activations) -> None:
    """The rules of one value, which kernels compile, against the numpy form."""
    values, form = matrix
    bits = np.ascontiguousarray(values).view(form.key)

    def key(one: np.integer) -> int:
        missing = form.key.type(form.nan_key)
        return int(missing if is_nan(one, form.infinity, missing) else key_of_number(one, missing))

    assert [[key(one) for one in row] for row in bits] == to_keys(values, form).tolist()


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_missing_and_unused_become_nan(form: FloatFormat):
    keys = np.array([form.nan_key, form.no_edge, form.infinity, -form.infinity, 0], dtype=form.key)
    expected = [math.nan, math.nan, math.inf, -math.inf, 0.0]
    np.testing.assert_array_equal(doubles(from_keys(keys, form), form), expected)
    np.testing.assert_array_equal(keys_as_float64(keys, form), expected)


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_views_and_empty_arrays(form: FloatFormat):
    values = strategies.from_floats(np.arange(12.0).reshape(3, 4) - 5, form)
    for view in (values.T, values[::-1, ::2], values[:0]):
        expected = doubles(view, form).reshape(view.shape)
        np.testing.assert_array_equal(keys_as_float64(to_keys(view, form), form), expected)


# --- conversions between formats ---


@pytest.mark.parametrize("forms", PAIRS, ids=ids)
def test_conversions_near_the_numbers_of_the_target(forms: tuple[FloatFormat, FloatFormat]):
    source, target = forms
    check_conversion(near_the_numbers_of(target, source), source, target)


@given(strategies.nodes(), strategies.formats)
def test_conversions_of_nasty_values(node: strategies.Activations, target: FloatFormat):
    check_conversion(*node, target)


@pytest.mark.parametrize("source", SMALL, ids=ids)
def test_every_small_number_becomes_the_same_float64(source: FloatFormat):
    keys = to_keys(all_values(source), source)
    for down in (False, True):
        wide = convert_keys(keys, source, FLOAT64, down=down)
        np.testing.assert_array_equal(from_keys(wide, FLOAT64), doubles(all_values(source), source))
        back = convert_keys(wide, FLOAT64, source, down=down)
        np.testing.assert_array_equal(back, keys)


@pytest.mark.parametrize("forms", PAIRS, ids=ids)
def test_missing_and_unused_keep_their_places(forms: tuple[FloatFormat, FloatFormat]):
    source, target = forms
    keys = np.array([[source.nan_key, source.no_edge]], dtype=source.key)
    for down in (False, True):
        result = convert_keys(keys, source, target, down=down)
        assert result.dtype == target.key
        assert result.tolist() == [[target.nan_key, target.no_edge]]


@given(strategies.pairs(max_nodes=1))
def test_values_of_one_format_pass_edges_of_another(pair: tuple[strategies.Activations, strategies.Activations]):
    (edges, form), (values, other) = pair
    converted = convert_keys(to_keys(edges, form), form, other)
    edge_numbers, numbers = doubles(edges, form)[:, 0], doubles(values, other)
    there = ~np.isnan(edge_numbers)
    reached = to_keys(values, other) >= converted[:, 0]
    np.testing.assert_array_equal(reached[:, there], (numbers >= edge_numbers)[:, there])


def test_keys_do_not_depend_on_flush_to_zero():
    import torch  # 1 s: only this test needs it

    cases = [(near_the_numbers_of(target, source), source, target) for source, target in PAIRS]
    expected = [_all_answers(*case) for case in cases]
    torch.set_flush_denormal(True)
    try:
        flushed = [_all_answers(*case) for case in cases]
    finally:
        torch.set_flush_denormal(False)
    assert flushed == expected


def _all_answers(values: np.ndarray, source: FloatFormat, target: FloatFormat) -> list[bytes]:
    keys = to_keys(values, source)
    converted = [convert_keys(keys, source, target, down=down) for down in (False, True)]
    return [array.tobytes() for array in (keys, from_keys(keys, source), keys_as_float64(keys, source), *converted)]


# --- names ---


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_formats_are_found_by_name(form: FloatFormat):
    assert format_of(form.name) is form
    assert format_of(f"torch.{form.name}") is form
    assert str(form) == form.name
    if form is not BFLOAT16:
        assert format_of(form.storage) is form
        assert format_of(form.storage.newbyteorder()) is form


@pytest.mark.parametrize("dtype", [np.dtype("i4"), "complex64", "O", "torch.int8", "float8", "U3", np.dtype("?")])
def test_other_dtypes_are_refused(dtype: object):
    with pytest.raises(InputError, match=r"layer conv1: dtype .* is not one of float16, bfloat16, float32, float64"):
        format_of(dtype, "layer conv1")


@pytest.mark.parametrize("form", FORMATS.values(), ids=str)
def test_a_format_is_the_same_object_in_another_process(form):
    assert pickle.loads(pickle.dumps(form)) is form  # noqa: S301
