"""The background: what is kept of the normal samples, and the questions that it answers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from hpv.errors import InputError, warn
from hpv.floats import FloatFormat, convert_keys, from_keys
from hpv.pilot import LayerEdges, Rule
from hpv.resources import quantity

if TYPE_CHECKING:
    from hpv.scanning import ScanResult
    from hpv.scores import Scores
    from hpv.sources import Activations

STATE_ARRAYS = ("edges", "survivors", "missing", "lowest", "highest")
LARGEST_INT32 = 2**31 - 1
PIECE = 4096
"""Nodes whose outer edges and tables are made at once."""


@dataclass(frozen=True)
class LayerState:
    """The mergeable state of a layer: counts that add up, and extremes. n nodes, k inner edges, c classes."""

    form: FloatFormat
    edges: np.ndarray
    """Inner edge keys (n, k), ascending, filled up with ``form.unused``."""
    survivors: np.ndarray
    """Samples at or above each edge (c, n, k)."""
    missing: np.ndarray
    """NaN, which are not counted (c, n)."""
    lowest: np.ndarray
    """Key of the smallest value of all classes (n,); ``form.unused`` where a node has no value."""
    highest: np.ndarray
    """Key of the largest value (n,); ``form.missing`` where a node has no value."""

    @property
    def nodes(self) -> int:
        """Scalar outputs of the layer."""
        return len(self.edges)

    def part(self, nodes: slice) -> LayerState:
        """The state of some of the nodes; views."""
        return LayerState(
            self.form,
            self.edges[nodes],
            self.survivors[:, nodes],
            self.missing[:, nodes],
            self.lowest[nodes],
            self.highest[nodes],
        )


@dataclass(frozen=True)
class ClosedLayer:
    """A layer as it answers: outer edges added, small classes pooled. g groups: the pooled one, then classes."""

    form: FloatFormat
    edges: np.ndarray
    """All edge keys (n, K) ascending, filled up with ``form.unused``."""
    survivors: np.ndarray
    """Survivors at the edges (g, n, K)."""
    counted: np.ndarray
    """Values that are not NaN (g, n)."""

    @property
    def nodes(self) -> int:
        """Scalar outputs of the layer."""
        return len(self.edges)

    def edges_for(self, form: FloatFormat) -> np.ndarray:
        """Edge keys in the format of the values to be compared with them; exact."""
        return convert_keys(self.edges, self.form, form)


@dataclass(frozen=True)
class CountedAt:
    """What the counts of a background mean: only those that mean the same are added."""

    layers: Mapping[str, tuple[int, str, str]]
    """Nodes, float format and digest of the inner edges of every layer."""
    by_class: bool
    min_class_size: int


@dataclass(frozen=True, eq=False)
class Background:
    """Survivor counts of every node at its edges; made by `hpv.fit`, `hpv.merge` and `hpv.open`.

    ``layers`` maps names to states, ``samples`` counts the samples of each class, ``classes`` are their labels
    (``None``: not fitted by class).
    """

    layers: Mapping[str, LayerState]
    samples: np.ndarray
    """Samples seen of each class (c,), int64; one entry without classes."""
    classes: np.ndarray | None = None
    """Ascending labels (c,), int64."""
    rule: Rule | None = None
    """How the edges were proposed; ``None`` where they were given."""
    min_class_size: int = 100
    """Classes with fewer samples answer with the pooled counts."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the activations said of themselves: model, hash of its weights, original shapes."""
    path: str | None = None
    """Of the store that it was opened from."""

    # --- what it is ---

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
            found.update(f"\0{name}\0{state.form}\0{state.edges.shape}".encode())
            for array in STATE_ARRAYS:
                found.update(np.ascontiguousarray(getattr(state, array), dtype="<i8").tobytes())
        return found.hexdigest()

    @property
    def counted_at(self) -> CountedAt:
        """What its counts mean."""
        layers = {name: (state.nodes, state.form.name, digest(state.edges)) for name, state in self.layers.items()}
        return CountedAt(layers, self.classes is not None, self.min_class_size)

    @functools.cached_property
    def kept(self) -> dict[tuple[str, ...], Any]:
        """What earlier answers were looked up in, for the next ones."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again: tables of a GPU go to no other process."""
        return {name: value for name, value in self.__dict__.items() if name != "kept"}

    @functools.cached_property
    def groups(self) -> list[int]:
        """Indices of the classes that have counts of their own; the others use the pooled ones."""
        if self.classes is None:
            return []
        return [int(c) for c in np.flatnonzero(self.samples >= self.min_class_size)]

    def group_of(self, labels: np.ndarray) -> np.ndarray:
        """Group (s,) of each label: 0 the pooled counts, g + 1 those of the class ``classes[groups[g]]``."""
        group = np.zeros(len(labels), np.int64)
        if self.classes is not None:
            for number, c in enumerate(self.groups):
                group[labels == self.classes[c]] = number + 1
        return group

    def closed(self, layer: str, nodes: slice = slice(None)) -> ClosedLayer:
        """Edges and survivors of some nodes with the outer edges added."""
        from hpv.kernels.cpu.placing import close_edges

        state = self.layers[layer].part(nodes)
        chosen = self.groups
        counted = self.samples[:, None] - state.missing
        survivors = np.concatenate([state.survivors.sum(axis=0, dtype=np.int64)[None], state.survivors[chosen]])
        counted = np.concatenate([counted.sum(axis=0)[None], counted[chosen]])
        groups, n, k = survivors.shape
        edges = np.full((n, k + 2), state.form.unused, state.form.key)
        closed = np.zeros((groups, n, k + 2), np.int64)
        lowest, highest = state.lowest, state.highest
        close_edges(state.edges, survivors, counted, lowest, highest, state.form.infinity, edges, closed)
        return ClosedLayer(state.form, edges, closed, counted)

    def pieces(self, layer: str, nodes: slice = slice(None)) -> Iterator[tuple[slice, ClosedLayer]]:
        """The same piece by piece, each with its place among the ``nodes``: tables of a piece stay in the cache."""
        start, stop, _ = nodes.indices(self.layers[layer].nodes)
        for at in range(start, stop, PIECE):
            end = min(stop, at + PIECE)
            yield slice(at - start, end - start), self.closed(layer, slice(at, end))

    # --- what it answers ---

    def encode(self, x: Any, out: Any = None, backend: str = "auto") -> Any:
        """Code of every value: the number of the node's edges that it reaches, one byte; 255 for NaN.

        ``x``: activations (samples, nodes) as `hpv.fit` takes them, or a mapping from layer to them (then the result
        is one, too). ``out``: a uint8 array to write to (or a mapping of them). Returns uint8 (samples, nodes), on the
        GPU where the activations are on one. ``backend``: as for `hpv.fit`.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(100.0).reshape(100, 1), edges=[25, 50, 75])
        >>> background.encode(np.array([[-1.0], [0.0], [60.0], [1000.0]])).ravel()
        array([0, 1, 3, 5], dtype=uint8)
        """
        from hpv import querying

        return querying.encode(self, x, out, backend)

    def pvalues(
        self,
        x: Any,
        tail: str = "right",
        dtype: str = "float32",
        labels: Any = None,
        out: Any = None,
        backend: str = "auto",
    ) -> Any:
        """P-value range of every value: (pmin, pmax), each (samples, nodes).

        The exact empirical p-value range of the value lies inside. float32 is rounded outward, float64 is exact.
        ``labels``: a class for each sample, whose own counts answer (pooled ones where the class is not fitted or too
        small); without labels the pooled counts answer for all samples, also where there are classes. ``out``: a pair
        of arrays to write to. The result is on the GPU where the activations are on one. ``backend``: as for `hpv.fit`.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(99.0).reshape(99, 1), edges=[25, 50, 75])
        >>> pmin, pmax = background.pvalues(np.array([[60.0]]), dtype="float64")
        >>> float(pmin[0, 0]), float(pmax[0, 0])
        (0.24, 0.5)
        """
        from hpv import querying

        return querying.pvalues(self, x, tail, dtype, labels, out, backend)

    def scan(
        self,
        x: Any,
        *,
        statistic: str = "berk_jones",
        tail: str = "two-sided",
        form: str = "subset",
        alphas: str = "grid",
        alpha_max: float = 0.5,
        layers: Sequence[str] | None = None,
        labels: Any = None,
        against: str | None = None,
        backend: str = "auto",
    ) -> ScanResult:
        """Scan score of every sample, and the nodes behind it.

        ``statistic``: berk_jones, higher_criticism or kolmogorov_smirnov. ``form``: the best ``subset`` of the nodes,
        or the ``whole`` sample. ``alphas``: every distinct pmax (``all``) or a ``grid`` of 255 thresholds, whose score
        never exceeds the exact one. ``against``: the sample's ``own`` class (default where there are classes; needs
        labels), the class with the ``lowest`` score, or the ``pooled`` counts. ``backend``: as for `hpv.fit`.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.random.default_rng(0).normal(size=(1000, 50)))
        >>> result = background.scan(np.stack([np.zeros(50), np.full(50, 9.0)]))
        >>> bool(result.score[1] > result.score[0]), int(result.size[1])
        (True, 50)
        """
        from hpv import querying

        return querying.scan(
            self, x, layers=layers, labels=labels, against=against, statistic=statistic,
            tail=tail, form=form, alphas=alphas, alpha_max=alpha_max, backend=backend,
        )  # fmt: skip

    def quantile(self, q: float | Sequence[float]) -> Any:
        """Bounds (low, high) of the q-quantile of every node, from its survivors.

        The value with rank ceil(q M) (the smallest one for q = 0) lies in low <= value <= high; values of a wider
        float type that were counted at this background's edges are taken as rounded down to its type. Returns a pair
        of float64 arrays (nodes,), or (len(q), nodes), or a mapping from layer to such pairs if there are several
        layers; NaN where a node has no value.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(100.0).reshape(100, 1), edges=[25, 50, 75])
        >>> low, high = background.quantile(0.5)  # the value 49
        >>> float(low[0]), round(float(high[0]), 6)
        (25.0, 50.0)
        """
        from hpv import querying

        return querying.quantile(self, q)

    # --- where it is kept ---

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the mergeable state as a Zarr store, which `hpv.open` reads; visible only when it is complete.

        >>> import numpy as np, hpv, tempfile
        >>> background = hpv.fit(np.arange(100.0).reshape(50, 2))
        >>> background.save(tempfile.mkdtemp() + "/background.zarr")
        """
        from hpv import opening

        opening.save_background(self, path, overwrite=overwrite)

    def select(self, layers: Sequence[str]) -> Background:
        """The background of some of the layers.

        >>> import numpy as np, hpv
        >>> background = hpv.fit({"conv": np.ones((50, 8)), "head": np.ones((50, 2))})
        >>> background.select(["head"])
        <hpv.Background of 50 samples; head: 2 nodes>
        """
        unknown = [name for name in layers if name not in self.layers]
        if unknown or not layers:
            raise InputError(
                f"layers {unknown or list(layers)}: choose one or more of {', '.join(sorted(self.layers))}."
            )
        chosen = {name: self.layers[name] for name in self.layers if name in set(layers)}
        return replace(self, layers=chosen, path=None)

    def edges(self, layer: str) -> np.ndarray:
        """All edges of a layer's nodes (nodes, K), outer ones included, filled up with NaN.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(100.0).reshape(100, 1), edges=[25, 50, 75])
        >>> background.edges("activations").round(6).tolist()
        [[0.0, 25.0, 50.0, 75.0, 99.0]]
        """
        closed = self.closed(layer)
        return from_keys(closed.edges, closed.form)

    def modal(self, layer: str) -> np.ndarray:
        """Which bins hold one modal value: bool (nodes, K); bin k lies between the edges k and k + 1.

        >>> import numpy as np, hpv
        >>> relu = np.maximum(np.arange(-50.0, 50.0), 0).reshape(100, 1)
        >>> hpv.fit(relu, bins=4).modal("activations").any(axis=1).tolist()
        [True]
        """
        from hpv.kernels.rules import is_modal

        closed = self.closed(layer)
        held = closed.survivors[0].copy()
        held[:, :-1] -= closed.survivors[0][:, 1:]
        fraction = (self.rule or Rule()).modal_fraction
        common = is_modal(held, closed.counted[0][:, None], fraction.numerator, fraction.denominator)
        following = np.full_like(closed.edges, closed.form.infinity + 1)
        following[:, :-1] = np.minimum(closed.edges[:, 1:], following[:, :-1])
        return common & (following == closed.edges + 1)

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {quantity(len(self.classes), 'class')}"
        layers = ", ".join(f"{name}: {quantity(state.nodes, 'node')}" for name, state in self.layers.items())
        return f"<hpv.Background of {quantity(int(self.samples.sum()), 'sample')}{classes}; {layers}>"


def digest(*arrays: np.ndarray) -> str:
    """Names arrays by their contents."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def count_dtype(samples: int) -> np.dtype:
    """The integer that survivor counts are kept in."""
    return np.dtype(np.int32 if samples <= LARGEST_INT32 else np.int64)


