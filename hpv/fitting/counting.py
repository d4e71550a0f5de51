"""The walk of a fit: exact counts at the edges, in one pass over all samples, by threads."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from hpv.activations.blocks import read_block
from hpv.activations.layers import Layer
from hpv.activations.windows import windowed
from hpv.base.errors import DataError
from hpv.base.floats import FloatFormat, convert_keys
from hpv.base.slices import first_gap
from hpv.fitting.job import FitJob, class_sizes, finish_fit
from hpv.fitting.proposing import propose_layer
from hpv.histograms.edges import LayerEdges
from hpv.histograms.state import BackgroundState, Counted, LayerState, count_dtype
from hpv.walking import keeping
from hpv.walking.keeping import Saves, saving
from hpv.walking.layer_plan import LayerPlan
from hpv.walking.progress import Progress
from hpv.walking.threads import Queue, run_in_threads


class LayerTotals(NamedTuple):
    """Counts of a layer on the way; shapes as in `LayerState`."""

    survivors: np.ndarray
    counted: np.ndarray
    """Values that are not NaN (c, n)."""
    lowest: np.ndarray
    highest: np.ndarray
    seen: np.ndarray
    """Samples seen of each class by each node (c, n)."""


Position = tuple[int, int]
"""Of a walk through a layer: the number of the tile, and the first of its samples that are not counted."""


class Checkpoint(Saves, Protocol):
    """Keeps what a fit has done, so that the same fit continues there."""

    def edges(self, layer: str) -> LayerEdges | None:
        """The proposed edges of a layer, or of its first nodes, if they were kept."""

    def keep_edges(self, layer: str, first: int, edges: LayerEdges) -> None:
        """Keep those of its nodes from ``first`` on, now or, if something was kept a moment ago, with a later call."""

    def state(self, layer: str, walk: str) -> tuple[Position, LayerTotals] | None:
        """How far a layer is counted, and its counts, if they were kept of the same ``walk``."""

    def keep_state(self, layer: str, walk: str, done: Position, totals: LayerTotals) -> None:
        """Keep them, now or, if something was kept a moment ago, with a later call."""


def fit_by_threads(job: FitJob, progress: Progress, checkpoint: Checkpoint | None = None) -> BackgroundState:
    """Do what was prepared by threads of this process."""
    layers: dict[str, LayerState] = {}
    for plan, layer in zip(job.plan.layers, job.source.layers.values(), strict=True):
        progress.start(f"fit {layer.name}", plan.bytes_read)
        layers[layer.name] = _count_layer(
            layer, plan, edges_of(layer, plan, job, progress, checkpoint), job, progress, checkpoint
        )
    return finish_fit(job, layers)


def edges_of(
    layer: Layer, plan: LayerPlan, job: FitJob, progress: Progress, checkpoint: Checkpoint | None
) -> LayerEdges:
    """The given edges of a layer, those that an earlier run kept, or new ones."""
    if job.given is not None:
        return job.given[layer.name]
    assert job.rule is not None
    known, keep = None, None
    if checkpoint is not None:
        known = checkpoint.edges(layer.name)
        keep = partial(checkpoint.keep_edges, layer.name)
    done = 0 if known is None else len(known.keys)
    progress.skip(plan.pilot_bytes * done // plan.nodes)
    if known is not None and done == plan.nodes:
        return known
    with saving(checkpoint):
        edges = propose_layer(layer, plan, job.rule, job.plan.threads, progress, known, keep)
    if keep is not None and layer.in_memory:
        keep(0, edges)
    return edges


def _count_layer(
    layer: Layer,
    plan: LayerPlan,
    edges: LayerEdges,
    job: FitJob,
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> LayerState:
    """Exact survivors of every class at the edges, and the extremes."""
    float_format, samples = edges.float_format, class_sizes(job)
    layer = windowed(layer, plan.window, plan.readers, job.plan.threads)
    walk = f"{len(plan.tiles)} tiles of {plan.tiles[0].stop}"
    kept = checkpoint.state(layer.name, walk) if checkpoint is not None else None
    (done, start), totals = kept or ((0, 0), empty_totals(len(samples), edges, int(samples.sum())))
    progress.skip(_counted_bytes(plan, done, start))
    for number, tile in enumerate(plan.tiles[done:], done):
        # Values of another format are compared exactly with edges moved up to the next number of that format.
        keys = convert_keys(edges.keys[tile], float_format, layer.float_format)
        while start < plan.samples:
            segment = slice(start, next(one.stop for one in plan.segments if one.stop > start))
            with saving(checkpoint):
                stop, counts = _count_segment(layer, plan, tile, segment, keys, len(samples), job, progress)
            _add_counts(totals, tile, counts, layer.float_format, float_format)
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
    return LayerState(edges.float_format, edges.keys, totals.survivors, missing, totals.lowest, totals.highest)


def _counted_bytes(plan: LayerPlan, tiles: int, samples: int) -> int:
    """Of the first tiles, and of the first samples of the next one."""
    whole = sum(tile.stop - tile.start for tile in plan.tiles[:tiles]) * plan.samples
    rest = sum(tile.stop - tile.start for tile in plan.tiles[tiles : tiles + 1]) * samples
    return (whole + rest) * plan.itemsize


def _add_counts(
    totals: LayerTotals, tile: slice, counts: Counted, ours: FloatFormat, float_format: FloatFormat
) -> None:
    """Add what was counted of a tile, of values in a format of ``ours``, to totals in another."""
    totals.survivors[:, tile] += counts.survivors.astype(totals.survivors.dtype, copy=False)
    totals.counted[:, tile] += counts.counted
    totals.seen[:, tile] += counts.seen[:, None]
    # An extreme between two numbers of the background's format moves down: what lies above it stays above.
    low = convert_keys(counts.lowest, ours, float_format, down=True)
    high = convert_keys(counts.highest, ours, float_format, down=True)
    totals.lowest[tile] = np.minimum(totals.lowest[tile], low)
    totals.highest[tile] = np.maximum(totals.highest[tile], high)


def empty_totals(classes: int, edges: LayerEdges, samples: int) -> LayerTotals:
    """Counts of nothing."""
    (nodes, count), float_format = edges.keys.shape, edges.float_format
    return LayerTotals(
        np.zeros((classes, nodes, count), count_dtype(samples)),
        np.zeros((classes, nodes), np.int64),
        np.full(nodes, float_format.no_edge, float_format.key),
        np.full(nodes, float_format.nan_key, float_format.key),
        np.zeros((classes, nodes), np.int64),
    )


def _count_segment(
    layer: Layer,
    plan: LayerPlan,
    tile: slice,
    segment: slice,
    keys: np.ndarray,
    classes: int,
    job: FitJob,
    progress: Progress,
) -> tuple[int, Counted]:
    """Counted of one tile of nodes over one range of samples, by as many tasks as there are threads.

    Only so much of the range as can be counted until the next checkpoint: the sample where it ended comes first.
    """
    counter = job.backend.make_counter(keys, layer.float_format)
    buffers = job.backend.make_buffers()
    width = (tile.stop - tile.start) * layer.float_format.key.itemsize

    threads = min(job.plan.threads, -(-(segment.stop - segment.start) // plan.least))
    parts = Queue(segment, plan.block, plan.least, threads, keeping.CHECKPOINT_SECONDS)

    done: list[slice] = []

    def task(_: int) -> Counted:
        accumulator = job.backend.start_counts(counter, classes, layer.float_format)
        for part in parts:
            block = read_block(layer, part, tile, buffers)
            job.backend.add_counts(accumulator, block.bits, block.first, job.class_index[part])
            done.append(part)
            progress.advance((part.stop - part.start) * width)
        return job.backend.finish_counts(accumulator)

    first, *others = run_in_threads(task, range(threads), threads)
    for other in others:
        first.add(other)
    lost = first_gap(slice(segment.start, parts.start), done)
    if lost is not None:
        raise DataError(
            f"layer {layer.name}: sample {lost} was not counted once; part of the work was lost, fit it again."
        )
    return parts.start, first
