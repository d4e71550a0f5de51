"""Hypothesis strategies of nasty activations, and plain helpers for values of the four float formats.

A whole matrix is made by a numpy generator from a drawn seed and drawn kinds of nodes, so that an example is fast.
Arrays are in ``form.storage`` (bfloat16 as uint16 bits). The helpers work on numpy's own conversions and on bit
patterns, not on hpv's keys, so they can judge those.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

import naive
from hpv.base.floats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, FloatFormat
from hpv.kernels.cpu import ranging, tallying

STRAIGHT, BY_CODES = 1, 10**9
"""Fewest samples whose answers come straight from their values."""


def ways() -> Iterator[None]:
    """Both ways to ranges and tallies, which the number of samples would choose between."""
    for fewest in (STRAIGHT, BY_CODES):
        with mock.patch.object(ranging, "FEWEST_ROWS", fewest), mock.patch.object(tallying, "FEWEST_ROWS", fewest):
            yield


Activations = tuple[np.ndarray, FloatFormat]
Node = Callable[[np.random.Generator, int, FloatFormat], np.ndarray]

# --- values of a format ---


def as_floats(array: np.ndarray, form: FloatFormat) -> list:
    """Nested lists of Python floats, exact."""
    if form is BFLOAT16:
        array = (np.asarray(array, dtype=np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        result: list = np.asarray(array).astype(np.float64).tolist()
    return result


def from_floats(values: np.ndarray, form: FloatFormat) -> np.ndarray:
    """Values near the float64 ``values`` (bfloat16: cut off), in ``form.storage``; NaN stays NaN."""
    with np.errstate(all="ignore"):
        if form is not BFLOAT16:
            return np.asarray(values).astype(form.storage)
        single = np.asarray(values).astype(np.float32)
    bits = (single.view(np.uint32) >> 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FC0), bits)


def as_input(values: np.ndarray, form: FloatFormat) -> Any:
    """What a user would give: numpy has no bfloat16, torch has."""
    if form is not BFLOAT16:
        return values
    import torch

    return torch.from_numpy(np.ascontiguousarray(values).view(np.int16)).view(torch.bfloat16)


def columns(values: np.ndarray, form: FloatFormat) -> list[list[float]]:
    """The values of every node, exact."""
    return [as_floats(values[:, node], form) for node in range(values.shape[1])]


def next_up(value: float, form: FloatFormat) -> float:
    """The next number of the format above one of its numbers; +inf stays +inf."""
    if form is FLOAT64:
        return math.nextafter(value, math.inf)
    if form is BFLOAT16:
        if value == math.inf:
            return value
        bits = struct.unpack("<I", struct.pack("<f", value))[0] >> 16
        bits = 1 if value == 0 else bits - 1 if value < 0 else bits + 1
        return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    kind = form.storage.type
    with np.errstate(all="ignore"):
        return float(np.nextafter(kind(value), kind(math.inf)))


def round_up(value: float, form: FloatFormat) -> float:
    """The smallest number of the format that is not below ``value``; NaN stays NaN."""
    if form is FLOAT64 or math.isnan(value) or math.isinf(value):
        return value
    if form is not BFLOAT16:
        with np.errstate(all="ignore"):
            near = float(form.storage.type(value))
        return next_up(near, form) if near < value else near
    single = round_up(value, FLOAT32)
    if math.isinf(single):
        return single
    bits = struct.unpack("<I", struct.pack("<f", single))[0]
    cut = float(struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0])
    return next_up(cut, BFLOAT16) if cut < single else cut


def steps(form: FloatFormat) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """``next_up`` and ``round_up`` of the format, as the oracle takes them."""
    return lambda value: next_up(value, form), lambda value: round_up(value, form)


def ordinals(form: FloatFormat) -> tuple[Callable[[float], int], Callable[[int], float]] | None:
    """The number of a float in the order of float32, 0 for zero, and back; None for the formats without a grid."""
    if form is not FLOAT32:
        return None
    width = form.storage.itemsize

    def number(value: float) -> int:
        magnitude = int.from_bytes(from_floats(np.array([abs(value)]), form).tobytes(), sys.byteorder)
        return -magnitude if value < 0 else magnitude

    def value_of(number: int) -> float:
        bits = np.frombuffer(abs(number).to_bytes(width, sys.byteorder), form.storage)
        return as_floats(bits, form)[0] * (-1 if number < 0 else 1)

    return number, value_of


def unsigned_bits(form: FloatFormat) -> np.dtype:
    return np.dtype(f"u{form.storage.itemsize}")


def _one_up(array: np.ndarray, form: FloatFormat, down: bool = False) -> np.ndarray:
    """Each value's neighbour; infinities on the way out and NaN stay."""
    bits, most = array.view(unsigned_bits(form)), 8 * form.storage.itemsize - 1
    sign, one = bits.dtype.type(1) << bits.dtype.type(most), bits.dtype.type(1)
    magnitude, outward = bits & ~sign, ((bits & sign) != 0) == down
    stays = (magnitude > form.infinity) | ((magnitude == form.infinity) & outward)
    from_zero = one | (sign if down else bits.dtype.type(0))
    moved = np.where(magnitude == 0, from_zero, np.where(outward, bits + one, bits - one))
    return np.where(stays, bits, moved).view(form.storage)


