"""How far a command is."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from commands import done
from data import CommandData
from hpv.cli import progress
from hpv.cli.progress import Bar, Lines, Meter
from hpv.cli.terminal import Terminal


def test_lines_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Lines("fit", 4096, "byte") as meter:
        meter.start("fit conv", 4096)
        meter.advance(1024)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "fit conv: 0 B of 4 KiB"
    assert second.startswith("fit conv: 1 KiB of 4 KiB, ")
    assert second.endswith(" left")
    assert last.startswith("fit: 1 KiB in ")


def test_the_rate_is_that_of_the_last_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = Meter("fit", 10_000, "sample")
    now[0] += 60  # compiling
    for _ in range(30):
        now[0] += 1
        meter.advance(100)
    assert meter.rate == pytest.approx(100)
    assert meter.describe() == "3,000 samples of 10,000 samples, 100 samples/s, 1 min 10 s left"
    assert meter.summary() == "3,000 samples in 1 min 30 s, 33 samples/s"


def test_what_an_earlier_run_did_is_done_and_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = Meter("score", 10_000, "sample")
    meter.skip(6_000)
    for _ in range(10):
        now[0] += 1
        meter.advance(100)
    assert meter.describe() == "7,000 samples of 10,000 samples, 100 samples/s, 30 s left"
    assert meter.summary() == "1,000 samples in 10 s, 100 samples/s"


def test_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines("score", None, "byte") as meter:
        meter.start("score", 100)
        for _ in range(100):
            meter.advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (meter.done, meter.total) == (100, 100)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    meter = Terminal().meter("fit", 1000)
    assert isinstance(meter, Bar)
    with meter:
        meter.start("fit conv", 1000)
        meter.advance(500)
        meter._progress.refresh()
    shown = screen.getvalue()
    assert "fit conv" in shown
    assert "50%" in shown
    assert "500 B" in shown


def test_nothing_but_json(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    outcome = done("fit", data.normal, "-o", tmp_path / "b.zarr", "--json")
    assert outcome.err == ""
    assert outcome.json["out"] == str(tmp_path / "b.zarr")
