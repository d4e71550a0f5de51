"""A fit is run: by threads or a cluster, into memory, into a store, or as a shard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpv.fitting.checkpoint import FitCheckpoint
from hpv.fitting.counting import Checkpoint, edges_of, fit_by_threads
from hpv.fitting.job import Fit, fit_request
from hpv.fitting.on_cluster import fit_on_cluster
from hpv.fitting.plan import plan_fit
from hpv.fitting.stored import load_background, open_background, write_background
from hpv.histograms.state import BackgroundState
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.store.reading import open_store
from hpv.walking.cluster import active_client
from hpv.walking.progress import Progress, Quiet
from hpv.walking.shards import Shard, join_shards


def run_fit(ready: Fit, progress: Progress, checkpoint: Checkpoint | None = None) -> BackgroundState:
    """Do what was prepared: by threads of this process, or on Dask's active cluster where that can read the data."""
    client = active_client()
    if client is not None and ready.source.is_portable:
        return fit_on_cluster(client, ready, progress, checkpoint)
    return fit_by_threads(ready, progress, checkpoint)


def fit_to_store(
    ready: Fit, out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> tuple[BackgroundState, bool]:
    """Fit into a store; the background, and whether it was there already.

    A run that was interrupted is continued by the same call.
    """
    with Output.begin(out, BACKGROUND, fit_request(ready), overwrite=overwrite) as output:
        if output.already_complete:
            return load_background(open_store(out, BACKGROUND)), True
        background = run_fit(ready, progress or Quiet(), FitCheckpoint(output))
        write_background(output, background)
    return background, False


def fit_shard(
    ready: Fit, shard: Shard, out: str | Path, progress: Progress | None = None
) -> tuple[BackgroundState, bool]:
    """Do one part of a fit; its background, and whether it was there already.

    Where the shards are merged already: the background of all.
    """
    whole, progress = fit_request(ready), progress or Quiet()
    if join_shards(out, BACKGROUND, whole, shard.of):
        return open_background(out), True
    path = shard.path(out)
    with Output.begin(path, BACKGROUND, shard.request(whole)) as output:
        if output.already_complete:
            return open_background(path), True
        checkpoint = FitCheckpoint(output)
        background = run_fit(_part_of_fit(ready, shard, progress, checkpoint), progress, checkpoint)
        write_background(output, background)
    return background, False


def _part_of_fit(ready: Fit, shard: Shard, progress: Progress, checkpoint: FitCheckpoint) -> Fit:
    """The fit of some of the samples at the edges of all."""
    edges = {}
    for walk, layer in zip(ready.plan.layers, ready.source.layers.values(), strict=True):
        progress.start(f"edges of {layer.name}", walk.pilot_bytes)
        edges[layer.name] = edges_of(layer, walk, ready, progress, checkpoint)
    source, classes = ready.source.part(shard.rows), 1 if ready.classes is None else len(ready.classes)
    widest = max(layer.keys.shape[1] for layer in edges.values()) + 2
    memory, threads = ready.plan.memory, ready.plan.threads
    room = ready.backend.room()
    plan = plan_fit(source, None, classes=classes, memory=memory, threads=threads, edges=widest, room=room)
    return replace(ready, source=source, given=edges, group=ready.group[shard.rows], plan=plan)
