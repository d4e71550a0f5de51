"""Bad input is refused in one line, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import refused, run
from data import CommandData, snapshot

BAD = {
    "missing path": (("fit", "nowhere.npy", "-o", "x"), "nowhere.npy does not exist"),
    "text file": (("fit", "note.txt", "-o", "x"), "note.txt is a file; give a Zarr store"),
    "empty folder": (("info", "empty"), "empty is empty"),
    "no store": (("info", "full"), "full is not a Zarr store"),
    "bins": (("fit", "{bare}", "-o", "x", "--bins", "255"), "--bins 255: give a whole number from 1 to 254"),
    "binning": (("fit", "{bare}", "-o", "x", "--binning", "round"), "--binning round"),
    "pilot": (("fit", "{bare}", "-o", "x", "--pilot", "-3"), "--pilot -3: give a number of samples, auto or all"),
    "memory": (("fit", "{bare}", "-o", "x", "--memory", "lots"), "--memory lots"),
    "threads": (("fit", "{bare}", "-o", "x", "--threads", "0"), "--threads 0"),
    "backend": (("fit", "{bare}", "-o", "x", "--backend", "abacus"), "--backend abacus"),
    "no labels": (("fit", "{bare}", "-o", "x", "--by-class"), "carry no labels"),
    "labels gone": (("fit", "{bare}", "-o", "x", "--labels", "gone"), "--labels gone does not exist"),
    "labels of words": (("fit", "{bare}", "-o", "x", "--labels", "note.txt"), "line 2 is 'two'"),
    "few labels": (("fit", "{bare}", "-o", "x", "--labels", "few.txt"), "--labels: shape (2,) for 600 samples"),
    "edges": (("fit", "{bare}", "-o", "x", "--edges", "{scores}"), "is a score store; this needs a background"),
    "no samples": (("fit", "none.npy", "-o", "x"), "there are no samples"),
    "integers": (("fit", "integers.npy", "-o", "x"), "int64"),
    "existing folder": (("fit", "{bare}", "-o", "full"), "full exists and is not a store of hpv"),
    "background": (("score", "{scores}", "{new}", "-o", "x"), "is a score store; this needs a background"),
    "activations": (("score", "{background}", "{background}", "-o", "x"), "is a background"),
    "width": (("score", "{background}", "{bare}", "-o", "x"), "the activations have no layer conv, hidden"),
    "tail": (("score", "{background}", "{new}", "-o", "x", "--tail", "both"), "--tail both"),
    "form": (("score", "{background}", "{new}", "-o", "x", "--form", "half"), "--form half"),
    "statistic": (("score", "{background}", "{new}", "-o", "x", "--statistic", "t"), "give one of berk_jones"),
    "alpha": (("score", "{background}", "{new}", "-o", "x", "--alpha-max", "1.5"), "--alpha-max 1.5"),
    "alphas": (("score", "{background}", "{new}", "-o", "x", "--alphas", "few"), "--alphas few"),
    "layer": (("score", "{background}", "{new}", "-o", "x", "--layer", "fc9"), "of the background is called 'fc9'"),
    "against": (("score", "{background}", "{new}", "-o", "x", "--against", "own"), "the background has no classes"),
    "keep": (("score", "{background}", "{new}", "-o", "x", "--keep", "all"), "--keep all"),
    "n": (("top", "{scores}", "--n", "0"), "--n 0: give a whole number from 1 on"),
    "kind": (("top", "{scores}", "--statistic", "t"), "it has right, left, two-sided; subset, whole; berk_jones"),
    "top of what": (("top", "{background}"), "is a background; this needs a score store"),
    "parts": (("merge", "{background}", "gone", "-o", "x"), "gone does not exist"),
    "seeds": (("demo", "--seeds", "0"), "seeds is 0"),
    "demo folder": (("demo", "--out", "full"), "full holds something that no demo made"),
}


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with things that are not what they should be."""
    folder = tmp_path_factory.mktemp("corner")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "thing").write_text("mine")
    (folder / "note.txt").write_text("1\ntwo\n")
    (folder / "few.txt").write_text("1\n2\n")
    np.save(folder / "none.npy", np.zeros((0, 3)))
    np.save(folder / "integers.npy", np.zeros((4, 3), np.int64))
    return folder


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input(case: str, data: CommandData, corner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corner)
    before = snapshot(corner)
    arguments, words = BAD[case]
    filled = [part.format(**vars(data)) for part in arguments]
    assert words in refused(*filled)
    outcome = run(*filled, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    document = json.loads(outcome.err.splitlines()[-1])
    assert words in document["error"]
    assert document["kind"] in ("InputError", "StoreError", "OutputExistsError")
    assert snapshot(corner) == before
    assert not (corner / "x").exists()
