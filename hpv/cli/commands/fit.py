"""hpv fit."""

from __future__ import annotations

from typing import Any

from hpv.api.background import Background
from hpv.cli.commands.prepared import outcome, output_of_shard, prepared_fit, report_fill, shard_of
from hpv.cli.describing import background_facts, background_summary
from hpv.cli.terminal import Terminal
from hpv.fitting.running import fit_shard, fit_to_store
from hpv.walking.shards import cut_shard


def fit(terminal: Terminal, *, out: str, overwrite: bool, shard: str | None, **options: Any) -> None:
    """``hpv fit``."""
    with output_of_shard(options):
        job = prepared_fit(**options)
        part = None if shard is None else cut_shard(job.source, shard, overwrite)
        report_fill(terminal, job.source)
        with terminal.meter("fit", part.bytes_read(job.plan) if part else job.plan.bytes_read) as meter:
            if part:
                background, already = fit_shard(job, part, out, meter)
            else:
                background, already = fit_to_store(job, out, overwrite=overwrite, progress=meter)
    document = {"command": "fit", "out": out, **shard_of(part), "already_complete": already}
    document |= background_facts(Background.of(background))
    if background.path == out:  # of all shards: they are merged
        part = None
    following = f"Next: hpv merge {out}" if part else f"Next: hpv score {out} ACTIVATIONS -o SCORES"
    terminal.result(document, outcome(out, already, part), *background_summary(document), following)
