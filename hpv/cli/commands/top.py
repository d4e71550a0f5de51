"""hpv top."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from hpv.base.errors import InputError
from hpv.base.words import quantity
from hpv.cli import options as o
from hpv.cli.command import command
from hpv.cli.commands.prepared import open_scores
from hpv.cli.terminal import Terminal, table

if TYPE_CHECKING:
    import numpy as np

    from hpv.api.scores import Scores
    from hpv.scanning.options import ScanKind

FIRST_NODES = 8
"""Nodes of a layer that are listed in words; all are in the JSON."""


@command("hpv top scores.zarr --n 5 --tail left --nodes")
def top(
    terminal: Terminal,
    *,
    scores: o.ScoresPath,
    n: Annotated[int, Option("--n", "-n", metavar="N", help="How many samples.")] = 20,
    tail: o.Tail = None,
    form: o.Form = None,
    statistic: o.Statistic = None,
    nodes: Annotated[bool, Option("--nodes", help="Which nodes are anomalous, layer by layer.")] = False,
    background: Annotated[
        str | None,
        Option("--background", metavar="BACKGROUND", help="For --nodes. Default: where it was when it was used."),
    ] = None,
) -> None:
    """Show the highest scores, and the nodes behind them."""
    from hpv.scanning.options import choose_kind

    if n < 1:
        raise InputError(f"--n {n}: give a whole number from 1 on.")
    store = open_scores(scores)
    kind = choose_kind(store.kinds, tail, form, statistic, scores)
    if nodes:
        store.background(background)
    found = highest(store, kind, n, nodes)
    document = {
        "command": "top",
        "scores": scores,
        "samples": store.samples,
        **dict(zip(("tail", "form", "statistic"), kind, strict=True)),
        "top": found,
    }
    of_nodes = "the best subset of the nodes" if kind[1] == "subset" else "all nodes"
    heading = f"{len(found)} highest of {quantity(store.samples, 'score')}: {kind[2]}, {kind[0]}, {of_nodes}"
    terminal.result(document, heading, _table(found), *_node_lines(found))


def highest(scores: Scores, kind: ScanKind, n: int, nodes: bool) -> list[dict[str, Any]]:
    """The n samples with the highest scores, best first; equal ones in the order of the samples."""
    found, ids = scores.get(*kind), scores.ids
    order = (-found.score).argsort(kind="stable")[:n]
    by_class = scores.attributes.get("against") != "pooled"
    rows = []
    for rank, i in enumerate((int(i) for i in order), start=1):
        row: dict[str, Any] = {"rank": rank, "sample": i}
        row |= {} if ids is None else {"id": ids[i]}
        row |= {"score": float(found.score[i]), "alpha": float(found.alpha[i]), "size": int(found.size[i])}
        row |= {"class": int(found.label[i]) if found.label[i] >= 0 else None} if by_class else {}
        if nodes:
            row["nodes"] = scores.nodes(i, *kind)
        rows.append(row)
    return rows


def _table(found: list[dict[str, Any]]) -> Any:
    heads = [name for name in found[0] if name != "nodes"]
    return table(heads, [[_cell(name, row[name]) for name in heads] for row in found], ("id",))


def _node_lines(found: list[dict[str, Any]]) -> list[str]:
    """Beneath the table, a line for each layer of each sample that has nodes in its subset."""
    lines = []
    for row in found:
        some = {layer: indices for layer, indices in row.get("nodes", {}).items() if len(indices)}
        lines += [f"sample {row['sample']}:"] if some else []
        lines += [f"  {layer}, {_nodes(indices)}" for layer, indices in some.items()]
    return lines


def _cell(name: str, value: Any) -> str:
    if name == "class" and value is None:
        return "pooled"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _nodes(indices: np.ndarray) -> str:
    """How many, and the first of them."""
    first = " ".join(str(index) for index in indices[:FIRST_NODES])
    return f"{quantity(len(indices), 'node')}: {first}{' ...' if len(indices) > FIRST_NODES else ''}"
