"""Fitting a background: propose edges from the pilot, then count exactly at them in one pass over all samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from hpv import streaming
from hpv.backends import Backend, Counted, check_name, get_backend
from hpv.background import Background, LayerState, count_dtype, layer_edges
from hpv.blocks import read_block, threads_in_place
from hpv.errors import DataError, HpvError, InputError
from hpv.floats import FloatFormat, convert_keys
from hpv.pilot import Edges, LayerEdges, Rule, check_edges
from hpv.planning import LayerPlan, Plan, plan_fit
from hpv.proposing import propose_layer
from hpv.resources import quantity
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
    asked: str
    """Name of the backend, which workers of a cluster look for at their own place."""


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
    activation store), Dask array, or a mapping from layer name to any of these. NaN is not counted. Of more than two
    dimensions, as (samples, channels, height, width), every value of a sample is a node: they are flattened in C order.

    ``bins``: ordinary bins per node, 1 to 254. ``binning``: ``balanced`` (default), ``uniform`` (the paper's rule; with
    ``bins=10, pilot=None`` its representation) or ``quantile``. ``modal_fraction``: a value that makes up more of its
    node gets a bin of its own. ``pilot``: how many samples the edges are found by; counts are always exact.
    ``edges``: count at these instead: the result of `hpv.edges`, a background, or numbers per layer and node.
    ``by_class``: keep counts per class, by ``labels`` (one integer per sample) or those of the activation store; labels
    alone imply it. A class with fewer than ``min_class_size`` samples answers with the pooled counts.
    ``memory``: bytes or text such as "2GiB", above what the imports take. ``threads``: default all allowed.
    ``backend``: ``cpu``, ``cuda`` (an NVIDIA GPU, with the extra ``cuda`` or ``cuda12``), or ``auto``: the GPU for what
    is there, and for large data if there is one. All give the same integers.

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
    chosen = choose_backend(backend, source)
    plan = plan_fit(
        source, None if given else rule, classes=1 if classes is None else len(classes),
        memory=memory, threads=threads, edges=widest, room=chosen.room(),
    )  # fmt: skip
    placed: Rule | None = rule if given is None else getattr(edges, "rule", None)
    return Fit(source, placed, given, classes, group, int(min_class_size), plan, chosen, backend)


def choose_backend(name: str, source: Activations) -> Backend:
    """The backend for these activations; where workers of a cluster do the work, each chooses its own."""
    if source.is_portable and streaming.active_client() is not None:
        check_name(name)
        return get_backend("cpu")
    return get_backend(name, source.values, source.on_device)


def check_labels(labels: Any, samples: int) -> np.ndarray:
    """One class per sample, int64: a whole number from 0 on."""
    array = np.asarray(labels)
    if array.shape != (samples,):
        raise InputError(f"labels: shape {array.shape} for {quantity(samples, 'sample')}; give one integer per sample.")
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
            raise InputError(
                f"edges of layer {name}: for {quantity(len(value.keys), 'node')}, but it has {layer.shape[1]:,}."
            )
        given[name] = value
    return given


class Saves(Protocol):
    """Keeps what was done."""

    def save(self) -> None:
        """Keep now what waits for a later call."""


class Checkpoint(Saves, Protocol):
    """Keeps what a fit has done, so that the same fit continues there."""

    def edges(self, layer: str) -> LayerEdges | None:
        """The proposed edges of a layer, or of its first nodes, if they were kept."""

    def keep_edges(self, layer: str, first: int, edges: LayerEdges) -> None:
        """Keep those of its nodes from ``first`` on, now or, if something was kept a moment ago, with a later call."""

    def state(self, layer: str, walk: str) -> tuple[Place, LayerTotals] | None:
        """How far a layer is counted, and its counts, if they were kept of the same ``walk``."""

    def keep_state(self, layer: str, walk: str, done: Place, totals: LayerTotals) -> None:
        """Keep them, now or, if something was kept a moment ago, with a later call."""


Place = tuple[int, int]
"""Of a walk through a layer: the number of the tile, and the first of its samples that are not counted."""


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
    """Do what was prepared: by threads of this process, or on Dask's active cluster where that can read the data."""
    client = streaming.active_client()
    if client is not None and ready.source.is_portable:
        from hpv.cluster import fit_on_cluster

        return fit_on_cluster(client, ready, progress, checkpoint)
    layers: dict[str, LayerState] = {}
    for plan, layer in zip(ready.plan.layers, ready.source.layers.values(), strict=True):
        progress.start(f"fit {layer.name}", plan.bytes_read)
        layers[layer.name] = _count_layer(
            layer, plan, edges_of(layer, plan, ready, progress, checkpoint), ready, progress, checkpoint
        )
    return finish_fit(ready, layers)


def finish_fit(ready: Fit, layers: Mapping[str, LayerState]) -> Background:
    """The background of the states of all layers."""
    known = ready.source.attributes
    attributes: dict[str, Any] = {key: known[key] for key in ("model", "weights") if key in known}
    return Background(dict(layers), class_sizes(ready), ready.classes, ready.rule, ready.min_class_size, attributes)


def class_sizes(ready: Fit) -> np.ndarray:
    """Samples of every class (c,)."""
    return np.bincount(ready.group, minlength=1 if ready.classes is None else len(ready.classes)).astype(np.int64)


