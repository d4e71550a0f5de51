"""The demo step by step: every line that a user would write is in ``run_seed``."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import hpv
from hpv.activations.opening import open_activations
from hpv.demo import comparison, costs, digits, exact, tables
from hpv.histograms.ranges import TAILS
from hpv.scanning.options import FORMS, STATISTICS
from hpv.scanning.scored import score_tallies

ALPHA_MAX = 0.5
AGAINST = {"pooled": "pooled", "per class": "own"}


@dataclass(frozen=True)
class SeedResult:
    """Of one network."""

    rows: list[comparison.Row]
    costs: dict[str, costs.Cost]


@dataclass(frozen=True)
class Result:
    """Means over the seeds."""

    rows: list[comparison.Row]
    """Areas under the ROC curve: four anomalies times 36 scans."""
    costs: dict[str, costs.Cost]
    """Representation -> bytes per node and time per value."""
    folder: Path
    """Stores of the first seed."""

    def summary(self) -> dict[str, Any]:
        """For ``--json``: the figures of the tables."""
        return {
            "folder": str(self.folder),
            "rows": [asdict(row) for row in self.rows],
            "differences": {name: asdict(comparison.difference(self.rows, name)) for name in ("balanced", "paper")},
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
        }


def run_seeds(out: Path, seeds: int, console: Console | None = None) -> Result:
    """Seeds 0, 1, ... below ``seeds``, each in its own folder of ``out``; prints and writes the means."""
    console = console or Console()
    results = [run_seed(out / f"seed-{seed}", seed, console) for seed in range(seeds)]
    rows = comparison.mean_rows([result.rows for result in results])
    mean_costs = {
        name: costs.mean_cost([result.costs[name] for result in results]) for name in comparison.REPRESENTATIONS
    }
    comparison.write_csv(rows, out / "areas.csv")
    tables.print_areas(console, rows, seeds)
    tables.print_findings(console, rows)
    tables.print_costs(console, mean_costs)
    tables.print_next_steps(console, out, out / "seed-0")
    return Result(rows, mean_costs, out / "seed-0")


def run_seed(folder: Path, seed: int, console: Console) -> SeedResult:
    """One network: trained, captured, fitted, scored and compared."""
    data = digits.load(seed)
    model = digits.train(data, seed)
    samples = {comparison.CLEAN: data.clean, **digits.anomalies(model, data, seed)}
    console.print(f"seed {seed}: trained on {len(data.background)} digits; {_accuracies(model, data, samples)}")

    kinds = np.repeat(list(samples), [len(images) for images in samples.values()])
    ids = [f"{kind} {number}" for kind, images in samples.items() for number in range(len(images))]
    background_store, test_store = folder / "background-activations.zarr", folder / "test-activations.zarr"
    tested = digits.batches(torch.cat(list(samples.values())))
    hpv.capture(model, digits.batches(data.background), background_store, layers=digits.LAYERS, overwrite=True)
    hpv.capture(model, tested, test_store, layers=digits.LAYERS, ids=ids, overwrite=True)

    scores = {
        "balanced": fit_and_score(folder, "balanced", {}),
        "paper": fit_and_score(folder, "paper", costs.PAPER),
    }
    background, classes = read(background_store)
    test, test_classes = read(test_store)
    scores["exact"] = exact_scores(joined(background), classes, joined(test), test_classes)
    console.print(f"seed {seed}: scored {len(kinds)} samples in {len(comparison.scans())} ways, three backgrounds")
    layer = digits.LAYERS[0]
    return SeedResult(comparison.rows_of(kinds, scores), costs.measure(background[layer], classes, test[layer]))


def fit_and_score(folder: Path, name: str, options: dict[str, Any]) -> dict[comparison.Scan, np.ndarray]:
    """One fit with classes; scores against all classes together and against each sample's own."""
    path = folder / f"{name}.zarr"
    hpv.fit(folder / "background-activations.zarr", by_class=True, **options).save(path, overwrite=True)
    background = hpv.open(path)
    assert isinstance(background, hpv.Background)
    found = {}
    for conditioning, against in AGAINST.items():
        scores = hpv.score(
            background,
            folder / "test-activations.zarr",
            folder / f"{name}-{conditioning.replace(' ', '-')}.zarr",
            statistic=STATISTICS,
            tail=TAILS,
            form=FORMS,
            against=against,
            alpha_max=ALPHA_MAX,
            overwrite=True,
        )
        for scan in comparison.scans():
            if scan[0] == conditioning:
                found[scan] = scores.get(tail=scan[1], form=scan[3], statistic=scan[2]).score
    return found


def exact_scores(
    background: np.ndarray, classes: np.ndarray, values: np.ndarray, own: np.ndarray
) -> dict[comparison.Scan, np.ndarray]:
    """The same scans of exact empirical p-values, every distinct one a threshold."""
    everyone = np.zeros(len(background), np.int64), np.zeros(len(values), np.int64)
    found = {}
    for conditioning, of in zip(comparison.CONDITIONINGS, (everyone, (classes, own)), strict=True):
        upper = exact.pmax_by_class(background, of[0], values, of[1], tails=TAILS)
        for tail in TAILS:
            tally, thresholds = exact.tally(upper[tail], ALPHA_MAX)
            for statistic, form in itertools.product(STATISTICS, FORMS):
                found[conditioning, tail, statistic, form] = score_tallies(tally, thresholds, statistic, form)[0]
    return found


def read(store: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Layer -> activations (samples, nodes), and the predicted class of every sample; small enough for memory."""
    stored = open_activations(store)
    assert stored.labels is not None
    everything = slice(0, stored.samples)
    return {name: layer.read(everything) for name, layer in stored.layers.items()}, stored.labels


def joined(layers: dict[str, np.ndarray]) -> np.ndarray:
    """(samples, nodes) of all layers side by side."""
    return np.concatenate([layers[name] for name in digits.LAYERS], axis=1)


def _accuracies(model: torch.nn.Module, data: digits.Digits, samples: dict[str, torch.Tensor]) -> str:
    clean = digits.accuracy(model, data.clean, data.clean_classes)
    attacked = digits.accuracy(model, samples["FGSM"], data.clean_classes)
    return f"{clean:.1%} of {len(data.clean)} held-out ones are recognised, {attacked:.1%} after FGSM"
