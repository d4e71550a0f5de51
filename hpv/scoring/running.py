"""A score is run: by threads or a cluster, into a store, or as a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpv.base.errors import warn
from hpv.base.keeping import saving
from hpv.base.words import quantity
from hpv.scoring.job import ScoreJob, score_request
from hpv.scoring.on_cluster import score_on_cluster
from hpv.scoring.stored import ScoreWriter, score_attributes
from hpv.scoring.tallying import WriteCodes, WriteScores, score_by_threads
from hpv.store.headers import SCORES
from hpv.store.output import Output
from hpv.store.reading import Store, open_store
from hpv.store.shards import join_shards
from hpv.walking.cluster import active_client
from hpv.walking.progress import Progress
from hpv.walking.shards import Shard


def run_score(
    job: ScoreJob, progress: Progress, write: WriteScores, write_codes: WriteCodes | None = None, start: int = 0
) -> None:
    """Score all samples from ``start`` on: by threads of this process, or on Dask's active cluster.

    The workers of a cluster do it where they can read the data and keep the codes. See `score_by_threads`.
    """
    client = active_client()
    if client is not None and job.source.is_portable and (write_codes is None or write_codes.is_portable):
        score_on_cluster(client, job, progress, write, write_codes, start)
    else:
        score_by_threads(job, progress, write, write_codes, start)


def score_to_store(
    job: ScoreJob,
    out: str | Path,
    keep: Sequence[str],
    overwrite: bool,
    progress: Progress,
    request: Mapping[str, Any] | None = None,
) -> tuple[Store, bool]:
    """Score into a store; the store, and whether it was complete already.

    A run that was interrupted is continued by the same call. ``request``: what the store is asked to hold (default:
    all that is scored).
    """
    with Output.begin(out, SCORES, request or score_request(job, keep), overwrite=overwrite) as output:
        if not output.already_complete:
            writer = ScoreWriter(output, job, keep)
            with saving(writer):
                run_score(job, progress, writer.take_scores, writer.write_codes(), writer.start)
            missing = writer.finish()
            if missing:
                found = quantity(missing, "NaN value")
                warn(f"{out}: {found}; NaN has the range [0, 1] and is never significant.")
            output.finish({**score_attributes(job), "missing": missing})
        done = output.already_complete
    return open_store(out, SCORES), done


def score_shard(
    job: ScoreJob, shard: Shard, out: str | Path, keep: Sequence[str], progress: Progress
) -> tuple[Store, bool]:
    """Do one part of a score; its store, or that of all where the shards are merged already, and whether it was."""
    whole = score_request(job, keep)
    if join_shards(out, SCORES, whole, shard.of):
        return open_store(out, SCORES), True
    part = replace(job, source=job.source.part(shard.rows), reference=job.reference.part(shard.rows))
    return score_to_store(part, shard.path(out), keep, False, progress, shard.request(whole))
