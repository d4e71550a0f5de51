"""What fails while a command runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import done, process, refused, run
from data import CommandData
from hpv.activations.writing import save_activations
from hpv.cli import describing


def damaged(data: CommandData, folder: Path) -> Path:
    """A copy of the normal activations with one byte changed."""
    save_activations(folder / "a.zarr", {"conv": np.load(data.bare)})
    (chunk,) = [path for path in (folder / "a.zarr" / "layers" / "conv" / "c").rglob("*") if path.is_file()]
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    return folder / "a.zarr"


def test_a_corrupt_chunk(data: CommandData, tmp_path: Path) -> None:
    broken = damaged(data, tmp_path)
    message = refused("fit", broken, "-o", tmp_path / "b.zarr", code=3)
    assert "chunk (0, 0)" in message
    assert "layers/conv" in message
    outcome = run("fit", broken, "-o", tmp_path / "b.zarr", "--json")
    assert (outcome.code, outcome.out, json.loads(outcome.err)["kind"]) == (3, "", "DataError")
    found = process("fit", broken, "-o", tmp_path / "b.zarr")
    assert (found.returncode, found.stdout) == (3, "")
    assert "Traceback" not in found.stderr
    assert done("info", tmp_path / "b.zarr", "--json").json["complete"] is False


def test_a_bug_shows_its_traceback(data: CommandData, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake of hpv")

    monkeypatch.setattr(describing, "background_facts", broken)
    outcome = run("info", data.background)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "this is a bug in hpv" in outcome.err.splitlines()[-1]


def test_out_of_memory(data: CommandData, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(describing, "background_facts", greedy)
    message = refused("info", data.background, code=3)
    assert message == "out of memory (Unable to allocate 3 TiB); give less --memory or fewer --threads."
