"""Object stores give the answers of a disk: activations, backgrounds, scores, shards, and stores of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import hpv
from data import assert_same_scores
from hpv.activations.writing import save_activations
from hpv.api.merging import merge_shards
from hpv.fitting.job import prepare_fit
from hpv.fitting.merging import merge_to_store
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_shard, fit_to_store
from hpv.places import locks
from hpv.places.remote import RemoteStore
from hpv.walking.shards import cut_shard
from remote_data import IDS, LABELS, layers


def test_the_whole_way(place: str, local: Path, data: dict[str, np.ndarray]) -> None:
    assert save_activations(f"{place}/a/", data, labels=LABELS, ids=IDS) == f"{place}/a"
    background, _ = fit_to_store(prepare_fit(f"{place}/a", FitOptions(by_class=True, pilot=300)), f"{place}/b")
    assert background.fingerprint == hpv.open(local / "b").fingerprint
    again = hpv.open(f"{place}/b")
    assert again.fingerprint == background.fingerprint
    assert again.path == f"{place}/b"
    found = hpv.score(again, f"{place}/a", f"{place}/s")
    assert_same_scores(found, hpv.open(local / "s"))
    assert hpv.open(f"{place}/s").background().fingerprint == background.fingerprint
    assert hpv.score(again, f"{place}/a/", f"{place}/s").already_complete
    assert not [key for key in RemoteStore(place).sizes() if locks.LOCK in key]


def test_parts_are_merged(place: str, data: dict[str, np.ndarray]) -> None:
    first = hpv.fit({name: x[:400] for name, x in data.items()})
    first.save(f"{place}/1")
    hpv.fit({name: x[400:] for name, x in data.items()}, edges=first).save(f"{place}/2")
    merged, _ = merge_to_store([f"{place}/2", f"{place}/1"], f"{place}/both")
    assert merged.fingerprint == hpv.fit(data, edges=first).fingerprint
    with pytest.raises(hpv.InputError, match="given twice"):
        merge_to_store([f"{place}/1", f"{place}/1/"], f"{place}/c")


WAYS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "zstd": {},
    "sharded": {"shards": (200, 40)},
    "v2": {"zarr_format": 2},
    "v2 plain": {"zarr_format": 2, "compressors": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_stores_of_others(memory: str, way: str, data: dict[str, np.ndarray]) -> None:
    address, values = f"{memory}/x.zarr", data["relu/1"].copy()
    values[:200] = 0
    options = {"chunks": (100, 20), "dtype": "f4", **WAYS[way]}
    group = zarr.create_group(RemoteStore(address), zarr_format=options.get("zarr_format", 3))
    options.pop("zarr_format", None)
    group.create_array("deep/x", shape=values.shape, **options)[...] = values
    assert hpv.fit(address).fingerprint == hpv.fit({"deep/x": values}).fingerprint
    (stored,) = layers(address)
    assert stored.missing_chunks == (1 if way == "sharded" else 4)
    assert stored.chunks == (100, 20)
    np.testing.assert_array_equal(stored.read(slice(150, 333), slice(3, 25)), values[150:333, 3:25])
    np.testing.assert_array_equal(stored.read(slice(310, 333)), values[310:333])


@pytest.mark.slow
def test_capture(memory: str) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    batches = list(torch.rand(5, 6, 4))
    said: list[str] = []
    captured = hpv.capture(
        model, batches, f"{memory}/a", layers="1", ids=map(str, range(30)), announce=lambda plan: said.append(str(plan))
    )
    assert captured.path == f"{memory}/a"
    assert "are free" not in said[0]
    (layer,) = layers(captured)
    np.testing.assert_array_equal(layer.read(slice(0, 30)), model[:2](torch.cat(batches)).detach().numpy())
    assert hpv.capture(model, batches, f"{memory}/a", layers="1", ids=map(str, range(30))).already_complete


def test_shards(place: str, local: Path) -> None:
    job = prepare_fit(local / "a", FitOptions(by_class=True, pilot=300))
    for number in (3, 1):
        fit_shard(job, cut_shard(job.source, f"{number}/3"), f"{place}/b")
    with pytest.raises(hpv.StoreError, match="shard 2 of 3 is missing"):
        hpv.open(f"{place}/b")
    fit_shard(job, cut_shard(job.source, "2/3"), f"{place}/b")
    merged, already = merge_shards(f"{place}/b")
    assert (merged.fingerprint, already) == (hpv.open(local / "b").fingerprint, False)
    assert merge_shards(f"{place}/b")[1]
    for number in (1, 2):
        hpv.score(merged, local / "a", f"{place}/s", shard=f"{number}/2")
    assert_same_scores(hpv.merge(f"{place}/s"), hpv.open(local / "s"))
