"""What the counts of a background alone answer: bounds of quantiles, edges, modal bins."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from hpv.base.errors import InputError
from hpv.base.floats import from_keys, keys_as_float64
from hpv.histograms.edges import Rule
from hpv.histograms.state import BackgroundState
from hpv.kernels.rules import is_modal


def quantile(background: BackgroundState, q: float | Sequence[float]) -> Any:
    """Bounds (low, high) of the q-quantile of every node of every layer; see `hpv.Background.quantile`."""
    try:
        asked = np.atleast_1d(np.asarray(q, dtype=np.float64))
    except (TypeError, ValueError):
        asked = np.array([np.nan])
    if asked.ndim != 1 or not np.all((asked >= 0) & (asked <= 1)):
        raise InputError(f"q={q!r}: give a number from 0 to 1, or a list of them.")
    results = {}
    for name in background.layers:
        histograms = background.histograms(name)
        bounds = [_quantile(histograms, Fraction(float(one)).limit_denominator(10**9)) for one in asked]
        low, high = (np.stack([bound[end] for bound in bounds]) for end in (0, 1))
        results[name] = (low, high) if np.ndim(q) else (low[0], high[0])
    return next(iter(results.values())) if len(results) == 1 else results


def _quantile(histograms: Any, q: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the value with rank ceil(q M): the bin that holds it."""
    counted = histograms.counted[0]
    rank = np.maximum(-(-q.numerator * counted // q.denominator), 1)
    # The value reaches an edge exactly when at least M - rank + 1 values do.
    k = np.count_nonzero(histograms.survivors[0] >= (counted - rank + 1)[:, None], axis=1) - 1
    nodes = np.arange(histograms.nodes)
    used = np.count_nonzero(histograms.edges != histograms.float_format.no_edge, axis=1)
    low = histograms.edges[nodes, np.maximum(k, 0)]
    following = histograms.edges[nodes, np.minimum(k + 1, histograms.edges.shape[1] - 1)]
    high = np.where(
        k + 1 < used,
        following - histograms.float_format.key.type(1),
        histograms.float_format.key.type(histograms.float_format.infinity),
    )
    values = [keys_as_float64(keys, histograms.float_format) for keys in (low, high)]
    for value in values:
        value[counted == 0] = np.nan
    return values[0], values[1]


def all_edges(background: BackgroundState, layer: str) -> np.ndarray:
    """All edges of a layer's nodes (nodes, K), outer ones included, filled up with NaN."""
    histograms = background.histograms(layer)
    return from_keys(histograms.edges, histograms.float_format)


def modal_bins(background: BackgroundState, layer: str) -> np.ndarray:
    """Which bins hold one modal value: bool (nodes, K); bin k lies between the edges k and k + 1."""
    histograms = background.histograms(layer)
    held = histograms.survivors[0].copy()
    held[:, :-1] -= histograms.survivors[0][:, 1:]
    fraction = (background.rule or Rule()).modal_fraction
    common = is_modal(held, histograms.counted[0][:, None], fraction.numerator, fraction.denominator)
    following = np.full_like(histograms.edges, histograms.float_format.infinity + 1)
    following[:, :-1] = np.minimum(histograms.edges[:, 1:], following[:, :-1])
    return common & (following == histograms.edges + 1)
