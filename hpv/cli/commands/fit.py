"""hpv fit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated

from hpv.cli import options as o
from hpv.cli.command import command
from hpv.cli.commands.prepared import computing, fit_job, outcome, report_fill, shard_of
from hpv.cli.terminal import Terminal

if TYPE_CHECKING:
    from hpv.fitting.job import FitJob


@command("hpv fit activations.zarr -o background.zarr --by-class --memory 2GiB", prepare=fit_job, where=computing)
def fit(
    terminal: Terminal,
    prepare: partial[FitJob],
    where: partial[AbstractContextManager[None]],
    *,
    out: Annotated[str, o.out("Background to write.")],
    shard: o.ShardOf = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Fit a background: a histogram of every node, some 300 bytes."""
    from hpv.api.background import Background
    from hpv.cli.describing import background_facts, background_summary
    from hpv.fitting.running import fit_shard, fit_to_store
    from hpv.walking.shards import cut_shard

    with where():
        job = prepare()
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
