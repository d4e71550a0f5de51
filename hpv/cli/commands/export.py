"""hpv export."""

from __future__ import annotations

import os

from hpv.api.table import write_table
from hpv.base.words import human, quantity
from hpv.cli.commands.top import open_scores
from hpv.cli.terminal import Terminal


def export(terminal: Terminal, *, scores: str, out: str, overwrite: bool) -> None:
    """``hpv export``."""
    store = open_scores(scores)
    with terminal.meter("export", store.samples, "sample") as meter:
        columns = write_table(store, out, overwrite=overwrite, progress=meter)
    size = os.path.getsize(out)
    terminal.result(
        {"command": "export", "out": out, "rows": store.samples, "columns": columns, "bytes": size},
        f"{out} is complete: {quantity(store.samples, 'row')}, {quantity(len(columns), 'column')}, {human(size)}.",
    )
