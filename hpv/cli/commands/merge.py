"""hpv merge."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from hpv.base.errors import InputError
from hpv.cli import options as o
from hpv.cli.command import command
from hpv.cli.commands.prepared import outcome
from hpv.cli.terminal import Terminal


@command("hpv merge monday.zarr tuesday.zarr -o both.zarr")
def merge(
    terminal: Terminal,
    *,
    parts: Annotated[
        list[str],
        Argument(
            metavar="PART...",
            help="Backgrounds with the same edges, or all shards of a score; or, without -o, the output of shards.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None, Option("-o", "--out", metavar="OUT", help="Store to write. Default: in place of the shards.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Add up backgrounds with the same edges, or all shards.

    Of backgrounds that are no shards, those after the first are made with hpv fit --edges.
    """
    from hpv.api.background import Background
    from hpv.api.merging import merge_parts, merge_shards
    from hpv.cli.describing import background_facts, background_summary, scores_facts, scores_summary

    if out is None and (len(parts) > 1 or overwrite):
        raise InputError("merge: give -o OUT, or nothing but the one output that the shards were written to.")
    with terminal.meter("merge") as meter:
        if out is None:
            out = parts[0]
            merged, already = merge_shards(out, meter)
        else:
            merged, already = merge_parts(parts, out, overwrite, meter)
    is_background = isinstance(merged, Background)
    document = {"command": "merge", "out": out, "already_complete": already}
    document |= background_facts(merged) if isinstance(merged, Background) else scores_facts(merged)
    summary = (background_summary if is_background else scores_summary)(document)
    terminal.result(document, outcome(out, already), *summary)
