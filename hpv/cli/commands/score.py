"""hpv score."""

from __future__ import annotations

from typing import Any

from hpv.api.scores import Scores
from hpv.cli.commands.prepared import names_to_keep, outcome, output_of_shard, prepared_score, report_fill, shard_of
from hpv.cli.describing import scores_facts, scores_summary
from hpv.cli.terminal import Terminal
from hpv.scoring.running import score_shard, score_to_store
from hpv.walking.shards import cut_shard


def score(terminal: Terminal, *, background: str, out: str, overwrite: bool, shard: str | None, **options: Any) -> None:
    """``hpv score``."""
    keep = names_to_keep(options["keep"])
    with output_of_shard(options):
        job = prepared_score(background, **options)
        part = None if shard is None else cut_shard(job.source, shard, overwrite)
        report_fill(terminal, job.source)
        with terminal.meter("score", part.bytes_read(job.plan) if part else job.plan.bytes_read) as meter:
            if part:
                store, already = score_shard(job, part, out, keep, meter)
            else:
                store, already = score_to_store(job, out, keep, overwrite, meter)
    scores = Scores(store, already)
    document = {"command": "score", "out": out, **shard_of(part), "already_complete": already, **scores_facts(scores)}
    if scores.path == out:  # of all shards: they are merged
        part = None
    following = f"Next: hpv {'merge' if part else 'top'} {out}"
    terminal.result(document, outcome(out, already, part), *scores_summary(document), following)
