"""The walk of a fit: exact counts at the edges, in one pass over all samples, by threads."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from hpv.activations.blocks import read_block
from hpv.activations.layers import Layer
from hpv.activations.windows import windowed
from hpv.base import keeping
from hpv.base.errors import DataError
from hpv.base.floats import convert_keys
from hpv.base.keeping import Saves, saving
from hpv.base.slices import first_gap
from hpv.fitting.job import FitJob, finish_fit
from hpv.fitting.proposing import propose_layer
from hpv.histograms.counts import LayerCounts
from hpv.histograms.edges import LayerEdges
from hpv.histograms.state import BackgroundState, LayerState
from hpv.walking.parts import threads_in_place
from hpv.walking.progress import Progress
from hpv.walking.threads import Queue, run_in_threads
from hpv.walking.tiling import LayerPlan


class Position(NamedTuple):
    """How far a layer is counted: the tile at work, and the first sample of it that is still to be counted."""

    tile: int
    sample: int


class Tiling(NamedTuple):
    """How many tiles of how many nodes a layer is walked in; counts go on where an earlier run had the same."""

    tiles: int
    width: int

    def __str__(self) -> str:
        return f"{self.tiles} tiles of {self.width}"


class Checkpoint(Saves, Protocol):
    """Keeps what a fit has done, so that the same fit continues there."""

    def edges(self, layer: str) -> LayerEdges | None:
        """The proposed edges of a layer, or of its first nodes, if they were kept."""

    def keep_edges(self, layer: str, first: int, edges: LayerEdges) -> None:
        """Keep those of its nodes from ``first`` on, now or, if something was kept a moment ago, with a later call."""

    def counts(self, layer: str, tiling: Tiling) -> tuple[Position, LayerCounts] | None:
        """How far a layer is counted, and its counts, if they were kept of the same ``tiling``."""

    def keep_counts(self, layer: str, tiling: Tiling, done: Position, counts: LayerCounts) -> None:
        """Keep them, now or, if something was kept a moment ago, with a later call."""


def fit_by_threads(job: FitJob, progress: Progress, checkpoint: Checkpoint | None = None) -> BackgroundState:
    """Run a prepared fit on threads of this process."""
    layers: dict[str, LayerState] = {}
    for plan, layer in zip(job.plan.layers, job.source.layers.values(), strict=True):
        progress.start(f"fit {layer.name}", plan.bytes_read)
        edges = edges_of(layer, plan, job, progress, checkpoint)
        counts = count_layer(layer, plan, edges, job, progress, checkpoint)
        layers[layer.name] = counts.finish(layer.name, edges, job.class_sizes)
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


def count_layer(
    layer: Layer,
    plan: LayerPlan,
    edges: LayerEdges,
    job: FitJob,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> LayerCounts:
    """Exact survivors of every class at the edges, and the extremes."""
    sizes, tiling = job.class_sizes, Tiling(len(plan.tiles), plan.tiles[0].stop)
    layer = windowed(layer, plan.window, plan.readers, job.plan.threads)
    kept = checkpoint.counts(layer.name, tiling) if checkpoint is not None else None
    (done, start), total = kept or (Position(0, 0), LayerCounts.empty(edges, len(sizes), int(sizes.sum())))
    progress.skip(_counted_bytes(plan, done, start))
    for number, tile in enumerate(plan.tiles[done:], done):
        # Values of another format are compared exactly with edges moved up to the next number of that format.
        keys = convert_keys(edges.keys[tile], edges.float_format, layer.float_format)
        while start < plan.samples:
            # The segment that `start` lies in, from there on.
            segment = slice(start, next(one.stop for one in plan.segments if one.stop > start))
            with saving(checkpoint):
                start, counts = _count_segment(layer, plan, tile, segment, keys, len(sizes), job, progress)
            # Outside of `saving`: an interrupt in the middle of the sum must not keep it.
            total.add(counts.converted(layer.float_format, edges.float_format), tile)
            if checkpoint is not None:
                checkpoint.keep_counts(layer.name, tiling, Position(number, start), total)
            with saving(checkpoint):
                progress.advance(0)  # it may have been told to end
        start = 0
    return total


def _counted_bytes(plan: LayerPlan, tiles: int, samples: int) -> int:
    """Of the first tiles, and of the first samples of the next one."""
    whole = sum(tile.stop - tile.start for tile in plan.tiles[:tiles]) * plan.samples
    rest = sum(tile.stop - tile.start for tile in plan.tiles[tiles : tiles + 1]) * samples
    return (whole + rest) * plan.itemsize


def _count_segment(
    layer: Layer,
    plan: LayerPlan,
    tile: slice,
    segment: slice,
    keys: np.ndarray,
    classes: int,
    job: FitJob,
    progress: Progress,
) -> tuple[int, LayerCounts]:
    """Counts of one tile of nodes over one range of samples, by as many tasks as there are threads.

    Only so much of the range as can be counted until the next checkpoint: the sample where it ended comes first.
    """
    counter = job.backend.make_counter(keys, layer.float_format)
    buffers = job.backend.make_buffers()
    width = (tile.stop - tile.start) * layer.float_format.key.itemsize

    threads = min(job.plan.threads, -(-(segment.stop - segment.start) // plan.least))
    # With classes, each of our threads calls for one class after the other. Without, one caller lets the loops use
    # threads of their own.
    values = (segment.stop - segment.start) * (tile.stop - tile.start)
    wanted = threads_in_place(layer, values, threads) if classes == 1 else 1
    done: list[slice] = []
    with job.backend.one_caller(wanted) as inside:
        threads = threads if inside == 1 else 1
        blocks = Queue(segment, plan.block, plan.least, threads, keeping.CHECKPOINT_SECONDS)

        def task(_: int) -> LayerCounts:
            accumulator = job.backend.start_counts(counter, classes, layer.float_format, inside)
            for rows in blocks:
                block = read_block(layer, rows, tile, buffers)
                job.backend.add_counts(accumulator, block.bits, block.first, job.class_index.of(rows))
                done.append(rows)
                blocks.advance(progress, (rows.stop - rows.start) * width)
            return job.backend.finish_counts(accumulator)

        found, *others = run_in_threads(task, range(threads), threads)
    for other in others:
        found.add(other)
    lost = first_gap(slice(segment.start, blocks.taken_to), done)
    if lost is not None:
        raise DataError(
            f"layer {layer.name}: sample {lost} was not counted once; part of the work was lost, fit it again."
        )
    return blocks.taken_to, found
