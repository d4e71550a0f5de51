"""Shards by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data import contents
from hpv.cli.main import main
from sharding import make_whole

pytestmark = pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    return make_whole(tmp_path_factory.mktemp("data"))


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_five_shards_by_the_command_line(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    background, scores = tmp_path / "b", tmp_path / "s"
    np.savetxt(tmp_path / "labels.txt", data.labels, "%d")
    fit = ("fit", data.source, "-o", background, "--labels", tmp_path / "labels.txt", "--min-class-size", 5)
    for number in (4, 1, 5):
        assert run(*fit, "--shard", f"{number}/5", "--json") == 0
    assert json.loads(capsys.readouterr().out.split("}\n{")[0] + "}")["shard"] == {"number": 4, "of": 5}
    words = "shards 2, 3 of 5 are missing; run them, then hpv merge"
    for command in (
        ("merge", background),
        ("score", background, data.source, "-o", scores),
        ("fit", data.source, "-o", tmp_path / "x", "--edges", background),
    ):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert f"error: {background} is incomplete: {words} {background}." in error
    assert run("info", background) == 0
    assert f"incomplete: {words}" in capsys.readouterr().out
    assert run("info", background, "--json") == 0
    assert json.loads(capsys.readouterr().out)["shards"] == {"of": 5, "missing": [2, 3], "unfinished": []}
    for number in (3, 2):
        assert run(*fit, "--shard", f"{number}/5") == 0
    assert f"{background}: shard 2 of 5 is complete." in capsys.readouterr().out
    assert run("merge", background, "--json") == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == data.background.fingerprint
    assert run("merge", background) == 0
    assert "was complete already" in capsys.readouterr().out
    assert run(*fit, "--shard", "2/5") == 0
    out = capsys.readouterr().out
    assert f"{background} was complete already: nothing to do." in out
    assert f"Next: hpv score {background} " in out
    for number in (2, 5, 1, 3, 4):
        score = ("score", background, data.source, "-o", scores, "--labels", tmp_path / "labels.txt", "--keep",
                 "codes,ranges", "--shard", f"{number}/5")  # fmt: skip
        assert run(*score) == 0
        if number == 5:
            assert run("top", scores) == 2
            assert "shards 1, 3, 4 of 5 are missing; run them, then hpv merge" in capsys.readouterr().err
    assert f"Next: hpv merge {scores}\n" in capsys.readouterr().out
    assert run("merge", scores, "--json") == 0
    assert run("top", scores) == 0
    capsys.readouterr()
    assert run(*score) == 0
    out = capsys.readouterr().out
    assert f"{scores} was complete already: nothing to do." in out
    assert f"Next: hpv top {scores}\n" in out
    merged, whole = contents(scores), contents(data.folder / "scores")
    for root in (merged["root"], whole["root"]):
        root["attributes"].pop("background_path")
    assert merged == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "SOURCE", "-o", "x", "--shard", "6/5"), "--shard 6/5: give I/N"),
        (("fit", "SOURCE", "-o", "x", "--shard", "1/231"), "more shards than samples (230)"),
        (("fit", "SOURCE", "-o", "x", "--shard", "1/2", "--overwrite"), "no shard may replace"),
        (("merge", "a", "b"), "give -o OUT"),
        (("merge", "nowhere"), "nowhere does not exist"),
        (("merge", "SOURCE"), "not a store of hpv"),
        (("slurm", "fit", "SOURCE", "-o", "x", "--shards", "0"), "--shards 0: give a whole number"),
        (("slurm", "fit", "SOURCE", "-o", "x", "--shards", "231"), "more shards than samples (230)"),
        (("slurm", "fit", "SOURCE", "-o", "x", "--shards", "2", "--memory", "64KiB"), "give at least 64MiB"),
    ],
)
def test_refused(
    arguments: tuple[str, ...], words: str, data: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.replace("SOURCE", data.source) for argument in arguments)) == 2
    assert words in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
