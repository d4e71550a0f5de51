"""hpv merge."""

from __future__ import annotations

from collections.abc import Sequence

from hpv.api.background import Background
from hpv.api.merging import merge_parts, merge_shards
from hpv.base.errors import InputError
from hpv.cli.commands.prepared import outcome
from hpv.cli.describing import background_facts, background_summary, scores_facts, scores_summary
from hpv.cli.terminal import Terminal


def merge(terminal: Terminal, *, parts: Sequence[str], out: str | None, overwrite: bool) -> None:
    """``hpv merge``."""
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
