"""Chunks that are damaged, missing or cut are named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from data import WAYS, chunk, small
from hpv.activations.stored import ActivationStore
from hpv.base.errors import DataError
from hpv.store.foreign import zarr_layers
from hpv.store.reading import open_store


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[17] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"1234")


def turn_into_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "checksum"),
        (cut, "97 bytes instead of 100"),
        (lengthen, "bytes instead of 100"),
        (Path.unlink, "missing"),
        (turn_into_folder, "instead of 100|directory"),
    ],
)
def test_damage_in_own_store_is_named(path: Path, damage: Any, words: str) -> None:
    small(path).finish()
    damage(chunk(path))
    stored = open_store(path).array("a")
    assert stored.read(slice(0, 4)).shape == (4, 6)
    for rows in (slice(0, 10), slice(5, 6)):
        with pytest.raises(DataError, match=rf"array a: chunk \(1, 0\) .*({words})"):
            stored.read(rows)


@pytest.mark.parametrize("way", ["plain", "zstd", "v2 default"])
def test_missing_chunks_in_foreign_stores_are_counted(path: Path, way: str) -> None:
    group = zarr.open_group(path, mode="w")
    foreign = group.create_array("b", shape=(10, 6), chunks=(4, 3), dtype="f4", fill_value=2.5, **_of_v3(way))
    foreign[:4] = 1
    layers = zarr_layers(path)
    assert isinstance(layers, dict)
    assert layers["b"].missing_chunks == 4
    assert layers["b"].read((slice(3, 5), slice(0, 2))).tolist() == [[1, 1], [2.5, 2.5]]


def _of_v3(way: str) -> dict[str, Any]:
    return {name: value for name, value in WAYS[way].items() if name != "zarr_format"}


def test_damage_in_a_compressed_store_is_named(path: Path) -> None:
    foreign = zarr.create_array(path, shape=(10, 6), chunks=(4, 6), dtype="f4")
    foreign[...] = np.arange(60).reshape(10, 6)
    (path / "c/1/0").write_bytes(b"not zstd at all")
    stored = zarr_layers(path)
    assert not isinstance(stored, (dict, ActivationStore))
    with pytest.raises(DataError, match=r"out.zarr: chunk \(1, 0\) cannot be read"):
        stored.read()


def test_short_reads_and_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_write = os.preadv, os.writev
    monkeypatch.setattr(os, "preadv", lambda file, parts, at: real_read(file, [parts[0][:7]], at))
    monkeypatch.setattr(os, "writev", lambda file, parts: real_write(file, [parts[0][:5]]))
    small(path).finish()
    assert open_store(path).array("a").read().ravel().tolist() == list(range(60))