def layer_edges(background: Background) -> dict[str, LayerEdges]:
    """The inner edges of a background, to count other samples at."""
    return {name: LayerEdges(state.edges, state.form) for name, state in background.layers.items()}


@overload
def merge(backgrounds: Sequence[Background]) -> Background: ...
@overload
def merge(backgrounds: str | Path) -> Background | Scores: ...
def merge(backgrounds: Sequence[Background] | str | Path) -> Background | Scores:
    """Add backgrounds that were counted at the same edges: the background of all their samples together.

    Or make one store of the shards beneath a path, as the command ``hpv merge`` does: the background, or the scores.

    >>> import numpy as np, hpv
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> first = hpv.fit(x[:300])
    >>> both = hpv.merge([first, hpv.fit(x[300:], edges=first)])
    >>> int(both.samples.sum())
    500
    """
    if isinstance(backgrounds, str | Path):
        from hpv.sharding import merge_shards

        return merge_shards(backgrounds)[0]
    parts = [backgrounds] if isinstance(backgrounds, Background) else list(backgrounds)
    if not parts:
        raise InputError("merge: no backgrounds were given; give at least one.")
    if not all(isinstance(part, Background) for part in parts):
        raise InputError("merge: give backgrounds, as hpv.fit and hpv.open return them.")
    refuse_others({f"background {number}": part.counted_at for number, part in enumerate(parts, start=1)})
    _refuse_twice(parts)
    return add(parts)


