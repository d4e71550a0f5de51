"""The four float formats and their ordered integer keys.

A float's *key* is an integer with the same order: ``a >= b`` exactly when ``key(a) >= key(b)``. Everything that
decides a bin works on keys, so nothing depends on rounding or on the processor's treatment of subnormals:

* -0.0 and +0.0 have the key 0, the smallest positive number 1, the next one 2, and so on up to +inf;
* negative numbers have the negated keys of their magnitudes;
* NaN has the lowest integer, ``FloatFormat.nan_key``, and so lies below every edge;
* the highest integer, ``FloatFormat.no_edge``, stands for edges that a node does not have: no value reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.base.errors import InputError


@dataclass(frozen=True)
class FloatFormat:
    """One of the float formats that hpv compares exactly."""

    name: str
    """As numpy and torch call it."""
    storage: np.dtype
    """The numpy dtype that holds its values; bfloat16 is held as its uint16 bits."""
    key: np.dtype
    """The signed integer of the same width."""
    mantissa_bits: int
    exponent_bits: int

    @property
    def infinity(self) -> int:
        """The key of +inf, the highest key of a number."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def nan_key(self) -> int:
        """The key of NaN."""
        return int(np.iinfo(self.key).min)

    @property
    def no_edge(self) -> int:
        """The key of an edge that is not there."""
        return int(np.iinfo(self.key).max)

    @property
    def bias(self) -> int:
        """What is added to an exponent to store it."""
        return (1 << (self.exponent_bits - 1)) - 1

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """Values in ``storage`` as numbers that numpy knows: bfloat16 as float32, which holds each of them."""
        return (values.astype(np.uint32) << 16).view(np.float32) if self.name == "bfloat16" else values

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        """There is one object of each format, in every process: they are compared by ``is``."""
        return format_of, (self.name,)


FLOAT16 = FloatFormat("float16", np.dtype("f2"), np.dtype("i2"), 10, 5)
BFLOAT16 = FloatFormat("bfloat16", np.dtype("u2"), np.dtype("i2"), 7, 8)
FLOAT32 = FloatFormat("float32", np.dtype("f4"), np.dtype("i4"), 23, 8)
FLOAT64 = FloatFormat("float64", np.dtype("f8"), np.dtype("i8"), 52, 11)
FORMATS = {float_format.name: float_format for float_format in (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)}


def format_of(dtype: Any, what: str = "activations") -> FloatFormat:
    """The format of a numpy or torch dtype or of a name; ``InputError`` for anything that is not a float."""
    name = str(dtype).removeprefix("torch.")
    try:
        name = np.dtype(name).name
    except TypeError:
        pass  # bfloat16, or a name that no library knows
    if name not in FORMATS:
        raise InputError(f"{what}: dtype {name} is not one of {', '.join(FORMATS)}; convert it to one of them first.")
    return FORMATS[name]


def to_keys(values: np.ndarray, float_format: FloatFormat) -> np.ndarray:
    """Keys of values held in ``float_format.storage``."""
    bits = np.ascontiguousarray(values, dtype=float_format.storage).view(float_format.key)
    keys = np.where(bits < 0, float_format.nan_key - bits, bits)
    return np.where(np.abs(keys) > float_format.infinity, float_format.key.type(float_format.nan_key), keys)


def from_keys(keys: np.ndarray, float_format: FloatFormat) -> np.ndarray:
    """Values of keys, in ``float_format.storage``; ``nan_key`` and ``no_edge`` become NaN."""
    keys = np.ascontiguousarray(keys, dtype=float_format.key)
    bits = np.where(keys < 0, float_format.nan_key - keys, keys)
    strange = (keys == float_format.nan_key) | (keys > float_format.infinity)
    quiet_nan = float_format.key.type(float_format.infinity | (1 << (float_format.mantissa_bits - 1)))
    return np.where(strange, quiet_nan, bits).view(float_format.storage)


def keys_as_float64(keys: np.ndarray, float_format: FloatFormat) -> np.ndarray:
    """The numbers themselves, exactly; ``nan_key`` and ``no_edge`` become NaN."""
    return from_keys(convert_keys(keys, float_format, FLOAT64), FLOAT64)


def convert_keys(keys: np.ndarray, source: FloatFormat, target: FloatFormat, *, down: bool = False) -> np.ndarray:
    """Keys of another format: the smallest number of ``target`` that is not below (``down``: the largest not above).

    So ``value >= edge`` holds for a value of ``target`` exactly when ``key(value) >= convert_keys(edge)``.
    Integers only: conversions by the processor lose subnormals where flush-to-zero is on.
    """
    keys = np.asarray(keys, dtype=source.key)
    if source is target:
        return keys
    if down:
        flipped = np.where((keys == source.nan_key) | (keys == source.no_edge), keys, -keys)
        up = convert_keys(flipped, source, target)
        return np.where((keys == source.nan_key) | (keys == source.no_edge), up, -up)
    wide = keys.astype(np.int64)
    magnitude = np.where(keys == source.nan_key, 0, np.abs(wide))
    double = magnitude if source is FLOAT64 else _widen(magnitude, source)
    if target is FLOAT64:
        result = np.where(wide < 0, -double, double)
    else:
        quotient, rest = _truncate(double, target)
        result = np.where(wide < 0, -quotient, quotient + rest)
    result = result.astype(target.key)
    result[keys == source.nan_key] = target.nan_key
    result[keys == source.no_edge] = target.no_edge
    return result


def _widen(magnitude: np.ndarray, source: FloatFormat) -> np.ndarray:
    """Float64 bits of the non-negative numbers whose bits in ``source`` are ``magnitude``."""
    normal = (magnitude << (52 - source.mantissa_bits)) + (np.int64(1023 - source.bias) << 52)
    unit = 2.0 ** (1 - source.bias - source.mantissa_bits)
    subnormal = (magnitude.astype(np.float64) * unit).view(np.int64)
    double = np.where(magnitude < (1 << source.mantissa_bits), subnormal, normal)
    return np.where(magnitude == source.infinity, np.int64(FLOAT64.infinity), double)


def _truncate(double: np.ndarray, target: FloatFormat) -> tuple[np.ndarray, np.ndarray]:
    """Bits in ``target`` of non-negative float64 bits, rounded towards zero, and whether anything was cut off."""
    shift = 52 - target.mantissa_bits
    rebased = double - (np.int64(1023 - target.bias) << 52)
    quotient, rest = rebased >> shift, (rebased & ((1 << shift) - 1)) != 0
    # Below target's normal numbers: count its smallest units. Subnormal float64 are far below all of them.
    small = rebased < (1 << 52)
    tiny = double < (1 << 52)
    units = np.where(small & ~tiny, double, 0).view(np.float64) * 2.0 ** (target.bias + target.mantissa_bits - 1)
    whole = units.astype(np.int64)
    quotient = np.where(small, whole, quotient)
    rest = np.where(small, (whole != units) | (tiny & (double > 0)), rest)
    huge = (quotient >= target.infinity) & (double < FLOAT64.infinity)
    infinite = double == FLOAT64.infinity
    quotient = np.where(huge, target.infinity - 1, np.where(infinite, target.infinity, quotient))
    return quotient, np.where(infinite, False, rest | huge).astype(np.int64)
