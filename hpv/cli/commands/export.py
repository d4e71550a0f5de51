"""hpv export."""

from __future__ import annotations

import os
from typing import Annotated

from hpv.base.words import human, quantity
from hpv.cli import options as o
from hpv.cli.command import command
from hpv.cli.commands.prepared import open_scores
from hpv.cli.terminal import Terminal


@command("hpv export scores.zarr -o scores.csv")
def export(
    terminal: Terminal,
    *,
    scores: o.ScoresPath,
    out: Annotated[str, o.out("FILE.csv or FILE.parquet.", "FILE")],
    overwrite: o.Overwrite = False,
) -> None:
    """Write scores as a table, a row per sample."""
    from hpv.api.table import write_table

    store = open_scores(scores)
    with terminal.meter("export", store.samples, "sample") as meter:
        columns = write_table(store, out, overwrite=overwrite, progress=meter)
    size = os.path.getsize(out)
    terminal.result(
        {"command": "export", "out": out, "rows": store.samples, "columns": columns, "bytes": size},
        f"{out} is complete: {quantity(store.samples, 'row')}, {quantity(len(columns), 'column')}, {human(size)}.",
    )