def add(parts: Sequence[Background]) -> Background:
    """The background of the samples of all parts, which are known to be different ones counted at the same edges."""
    classes = None
    if parts[0].classes is not None:
        classes = np.unique(np.concatenate([part.classes for part in parts if part.classes is not None]))
    count = 1 if classes is None else len(classes)
    places = [
        slice(None) if classes is None else np.searchsorted(classes, part.classes)  # type: ignore[arg-type]
        for part in parts
    ]
    samples = np.zeros(count, np.int64)
    for part, place in zip(parts, places, strict=True):
        samples[place] += part.samples
    layers = {
        name: _merge_states([part.layers[name] for part in parts], places, count, int(samples.sum()))
        for name in parts[0].layers
    }
    rule = next((part.rule for part in parts if part.rule is not None), None)  # the others were given its edges
    return replace(parts[0], layers=layers, samples=samples, classes=classes, rule=rule, path=None)


def _refuse_twice(parts: Sequence[Background]) -> None:
    """Refuse what is given twice; equal counts may be those of other samples, and are only warned about."""
    for (first, one), (second, other) in combinations(enumerate(parts, start=1), 2):
        equal = one is other or _have_equal_states(one, other)
        if one is other or (equal and one.path is not None and one.path == other.path):
            raise InputError(f"merge: background {second} is background {first} again; its samples would count double. "
                             "Give every part once.")  # fmt: skip
        if equal:
            warn(f"merge: backgrounds {first} and {second} have the same counts everywhere; if they are of the same "
                 "samples, these now count double.")  # fmt: skip


