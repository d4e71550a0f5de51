"""The demo's data, its exact p-values against the oracle, its tables, and one run of the whole of it."""

from __future__ import annotations

import csv
from fractions import Fraction
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import hpv
import naive
from hpv.demo import comparison, digits, exact, running, tables
from hpv.histograms.ranges import TAILS
from hpv.scanning.options import FORMS, STATISTICS
from hpv.scanning.scored import scan_pvalues, score_tallies

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load(0)


def test_splits(data: digits.Digits) -> None:
    assert [len(part) for part in (data.background, data.clean, data.left_out)] == [1000, 443, 354]
    together = torch.cat([data.background, data.clean, data.left_out])
    assert together.shape == (1797, 1, 8, 8)
    assert together.dtype == torch.float32
    assert (together.min(), together.max()) == (0, 1)
    assert set(data.background_classes.tolist()) == set(data.clean_classes.tolist()) == set(range(8))
    assert data.background_classes.bincount().min() >= 100


def test_the_same_seed_gives_the_same_network(data: digits.Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "EPOCHS", 1)
    before = torch.get_rng_state()
    first, again, other = (digits.train(data, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_anomalies(data: digits.Digits) -> None:
    model = digits.network().eval()
    found = digits.anomalies(model, data, 0)
    assert {name: len(images) for name, images in found.items()} == {
        "left-out": 354, "shuffled": 443, "FGSM": 443, "noise": 443,
    }  # fmt: skip
    assert all((images >= 0).all() and (images <= 1).all() for images in found.values())
    assert torch.equal(found["shuffled"].flatten(1).sort(1)[0], data.clean.flatten(1).sort(1)[0])
    moved = (found["FGSM"] - data.clean).abs()
    assert 0.2 < moved.max() <= digits.FGSM_EPSILON
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(model(images), data.clean_classes)
            for images in (data.clean, found["FGSM"])
        ]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("tail", TAILS)
def test_exact_p_values(tail: str) -> None:
    rng = np.random.default_rng(0)
    background = rng.integers(-2, 4, (23, 5)).astype(np.float32)
    values = rng.integers(-3, 5, (11, 5)).astype(np.float32)
    found = exact.pmax(*exact.StoredBackground.of(background).counts(values), 23, tail)
    for (sample, node), value in np.ndenumerate(values):
        upper = naive.empirical_range(background[:, node].tolist(), float(value), tail)[1]
        assert Fraction(upper) == Fraction(round(found[sample, node] * 24), 24)


def test_exact_p_values_by_class_pool_a_small_class() -> None:
    rng = np.random.default_rng(1)
    background, values = rng.normal(size=(30, 4)), rng.normal(size=(6, 4))
    classes, own = np.repeat([0, 1], [25, 5]), np.array([0, 1, 0, 1, 2, 0])
    found = exact.pmax_by_class(background, classes, values, own, tails=("right",), min_class_size=10)["right"]
    for rows, reference in ((own == 0, background[:25]), (own != 0, background)):
        counts = exact.StoredBackground.of(reference).counts(values[rows])
        assert np.array_equal(found[rows], exact.pmax(*counts, len(reference), "right"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_tallies_of_exact_p_values_give_the_exact_scores(statistic: str, form: str) -> None:
    upper = np.random.default_rng(2).integers(1, 40, (20, 15)) / 41
    counts, thresholds = exact.tally(upper, 0.5)
    assert counts.sum() == upper.size
    found = score_tallies(counts, thresholds, statistic, form)[0]
    np.testing.assert_allclose(found, scan_pvalues(upper, statistic, form)[0], rtol=1e-12)


def made_up_rows(exact_area: float, balanced: float, paper: float) -> list[comparison.Row]:
    return [comparison.Row("noise", *scan, exact_area, balanced, paper) for scan in comparison.scans()]


def test_areas() -> None:
    kinds = np.array(["clean", "clean", "noise", "noise", "FGSM"])
    rising = {scan: np.arange(5.0) for scan in comparison.scans()}
    falling = {scan: -np.arange(5.0) for scan in comparison.scans()}
    level = {scan: np.zeros(5) for scan in comparison.scans()}
    rows = comparison.rows_of(kinds, {"exact": rising, "balanced": falling, "paper": level})
    assert len(rows) == 72
    assert {row.anomaly for row in rows} == {"noise", "FGSM"}
    assert {(row.exact, row.balanced, row.paper) for row in rows} == {(1.0, 0.0, 0.5)}


def test_means_and_differences() -> None:
    rows = comparison.mean_rows([made_up_rows(0.5, 0.75, 0.0), made_up_rows(1.0, 0.75, 1.0)])
    assert rows == made_up_rows(0.75, 0.75, 0.5)
    assert comparison.difference(rows, "paper") == comparison.Difference(0.25, 0.25, 36)
    assert comparison.difference(made_up_rows(0.995, 0.5, 0.5), "paper") == comparison.Difference(0.0, 0.0, 0)


def test_csv(tmp_path: Path) -> None:
    comparison.write_csv(made_up_rows(0.5, 0.25, 1 / 3), tmp_path / "areas.csv")
    with (tmp_path / "areas.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 36
    assert (read[0]["anomaly"], read[0]["statistic"], float(read[0]["paper"])) == ("noise", "berk_jones", 1 / 3)


def test_areas_fit_80_columns() -> None:
    rows = [
        comparison.Row(anomaly, *scan, 0.912, 0.996, 0.4)
        for anomaly in ("left-out", "shuffled", "FGSM", "noise")
        for scan in comparison.scans()
    ]
    console = Console(file=StringIO(), width=80)
    tables.print_areas(console, rows, 1)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert sum(line.count(".91 1.0 .40") for line in lines) == 144
    assert any(line.startswith("per class two-sided") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("area", "text"), [(0.0, ".00"), (0.974, ".97"), (0.9949, ".99"), (0.995, "1.0"), (1, "1.0")])
def test_short(area: float, text: str) -> None:
    assert tables.short(area) == text


def test_no_folder_of_others_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(hpv.OutputExistsError, match="no demo made"):
        running.run(tmp_path)
    with pytest.raises(hpv.OutputExistsError, match="is a file"):
        running.run(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_seeds(tmp_path: Path) -> None:
    with pytest.raises(hpv.InputError, match="seeds is 0"):
        running.run(tmp_path / "new", seeds=0)
    assert not (tmp_path / "new").exists()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    with pytest.raises(hpv.InputError, match=r"torch and scikit-learn.*pip install"):
        running.run(tmp_path / "new")


def test_whole(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=80)
    result = running.run(tmp_path / "demo", console=console)
    best = {row.anomaly: row.balanced for row in result.rows if row.scan == tables.BEST}
    assert len(result.rows) == 144
    assert best["left-out"] >= 0.85
    assert best["FGSM"] >= 0.92
    assert min(best["shuffled"], best["noise"]) >= 0.97
    assert best["left-out"] > 0.2 + next(
        r.balanced for r in result.rows if (r.anomaly, r.scan) == ("left-out", tables.PEER)
    )
    gap = comparison.difference(result.rows, "balanced")
    assert gap.mean <= 0.012
    assert gap.largest <= 0.06
    assert gap.mean < comparison.difference(result.rows, "paper").mean
    assert result.costs["balanced"].pooled_bytes < 0.15 * result.costs["exact"].pooled_bytes
    assert isinstance(hpv.open(result.folder / "balanced.zarr"), hpv.Background)
    assert isinstance(hpv.open(result.folder / "balanced-per-class.zarr"), hpv.Scores)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in printed for text in ("hpv info", "hpv top", "hpv score", "areas.csv", "32 balanced bins"))
    again = running.run(tmp_path / "demo", console=console)
    assert again.rows == result.rows