# --- kinds of nodes: each gives n values in form.storage ---


def _real(make: Callable[[np.random.Generator, int], np.ndarray]) -> Node:
    return lambda rng, n, form: from_floats(make(rng, n), form)


def _unit(form: FloatFormat) -> float:
    """The smallest positive number of the format."""
    return math.ldexp(1.0, 2 - (1 << (form.exponent_bits - 1)) - form.mantissa_bits)


def _subnormals(rng: np.random.Generator, n: int, form: FloatFormat) -> np.ndarray:
    return from_floats(rng.integers(-6, 7, n) * _unit(form), form)


def _offset(rng: np.random.Generator, n: int, form: FloatFormat) -> np.ndarray:
    """A few neighbouring numbers above 1000 or -1000."""
    start = from_floats(np.full(n, rng.choice([1000.0, -1000.0])), form).view(unsigned_bits(form))
    return (start + rng.integers(0, 9, n).astype(start.dtype)).view(form.storage)


def _any_bits(rng: np.random.Generator, n: int, form: FloatFormat) -> np.ndarray:
    """Any bit pattern: NaN with any payload, infinities, subnormals, all exponents."""
    return np.frombuffer(rng.bytes(n * form.storage.itemsize), dtype=form.storage).copy()


def _huge(rng: np.random.Generator, n: int, form: FloatFormat) -> np.ndarray:
    """Numbers whose differences overflow the format."""
    most = math.ldexp(2.0 - 2.0**-form.mantissa_bits, (1 << (form.exponent_bits - 1)) - 1)
    return from_floats(rng.choice([-1.0, -0.75, -0.5, 0.0, 0.5, 0.75, 1.0], n) * most, form)


def _infinite(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.4, rng.choice([-np.inf, np.inf], n), rng.normal(size=n))


KINDS: dict[str, Node] = {
    "gaussian": _real(lambda rng, n: rng.normal(size=n)),
    "ties": _real(lambda rng, n: rng.integers(-4, 5, n).astype(float)),
    "constant": _real(lambda rng, n: np.full(n, rng.choice([0.0, -1.5, 3.0, np.inf, -np.inf]))),
    "signed zeros": _real(lambda rng, n: rng.choice([0.0, -0.0, 1.0, -1.0], n, p=[0.3, 0.3, 0.2, 0.2])),
    "infinite": _real(_infinite),
    "all NaN": _real(lambda rng, n: np.full(n, np.nan)),
    "coarse grid": _real(lambda rng, n: np.round(rng.normal(size=n) * 16) / 16),
    "heavy tails": _real(lambda rng, n: rng.standard_cauchy(n) ** 5),
    "relu": _real(lambda rng, n: np.maximum(rng.normal(size=n), 0)),
    "relu6": _real(lambda rng, n: np.clip(rng.normal(3, 4, n), 0, 6)),
    "modal inside": _real(lambda rng, n: np.where(rng.random(n) < 0.3, 0.25, rng.normal(size=n))),
    "subnormal": _subnormals,
    "offset": _offset,
    "any bits": _any_bits,
    "huge": _huge,
}


def _column(rng: np.random.Generator, kind: str, n: int, form: FloatFormat) -> np.ndarray:
    column = KINDS[kind](rng, n, form)
    if rng.random() < 0.3:
        column = np.where(rng.random(n) < 0.2, from_floats(np.full(n, np.nan), form), column)
    return column


def _matrix(rng: np.random.Generator, kinds: list[str], n: int, form: FloatFormat) -> np.ndarray:
    return np.ascontiguousarray(np.stack([_column(rng, kind, n, form) for kind in kinds], axis=1))


def _echo(rng: np.random.Generator, background: Activations, n: int, form: FloatFormat) -> np.ndarray:
    """Test values on, just above and just below background values, in another format."""
    values, source = background
    if len(values) == 0:
        return from_floats(np.zeros((n, values.shape[1])), form)
    picked = np.array(as_floats(values[rng.integers(0, len(values), n)], source))
    near = from_floats(picked, form)
    step = rng.integers(-1, 2, near.shape)
    return np.where(step < 0, _one_up(near, form, down=True), np.where(step > 0, _one_up(near, form), near))


# --- bits and keys, as the kernels take them ---


