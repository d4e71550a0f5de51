"""A fit is run: by threads or a cluster, into memory, into a store, or as a shard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpv.fitting.checkpoint import FitCheckpoint
from hpv.fitting.counting import Checkpoint, edges_of, fit_by_threads
from hpv.fitting.job import FitJob, fit_request
from hpv.fitting.on_cluster import fit_on_cluster
from hpv.fitting.plan import plan_fit
from hpv.fitting.stored import load_background, open_background, write_background
from hpv.histograms.state import BackgroundState
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.store.reading import open_store
from hpv.store.shards import join_shards
from hpv.walking.cluster import active_client
from hpv.walking.progress import Progress, Quiet
from hpv.walking.shards import Shard


def run_fit(job: FitJob, progress: Progress, checkpoint: Checkpoint | None = None) -> BackgroundState:
    """Do what was prepared: by threads of this process, or on Dask's active cluster where that can read the data."""
    client = active_client()
    if client is not None and job.source.is_portable:
        return fit_on_cluster(client, job, progress, checkpoint)
    return fit_by_threads(job, progress, checkpoint)


def fit_to_store(
    job: FitJob, out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> tuple[BackgroundState, bool]:
    """Fit into a store; the background, and whether it was there already.

    A run that was interrupted is continued by the same call.
    """
    with Output.begin(out, BACKGROUND, fit_request(job), overwrite=overwrite) as output:
        if output.already_complete:
            return load_background(open_store(out, BACKGROUND)), True
        background = run_fit(job, progress or Quiet(), FitCheckpoint(output))
        write_background(output, background)
    return background, False


def fit_shard(
    job: FitJob, shard: Shard, out: str | Path, progress: Progress | None = None
) -> tuple[BackgroundState, bool]:
    """Do one part of a fit; its background, and whether it was there already.

    Where the shards are merged already: the background of all.
    """
    whole, progress = fit_request(job), progress or Quiet()
    if join_shards(out, BACKGROUND, whole, shard.of):
        return open_background(out), True
    path = shard.path(out)
    with Output.begin(path, BACKGROUND, shard.request(whole)) as output:
        if output.already_complete:
            return open_background(path), True
        checkpoint = FitCheckpoint(output)
        background = run_fit(_part_of_fit(job, shard, progress, checkpoint), progress, checkpoint)
        write_background(output, background)
    return background, False


def _part_of_fit(job: FitJob, shard: Shard, progress: Progress, checkpoint: FitCheckpoint) -> FitJob:
    """The fit of some of the samples at the edges of all."""
    edges = {}
    for walk, layer in zip(job.plan.layers, job.source.layers.values(), strict=True):
        progress.start(f"edges of {layer.name}", walk.pilot_bytes)
        edges[layer.name] = edges_of(layer, walk, job, progress, checkpoint)
    source, classes = job.source.part(shard.rows), 1 if job.classes is None else len(job.classes)
    widest = max(layer.keys.shape[1] for layer in edges.values()) + 2
    memory, threads = job.plan.memory, job.plan.threads
    room = job.backend.room()
    plan = plan_fit(
        source, None, classes=classes, memory=memory, threads=threads, edges=widest, room=room,
        beside=job.class_index.nbytes,
    )  # fmt: skip
    return replace(job, source=source, given=edges, class_index=job.class_index.part(shard.rows), plan=plan)
