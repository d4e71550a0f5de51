"""Commands as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT, process
from data import CommandData


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.slow
def test_a_reader_that_has_seen_enough(data: CommandData, form: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hpv", "info", str(data.new), *form]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.slow
def test_the_whole_way_as_processes(data: CommandData, tmp_path: Path) -> None:
    assert process("fit", data.bare, "-o", "b.zarr", cwd=tmp_path).returncode == 0
    again = process("fit", data.bare, "-o", "b.zarr", "--json", cwd=tmp_path)
    assert (again.returncode, json.loads(again.stdout)["already_complete"], again.stderr) == (0, True, "")
    other = process("fit", data.bare, "-o", "b.zarr", "--bins", 5, cwd=tmp_path)
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == f"error: {tmp_path}/b.zarr holds something else: --bins 32 there and --bins 5 here. Use " \
                           "another path, or give --overwrite.\n"  # fmt: skip
    assert process("fit", cwd=tmp_path).returncode == 2
