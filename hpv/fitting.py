"""Fitting a background: propose edges from the pilot, then count exactly at them in one pass over all samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from hpv import streaming
from hpv.backends import Backend, get_backend
from hpv.background import Background, LayerState, count_dtype, layer_edges
from hpv.blocks import read_block
from hpv.errors import DataError, InputError
from hpv.floats import convert_keys
from hpv.pilot import Edges, LayerEdges, Rule, check_edges
from hpv.planning import LayerPlan, Plan, plan_fit
from hpv.proposing import propose_layer
from hpv.sources import Activations, Layer, open_activations
from hpv.windows import windowed


@dataclass(frozen=True)
class Fit:
    """A fit that is ready to run; nothing has been read."""

    source: Activations
    rule: Rule | None
    given: Mapping[str, LayerEdges] | None
    """Edges to count at; ``None``: they are proposed."""
    classes: np.ndarray | None
    group: np.ndarray
    """Class index of every sample."""
    min_class_size: int
    plan: Plan
    backend: Backend


def fit(
    activations: Any,
    *,
    bins: int = 32,
    binning: str = "balanced",
    modal_fraction: Fraction | str | float = Fraction(1, 10),
    pilot: int | Literal["auto"] | None = "auto",
    edges: Any = None,
    by_class: bool = False,
    labels: Any = None,
    min_class_size: int = 100,
    memory: int | str | None = None,
    threads: int | None = None,
    backend: str = "auto",
    progress: streaming.Progress | None = None,
) -> Background:
    """Represent background activations by one small histogram per node (arXiv:2312.08143).

    ``activations``: (samples, nodes) as a numpy array, torch tensor, .npy path, Zarr array or group (object, path or
    activation store), Dask array, or a mapping from layer name to any of these. NaN is not counted.

    ``bins``: ordinary bins per node, 1 to 254. ``binning``: ``balanced`` (default), ``uniform`` (the paper's rule; with
    ``bins=10, pilot=None`` its representation) or ``quantile``. ``modal_fraction``: a value that makes up more of its
    node gets a bin of its own. ``pilot``: how many samples the edges are found by; counts are always exact.
    ``edges``: count at these instead: the result of `hpv.edges`, a background, or numbers per layer and node.
    ``by_class``: keep counts per class, by ``labels`` (one integer per sample) or those of the activation store; labels
    alone imply it. A class with fewer than ``min_class_size`` samples answers with the pooled counts.
    ``memory``: bytes or text such as "2GiB", above what the imports take. ``threads``: default all allowed.

    >>> import numpy as np, hpv
    >>> hpv.fit(np.random.default_rng(0).normal(size=(1000, 5)))
    <hpv.Background of 1,000 samples; activations: 5 nodes>
    """
    ready = prepare_fit(
        activations, bins=bins, binning=binning, modal_fraction=modal_fraction, pilot=pilot, edges=edges,
        by_class=by_class, labels=labels, min_class_size=min_class_size, memory=memory, threads=threads,
        backend=backend,
    )  # fmt: skip
    return run_fit(ready, progress or streaming.Quiet())


def prepare_fit(
    activations: Any,
    *,
    bins: int = 32,
    binning: str = "balanced",
    modal_fraction: Fraction | str | float = Fraction(1, 10),
    pilot: int | Literal["auto"] | None = "auto",
    edges: Any = None,
    by_class: bool = False,
    labels: Any = None,
    min_class_size: int = 100,
    memory: int | str | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> Fit:
    """Check every argument of `fit` and plan it."""
    rule = Rule(bins, binning, modal_fraction, pilot)  # type: ignore[arg-type]
    whole = isinstance(min_class_size, int | np.integer) and not isinstance(min_class_size, bool)
    if not whole or min_class_size < 1:
        raise InputError(f"min_class_size={min_class_size!r}: give a whole number from 1 on.")
    source = open_activations(activations)
    classes, group = _classes(source, by_class or labels is not None, labels)
    given = None if edges is None else _given_edges(source, edges)
    widest = None if given is None else max(layer.keys.shape[1] for layer in given.values()) + 2
    plan = plan_fit(
        source, None if given else rule, classes=1 if classes is None else len(classes),
        memory=memory, threads=threads, edges=widest,
    )  # fmt: skip
    placed: Rule | None = rule if given is None else getattr(edges, "rule", None)
    return Fit(source, placed, given, classes, group, int(min_class_size), plan, get_backend(backend))


def check_labels(labels: Any, samples: int) -> np.ndarray:
    """One class per sample, int64: a whole number from 0 on."""
    array = np.asarray(labels)
    if array.shape != (samples,):
        raise InputError(f"labels: shape {array.shape} for {samples} samples; give one integer per sample.")
    if array.dtype.kind not in "iu":
        raise InputError(f"labels: dtype {array.dtype}; give integers.")
    if samples and not (0 <= int(array.min()) and int(array.max()) < 2**31):
        raise InputError(f"labels: from {array.min()} to {array.max()}; give numbers from 0 to 2**31 - 1.")
    return array.astype(np.int64)


def _classes(source: Activations, by_class: bool, labels: Any) -> tuple[np.ndarray | None, np.ndarray]:
    if not by_class:
        return None, np.zeros(source.samples, np.int64)
    if labels is None:
        labels = source.labels
    if labels is None:
        raise InputError("by_class: the activations carry no labels; give labels=, one integer per sample.")
    classes, group = np.unique(check_labels(labels, source.samples), return_inverse=True)
    return classes, group.astype(np.int64)


def _given_edges(source: Activations, edges: Any) -> dict[str, LayerEdges]:
    """The given edges as inner edges of every layer of the source."""
    if isinstance(edges, Background):
        edges = layer_edges(edges)
    elif isinstance(edges, Edges):
        edges = edges.layers
    elif not isinstance(edges, Mapping):
        edges = dict.fromkeys(source.layers, edges)
    absent = [name for name in source.layers if name not in edges]
    if absent and len(edges) == 1 and len(source.layers) == 1 and not source.is_mapping:
        edges, absent = {absent[0]: next(iter(edges.values()))}, []
    if absent or len(edges) != len(source.layers):
        raise InputError(
            f"edges: they are those of the layers {', '.join(edges)}, the activations have {', '.join(source.layers)}; "
            "give edges for every layer."
        )
    given = {}
    for name, layer in source.layers.items():
        value = edges[name]
        if not isinstance(value, LayerEdges):
            value = LayerEdges(check_edges(value, layer.form, layer.shape[1], name), layer.form)
        if len(value.keys) != layer.shape[1]:
            raise InputError(f"edges of layer {name}: for {len(value.keys)} nodes, but it has {layer.shape[1]}.")
        given[name] = value
    return given


class Checkpoint(Protocol):
    """Keeps what a fit has done, so that the same fit continues there."""

    def edges(self, layer: str) -> LayerEdges | None:
        """The proposed edges of a layer, if they were kept."""

    def keep_edges(self, layer: str, edges: LayerEdges) -> None:
        """Keep them."""

    def state(self, layer: str, walk: str) -> tuple[int, LayerTotals] | None:
        """Steps done and counts of a layer, if they were kept of the same ``walk``."""

    def keep_state(self, layer: str, walk: str, done: int, totals: LayerTotals) -> None:
        """Keep them, now or, if that was done a moment ago, at a later call."""


class LayerTotals(NamedTuple):
    """Counts of a layer on the way; shapes as in `LayerState`."""

    survivors: np.ndarray
    counted: np.ndarray
    """Values that are not NaN (c, n)."""
    lowest: np.ndarray
    highest: np.ndarray
    seen: np.ndarray
    """Samples seen of each class by each node (c, n)."""


def run_fit(ready: Fit, progress: streaming.Progress, checkpoint: Checkpoint | None = None) -> Background:
    """Do what was prepared."""
    layers: dict[str, LayerState] = {}
    for plan, layer in zip(ready.plan.layers, ready.source.layers.values(), strict=True):
        progress.start(f"fit {layer.name}", plan.bytes_read)
        layers[layer.name] = _count_layer(
            layer, plan, _edges_of(layer, plan, ready, progress, checkpoint), ready, progress, checkpoint
        )
    known = ready.source.attributes
    attributes: dict[str, Any] = {key: known[key] for key in ("model", "weights") if key in known}
    samples = _class_sizes(ready)
    return Background(layers, samples, ready.classes, ready.rule, ready.min_class_size, attributes)


def _class_sizes(ready: Fit) -> np.ndarray:
    return np.bincount(ready.group, minlength=1 if ready.classes is None else len(ready.classes)).astype(np.int64)


def _edges_of(
    layer: Layer, plan: LayerPlan, ready: Fit, progress: streaming.Progress, checkpoint: Checkpoint | None
) -> LayerEdges:
    """The given edges, those that an earlier run kept, or new ones."""
    if ready.given is not None:
        return ready.given[layer.name]
    kept = checkpoint.edges(layer.name) if checkpoint is not None else None
    if kept is not None:
        progress.skip(plan.pilot_bytes)
        return kept
    assert ready.rule is not None
    edges = propose_layer(layer, plan, ready.rule, ready.plan.threads, progress)
    if checkpoint is not None:
        checkpoint.keep_edges(layer.name, edges)
    return edges


def _count_layer(
    layer: Layer,
    plan: LayerPlan,
    edges: LayerEdges,
    ready: Fit,
    progress: streaming.Progress,
    checkpoint: Checkpoint | None,
) -> LayerState:
    """Exact survivors of every class at the edges, and the extremes."""
    form, samples = edges.form, _class_sizes(ready)
    layer = windowed(layer, plan.window, plan.readers, ready.plan.threads)
    steps = [(tile, segment) for tile in plan.tiles for segment in plan.segments]
    walk = f"{len(plan.tiles)} tiles of {plan.tiles[0].stop}, {len(plan.segments)} segments of {plan.segments[0].stop}"
    kept = checkpoint.state(layer.name, walk) if checkpoint is not None else None
    done, totals = kept or (0, _empty_totals(len(samples), edges, int(samples.sum())))
    for tile, segment in steps[:done]:
        progress.skip((segment.stop - segment.start) * (tile.stop - tile.start) * plan.itemsize)
    for tile, segment in steps[done:]:
        # Values of another format are compared exactly with edges moved up to the next number of that format.
        keys = convert_keys(edges.keys[tile], form, layer.form)
        counts = _count_segment(layer, plan, tile, segment, keys, len(samples), ready, progress)
        totals.survivors[:, tile] += counts.survivors.astype(totals.survivors.dtype, copy=False)
        totals.counted[:, tile] += counts.counted
        totals.seen[:, tile] += counts.seen[:, None]
        # An extreme between two numbers of the background's format moves down: what lies above it stays above.
        low = convert_keys(counts.lowest, layer.form, form, down=True)
        high = convert_keys(counts.highest, layer.form, form, down=True)
        totals.lowest[tile] = np.minimum(totals.lowest[tile], low)
        totals.highest[tile] = np.maximum(totals.highest[tile], high)
        done += 1
        if checkpoint is not None:
            checkpoint.keep_state(layer.name, walk, done, totals)
    gaps = totals.seen != samples[:, None]
    if gaps.any():
        node = int(np.flatnonzero(gaps.any(axis=0))[0])
        raise DataError(
            f"layer {layer.name}: node {node} has seen {int(totals.seen[:, node].sum())} of {int(samples.sum())} "
            "samples; part of the work was lost, fit it again."
        )
    missing = (totals.seen - totals.counted).astype(totals.survivors.dtype)
    return LayerState(form, edges.keys, totals.survivors, missing, totals.lowest, totals.highest)


def _empty_totals(classes: int, edges: LayerEdges, samples: int) -> LayerTotals:
    (nodes, count), form = edges.keys.shape, edges.form
    return LayerTotals(
        np.zeros((classes, nodes, count), count_dtype(samples)),
        np.zeros((classes, nodes), np.int64),
        np.full(nodes, form.unused, form.key),
        np.full(nodes, form.missing, form.key),
        np.zeros((classes, nodes), np.int64),
    )


def _count_segment(
    layer: Layer,
    plan: LayerPlan,
    tile: slice,
    segment: slice,
    keys: np.ndarray,
    classes: int,
    ready: Fit,
    progress: streaming.Progress,
) -> Any:
    """Counts of one tile of nodes over one range of samples, by as many tasks as there are threads."""
    counter = ready.backend.make_counter(keys, layer.form)
    buffers = streaming.Buffers()
    width = (tile.stop - tile.start) * layer.form.key.itemsize

    threads = min(ready.plan.threads, -(-(segment.stop - segment.start) // plan.least))
    parts = streaming.Queue(segment, plan.block, plan.least, threads)

    def task(_: int) -> Any:
        accumulator = ready.backend.start_counts(counter, classes, layer.form)
        for part in parts:
            block = read_block(layer, part, tile, buffers)
            ready.backend.add_counts(accumulator, block.bits, block.first, ready.group[part])
            progress.advance((part.stop - part.start) * width)
        return ready.backend.finish_counts(accumulator)

    first, *others = streaming.run(task, range(threads), threads)
    for other in others:
        first.add(other)
    return first
