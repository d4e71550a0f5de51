"""What the demo prints: one table of areas, one of costs, and where to look further."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from hpv.demo.comparison import EASY, REPRESENTATIONS, Row, difference, mean_area, scans
from hpv.demo.costs import Cost
from hpv.scanning.options import FORMS, STATISTICS

NAMES = {"exact": "exact p-values", "balanced": "32 balanced bins", "paper": "10 uniform bins"}
SHORT = {"berk_jones": "BJ", "higher_criticism": "HC", "kolmogorov_smirnov": "KS"}
PEER = ("pooled", "right", "berk_jones", "subset")
BEST = ("per class", "two-sided", "higher_criticism", "subset")
LEGEND = """
AUROC of anomalies against held-out clean digits ({seeds}), with exact
p-values (ex.), 32 balanced bins (32) and 10 uniform bins (10). left-out:
classes 8 and 9; shuffled: pixels in random order; FGSM: every pixel moved by
0.25; noise: uniform. BJ, HC, KS: Berk-Jones, Higher Criticism,
Kolmogorov-Smirnov. Bold: pooled right-tail Berk-Jones, which existing
detectors offer, and two-sided Higher Criticism against the own class.
"""


def print_areas(console: Console, rows: Sequence[Row], seeds: int) -> None:
    """All 36 scans, a column per anomaly, three areas in each cell."""
    anomalies = list(dict.fromkeys(row.anomaly for row in rows))
    areas = {(row.anomaly, row.scan): tuple(getattr(row, name) for name in REPRESENTATIONS) for row in rows}
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for head in ("background, tail", "scan"):
        table.add_column(head, no_wrap=True)
    for anomaly in anomalies:
        table.add_column(f"{anomaly}\nex.  32  10", justify="right", no_wrap=True)
    for scan in scans():
        conditioning, tail, statistic, form = scan
        first = (statistic, form) == (STATISTICS[0], FORMS[0])
        last = (statistic, form) == (STATISTICS[-1], FORMS[-1])
        cells = (" ".join(short(area) for area in areas[anomaly, scan]) for anomaly in anomalies)
        style = "bold" if scan in (PEER, BEST) else ""
        label = f"{conditioning} {tail}" if first else ""
        table.add_row(label, f"{SHORT[statistic]} {form}", *cells, style=style, end_section=last)
    console.print(LEGEND.format(seeds="one seed" if seeds == 1 else f"mean of {seeds} seeds"), highlight=False)
    console.print(table)


def print_findings(console: Console, rows: Sequence[Row]) -> None:
    """What the table shows, in two sentences of figures."""
    peer, best = (mean_area(rows, scan, "balanced") for scan in (PEER, BEST))
    console.print(
        f"\nTail and class: over the four anomalies, from pooled right-tail Berk-Jones ({peer:.3f}) to per-class "
        f"two-sided Higher Criticism ({best:.3f}) is {best - peer:+.3f}."
    )
    for name in ("balanced", "paper"):
        gap = difference(rows, name)
        console.print(
            f"Bins: {NAMES[name]} differ from exact p-values by {gap.mean:.4f} on average, {gap.largest:.3f} at most "
            f"(the {gap.rows} rows with an exact AUROC below {EASY})."
        )


def print_costs(console: Console, costs: Mapping[str, Cost]) -> None:
    """Memory and time of each representation."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("background kept as")
    for head in ("bytes/node\npooled", "bytes/node\nper class", "fit\nns/value", "ranges\nns/value"):
        table.add_column(head, justify="right")
    for name in REPRESENTATIONS:
        cost = costs[name]
        figures = (
            f"{cost.pooled_bytes:,.0f}",
            f"{cost.class_bytes:,.0f}",
            f"{cost.fit_ns:.1f}",
            f"{cost.range_ns:.1f}",
        )
        table.add_row(NAMES[name], *figures)
    console.print("\nOne layer, best of three; what is stored for exact p-values grows with the background:")
    console.print(table)


def print_next_steps(console: Console, out: Path, folder: Path) -> None:
    """Where everything lies and what to type next."""
    background, scores = folder / "balanced.zarr", folder / "balanced-per-class.zarr"
    console.print(f"All figures: {out / 'areas.csv'}. Stores: {folder}. Look further:", highlight=False)
    hpv = "hpv" if shutil.which("hpv") else f"{os.path.relpath(sys.prefix)}/bin/hpv"
    for command in (
        f"{hpv} info {background}",
        f"{hpv} top {scores} --n 20",
        f"{hpv} top {scores} --n 3 --nodes --background {background}",
        f"{hpv} plan fit {folder / 'background-activations.zarr'}",
        f"{hpv} score {background} {folder / 'test-activations.zarr'} -o {folder / 'right-only.zarr'} --tail right",
        f"{hpv} export {scores} -o {folder / 'scores.csv'}",
    ):
        console.print(f"  {command}", soft_wrap=True, highlight=False)


def short(area: float) -> str:
    """Two digits in three characters: .97, and 1.0 from .995 on."""
    return "1.0" if area >= 0.995 else f"{area:.2f}"[1:]
