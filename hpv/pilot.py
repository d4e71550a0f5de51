"""Proposing edges: a pilot of the samples, and the rules that place edges by it.

The pilot is a function of the number of samples and of ``pilot`` alone, so every machine and every shard proposes
the same edges. Counts at the edges are exact whatever the pilot was; only the widths of the ranges depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from hpv.errors import InputError
from hpv.floats import FLOAT64, FORMATS, FloatFormat, convert_keys, from_keys, to_keys
from hpv.resources import quantity

RUN = 64
"""Consecutive samples of the pilot that are read together."""
MOST_INNER_EDGES = 252
"""Two outer edges more make 254, the highest code; 255 is the code of a missing value."""
BINNINGS = ("balanced", "uniform", "quantile")
_SCALE = 2.0**-10
_UNITS = 1074
_TINY, _CLOSE = (1023 - 900) << 52, (1023 - 960) << 52
"""Float64 keys of 2^-900 and 2^-960: below them differences may be subnormal."""


@dataclass(frozen=True)
class Rule:
    """How edges are placed; see `hpv.fit`."""

    bins: int = 32
    """Ordinary bins of a node, 1 to 254; modal values and outer edges come on top, and bins give way to them."""
    binning: str = "balanced"
    modal_fraction: Fraction = Fraction(1, 10)
    """A value that makes up more than this share of its node gets a bin of its own; 1/50 to 1."""
    pilot: int | Literal["auto"] | None = "auto"
    """Samples that the edges are found by: a number, ``None`` for all, or what `pilot_size` says."""

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int | np.integer) or not 1 <= self.bins <= 254:
            raise InputError(f"bins={self.bins!r}: give a whole number from 1 to 254.")
        if self.binning not in BINNINGS:
            raise InputError(f"binning={self.binning!r}: give one of {', '.join(BINNINGS)}.")
        try:
            fraction = Fraction(self.modal_fraction).limit_denominator(10_000)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError):
            fraction = Fraction(0)
        if not Fraction(1, 50) <= fraction <= 1:
            raise InputError(f"modal_fraction={self.modal_fraction!r}: give a fraction from 1/50 to 1, as '1/10'.")
        object.__setattr__(self, "modal_fraction", fraction)
        if self.pilot is not None and self.pilot != "auto":
            whole = isinstance(self.pilot, int | np.integer) and not isinstance(self.pilot, bool)
            if not whole or self.pilot < 1:
                raise InputError(f"pilot={self.pilot!r}: give a number of samples, 'auto', or None for all samples.")

    @property
    def most_edges(self) -> int:
        """Inner edges that a node can get."""
        modal = int(2 / self.modal_fraction)
        return min(MOST_INNER_EDGES, self.bins + 1 + 2 * modal)

    def as_json(self) -> dict[str, Any]:
        """For attributes and requests."""
        return {
            "bins": int(self.bins),
            "binning": self.binning,
            "modal_fraction": str(self.modal_fraction),
            "pilot": "all" if self.pilot is None else self.pilot,
        }


@dataclass(frozen=True)
class LayerEdges:
    """Inner edges of the nodes of one layer."""

    keys: np.ndarray
    """Ascending keys (nodes, edges), filled up with the format's ``unused``."""
    form: FloatFormat

    @property
    def values(self) -> np.ndarray:
        """The edges (nodes, edges) in the format's storage, filled up with NaN."""
        return from_keys(self.keys, self.form)


@dataclass(frozen=True)
class Edges(Mapping[str, np.ndarray]):
    """Proposed inner edges of every layer: a mapping from layer to values (nodes, edges), filled up with NaN.

    The two outer edges of a node are not among them: they follow from the exact extremes that `hpv.fit` finds.
    """

    layers: Mapping[str, LayerEdges]
    rule: Rule | None = field(default=None)

    def __getitem__(self, layer: str) -> np.ndarray:
        return self.layers[layer].values

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        shapes = ((name, *edges.keys.shape) for name, edges in self.layers.items())
        layers = (f"{name}: {quantity(nodes, 'node')} x {quantity(edges, 'edge')}" for name, nodes, edges in shapes)
        return f"<hpv.Edges of {', '.join(layers)}>"


