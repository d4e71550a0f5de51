"""Whether the cost per value stays the same as arrays grow."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

import hpv
from benchmarks.measuring import Options, Table, best, half_relu

COLUMNS = ("samples", "nodes", "fit_ms", "fit_ns_per_value", "score_ms", "score_ns_per_value")
STEPS = (1, 2, 4, 8, 16)


def measure(options: Options) -> list[Table]:
    """1 to 16 times the samples, then 1 to 16 times the nodes."""
    base, nodes = options.scale, max(options.scale // 4, 64)
    tables = []
    with tempfile.TemporaryDirectory(prefix="hpv-benchmark-", dir=options.folder) as folder:
        for what in ("samples", "nodes"):
            table = Table(f"scaling_{what}", f"1 to {STEPS[-1]} times the {what}, {options.threads} threads", COLUMNS)
            most = (base * STEPS[-1], nodes) if what == "samples" else (base, nodes * STEPS[-1])
            values = half_relu(*most)
            for step in STEPS:
                part = values[: base * step] if what == "samples" else np.ascontiguousarray(values[:, : nodes * step])
                _add(table, part, Path(folder), options)
            tables.append(table)
    tables[-1].notes.append("fit in memory; score writes codes and all scores to a store.")
    return tables


def _add(table: Table, values: np.ndarray, folder: Path, options: Options) -> None:
    background = hpv.fit(values, threads=options.threads)
    out = folder / "scores"

    def score() -> None:
        hpv.score(background, values, out, threads=options.threads)
        shutil.rmtree(out)

    taken = best({"fit": lambda: hpv.fit(values, threads=options.threads), "score": score}, options.rounds)
    row = {"samples": values.shape[0], "nodes": values.shape[1]}
    for name, seconds in taken.items():
        row |= {f"{name}_ms": seconds * 1e3, f"{name}_ns_per_value": seconds / values.size * 1e9}
    table.add(**row)