def _have_equal_states(one: Background, other: Background) -> bool:
    """Whether nothing tells two backgrounds apart; most differ in the first array, a small one."""
    return (
        one.layers.keys() == other.layers.keys()
        and np.array_equal(one.samples, other.samples)
        and all(
            np.array_equal(getattr(one.layers[name], array), getattr(other.layers[name], array))
            for array in reversed(STATE_ARRAYS)
            for name in one.layers
        )
        and one.fingerprint == other.fingerprint
    )


def refuse_others(parts: Mapping[str, CountedAt]) -> None:
    """Refuse to add, under their names, backgrounds whose counts mean something else than those of the first one."""
    (one, first), *others = parts.items()
    for other, part in others:
        if set(first.layers) != set(part.layers):
            raise InputError(f"merge: {other} has the layers {sorted(part.layers)}, {one} {sorted(first.layers)}; "
                             "give parts of the same layers.")  # fmt: skip
        if first.by_class != part.by_class:
            raise InputError(f"merge: only one of {one} and {other} was fitted by class; fit both alike.")
        if first.min_class_size != part.min_class_size:
            raise InputError(f"merge: min_class_size is {first.min_class_size} in {one} and {part.min_class_size} in "
                             f"{other}; fit both alike.")  # fmt: skip
        for name, edges in first.layers.items():
            if edges[0] != part.layers[name][0]:
                nodes = quantity(part.layers[name][0], "node")
                raise InputError(f"merge: layer {name} of {other} has {nodes}, that of {one} {edges[0]:,}; give parts "
                                 "of the same network.")  # fmt: skip
            if edges != part.layers[name]:
                raise InputError(f"merge: {other} has other edges in layer {name} than {one}; fit it again with edges= "
                                 f"{one}, so that it counts at the same ones.")  # fmt: skip


