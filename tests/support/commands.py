"""The command line: run in this process or as a process of its own, and what it says."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import CommandData
from hpv.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object) -> Outcome:
    """``hpv`` with these arguments, in this process and without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*arguments: object, code: int = 2) -> str:
    """The one line that says why."""
    outcome = run(*arguments)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """``python -m hpv`` as a process of its own."""
    command = [sys.executable, "-m", "hpv", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = {"timeout": 300, **options}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


def exported(scores: Path, out: Path, *options: str) -> str:
    """Scores as the text of a CSV file."""
    done("export", scores, "-o", out, *options)
    return out.read_text()


def fit_command(data: CommandData, bins: int = 32) -> list[object]:
    return ["fit", data.normal, "--bins", bins, "--threads", 1]


def score_command(data: CommandData, alpha_max: float = 0.5) -> list[object]:
    return ["score", data.background, data.new, "--alpha-max", alpha_max, "--threads", 1]


def capture_command(data: CommandData, layer: str = "0") -> list[object]:
    source = data.folder / "network.py"
    source.write_text(
        "import torch\n"
        "def load():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))\n"
        "    return model, torch.randn(90, 6).split(30), [f'row {i}' for i in range(90)]\n"
    )
    return ["capture", f"{source}:load", "--layer", layer]
