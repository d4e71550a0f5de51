"""hpv score."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

import hpv
from commands import done, exported
from data import NODES, CommandData
from hpv.activations.writing import save_activations


def test_score_options_are_those_of_the_library(data: CommandData, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    document = done(
        "score", data.background, data.new, "-o", out, "--tail", "left,right", "--statistic", "kolmogorov_smirnov",
        "--form", "whole", "--alphas", "all", "--alpha-max", 0.3, "--layer", "hidden", "--keep", "none", "--json",
    ).json  # fmt: skip
    assert document["kinds"] == [
        {"tail": tail, "form": "whole", "statistic": "kolmogorov_smirnov"} for tail in ("left", "right")
    ]
    assert document["layers"] == ["hidden"]
    expected = hpv.open(data.background).scan(
        data.new, statistic="kolmogorov_smirnov", tail="right", form="whole", alphas="all", alpha_max=0.3,
        layers=["hidden"],
    )  # fmt: skip
    np.testing.assert_array_equal(hpv.open(out).get("right", "whole", "kolmogorov_smirnov").score, expected.score)


def test_score_against_classes(data: CommandData, tmp_path: Path) -> None:
    background = tmp_path / "b.zarr"
    done("fit", data.normal, "-o", background, "--by-class")
    outcome = done("score", background, data.new, "-o", tmp_path / "own.zarr", "--tail", "two-sided")
    # Every fourth sample has the class 3, which the background has never seen.
    assert "warning: 10 of 40 samples have a label that the background was not fitted with" in outcome.err
    rows = done("top", tmp_path / "own.zarr", "--n", 40, "--json").json["top"]
    assert {row["class"] for row in rows} == {0, 1, 2, None}
    assert all((row["class"] is None) == (row["sample"] % 4 == 3) for row in rows)
    assert "pooled" in done("top", tmp_path / "own.zarr", "-n", 40).out
    names = csv.reader(io.StringIO(exported(tmp_path / "own.zarr", tmp_path / "own.csv")))
    assert "two-sided/subset/berk_jones/label" in next(names)


def test_other_weights_are_a_warning(data: CommandData, tmp_path: Path) -> None:
    save_activations(tmp_path / "a.zarr", {name: np.ones((5, n), np.float32) for name, n in NODES.items()},
                     attributes={"model": "Net", "weights": "b" * 64})  # fmt: skip
    outcome = done("score", data.background, tmp_path / "a.zarr", "-o", tmp_path / "s.zarr")
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert "weights bbbbbbbbbbbb" in line
    assert "aaaaaaaaaaaa" in line
    outcome = done("score", data.background, tmp_path / "a.zarr", "-o", tmp_path / "s.zarr", "--json")
    assert "bbbbbbbbbbbb" in json.loads(outcome.err)["warning"]
    assert outcome.json["already_complete"] is True