def _merge_states(states: list[LayerState], places: list[Any], classes: int, samples: int) -> LayerState:
    dtype = count_dtype(samples)
    _, n, k = states[0].survivors.shape
    survivors, missing = np.zeros((classes, n, k), dtype), np.zeros((classes, n), dtype)
    for state, place in zip(states, places, strict=True):
        survivors[place] += state.survivors.astype(dtype, copy=False)
        missing[place] += state.missing.astype(dtype, copy=False)
    lowest = functools.reduce(np.minimum, [state.lowest for state in states])
    highest = functools.reduce(np.maximum, [state.highest for state in states])
    return LayerState(states[0].form, states[0].edges, survivors, missing, lowest, highest)


def check_layers(background: Background, source: Activations) -> dict[str, str]:
    """Which layer of the source answers for each layer of the background; widths checked.

    A bare array answers for a background of one layer, whatever its name.
    """
    names = list(background.layers)
    if len(names) == 1 and not source.is_mapping and len(source.layers) == 1:
        pairs = {names[0]: next(iter(source.layers))}
    else:
        absent = [name for name in names if name not in source.layers]
        if absent:
            raise InputError(
                f"the activations have no layer {', '.join(absent)} of the background; they have "
                f"{', '.join(source.layers)}. Give these layers, or choose among the background's with layers=."
            )
        pairs = {name: name for name in names}
    for name, theirs in pairs.items():
        state, layer = background.layers[name], source.layers[theirs]
        if layer.shape[1] != state.nodes:
            raise InputError(
                f"layer {theirs}: {quantity(layer.shape[1], 'node')}, but the background has {state.nodes}; "
                "give activations of the same layer of the same network."
            )
    return pairs
