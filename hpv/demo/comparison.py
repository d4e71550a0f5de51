"""AUROC of every anomaly, tail, statistic, form and conditioning, for three representations of the background."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from hpv.histograms.ranges import TAILS
from hpv.scanning.options import FORMS, STATISTICS

CLEAN = "clean"
CONDITIONINGS = ("pooled", "per class")
REPRESENTATIONS = ("exact", "balanced", "paper")
EASY = 0.99
"""Rows that exact p-values solve say nothing about bins."""

Scan = tuple[str, str, str, str]
"""Conditioning, tail, statistic, form."""
ScanScores = Mapping[Scan, np.ndarray]
"""One scan score per sample."""


@dataclass(frozen=True)
class Row:
    """Areas under the ROC curve of one anomaly against held-out clean samples, by one scan."""

    anomaly: str
    conditioning: str
    tail: str
    statistic: str
    form: str
    exact: float
    """With exact empirical p-values."""
    balanced: float
    """With 32 balanced bins."""
    paper: float
    """With 10 uniform bins, all samples in the pilot."""

    @property
    def scan(self) -> Scan:
        """How the samples were scanned."""
        return self.conditioning, self.tail, self.statistic, self.form


@dataclass(frozen=True)
class Difference:
    """How far the AUROC of a representation is from that of exact p-values, over the rows below .99."""

    mean: float
    largest: float
    rows: int


def scans() -> list[Scan]:
    """All 36, in the order of the tables."""
    return [(c, t, s, f) for c in CONDITIONINGS for t in TAILS for s in STATISTICS for f in FORMS]


def rows_of(kinds: np.ndarray, scores: Mapping[str, ScanScores]) -> list[Row]:
    """A row per anomaly and scan, from the kind of every sample and representation -> scan -> scores."""
    anomalies = [kind for kind in dict.fromkeys(kinds.tolist()) if kind != CLEAN]
    rows = []
    for anomaly in anomalies:
        chosen = (kinds == anomaly) | (kinds == CLEAN)
        truth = kinds[chosen] == anomaly
        for scan in scans():
            areas = (float(roc_auc_score(truth, scores[name][scan][chosen])) for name in REPRESENTATIONS)
            rows.append(Row(anomaly, *scan, *areas))
    return rows


def mean_rows(seeds: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several seeds, averaged; every seed has the same rows in the same order."""
    return [
        Row(same[0].anomaly, *same[0].scan, *(_mean(getattr(row, name) for row in same) for name in REPRESENTATIONS))
        for same in zip(*seeds, strict=True)
    ]


def difference(rows: Iterable[Row], representation: str) -> Difference:
    """Of one representation from the exact one."""
    gaps = [abs(getattr(row, representation) - row.exact) for row in rows if row.exact < EASY]
    return Difference(_mean(gaps), max(gaps, default=0.0), len(gaps))


def mean_area(rows: Iterable[Row], scan: Scan, representation: str) -> float:
    """Of one scan, over the anomalies."""
    return _mean(getattr(row, representation) for row in rows if row.scan == scan)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """All rows with all digits, a header first."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
