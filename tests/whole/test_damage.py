"""Chunks that are damaged, and stores that change while they are in use, are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

import hpv
from hpv.base.floats import FLOAT32
from hpv.fitting.counting import fit_by_threads
from hpv.fitting.job import prepare_fit
from hpv.walking.progress import Quiet
from stores import CODECS, store, values_of

DAMAGED = {
    "plain": CODECS["plain"],
    "zstd": {"compressors": [ZstdCodec(checksum=True)]},
    "blosc": CODECS["blosc"],
    "sharded": {"shards": (90, 42), "compressors": [ZstdCodec(), Crc32cCodec()]},
    "v2": CODECS["v2 zstd"],
    "v2 blosc": CODECS["v2 blosc"],
    "v2 plain": CODECS["v2 plain"],
}


def chunk_files(path: Path) -> list[Path]:
    return sorted(
        one for one in path.rglob("*") if one.is_file() and one.name not in ("zarr.json", ".zarray", ".zattrs")
    )


def cut_short(path: Path, _: Any) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_empty(path: Path, _: Any) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path, _: Any) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def put_a_smaller_one(path: Path, other: Path) -> None:
    path.write_bytes(chunk_files(other)[1].read_bytes())


SEEN_BY_ALL = [(kind, damage) for kind in DAMAGED for damage in (cut_short, make_empty, put_a_smaller_one)]


# A flipped bit is seen by codecs that keep a checksum.
@pytest.mark.parametrize(("kind", "damage"), [*SEEN_BY_ALL, ("zstd", flip_a_bit), ("sharded", flip_a_bit)])
def test_damaged_chunks_are_named(kind, damage, zarrs, tmp_path):
    values = values_of(FLOAT32, 180, 42)
    store(tmp_path / "x", values, FLOAT32, (30, 21), **DAMAGED[kind])
    smaller = dict(DAMAGED[kind], **({"shards": (45, 42)} if kind == "sharded" else {}))
    store(tmp_path / "y", values, FLOAT32, (15, 21), **smaller)
    damage(chunk_files(tmp_path / "x")[1], tmp_path / "y")
    with pytest.raises(hpv.DataError) as caught:
        hpv.fit({"relu": tmp_path / "x"})
    text = str(caught.value)
    index = r"(3, 0)" if kind == "sharded" else r"(0, 1)"
    if kind == "sharded" and damage is make_empty:
        index = "(1, 0)"  # the file's place among the shards
    if kind == "sharded" and damage is flip_a_bit:
        index = "(3, 1)"  # where the bit is
    assert text.startswith(f"layer relu: {tmp_path / 'x'}: chunk {index} "), text
    assert text.endswith("Restore this file from a copy, or make the store again."), text


def test_a_flipped_bit_in_what_hpv_wrote(tmp_path):
    from hpv.activations.writing import save_activations

    save_activations(tmp_path / "own", {"relu": values_of(FLOAT32)})
    flip_a_bit(tmp_path / "own" / "layers" / "relu" / "c" / "0" / "0", None)
    with pytest.raises(hpv.DataError, match=r"layer relu: .*chunk \(0, 0\) is damaged: its checksum \(crc32c\)"):
        hpv.fit(tmp_path / "own")


def grow(path: Path) -> None:
    zarr.open_array(path, mode="r+").resize((200, 42))


def cut_off(path: Path) -> None:
    zarr.open_array(path, mode="r+").resize((100, 42))


def other_chunks(path: Path) -> None:
    version = zarr.open_array(path, mode="r").metadata.zarr_format
    store(path, values_of(FLOAT32, 180, 42), FLOAT32, (20, 42), zarr_format=version, overwrite=True)


def remove(path: Path) -> None:
    shutil.rmtree(path)


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (grow, r"changed while it was in use: shape was \[180, 42\], now it is \[200, 42\]"),
    (cut_off, r"changed while it was in use: shape was \[180, 42\], now it is \[100, 42\]"),
    (other_chunks, r"changed while it was in use: chunk.* was "),
    (remove, "it was there when it was opened and cannot be opened any more"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.parametrize("kind", DAMAGED)
def test_stores_that_change_between_plan_and_read(kind, change, message, zarrs, tmp_path):
    path = tmp_path / "x"
    store(path, values_of(FLOAT32, 180, 42), FLOAT32, (30, 21), **DAMAGED[kind])
    job = prepare_fit({"relu": path})
    change(path)
    with pytest.raises(hpv.DataError, match=f"layer relu: .*{message}"):
        fit_by_threads(job, Quiet())


def test_a_store_that_is_touched_is_read_on(tmp_path):
    """Other attributes are no other array."""
    values = values_of(FLOAT32, 180, 42)
    store(tmp_path / "x", values, FLOAT32, (30, 21))
    job = prepare_fit(tmp_path / "x")
    zarr.open_array(tmp_path / "x", mode="r+").attrs["note"] = "looked at"
    assert fit_by_threads(job, Quiet()).fingerprint == hpv.fit(values).fingerprint


def test_changes_of_stores_in_memory_are_seen_when_they_are_read(tmp_path):
    memory = zarr.storage.MemoryStore()
    array = zarr.create_array(memory, shape=(180, 42), dtype="f4", chunks=(30, 21))
    job = prepare_fit(zarr.open_array(memory, mode="r"))
    array.resize((100, 42))
    with pytest.raises(hpv.DataError, match="changed while it was in use: shape"):
        fit_by_threads(job, Quiet())
