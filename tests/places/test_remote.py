"""Requests: as few as there are chunks, as many at once as the plan says; packages that are missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

import hpv
from hpv.activations.opening import open_activations
from hpv.activations.writing import save_activations
from hpv.places import place as places
from hpv.places.remote import RemoteStore
from hpv.store import chunks
from remote_data import layers


def test_chunks_are_read_with_one_request_each(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_activations(f"{memory}/a", {"x": np.ones((9000, 3), "f4")})
    (layer,) = layers(f"{memory}/a")
    asked: list[str] = []
    real = RemoteStore.get

    async def get(store: RemoteStore, key: str, *rest: Any, **options: Any) -> Any:
        asked.append(key)
        return await real(store, key, *rest, **options)

    monkeypatch.setattr(RemoteStore, "get", get)
    monkeypatch.setattr(RemoteStore, "exists", None)
    layer.read(slice(0, 1))  # the first time it is asked whether the array has changed
    asked.clear()
    assert (layer.read(slice(0, 9000)) == 1).all()
    assert sorted(asked) == [f"layers/x/c/{i}/0" for i in range(3)]


def test_what_is_asked_for_ahead_is_in_the_plan(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 8 MiB of small chunks are on their way for every thread; from a disk, one is read after the other."""
    places_of_it, chunk = (f"{memory}/a", str(tmp_path / "a")), 16 * 4000
    for place in places_of_it:
        store = places.place_of(place).store
        zarr.create_array(store, shape=(5000, 1000), dtype="f4", chunks=(16, 1000), compressors=None)
    there, here = (hpv.plan("fit", place, memory="256MiB", threads=2, pilot=None) for place in places_of_it)
    block = there.layers[0].block
    assert block == here.layers[0].block
    assert there.peak - here.peak == 2 * (block * 4000 - chunk)
    (layer,) = open_activations(places_of_it[0]).layers.values()
    waiting, most = [0], [0]
    ask, unpacked = RemoteStore.ask, chunks._unpacked

    def asking(*arguments: Any) -> Any:
        waiting[0] += 1
        most[0] = max(waiting[0], most[0])
        return ask(*arguments)

    def unpacking(*arguments: Any) -> Any:
        waiting[0] -= 1
        return unpacked(*arguments)

    layer.read(slice(0, 1))  # the array is looked up again
    monkeypatch.setattr(RemoteStore, "ask", asking)
    monkeypatch.setattr(chunks, "_unpacked", unpacking)
    layer.read(slice(0, block))
    assert most[0] * chunk == block * 4000


@pytest.mark.parametrize(
    ("address", "module", "words"),
    [
        ("s3://b/a", "s3fs", r"pip install 'hpv\[s3\]'"),
        ("gs://b/a", "gcsfs", r"pip install 'hpv\[gcs\]'"),
        ("http://h/a", "aiohttp", r"pip install 'hpv\[http\]'"),
        ("strange://b/a", "strange", "strange:// are not known"),
    ],
)
def test_missing_packages(address: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.get_filesystem_class("memory")  # imports the registry
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, address.partition(":")[0], raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(hpv.InputError, match=words):
        hpv.fit(address)