def pilot_size(samples: int, pilot: int | Literal["auto"] | None) -> int:
    """Samples that the pilot asks for: all up to 4,096, then a sixteenth, at least 4,096 and at most 16,384."""
    if pilot is None:
        return samples
    if pilot == "auto":
        return min(samples, max(4096, min(16_384, samples // 16)))
    return min(samples, int(pilot))


def pilot_runs(samples: int, pilot: int | Literal["auto"] | None) -> list[slice]:
    """Runs of 64 consecutive samples, their starts spread evenly from the first sample to the last run."""
    runs = -(-pilot_size(samples, pilot) // RUN)
    if runs * RUN >= samples:
        return [slice(0, samples)]
    last = samples - RUN
    starts = [i * last // (runs - 1) for i in range(runs)] if runs > 1 else [0]
    return [slice(start, start + RUN) for start in starts]


def propose(packed: np.ndarray, nodes: int, form: FloatFormat, rule: Rule, covers_all: bool) -> np.ndarray:
    """Inner edge keys (nodes, edges) from pilot keys in blocks of lanes (b, samples, l), which it sorts in place."""
    from hpv.kernels.cpu import placing

    fraction = rule.modal_fraction if covers_all else rule.modal_fraction / 2
    room = int(1 / fraction) + 1
    starts, stops = np.zeros((nodes, room), np.int64), np.zeros((nodes, room), np.int64)
    counted, found = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    placing.order(packed, form.missing, fraction.numerator, fraction.denominator, counted, starts, stops, found)
    edges = np.full((nodes, rule.most_edges), form.unused, form.key)
    if rule.binning == "uniform":
        inside = _uniform(packed, counted, (starts, stops, found), form, int(rule.bins))
        placing.unite(inside, packed, starts, found, form.infinity, edges)
    else:
        for size in np.unique(counted):
            placing.place_by_measure(
                packed, np.flatnonzero(counted == size), counted, starts, stops, found,
                _measure(int(size), rule.binning), int(rule.bins), MOST_INNER_EDGES, form.infinity, edges,
            )  # fmt: skip
    return trim(edges, form)


def trim(edges: np.ndarray, form: FloatFormat) -> np.ndarray:
    """The same edges without the columns that no node uses."""
    used = int(np.count_nonzero(edges != form.unused, axis=1).max(initial=0))
    return np.ascontiguousarray(edges[:, :used])


@lru_cache(maxsize=1)
def _measure(size: int, binning: str) -> np.ndarray:
    """Measure of the r largest of ``size`` values, r = 0..size: their share p for ``quantile``, else

    G(p) = p/3 + (2/3) (ln(p/(1-p)) + L) / (2L), with L = ln size and the logarithm kept within [-L, L].

    Not to be written to.
    """
    share = np.arange(size + 1) / max(size, 1)
    if binning == "quantile" or size < 2:
        return share
    end = math.log(size)
    logit = np.empty(size + 1)
    logit[0], logit[-1] = -end, end
    logit[1:-1] = np.clip(np.log(share[1:-1] / (1 - share[1:-1])), -end, end)
    return share / 3 + 2 / 3 * (logit + end) / (2 * end)


def _uniform(
    ordered: np.ndarray, counted: np.ndarray, modal: tuple[np.ndarray, ...], form: FloatFormat, bins: int
) -> np.ndarray:
    """Edges of equal width between the lowest and highest finite value outside modal ones; arithmetic in float64."""
    from hpv.kernels.cpu import placing

    n = len(counted)
    landmarks = np.zeros((n, 6), form.key)
    finite = np.zeros(n, np.int64)
    placing.uniform_landmarks(ordered, counted, *modal, form.infinity, landmarks, finite)
    doubles = convert_keys(landmarks, form, FLOAT64)
    tiny = np.abs(doubles).max(axis=1) < _TINY
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        values = from_keys(doubles, FLOAT64)
        values[tiny] = _as_units(doubles[tiny])
        # A span that overflows is scaled by a power of two, which rounds nothing.
        scale = np.where(values[:, 1] - values[:, 0] > 2.0**1000, _SCALE, 1.0)
        scaled = values * scale[:, None]
        span = scaled[:, 1] - scaled[:, 0]
        wanted = _uniform_bins(doubles, scaled, span, finite, bins, tiny)
        wanted = np.minimum(wanted, MOST_INNER_EDGES - 1 - 2 * modal[2])
        width = int(wanted.max(initial=0))
        steps = np.arange(1, max(width, 1))
        rise = _rounded(steps * span[:, None] / wanted[:, None], tiny[:, None])
        inside = to_keys((scaled[:, :1] + rise) / scale[:, None], FLOAT64)
        inside[tiny] = _from_units((scaled[:, :1] + rise)[tiny])
    edges = np.full((n, width + 1), form.unused, form.key)
    edges[:, 1 : len(steps) + 1] = np.where(
        steps < wanted[:, None], convert_keys(inside, FLOAT64, form), form.key.type(form.unused)
    )[:, :width]
    some = finite > 0
    edges[:, 0] = landmarks[:, 0]
    edges[np.arange(n), wanted] = landmarks[:, 1] + form.key.type(1)
    edges[~some] = form.unused
    return edges


def _uniform_bins(
    doubles: np.ndarray, values: np.ndarray, span: np.ndarray, finite: np.ndarray, bins: int, tiny: np.ndarray
) -> np.ndarray:
    """nb = min(bins, ceil(span / w)), w the narrower of the Freedman-Diaconis and Sturges widths; 1 without a span."""
    sizes, where = np.unique(np.maximum(finite, 1), return_inverse=True)
    # math and not numpy: their last bits differ, and a bin may hang on one.
    sturges = np.array([math.log2(int(size)) + 1 for size in sizes])[where]
    narrowing = np.array([int(size) ** (-1 / 3) for size in sizes])[where]
    # Quartiles near 0 between values that are not: only whether they differ counts, the bins are many then.
    neighbours, quartiles = doubles[:, 2:].copy(), values[:, 2:].copy()
    for at, percent in ((0, 25), (2, 75)):  # a quartile that is one of the values has nothing to do with the next one
        exact = _rest(finite, percent) == 0
        neighbours[exact, at + 1] = neighbours[exact, at]
    close = (np.abs(neighbours).max(axis=1) < _CLOSE) & ~tiny
    quartiles[close] = _as_units(neighbours[close])
    small = tiny | close
    lower, upper = (_quartile(quartiles[:, at : at + 2], finite, percent, small) for at, percent in ((0, 25), (2, 75)))
    spread = upper - lower
    width = _rounded(span / sturges, tiny)
    width = np.where(spread > 0, np.minimum(width, _rounded(2 * spread * narrowing, tiny)), width)
    quotient = np.where((width > 0) & ~(close & (spread > 0)), span / width, np.inf)
    wanted = np.where(quotient >= bins, bins, np.ceil(quotient))
    return np.where((span == 0) | (finite == 0), 1, wanted).astype(np.int64)


def _as_units(doubles: np.ndarray) -> np.ndarray:
    """Float64 keys of numbers next to 0 as multiples of the smallest positive number: arithmetic without subnormals.

    Where another library has switched on flush-to-zero, the processor takes subnormals for 0.
    """
    magnitude = np.abs(doubles)
    normal = (magnitude + (np.int64(_UNITS) << 52)).view(np.float64)
    units = np.where(magnitude < (1 << 52), magnitude.astype(np.float64), normal)
    return np.where(doubles < 0, -units, units)


def _from_units(units: np.ndarray) -> np.ndarray:
    """The reverse of `_as_units`."""
    magnitude = np.abs(units)
    normal = magnitude.view(np.int64) - (np.int64(_UNITS) << 52)
    keys = np.where(magnitude < 2.0**53, magnitude.astype(np.int64), normal)
    return np.where(units < 0, -keys, keys)


def _rounded(units: np.ndarray, tiny: np.ndarray) -> np.ndarray:
    """Results in units are whole numbers, as results near 0 are multiples of the smallest number."""
    return np.where(tiny, np.rint(units), units)


def _quartile(neighbours: np.ndarray, finite: np.ndarray, percent: int, tiny: np.ndarray) -> np.ndarray:
    """Linear interpolation between two neighbouring order statistics (n, 2)."""
    start, following = neighbours[:, 0], neighbours[:, 1]
    rest = _rest(finite, percent)
    return np.where(rest > 0, start + _rounded((following - start) * rest, tiny), start)


def _rest(finite: np.ndarray, percent: int) -> np.ndarray:
    """How far a quartile is on the way from one of the ``finite`` values to the next."""
    return np.maximum(finite - 1, 0) * percent % 100 / 100


def check_edges(values: Any, form: FloatFormat, nodes: int, layer: str) -> np.ndarray:
    """Keys of edges that a caller gave as numbers: one list for all nodes, or one list or row per node (NaN = none).

    An edge between two numbers of the format moves up to the next one, which changes no comparison.
    """
    given, source = _numbers(values, layer)
    if given.ndim == 1:
        given = np.broadcast_to(given, (nodes, len(given)))
    if given.ndim != 2 or len(given) != nodes:
        raise InputError(
            f"edges of layer {layer}: shape {given.shape}; give one list for all, or one for each of {nodes} nodes."
        )
    keys = convert_keys(to_keys(given, source), source, form)
    keys = np.where(keys == form.missing, form.key.type(form.unused), keys)
    keys.sort(axis=1)
    keys[:, 1:][keys[:, 1:] == keys[:, :-1]] = form.unused
    keys.sort(axis=1)
    keys = trim(keys, form)
    if keys.shape[1] > MOST_INNER_EDGES:
        raise InputError(f"edges of layer {layer}: {keys.shape[1]} per node; give at most {MOST_INNER_EDGES}.")
    return keys


def _numbers(values: Any, layer: str) -> tuple[np.ndarray, FloatFormat]:
    """Numbers as an array of one of the formats; lists of different lengths are filled up with NaN."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        rows = [np.asarray(row) for row in values]
        if any(row.ndim != 1 for row in rows):
            raise InputError(f"edges of layer {layer}: give one list of numbers for each node.") from None
        kind = np.result_type(*rows, np.float16)
        array = np.full((len(rows), max(len(row) for row in rows)), np.nan, kind)
        for place, row in zip(array, rows, strict=True):
            place[: len(row)] = row
    if array.dtype.kind not in "fiu":
        raise InputError(f"edges of layer {layer}: dtype {array.dtype}; give numbers.")
    # Floats of the formats stay as they are: a conversion by the processor may lose subnormals.
    form = FORMATS.get(array.dtype.name, FLOAT64)
    return array.astype(form.storage, copy=False), form
