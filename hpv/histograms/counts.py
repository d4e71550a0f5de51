"""Counts of a layer on their way to a state: from a thread, a worker, a segment or an earlier run, they add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpv.base.errors import DataError
from hpv.base.floats import FloatFormat, convert_keys
from hpv.histograms.edges import LayerEdges
from hpv.histograms.state import LayerState, count_dtype


@dataclass
class LayerCounts:
    """What some samples add to the state of n nodes with k inner edges and c classes."""

    survivors: np.ndarray
    """Samples at or above each edge (c, n, k)."""
    counted: np.ndarray
    """Values that are not NaN (c, n), int64."""
    lowest: np.ndarray
    """Key of the smallest value (n,); the format's ``no_edge``, the highest integer, where there is none."""
    highest: np.ndarray
    """Key of the largest value (n,); the format's ``nan_key``, the lowest integer, where there is none."""
    seen: np.ndarray
    """Samples that went in (c, n), or (c, 1) where all nodes have seen the same; int64. What is lost shows here."""

    @classmethod
    def empty(cls, edges: LayerEdges, classes: int, samples: int) -> LayerCounts:
        """Counts of nothing, with room for so many ``samples``."""
        (nodes, count), float_format = edges.keys.shape, edges.float_format
        return cls(
            np.zeros((classes, nodes, count), count_dtype(samples)),
            np.zeros((classes, nodes), np.int64),
            np.full(nodes, float_format.no_edge, float_format.key),
            np.full(nodes, float_format.nan_key, float_format.key),
            np.zeros((classes, nodes), np.int64),
        )

    def add(self, other: LayerCounts, nodes: slice = slice(None)) -> None:
        """Take in the counts of other samples, of all nodes or of these."""
        self.survivors[:, nodes] += other.survivors.astype(self.survivors.dtype, copy=False)
        self.counted[:, nodes] += other.counted
        np.minimum(self.lowest[nodes], other.lowest, out=self.lowest[nodes])
        np.maximum(self.highest[nodes], other.highest, out=self.highest[nodes])
        self.seen[:, nodes] += other.seen

    def widened(self) -> LayerCounts:
        """A copy that other counts can be added to, however many samples they are of."""
        arrays = self.counted.copy(), self.lowest.copy(), self.highest.copy(), self.seen.copy()
        return LayerCounts(self.survivors.astype(np.int64), *arrays)

    def converted(self, source: FloatFormat, target: FloatFormat) -> LayerCounts:
        """The same with extremes in another float format.

        One between two numbers of the other format moves down: what lies above it stays above.
        """
        low, high = (convert_keys(keys, source, target, down=True) for keys in (self.lowest, self.highest))
        return LayerCounts(self.survivors, self.counted, low, high, self.seen)

    def finish(self, layer: str, edges: LayerEdges, samples: np.ndarray) -> LayerState:
        """The state of a layer that has seen all ``samples`` (c,); ``DataError`` if it has not."""
        gaps = self.seen != samples[:, None]
        if gaps.any():
            node = int(np.flatnonzero(gaps.any(axis=0))[0])
            raise DataError(
                f"layer {layer}: node {node} has seen {int(self.seen[:, node].sum())} of {int(samples.sum())} "
                "samples; part of the work was lost, fit it again."
            )
        missing = (self.seen - self.counted).astype(self.survivors.dtype)
        return LayerState(edges.float_format, edges.keys, self.survivors, missing, self.lowest, self.highest)


def add_up(*parts: LayerCounts) -> LayerCounts:
    """The counts of all parts together."""
    first, *others = parts
    total = first.widened()
    for other in others:
        total.add(other)
    return total
