"""Small activations and stores, and what lies in a store."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpv
from hpv.activations.writing import save_activations
from hpv.base import machine
from hpv.store.headers import SCORES
from hpv.store.output import Output

# ---------------------------------------------------------------- in memory


def two_layers() -> dict[str, np.ndarray]:
    """A layer after a ReLU, and one with an infinite value."""
    rng = np.random.default_rng(5)
    first = np.maximum(rng.normal(size=(900, 40)), 0).astype(np.float32)
    second = rng.normal(size=(900, 7)).astype(np.float64)
    second[7, 2] = np.inf
    return {"relu/1": first, "head": second}


def three_classes() -> np.ndarray:
    """Labels, few of one of them."""
    return np.random.default_rng(6).choice([0, 3, 9], 900, p=[0.6, 0.35, 0.05])


# ---------------------------------------------------------------- what commands read

NODES = {"conv": 12, "hidden": 5}


@dataclass(frozen=True)
class CommandData:
    """Stores in one folder that tests of the command line read and do not change."""

    normal: Path
    """Activations of 600 samples in three classes, two layers, one NaN."""
    new: Path
    """40 samples with ids; the first ones have larger values."""
    bare: Path
    """An .npy file with the first layer of ``normal``."""
    background: Path
    scores: Path

    @property
    def folder(self) -> Path:
        return self.normal.parent


def save_command_data(folder: Path) -> CommandData:
    """All but the background and the scores, which commands make."""
    data = CommandData(
        *(folder / name for name in ("normal.zarr", "new.zarr", "bare.npy", "background.zarr", "scores.zarr"))
    )
    random = np.random.default_rng(5)

    def layers(samples: int) -> dict[str, np.ndarray]:
        made = {name: random.normal(size=(samples, nodes)).astype(np.float32) for name, nodes in NODES.items()}
        made["conv"] = np.maximum(made["conv"], 0)
        return made

    normal, new = layers(600), layers(40)
    normal["hidden"][7, 1] = np.nan
    for values in new.values():
        values[:3] += 4
    origin = {"model": "Net", "weights": "a" * 64}
    save_activations(data.normal, normal, labels=np.arange(600) % 3, attributes=origin)
    ids = [f"picture {i}" for i in range(40)]
    save_activations(data.new, new, labels=np.arange(40) % 4, ids=ids, attributes=origin)
    np.save(data.bare, normal["conv"])
    return data


# ---------------------------------------------------------------- outputs

# How others store arrays.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "zstd": {},
    "v2 plain": {"compressors": None, "zarr_format": 2},
    "v2 default": {"zarr_format": 2},
    "v2 turned": {"compressors": None, "zarr_format": 2, "order": "F"},
    "v2 slash": {
        "compressors": None,
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}},
    },
}
REQUEST = {"bins": 32, "input": {"path": "a.npy", "shape": [3, 4]}}


def small(path: Path, request: dict[str, Any] = REQUEST, kind: str = SCORES, **options: Any) -> Output:
    """A begun output with one written array."""
    output = Output.begin(path, kind, request, **options)
    output.create("a", (10, 6), "f4", (4, 6))
    output.write("a", None, np.arange(60, dtype="f4").reshape(10, 6))
    return output


def chunk(path: Path, name: str = "a", index: str = "1/0") -> Path:
    return path / name / "c" / index


def root(path: Path, **changes: Any) -> None:
    """Change the root's attributes of a store."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"] |= changes
    file.write_text(json.dumps(metadata))


def failing_with(error: BaseException) -> Any:
    """A function that raises this, whatever it is given."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder, but locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def contents(store: Path) -> dict[str, Any]:
    """All that a store holds, but its lock, and the number that was drawn when it was begun."""
    found: dict[str, Any] = dict(sorted(snapshot(store).items()))
    document = json.loads(found.pop("zarr.json"))
    document["attributes"].pop("id")
    return {**found, "root": document}


# ---------------------------------------------------------------- scores


def assert_same_scores(found: hpv.Scores, wanted: hpv.Scores) -> None:
    """The same ids, scores of every kind, and codes."""
    assert found.ids == wanted.ids
    for kind in wanted.kinds:
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(found.get(*kind), name), getattr(wanted.get(*kind), name))
    for name in wanted.layers:
        np.testing.assert_array_equal(found.codes(name).read(), wanted.codes(name).read())


# ---------------------------------------------------------------- machines


def plain_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available, no groups, no SLURM, told in files of this folder."""
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    (folder / "meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", folder / "meminfo")
    monkeypatch.setattr(machine, "MEMBERSHIP", folder / "membership")
    monkeypatch.setattr(machine, "CGROUPS", folder / "groups")
    return folder
