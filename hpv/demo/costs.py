"""Bytes per node and time per value of the three representations, measured on one layer in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

import numpy as np

import hpv
from hpv.demo.exact import StoredBackground, pmax

PAPER = {"bins": 10, "binning": "uniform", "pilot": None}
"""The representation of arXiv:2312.08143."""


@dataclass(frozen=True)
class Cost:
    """What one representation takes."""

    pooled_bytes: float
    """Per node, for a background of all classes together."""
    class_bytes: float
    """Per node, with counts of every class."""
    fit_ns: float
    """Per background value, pooled."""
    range_ns: float
    """Per test value, two-sided, both ends of the range."""


def measure(background: np.ndarray, classes: np.ndarray, values: np.ndarray) -> dict[str, Cost]:
    """Representation -> cost, for ``background`` (samples, nodes) with its classes and test ``values``."""
    exact, sorted_ns = _timed(lambda: StoredBackground.of(background), background.size)
    _, range_ns = _timed(lambda: _exact_ranges(exact, values), values.size)
    costs = {"exact": Cost(background[:, 0].nbytes, background[:, 0].nbytes, sorted_ns, range_ns)}
    for name, options in (("balanced", {}), ("paper", PAPER)):
        costs[name] = _histogram_cost(background, classes, values, options)
    return costs


def mean_cost(costs: list[Cost]) -> Cost:
    """Over seeds."""
    return Cost(*(sum(getattr(cost, field.name) for cost in costs) / len(costs) for field in fields(Cost)))


def _histogram_cost(background: np.ndarray, classes: np.ndarray, values: np.ndarray, options: dict[str, Any]) -> Cost:
    fitted, fit_ns = _timed(lambda: hpv.fit(background, threads=1, **options), background.size)
    _, range_ns = _timed(lambda: fitted.pvalues(values, tail="two-sided"), values.size)
    per_class = hpv.fit(background, labels=classes, **options)
    nodes = background.shape[1]
    return Cost(fitted.state_bytes / nodes, per_class.state_bytes / nodes, fit_ns, range_ns)


def _exact_ranges(exact: StoredBackground, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    samples = exact.columns.shape[1]
    at_or_above, above = exact.counts(values)
    low = 2 * np.minimum(above, samples - at_or_above) / (samples + 1)
    return low, pmax(at_or_above, above, samples, "two-sided")


def _timed(work: Callable[[], Any], values: int) -> tuple[Any, float]:
    """The result, and the best of three runs in nanoseconds per value; the first one may compile."""
    seconds = []
    for _ in range(3):
        start = perf_counter()
        result = work()
        seconds.append(perf_counter() - start)
    return result, min(seconds) / values * 1e9
