"""The mergeable state of a background, and the histograms that it answers with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from hpv.base.cache import Cache
from hpv.base.digests import digest
from hpv.base.errors import InputError
from hpv.base.floats import FloatFormat, convert_keys
from hpv.base.keywords import checks_keywords
from hpv.base.patterns import select_names
from hpv.base.words import quantity
from hpv.histograms.edges import LayerEdges, Rule

STATE_ARRAYS = ("edges", "survivors", "missing", "lowest", "highest")
LARGEST_INT32 = 2**31 - 1
PIECE = 4096
"""Nodes whose outer edges and tables are made at once."""


@dataclass(frozen=True)
class LayerState:
    """The mergeable state of a layer: counts that add up, and extremes. n nodes, k inner edges, c classes."""

    float_format: FloatFormat
    edges: np.ndarray
    """Inner edge keys (n, k), ascending, filled up with ``float_format.no_edge``."""
    survivors: np.ndarray
    """Samples at or above each edge (c, n, k)."""
    missing: np.ndarray
    """NaN, which are not counted (c, n)."""
    lowest: np.ndarray
    """Key of the smallest value of all classes (n,); ``float_format.no_edge`` where a node has no value."""
    highest: np.ndarray
    """Key of the largest value (n,); ``float_format.nan_key`` where a node has no value."""

    @property
    def nodes(self) -> int:
        """Scalar outputs of the layer."""
        return len(self.edges)

    def part(self, nodes: slice) -> LayerState:
        """The state of some of the nodes; views."""
        return LayerState(
            self.float_format,
            self.edges[nodes],
            self.survivors[:, nodes],
            self.missing[:, nodes],
            self.lowest[nodes],
            self.highest[nodes],
        )


@dataclass(frozen=True)
class LayerHistograms:
    """A layer as it answers: outer edges added, small classes pooled. g references: the pooled counts, then classes."""

    float_format: FloatFormat
    edges: np.ndarray
    """All edge keys (n, K) ascending, filled up with ``float_format.no_edge``."""
    survivors: np.ndarray
    """Survivors at the edges (g, n, K)."""
    counted: np.ndarray
    """Values that are not NaN (g, n)."""

    @property
    def nodes(self) -> int:
        """Scalar outputs of the layer."""
        return len(self.edges)

    def edges_for(self, float_format: FloatFormat) -> np.ndarray:
        """Edge keys in the format of the values to be compared with them; exact."""
        return convert_keys(self.edges, self.float_format, float_format)


@dataclass(frozen=True)
class MergeKey:
    """What the counts of a background mean: only those that mean the same are added."""

    layers: Mapping[str, tuple[int, str, str]]
    """Nodes, float format and digest of the inner edges of every layer."""
    by_class: bool
    min_class_size: int


@dataclass(frozen=True, eq=False)
class BackgroundState:
    """Survivor counts of every node at its edges: what is kept of a background, and what follows from it.

    ``layers`` maps names to states, ``samples`` counts the samples of each class, ``classes`` are their labels
    (``None``: not fitted by class).
    """

    layers: Mapping[str, LayerState]
    samples: np.ndarray
    """Samples seen of each class (c,), int64; one entry without classes."""
    classes: np.ndarray | None = None
    """Ascending labels (c,), int64."""
    rule: Rule | None = None
    """How the edges were proposed, also where they were given with their rule; ``None`` where that is unknown."""
    min_class_size: int = 100
    """Classes with fewer samples answer with the pooled counts."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the activations said of themselves: model, hash of its weights, original shapes."""
    path: str | None = None
    """Path of the store that it was opened from."""

    @property
    def nodes(self) -> int:
        """Nodes of all layers."""
        return sum(state.nodes for state in self.layers.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of the mergeable state."""
        return sum(getattr(state, name).nbytes for state in self.layers.values() for name in STATE_ARRAYS)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over edges and counts in a canonical form; the same for equal states, however they were made."""
        found = hashlib.sha256(b"hpv background 1")
        classes = np.array([], np.int64) if self.classes is None else self.classes
        parts = [self.samples, classes, np.array([self.classes is None, self.min_class_size])]
        for part in parts:
            found.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        for name in sorted(self.layers):
            state = self.layers[name]
            found.update(f"\0{name}\0{state.float_format}\0{state.edges.shape}".encode())
            for array in STATE_ARRAYS:
                found.update(np.ascontiguousarray(getattr(state, array), dtype="<i8").tobytes())
        return found.hexdigest()

    @property
    def merge_key(self) -> MergeKey:
        """What its counts mean."""
        layers = {
            name: (state.nodes, state.float_format.name, digest(state.edges)) for name, state in self.layers.items()
        }
        return MergeKey(layers, self.classes is not None, self.min_class_size)

    @functools.cached_property
    def tables(self) -> Cache:
        """Tables made for earlier answers, kept for the next ones."""
        return Cache()

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again: tables of a GPU go to no other process."""
        return {name: value for name, value in self.__dict__.items() if name != "tables"}

    @functools.cached_property
    def large_classes(self) -> list[int]:
        """Indices of the classes that have counts of their own; the others use the pooled ones."""
        if self.classes is None:
            return []
        return [int(c) for c in np.flatnonzero(self.samples >= self.min_class_size)]

    def reference_of(self, labels: np.ndarray) -> np.ndarray:
        """Which counts answer for each label (s,): 0 the pooled ones, g + 1 those of ``classes[large_classes[g]]``."""
        reference = np.zeros(len(labels), np.int64)
        if self.classes is not None:
            for number, c in enumerate(self.large_classes):
                reference[labels == self.classes[c]] = number + 1
        return reference

    def histograms(self, layer: str, nodes: slice = slice(None)) -> LayerHistograms:
        """Edges and survivors of some nodes with the outer edges added."""
        from hpv.kernels.cpu.placing import add_outer_edges

        if layer not in self.layers:
            raise InputError(f"no layer {layer}; the background has {', '.join(self.layers)}.")
        state = self.layers[layer].part(nodes)
        chosen = self.large_classes
        counted = self.samples[:, None] - state.missing
        survivors = np.concatenate([state.survivors.sum(axis=0, dtype=np.int64)[None], state.survivors[chosen]])
        counted = np.concatenate([counted.sum(axis=0)[None], counted[chosen]])
        references, n, k = survivors.shape
        edges = np.full((n, k + 2), state.float_format.no_edge, state.float_format.key)
        histograms = np.zeros((references, n, k + 2), np.int64)
        lowest, highest = state.lowest, state.highest
        add_outer_edges(
            state.edges, survivors, counted, lowest, highest, state.float_format.infinity, edges, histograms
        )
        return LayerHistograms(state.float_format, edges, histograms, counted)

    def histograms_by_piece(self, layer: str, nodes: slice = slice(None)) -> Iterator[tuple[slice, LayerHistograms]]:
        """The same piece by piece, each with its place among the ``nodes``: tables of a piece stay in the cache."""
        start, stop, _ = nodes.indices(self.layers[layer].nodes)
        for at in range(start, stop, PIECE):
            end = min(stop, at + PIECE)
            yield slice(at - start, end - start), self.histograms(layer, slice(at, end))

    @checks_keywords
    def select(self, layers: str | Sequence[str]) -> Self:
        """The background of some of the layers, by their names or by patterns with ``*`` and ``?``.

        >>> import numpy as np, hpv
        >>> background = hpv.fit({"conv": np.ones((50, 8)), "head": np.ones((50, 2))})
        >>> background.select("he*")
        <hpv.Background of 50 samples; head: 2 nodes>
        """
        chosen = select_names(layers, self.layers, "layer", "the background")
        return replace(self, layers={name: self.layers[name] for name in chosen}, path=None)

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {quantity(len(self.classes), 'class')}"
        layers = ", ".join(f"{name}: {quantity(state.nodes, 'node')}" for name, state in self.layers.items())
        return f"<hpv.Background of {quantity(int(self.samples.sum()), 'sample')}{classes}; {layers}>"


def count_dtype(samples: int) -> np.dtype:
    """The integer that survivor counts are kept in."""
    return np.dtype(np.int32 if samples <= LARGEST_INT32 else np.int64)


def layer_edges(background: BackgroundState) -> dict[str, LayerEdges]:
    """The inner edges of a background, to count other samples at."""
    return {name: LayerEdges(state.edges, state.float_format) for name, state in background.layers.items()}
