"""hpv plan."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hpv.cli.command import command
from hpv.cli.commands.prepared import fit_job, report_fill, score_job
from hpv.cli.terminal import Terminal

if TYPE_CHECKING:
    from hpv.fitting.job import FitJob
    from hpv.scoring.job import ScoreJob


@command("hpv plan fit activations.zarr --memory 512MiB", prepare=fit_job)
def plan_fit(terminal: Terminal, prepare: partial[FitJob]) -> None:
    """What hpv fit with these options would read, write and need."""
    _show(terminal, prepare())


@command("hpv plan score background.zarr new.zarr --keep codes,ranges", prepare=score_job)
def plan_score(terminal: Terminal, prepare: partial[ScoreJob]) -> None:
    """What hpv score with these options would read, write and need."""
    _show(terminal, prepare())


def _show(terminal: Terminal, job: FitJob | ScoreJob) -> None:
    report_fill(terminal, job.source)
    terminal.result({"command": "plan", **job.plan.as_json()}, str(job.plan))