def edges_of(
    layer: Layer, plan: LayerPlan, ready: Fit, progress: streaming.Progress, checkpoint: Checkpoint | None
) -> LayerEdges:
    """The given edges of a layer, those that an earlier run kept, or new ones."""
    if ready.given is not None:
        return ready.given[layer.name]
    assert ready.rule is not None
    known, keep = None, None
    if checkpoint is not None:
        known = checkpoint.edges(layer.name)
        keep = partial(checkpoint.keep_edges, layer.name)
    done = 0 if known is None else len(known.keys)
    progress.skip(plan.pilot_bytes * done // plan.nodes)
    if known is not None and done == plan.nodes:
        return known
    with saving(checkpoint):
        edges = propose_layer(layer, plan, ready.rule, ready.plan.threads, progress, known, keep)
    if keep is not None and layer.in_memory:
        keep(0, edges)
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
    form, samples = edges.form, class_sizes(ready)
    layer = windowed(layer, plan.window, plan.readers, ready.plan.threads)
    walk = f"{len(plan.tiles)} tiles of {plan.tiles[0].stop}"
    kept = checkpoint.state(layer.name, walk) if checkpoint is not None else None
    (done, start), totals = kept or ((0, 0), empty_totals(len(samples), edges, int(samples.sum())))
    progress.skip(_counted_bytes(plan, done, start))
    for number, tile in enumerate(plan.tiles[done:], done):
        # Values of another format are compared exactly with edges moved up to the next number of that format.
        keys = convert_keys(edges.keys[tile], form, layer.form)
        while start < plan.samples:
            segment = slice(start, next(one.stop for one in plan.segments if one.stop > start))
            with saving(checkpoint):
                stop, counts = _count_segment(layer, plan, tile, segment, keys, len(samples), ready, progress)
            _add_counts(totals, tile, counts, layer.form, form)
            start = stop
            if checkpoint is not None:
                checkpoint.keep_state(layer.name, walk, (number, start), totals)
        start = 0
    return finish_layer(layer.name, edges, totals, samples)


def finish_layer(name: str, edges: LayerEdges, totals: LayerTotals, samples: np.ndarray) -> LayerState:
    """The state of a layer that has seen all ``samples`` (c,); ``DataError`` if it has not."""
    gaps = totals.seen != samples[:, None]
    if gaps.any():
        node = int(np.flatnonzero(gaps.any(axis=0))[0])
        raise DataError(
            f"layer {name}: node {node} has seen {int(totals.seen[:, node].sum())} of {int(samples.sum())} "
            "samples; part of the work was lost, fit it again."
        )
    missing = (totals.seen - totals.counted).astype(totals.survivors.dtype)
    return LayerState(edges.form, edges.keys, totals.survivors, missing, totals.lowest, totals.highest)


@contextmanager
def saving(checkpoint: Saves | None) -> Iterator[None]:
    """Where this is stopped, or fails, all that was done before it is kept."""
    try:
        yield
    except BaseException:
        if checkpoint is not None:
            with suppress(HpvError):  # the first error is the one to tell of
                checkpoint.save()
        raise


def _counted_bytes(plan: LayerPlan, tiles: int, samples: int) -> int:
    """Of the first tiles, and of the first samples of the next one."""
    whole = sum(tile.stop - tile.start for tile in plan.tiles[:tiles]) * plan.samples
    rest = sum(tile.stop - tile.start for tile in plan.tiles[tiles : tiles + 1]) * samples
    return (whole + rest) * plan.itemsize


def _add_counts(totals: LayerTotals, tile: slice, counts: Counted, ours: FloatFormat, form: FloatFormat) -> None:
    """Add what was counted of a tile, of values in a format of ``ours``, to totals in another."""
    totals.survivors[:, tile] += counts.survivors.astype(totals.survivors.dtype, copy=False)
    totals.counted[:, tile] += counts.counted
    totals.seen[:, tile] += counts.seen[:, None]
    # An extreme between two numbers of the background's format moves down: what lies above it stays above.
    low = convert_keys(counts.lowest, ours, form, down=True)
    high = convert_keys(counts.highest, ours, form, down=True)
    totals.lowest[tile] = np.minimum(totals.lowest[tile], low)
    totals.highest[tile] = np.maximum(totals.highest[tile], high)


def empty_totals(classes: int, edges: LayerEdges, samples: int) -> LayerTotals:
    """Counts of nothing."""
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
) -> tuple[int, Counted]:
    """Counted of one tile of nodes over one range of samples, by as many tasks as there are threads.

    Only so much of the range as can be counted until the next checkpoint: the sample where it ended comes first.
    """
    counter = ready.backend.make_counter(keys, layer.form)
    buffers = ready.backend.make_buffers()
    width = (tile.stop - tile.start) * layer.form.key.itemsize

    threads = min(ready.plan.threads, -(-(segment.stop - segment.start) // plan.least))
    # Classes are told apart by threads that call; without them the loops have threads of their own.
    values = (segment.stop - segment.start) * (tile.stop - tile.start)
    inside = threads_in_place(layer, values, threads) if classes == 1 else 1
    done: list[slice] = []
    with ready.backend.one_caller(inside) as inside:
        threads = threads if inside == 1 else 1
        parts = streaming.Queue(segment, plan.block, plan.least, threads, streaming.CHECKPOINT_SECONDS)

        def task(_: int) -> Counted:
            accumulator = ready.backend.start_counts(counter, classes, layer.form, inside)
            for part in parts:
                block = read_block(layer, part, tile, buffers)
                ready.backend.add_counts(accumulator, block.bits, block.first, ready.group[part])
                done.append(part)
                progress.advance((part.stop - part.start) * width)
            return ready.backend.finish_counts(accumulator)

        first, *others = streaming.run(task, range(threads), threads)
    for other in others:
        first.add(other)
    lost = streaming.first_gap(slice(segment.start, parts.start), done)
    if lost is not None:
        raise DataError(
            f"layer {layer.name}: sample {lost} was not counted once; part of the work was lost, fit it again."
        )
    return parts.start, first
