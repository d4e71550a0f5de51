"""A fit that was stopped continues where it was."""

from __future__ import annotations

import pytest
import zarr

import hpv
from data import three_classes, two_layers
from hpv.base import keeping
from hpv.fitting import counting
from hpv.fitting.counting import _count_segment
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.proposing import _Pilot
from hpv.fitting.running import fit_to_store
from hpv.walking import candidates
from stopping import Stop, StopAfter


@pytest.fixture
def data():
    return two_layers()


@pytest.fixture
def labels():
    return three_classes()


@pytest.mark.parametrize("after", [1000, 200_000, 260_000])
def test_fit_continues_where_it_stopped(tmp_path, data, labels, monkeypatch, after):
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(candidates, "SEGMENT", 4000)
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 4000)
    job = prepare_fit(data, FitOptions(labels=labels, pilot=300, threads=1))
    with pytest.raises(Stop):
        fit_to_store(job, tmp_path / "b", progress=StopAfter(after))
    with pytest.raises(hpv.StoreError, match="not complete|incomplete"):
        hpv.open(tmp_path / "b")
    with pytest.raises(hpv.OutputExistsError, match="bins"):
        fit_to_store(prepare_fit(data, FitOptions(labels=labels, pilot=300, bins=9)), tmp_path / "b")
    background, before = fit_to_store(job, tmp_path / "b")
    assert not before
    assert background.fingerprint == hpv.fit(data, labels=labels, pilot=300).fingerprint
    assert hpv.open(tmp_path / "b").fingerprint == background.fingerprint
    assert not (tmp_path / "b" / "progress").exists()
    assert fit_to_store(job, tmp_path / "b")[1]


@pytest.mark.parametrize("seconds", [0.0, 20.0])
def test_edges_are_kept_tile_by_tile(tmp_path, data, monkeypatch, seconds):
    """At once or, where less time has passed, when the run is stopped; in tiles of another width it goes on as well."""
    whole = hpv.fit(data["relu/1"]).fingerprint
    array = zarr.create_array(tmp_path / "x", shape=(900, 40), chunks=(64, 4), dtype="f4")
    array[...] = data["relu/1"]
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(candidates, "SEGMENT", 1)
    with pytest.raises(Stop):
        fit_to_store(
            prepare_fit(tmp_path / "x", FitOptions(threads=1)), tmp_path / "b", progress=StopAfter(13 * 900 * 4)
        )
    kept = zarr.open_group(tmp_path / "b").attrs["progress"]["edges"]["activations"]
    assert kept == {"form": "float32", "nodes": 12, "parts": [0] if seconds else [0, 4, 8]}
    monkeypatch.setattr(candidates, "SEGMENT", 8 * (1024 + 508) * 4)
    job, proposed = prepare_fit(tmp_path / "x", FitOptions(threads=2)), []
    propose = _Pilot.propose

    def spy(self, tile, threads):
        proposed.append(tile)
        return propose(self, tile, threads)

    monkeypatch.setattr(_Pilot, "propose", spy)
    background, _ = fit_to_store(job, tmp_path / "b")
    assert proposed == [slice(12, 16), slice(16, 24), slice(24, 32), slice(32, 40)]
    assert background.fingerprint == whole


def test_layers_that_are_done_before_anything_is_kept_are_kept_later(tmp_path, data, monkeypatch):
    whole = hpv.fit(data)
    job = prepare_fit(data, FitOptions(threads=1))
    everything = sum(plan.bytes_read for plan in job.plan.layers)
    with pytest.raises(Stop):
        fit_to_store(job, tmp_path / "b", progress=StopAfter(everything - 1))
    states = zarr.open_group(tmp_path / "b").attrs["progress"]["states"]
    assert {name: (state["tile"], state["samples"]) for name, state in states.items()} == {"relu/1": (0, 900)}
    counted = []
    original = _count_segment

    def spy(layer, *rest):
        counted.append(layer.name)
        return original(layer, *rest)

    monkeypatch.setattr(counting, "_count_segment", spy)
    assert fit_to_store(job, tmp_path / "b")[0].fingerprint == whole.fingerprint
    assert counted == ["head"]
