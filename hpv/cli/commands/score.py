"""hpv score."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated

from hpv.cli import options as o
from hpv.cli.command import command
from hpv.cli.commands.prepared import computing, outcome, report_fill, score_job, shard_of
from hpv.cli.terminal import Terminal

if TYPE_CHECKING:
    from hpv.scoring.job import ScoreJob


@command(
    "hpv score background.zarr new.zarr -o scores.zarr --tail left,right",
    prepare=score_job, where=computing,
)  # fmt: skip
def score(
    terminal: Terminal,
    prepare: partial[ScoreJob],
    where: partial[AbstractContextManager[None]],
    *,
    out: Annotated[str, o.out("Score store to write.")],
    shard: o.ShardOf = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Score samples against a background; higher is more anomalous."""
    from hpv.api.scores import Scores
    from hpv.cli.describing import scores_facts, scores_summary
    from hpv.scoring.running import score_shard, score_to_store
    from hpv.walking.shards import cut_shard

    with where():
        job = prepare()
        part = None if shard is None else cut_shard(job.source, shard, overwrite)
        report_fill(terminal, job.source)
        with terminal.meter("score", part.bytes_read(job.plan) if part else job.plan.bytes_read) as meter:
            if part:
                store, already = score_shard(job, part, out, job.keep, meter)
            else:
                store, already = score_to_store(job, out, job.keep, overwrite, meter)
    scores = Scores(store, already)
    document = {"command": "score", "out": out, **shard_of(part), "already_complete": already, **scores_facts(scores)}
    if scores.path == out:  # of all shards: they are merged
        part = None
    following = f"Next: hpv {'merge' if part else 'top'} {out}"
    terminal.result(document, outcome(out, already, part), *scores_summary(document), following)
