"""Commands are killed (SIGKILL) at random moments, and continued by the same command: tests/support/crash.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crash
import hpv
from commands import ROOT

pytestmark = pytest.mark.slow

KILLS = {"fit": 20, "score": 20, "capture": 8, "merge": 8}


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    """What became of each command; the script fails if a bit differs, or if anything opens before it is complete."""
    wanted = [option for item in KILLS.items() for option in ("--command", "{}={}".format(*item))]
    command = [sys.executable, crash.__file__, "--small", *wanted]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    return {report["command"]: report for report in map(json.loads, found.stdout.splitlines())}


@pytest.mark.parametrize("command", crash.COMMANDS)
def test_a_command_that_is_killed_ends_with_the_same_bits(command: str, reports: dict[str, Any]) -> None:
    report = reports[command]
    assert report["kills"] == KILLS[command]
    assert report["rounds"] > 0
    # A merge of two is one step. The others went on from what was noted before they were killed.
    assert any(report["marks"]) == (command != "merge")
    assert report["early"] + report["late"] < KILLS[command]


@pytest.fixture
def torment(tmp_path: Path) -> crash.Torment:
    return crash.Torment(tmp_path, crash.spawn, crash.can_open, 0)


def test_what_differs_is_noticed(torment: crash.Torment, tmp_path: Path) -> None:
    hpv.fit(np.eye(3)).save(tmp_path / "b")
    wanted = crash.contents(tmp_path / "b")
    torment.check_same(tmp_path / "b", wanted)
    with pytest.raises(crash.Different, match="b: x differ from those of a run that was not killed"):
        torment.check_same(tmp_path / "b", wanted | {"x": "1"})
    (tmp_path / "b" / "thing").write_text("left behind")
    with pytest.raises(crash.Different, match="b: thing differ"):
        torment.check_same(tmp_path / "b", wanted)


def test_progress_that_is_lost_is_noticed(torment: crash.Torment, tmp_path: Path) -> None:
    def killed_after(samples: int) -> None:
        header = {"attributes": {"complete": False, "format": "hpv-scores", "progress": {"samples": samples}}}
        (tmp_path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", **header}))
        torment.check_killed(tmp_path, {}, report)

    report = crash.Report("score", 1.0)
    killed_after(10)
    killed_after(10)
    with pytest.raises(
        crash.Different, match="after a kill {'samples': 10} was done, after the next one {'samples': 9}"
    ):
        killed_after(9)
