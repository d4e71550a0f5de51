"""What is at the output already, for every command that writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from commands import capture_command, done, fit_command, refused, run, score_command
from data import CommandData, snapshot
from hpv.activations import stored
from hpv.cli.progress import Meter
from hpv.scoring import tallying
from hpv.store.output import Output

PAIRS = {
    "fit": (fit_command, 32, 16, "--bins 32 there and --bins 16 here"),
    "score": (score_command, 0.5, 0.25, "--alpha-max 0.5 there and --alpha-max 0.25 here"),
    "capture": (capture_command, "0", "2", "layer 0 (4, float32, flatten) there and no layer 0 here"),
}


@pytest.fixture(params=list(PAIRS))
def pair(
    request: pytest.FixtureRequest, data: CommandData, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[object], list[object], str]:
    """A command, another one for the same output, and the difference as it is named."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    command, first, second, difference = PAIRS[request.param]
    return command(data, first), command(data, second), difference


def interrupted_after(blocks: int, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    """The next command meets this exception after some blocks; the one after it does not."""
    advance, left = Meter.advance, [blocks]

    def stop(self: Meter, amount: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            monkeypatch.setattr(Meter, "advance", advance)
            raise kind
        advance(self, amount)

    monkeypatch.setattr(Meter, "advance", stop)


def test_complete_output(pair: tuple[list[object], list[object], str], tmp_path: Path) -> None:
    same, other, difference = pair
    out = tmp_path / "out.zarr"
    assert done(*same, "-o", out, "--json").json["already_complete"] is False
    before = snapshot(out)

    again = done(*same, "-o", out)
    assert "was complete already: nothing to do" in again.out
    assert done(*same, "-o", out, "--json").json["already_complete"] is True
    message = refused(*other, "-o", out)
    assert difference in message
    assert "another path, or give --overwrite" in message
    assert json.loads(run(*other, "-o", out, "--json").err.splitlines()[-1])["kind"] == "OutputExistsError"
    assert snapshot(out) == before

    assert done(*other, "-o", out, "--overwrite", "--json").json["already_complete"] is False
    assert snapshot(out) != before
    assert done(*other, "-o", out, "--json").json["already_complete"] is True


def test_incomplete_output(
    pair: tuple[list[object], list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, difference = pair
    out = tmp_path / "out.zarr"
    done(*same, "-o", tmp_path / "undisturbed.zarr")
    interrupted_after(1, monkeypatch, KeyboardInterrupt)
    assert "interrupted; run the same command again" in refused(*same, "-o", out, code=130)

    info = done("info", out, "--json").json
    assert (info["complete"], info["store"]) == (False, str(out))
    assert "incomplete: run the command that was writing it again" in done("info", out).out
    reader = {"fit": ["merge", out, "-o", "x"], "score": ["top", out], "capture": ["fit", out, "-o", "x"]}
    assert "is incomplete: run the command that was writing it again" in refused(*reader[str(same[0])])
    assert difference in refused(*other, "-o", out)

    assert done(*same, "-o", out, "--json").json["already_complete"] is False
    arrays = [{name: part for name, part in snapshot(folder).items() if not name.endswith("zarr.json")}
              for folder in (out, tmp_path / "undisturbed.zarr")]  # fmt: skip
    assert arrays[0] == arrays[1]


def test_info_says_how_far_an_incomplete_one_is(
    data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tallying, "segment_length", lambda _: 10)
    monkeypatch.setattr(stored, "CHUNK_ROWS", (16, 16))
    # Two blocks a layer: pilot and counts, or the first ten samples of both layers; two of the three batches.
    for command, blocks, words in (
        (fit_command(data), 2, "so far: edges of 12 nodes of conv"),
        (score_command(data), 2, "so far: scored samples: 10 of 40"),
        (capture_command(data), 1, "so far: 60 samples of all layers"),
    ):
        out = tmp_path / f"{command[0]}.zarr"
        interrupted_after(blocks, monkeypatch, KeyboardInterrupt)
        assert run(*command, "-o", out).code == 130
        text = done("info", out).out
        assert words in text
        assert f"begun by hpv {command[0]}" in text
        assert done(*command, "-o", out).code == 0


def test_overwriting_an_incomplete_output(
    pair: tuple[list[object], list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, _ = pair
    out = tmp_path / "out.zarr"
    interrupted_after(1, monkeypatch, KeyboardInterrupt)
    assert run(*same, "-o", out).code == 130
    done(*other, "-o", out, "--overwrite")
    assert done("info", out, "--json").json["complete"] is True


def test_overwriting_keeps_the_old_one_until_the_new_one_is_complete(
    pair: tuple[list[object], list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, _ = pair
    out = tmp_path / "out.zarr"
    done(*same, "-o", out)
    before = snapshot(out)
    interrupted_after(1, monkeypatch, KeyboardInterrupt)
    assert run(*other, "-o", out, "--overwrite").code == 130
    assert snapshot(out) == before
    done(*other, "-o", out, "--overwrite")
    assert done(*other, "-o", out, "--json").json["already_complete"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_two_runs_on_one_output(data: CommandData, tmp_path: Path) -> None:
    from hpv.store.headers import BACKGROUND

    with Output.begin(tmp_path / "b.zarr", BACKGROUND, {"command": "fit"}):
        message = refused(*fit_command(data), "-o", tmp_path / "b.zarr", "--overwrite")
    assert f"is being written by process {os.getpid()} on " in message
