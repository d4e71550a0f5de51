"""hpv demo."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from hpv.cli.command import command
from hpv.cli.terminal import Terminal
from hpv.demo.running import run


@command("hpv demo --seeds 5")
def demo(
    terminal: Terminal,
    *,
    seeds: Annotated[int, Option("--seeds", metavar="N", help="Networks to train and average over.")] = 1,
    out: Annotated[str, Option("-o", "--out", metavar="FOLDER", help="Where its stores are left.")] = "hpv-demo",
) -> None:
    """Find anomalies among handwritten digits, from start to end."""
    result = run(out, seeds=seeds, console=terminal.console())
    if terminal.as_json:
        terminal.result({"command": "demo", **result.summary()})
