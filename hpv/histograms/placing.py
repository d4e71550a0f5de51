"""Where the edges of a node go: the rules that place them by the values of the pilot."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from hpv.base.floats import FLOAT64, FloatFormat, convert_keys, from_keys, to_keys
from hpv.histograms.edges import MOST_INNER_EDGES, Rule, trim

_SCALE = 2.0**-10
_UNITS = 1074
_TINY, _CLOSE = (1023 - 900) << 52, (1023 - 960) << 52
"""Float64 keys of 2^-900 and 2^-960: below them differences may be subnormal."""


def pilot_shape(nodes: int, samples: int, float_format: FloatFormat) -> tuple[int, int, int]:
    """Shape (blocks, samples, lanes) of the memory that the pilot keys of some nodes are packed into."""
    from hpv.kernels.cpu.sorting import room_for

    return room_for(nodes, samples, float_format.key)


def pack_pilot(
    bits: np.ndarray, rows: np.ndarray, first: int, nodes: int, float_format: FloatFormat, packed: np.ndarray, at: int
) -> None:
    """Keys of rows of a block (samples, columns), from column ``first`` on, go into ``packed`` at sample ``at``."""
    from hpv.kernels.cpu.sorting import pack_keys
    from hpv.kernels.cpu.vectors.stacks import ROWS, padded_rows

    pack_keys(bits, padded_rows(rows, ROWS), first, nodes, float_format.infinity, packed, at)


def propose(packed: np.ndarray, nodes: int, float_format: FloatFormat, rule: Rule, covers_all: bool) -> np.ndarray:
    """Inner edge keys (nodes, edges) from pilot keys in blocks of lanes (b, samples, l), which it sorts in place."""
    from hpv.kernels.cpu import placing

    fraction = rule.modal_fraction if covers_all else rule.modal_fraction / 2
    room = int(1 / fraction) + 1
    starts, stops = np.zeros((nodes, room), np.int64), np.zeros((nodes, room), np.int64)
    counted, found = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    placing.order(packed, float_format.nan_key, fraction.numerator, fraction.denominator, counted, starts, stops, found)
    edges = np.full((nodes, rule.most_edges), float_format.no_edge, float_format.key)
    if rule.binning == "uniform":
        inside = _uniform(packed, counted, (starts, stops, found), float_format, int(rule.bins))
        placing.unite(inside, packed, starts, found, float_format.infinity, edges)
    else:
        for size in np.unique(counted):
            placing.place_by_measure(
                packed, np.flatnonzero(counted == size), counted, starts, stops, found,
                _measure(int(size), rule.binning), int(rule.bins), MOST_INNER_EDGES, float_format.infinity, edges,
            )  # fmt: skip
    return trim(edges, float_format)


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
    ordered: np.ndarray, counted: np.ndarray, modal: tuple[np.ndarray, ...], float_format: FloatFormat, bins: int
) -> np.ndarray:
    """Edges of equal width between the lowest and highest finite value outside modal ones; arithmetic in float64."""
    from hpv.kernels.cpu import placing

    n = len(counted)
    landmarks = np.zeros((n, 6), float_format.key)
    finite = np.zeros(n, np.int64)
    placing.uniform_landmarks(ordered, counted, *modal, float_format.infinity, landmarks, finite)
    doubles = convert_keys(landmarks, float_format, FLOAT64)
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
    edges = np.full((n, width + 1), float_format.no_edge, float_format.key)
    edges[:, 1 : len(steps) + 1] = np.where(
        steps < wanted[:, None],
        convert_keys(inside, FLOAT64, float_format),
        float_format.key.type(float_format.no_edge),
    )[:, :width]
    some = finite > 0
    edges[:, 0] = landmarks[:, 0]
    edges[np.arange(n), wanted] = landmarks[:, 1] + float_format.key.type(1)
    edges[~some] = float_format.no_edge
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
