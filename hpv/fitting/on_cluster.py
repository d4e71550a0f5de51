"""The walk of a fit by the workers of a Dask cluster, which add up the counts where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpv.activations.labels import PerSample
from hpv.activations.layers import Activations, Layer
from hpv.base.errors import DataError
from hpv.base.keeping import saving
from hpv.fitting.counting import Checkpoint, Position, Tiling, count_layer
from hpv.fitting.job import FitJob, finish_fit
from hpv.fitting.plan import plan_fit
from hpv.fitting.proposing import propose_tile
from hpv.histograms.counts import LayerCounts, add_up
from hpv.histograms.edges import LayerEdges, Rule, stack
from hpv.histograms.state import BackgroundState, LayerState
from hpv.walking.cluster import Cluster, backend_for, bare, task_ranges
from hpv.walking.progress import Progress, Quiet
from hpv.walking.tiling import LayerPlan

if TYPE_CHECKING:
    from distributed import Client, Future
FAN_IN = 8
"""States that are added up in one task."""


def fit_on_cluster(client: Client, job: FitJob, progress: Progress, checkpoint: Checkpoint | None) -> BackgroundState:
    """`hpv.fitting.running.run_fit` by the workers of a cluster."""
    cluster = Cluster(client, job.source, job.plan.memory, job.backend_name, progress)
    edges = _propose(cluster, job, progress, checkpoint)
    layers = {}
    for plan, layer in zip(job.plan.layers, job.source.layers.values(), strict=True):
        progress.start(f"fit {layer.name}", plan.samples * plan.nodes * plan.itemsize)
        layers[layer.name] = _count(cluster, layer, edges[layer.name], job, progress, checkpoint)
    return finish_fit(job, layers)


def _propose(
    cluster: Cluster, job: FitJob, progress: Progress, checkpoint: Checkpoint | None
) -> Mapping[str, LayerEdges]:
    """The given edges, those that an earlier run kept, or new ones: a task for each tile of each layer's nodes."""
    if job.given is not None:
        return job.given
    rule, edges = job.rule, {}
    assert rule is not None
    with cluster.work() as work:
        sent: list[tuple[Layer, LayerPlan, list[np.ndarray], list[tuple[slice, Future]]]] = []
        for layer in job.source.layers.values():
            known = checkpoint.edges(layer.name) if checkpoint is not None else None
            parts = [] if known is None else [known.keys]
            done = sum(map(len, parts))
            (plan,) = plan_fit(bare(job.source, layer), rule, memory=cluster.memory, threads=1).layers
            tiles = [slice(max(tile.start, done), tile.stop) for tile in plan.pilot_tiles if tile.stop > done]
            name = f"edges of {layer.name}"
            futures = [(tile, work.submit(name, _ProposeTask(layer, plan, rule, tile))) for tile in tiles]
            sent.append((layer, plan, parts, futures))
        for layer, plan, parts, futures in sent:
            progress.start(f"edges of {layer.name}", plan.pilot_bytes)
            node = plan.pilot_bytes // plan.nodes
            progress.skip(sum(map(len, parts)) * node)
            for tile, future in futures:
                with saving(checkpoint):
                    parts.append(work.result(future))
                    progress.advance((tile.stop - tile.start) * node)
                if checkpoint is not None:
                    checkpoint.keep_edges(layer.name, tile.start, LayerEdges(parts[-1], layer.float_format))
            edges[layer.name] = LayerEdges(stack(parts, layer.float_format), layer.float_format)
    return edges


@dataclass(frozen=True)
class _ProposeTask:
    """Edges of a tile of nodes."""

    layer: Layer
    plan: LayerPlan
    rule: Rule
    tile: slice

    def __call__(self) -> np.ndarray:
        return propose_tile(self.layer, self.plan, self.rule, self.tile)


def _count(
    cluster: Cluster, layer: Layer, edges: LayerEdges, job: FitJob, progress: Progress, checkpoint: Checkpoint | None
) -> LayerState:
    """Exact survivors of every class at the edges."""
    sizes, source = job.class_sizes, bare(job.source, layer)
    tiling = Tiling(1, layer.shape[1])  # that of one process with room for all nodes, which may go on here
    kept = checkpoint.counts(layer.name, tiling) if checkpoint is not None else None
    (_, done), total = kept or (Position(0, 0), LayerCounts.empty(edges, len(sizes), int(sizes.sum())))
    row = layer.shape[1] * layer.float_format.key.itemsize
    progress.skip(done * row)
    with cluster.work() as work:
        held = work.hold(edges)

        def send(rows: slice) -> Future:
            task = _CountTask(
                source.part(rows), job.classes, job.class_index.part(rows), cluster.memory, job.backend_name
            )
            return work.submit(f"count {layer.name}", task, held)

        def add(sent: Sequence[Future]) -> Sequence[Future]:
            while len(sent) > 1:
                sent = [
                    work.submit(f"add up {layer.name}", add_up, *sent[at : at + FAN_IN])
                    for at in range(0, len(sent), FAN_IN)
                ]
            return sent

        for wave in work.waves(task_ranges(done, layer.shape[0], row, source.chunk_rows), send, add):
            with saving(checkpoint):
                (counts,) = wave.gather(progress, row)
            _check_seen(counts, wave.rows)
            total.add(counts)
            if checkpoint is not None:
                checkpoint.keep_counts(layer.name, tiling, Position(0, wave.rows.stop), total)
    return total.finish(layer.name, edges, sizes)


@dataclass(frozen=True)
class _CountTask:
    """Counts of a range of samples of one layer."""

    source: Activations
    classes: np.ndarray | None
    class_index: PerSample
    memory: int
    backend: str

    def __call__(self, edges: LayerEdges) -> LayerCounts:
        classes = 1 if self.classes is None else len(self.classes)
        backend, widest = backend_for(self.backend, self.source), edges.keys.shape[1] + 2
        plan = plan_fit(
            self.source, None, classes=classes, memory=self.memory, threads=1, edges=widest, room=backend.room()
        )
        ((name, layer),) = self.source.layers.items()
        job = FitJob(self.source, None, {name: edges}, self.classes, self.class_index, 1, plan, backend, self.backend)
        return count_layer(layer, plan.layers[0], edges, job, Quiet())


def _check_seen(counts: LayerCounts, rows: slice) -> None:
    """Counts carry how many samples they have seen."""
    seen, wanted = counts.seen.sum(axis=0), rows.stop - rows.start
    if (seen != wanted).any():
        raise DataError(f"samples {rows.start} to {rows.stop - 1}: the workers counted {int(seen.min())} of {wanted}; "
                        "run it again.")  # fmt: skip
