"""hpv plan."""

from __future__ import annotations

from typing import Any

from hpv.activations.layers import Activations
from hpv.cli.commands.prepared import prepared_fit, prepared_score, report_fill
from hpv.cli.terminal import Terminal
from hpv.walking.plan import Plan


def plan_fit(terminal: Terminal, **options: Any) -> None:
    """``hpv plan fit``."""
    job = prepared_fit(**options)
    _show_plan(terminal, job.plan, job.source)


def plan_score(terminal: Terminal, *, background: str, **options: Any) -> None:
    """``hpv plan score``."""
    job = prepared_score(background, **options)
    _show_plan(terminal, job.plan, job.source)


def _show_plan(terminal: Terminal, plan: Plan, source: Activations) -> None:
    report_fill(terminal, source)
    terminal.result({"command": "plan", **plan.as_json()}, str(plan))
