"""hpv demo."""

from __future__ import annotations

from hpv.cli.terminal import Terminal
from hpv.demo.running import run


def demo(terminal: Terminal, *, seeds: int, out: str) -> None:
    """``hpv demo``."""
    result = run(out, seeds=seeds, console=terminal.console())
    if terminal.as_json:
        terminal.result({"command": "demo", **result.summary()})
