"""Exact empirical p-values from the stored background: what the histograms are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StoredBackground:
    """Every background value of every node, sorted."""

    columns: np.ndarray
    """(nodes, samples)"""

    @classmethod
    def of(cls, values: np.ndarray) -> StoredBackground:
        """Of ``values`` (samples, nodes) without NaN."""
        return cls(np.sort(values.T, axis=1))

    def counts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many background samples are >= and > each of ``values`` (samples, nodes); two arrays of that shape."""
        at_or_above = np.empty(values.shape, np.int64)
        above = np.empty(values.shape, np.int64)
        for node, (column, asked) in enumerate(zip(self.columns, values.T, strict=True)):
            at_or_above[:, node] = len(column) - np.searchsorted(column, asked, "left")
            above[:, node] = len(column) - np.searchsorted(column, asked, "right")
        return at_or_above, above


def pmax(at_or_above: np.ndarray, above: np.ndarray, samples: int, tail: str) -> np.ndarray:
    """The upper ends of the exact p-value ranges, float64, from counts over a background of ``samples``."""
    right, left = at_or_above + 1, samples - above + 1
    if tail == "two-sided":
        return np.minimum(2 * np.minimum(right, left) / (samples + 1), 1.0)
    return np.asarray((right if tail == "right" else left) / (samples + 1))


def pmax_by_class(
    background: np.ndarray,
    background_classes: np.ndarray,
    values: np.ndarray,
    classes: np.ndarray,
    *,
    tails: tuple[str, ...],
    min_class_size: int = 100,
) -> dict[str, np.ndarray]:
    """Tail -> (samples, nodes): each sample against its own class; against all where its class has too few samples."""
    result = {tail: np.empty(values.shape) for tail in tails}
    for label in np.unique(classes):
        rows, own = classes == label, background_classes == label
        reference = background[own] if own.sum() >= min_class_size else background
        counts = StoredBackground.of(reference).counts(values[rows])
        for tail in tails:
            result[tail][rows] = pmax(*counts, len(reference), tail)
    return result


def tally(upper: np.ndarray, alpha_max: float) -> tuple[np.ndarray, np.ndarray]:
    """How many nodes of each sample have each pmax, and every distinct pmax up to ``alpha_max``.

    The first is int32 (samples, thresholds + 2); the last two places count the nodes above all thresholds and those
    without a p-value, of which there are none.
    """
    thresholds = np.unique(upper[upper <= alpha_max])
    levels = np.searchsorted(thresholds, upper)
    width = len(thresholds) + 2
    places = np.arange(len(upper))[:, None] * width + levels
    counts = np.bincount(places.ravel(), minlength=len(upper) * width)
    return counts.reshape(len(upper), width).astype(np.int32), thresholds