def nasty(rng: np.random.Generator, samples: int, columns: int, form: FloatFormat) -> np.ndarray:
    """Bits (s, N): any patterns at all, many zeros of both signs, infinities, NaN of both signs, subnormals."""
    width = form.key.itemsize * 8
    bits = rng.integers(0, 1 << (width - 1), (samples, columns), dtype=np.uint64).astype(form.key)
    bits[rng.random(bits.shape) < 0.5] |= np.iinfo(form.key).min
    low = np.iinfo(form.key).min
    special = np.array(
        [0, low, form.infinity, low | form.infinity, form.infinity + 1, -1, 1, low | 1, 3], dtype=form.key
    )
    chosen = rng.random(bits.shape) < 0.4
    bits[chosen] = rng.choice(special, chosen.sum())
    return bits


def edge_keys(rng: np.random.Generator, keys: np.ndarray, k: int, form: FloatFormat) -> np.ndarray:
    """Edges (n, k) at values, right beside them, and anywhere; every node has another number of them."""
    edges = np.full((keys.shape[1], k), form.no_edge, form.key)
    for j in range(len(edges)):
        seen = keys[:, j][keys[:, j] != form.nan_key].astype(object)
        around = [int(x) + d for x in seen for d in (0, 1)] + [0, 1, -1, form.infinity, -form.infinity]
        around += [int(x) for x in rng.integers(-form.infinity, form.infinity, 2 * k + 1, dtype=np.int64)]
        fits = np.array(sorted({x for x in around if -form.infinity <= x <= form.infinity}), dtype=form.key)
        number = min(len(fits), k if j % 3 == 0 else int(rng.integers(0, k + 1)))
        edges[j, :number] = np.sort(rng.choice(fits, number, replace=False))
    return edges


# --- strategies ---

formats = st.sampled_from([FLOAT16, BFLOAT16, FLOAT32, FLOAT64])
format_names = st.sampled_from(sorted(FORMATS))
seeds = st.integers(0, 2**32 - 1)
sizes = st.one_of(st.integers(1, 4), st.integers(5, 60))
kinds = st.sampled_from(sorted(KINDS))
binnings = st.sampled_from(["balanced", "quantile", "uniform"])
bin_numbers = st.one_of(st.integers(1, 12), st.sampled_from([32, 253, 254]))
modal_fractions = st.sampled_from([Fraction(1, 10), Fraction(1, 10), Fraction(1, 3), Fraction(1, 50), Fraction(1)])
tails = st.sampled_from(naive.TAILS)
scan_statistics = st.sampled_from(naive.STATISTICS)
scan_forms = st.sampled_from(naive.FORMS)
largest_alphas = st.sampled_from([0.5, 0.5, 1.0, 0.3, 0.05, 1e-3])


@st.composite
def matrices(
    draw: st.DrawFn,
    forms: st.SearchStrategy[FloatFormat] = formats,
    samples: st.SearchStrategy[int] = sizes,
    max_nodes: int = 6,
) -> Activations:
    """Activations (samples, nodes) with nodes of mixed kinds, and their format."""
    form, n = draw(forms), draw(samples)
    columns = draw(st.lists(kinds, min_size=1, max_size=max_nodes))
    return _matrix(np.random.default_rng(draw(seeds)), columns, n, form), form


@st.composite
def nodes(
    draw: st.DrawFn, forms: st.SearchStrategy[FloatFormat] = formats, samples: st.SearchStrategy[int] = sizes
) -> Activations:
    """The values of one node (samples,), and their format."""
    values, form = draw(matrices(forms, samples, max_nodes=1))
    return values[:, 0], form


@st.composite
def pairs(
    draw: st.DrawFn,
    samples: st.SearchStrategy[int] = sizes,
    max_nodes: int = 6,
    same_format: bool = False,
) -> tuple[Activations, Activations]:
    """Background and test activations of the same nodes; the formats differ unless ``same_format``."""
    background, form = draw(matrices(samples=samples, max_nodes=max_nodes))
    other = form if same_format else draw(formats)
    rng, n, width = np.random.default_rng(draw(seeds)), draw(st.integers(1, 30)), background.shape[1]
    fresh = _matrix(rng, draw(st.lists(kinds, min_size=width, max_size=width)), n, other)
    echoed = _echo(rng, (background, form), n, other)
    return (background, form), (np.where(rng.random((n, width)) < 0.7, echoed, fresh), other)


@st.composite
def splits(draw: st.DrawFn, n: int, max_parts: int = 6) -> list[slice]:
    """Consecutive non-empty parts that together are all of ``n`` samples."""
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=max_parts - 1))) if n > 1 else []
    ends = [0, *cuts, n]
    return [slice(start, stop) for start, stop in pairwise(ends)]


@st.composite
def labels(draw: st.DrawFn, n: int) -> np.ndarray:
    """One int64 class per sample: few classes, not consecutive, of very different sizes."""
    names = draw(st.lists(st.sampled_from([0, 1, 2, 7, 41, 100_000]), min_size=1, max_size=4, unique=True))
    weights = np.array([2.0**-i for i in range(len(names))])
    rng = np.random.default_rng(draw(seeds))
    return rng.choice(np.array(names, dtype=np.int64), n, p=weights / weights.sum())
