"""Help, versions, usage."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import hpv
from commands import ROOT, done, process, refused, run

COMMANDS = (
    "capture",
    "fit",
    "merge",
    "score",
    "plan fit",
    "plan score",
    "slurm fit",
    "slurm score",
    "top",
    "info",
    "export",
    "demo",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_the_command(command: str) -> None:
    text = done(*command.split(), "--help").out
    assert f"Example: hpv {command}" in text
    assert "--json" in text


def test_root_help_lists_every_command() -> None:
    text = done("--help").out
    assert all(f"\n  {command.split()[0]} " in text for command in COMMANDS)
    assert text.count("...") == 1, "a line of help is cut off"
    assert "75" in text
    assert done("-h").out == text


@pytest.mark.parametrize("arguments", [(), ("plan",)])
def test_no_command_shows_the_help(arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("Usage: hpv")


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from hpv.cli.main import main
for command in {COMMANDS!r}:
    assert main([*command.split(), "--help"]) == 0
heavy = {{"numpy", "numba", "zarr", "dask", "torch", "sklearn", "pyarrow"}}
sys.exit(f"imported {{heavy & set(sys.modules)}}" if heavy & set(sys.modules) else 0)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_version() -> None:
    assert done("--version").out.strip() == hpv.__version__
    assert process("--version").stdout.strip() == hpv.__version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("fit",), "ACTIVATIONS"),
        (("fit", "x.npy"), "'-o'"),
        (("fit", "x.npy", "-o", "y", "--bins", "many"), "'--bins'"),
        (("fit", "x.npy", "-o", "y", "--colour", "red"), "No such option"),
        (("score", "b.zarr", "-o", "y"), "ACTIVATIONS"),
        (("plan", "merge"), "No such command 'merge'"),
    ],
)
def test_usage(arguments: tuple[str, ...], words: str) -> None:
    message = refused(*arguments)
    assert words.lower() in message.lower()
    assert message.endswith("--help.")
    outcome = run(*arguments, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert json.loads(outcome.err)["kind"] == "UsageError"
