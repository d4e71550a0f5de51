"""hpv fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hpv
from commands import done, refused
from data import CommandData


def test_fit(data: CommandData, tmp_path: Path) -> None:
    outcome = done("fit", data.normal, "-o", tmp_path / "b.zarr", "--by-class", "--min-class-size", 150)
    assert "b.zarr is complete." in outcome.out
    assert "600" in outcome.out
    assert "3 (0: 200, 1: 200, 2: 200)" in outcome.out
    assert "1 in hidden, not counted" in outcome.out
    assert "fit: " in outcome.err
    assert "/s" in outcome.err
    background = hpv.open(tmp_path / "b.zarr")
    assert background.fingerprint in outcome.out
    assert background.fingerprint == hpv.fit(data.normal, by_class=True, min_class_size=150).fingerprint


def test_fit_options_are_those_of_the_library(data: CommandData, tmp_path: Path) -> None:
    labels = np.arange(600) % 2
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "labels.txt").write_text("\n".join(map(str, labels)) + "\n")
    expected = hpv.fit(
        data.normal, bins=10, binning="uniform", modal_fraction="1/5", pilot=None, labels=labels, min_class_size=301
    )
    for number, name in enumerate(("labels.npy", "labels.txt")):
        outcome = done(
            "fit", data.normal, "-o", tmp_path / f"{number}.zarr", "--bins", 10, "--binning", "uniform", "--json",
            "--modal-fraction", "1/5", "--pilot", "all", "--labels", tmp_path / name, "--min-class-size", 301,
            "--memory", "256MiB", "--threads", 1, "--backend", "cpu",
        )  # fmt: skip
        assert outcome.json["fingerprint"] == expected.fingerprint
        assert outcome.json["classes"] == {"0": 300, "1": 300}
        assert outcome.json["pooled_classes"] == [0, 1]
        assert outcome.err == ""


def test_small_classes_are_reported(data: CommandData, tmp_path: Path) -> None:
    outcome = done("fit", data.normal, "-o", tmp_path / "b.zarr", "--by-class", "--min-class-size", 201)
    assert "classes 0, 1, 2: fewer than 201 samples" in outcome.out


def test_edges_are_given_or_proposed(data: CommandData, tmp_path: Path) -> None:
    message = refused("fit", data.bare, "-o", tmp_path / "b.zarr", "--edges", data.background, "--bins", 5)
    assert "the edges are given, leave out --bins" in message
