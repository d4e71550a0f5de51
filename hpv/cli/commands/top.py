"""hpv top."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpv.api.background import Background
from hpv.api.scores import Scores
from hpv.base.errors import InputError
from hpv.base.words import quantity
from hpv.cli.terminal import Terminal, table
from hpv.scanning.options import choose_kind
from hpv.store.headers import SCORES
from hpv.store.reading import open_store

FIRST_NODES = 8
"""Nodes of a layer that are listed in words; all are in the JSON."""


def top(
    terminal: Terminal,
    *,
    scores: str,
    n: int,
    tail: str | None,
    form: str | None,
    statistic: str | None,
    nodes: bool,
    background: str | None,
) -> None:
    """``hpv top``."""
    if n < 1:
        raise InputError(f"--n {n}: give a whole number from 1 on.")
    store = open_scores(scores)
    kind = choose_kind(store.kinds, tail, form, statistic, scores)
    fitted = store.background(background) if nodes else None
    found = highest(store, kind, n, fitted)
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


def open_scores(path: str) -> Scores:
    """The scores at a path."""
    return Scores(open_store(path, SCORES))


def highest(scores: Scores, kind: tuple[str, str, str], n: int, background: Background | None) -> list[dict[str, Any]]:
    """The n samples with the highest scores, best first; equal ones in the order of the samples."""
    found, ids = scores.get(*kind), scores.ids
    order = np.argsort(-found.score, kind="stable")[:n]
    by_class = scores.attributes.get("against") != "pooled"
    rows = []
    for rank, i in enumerate((int(i) for i in order), start=1):
        row: dict[str, Any] = {"rank": rank, "sample": i}
        row |= {} if ids is None else {"id": ids[i]}
        row |= {"score": float(found.score[i]), "alpha": float(found.alpha[i]), "size": int(found.size[i])}
        row |= {"class": int(found.label[i]) if found.label[i] >= 0 else None} if by_class else {}
        if background is not None:
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
