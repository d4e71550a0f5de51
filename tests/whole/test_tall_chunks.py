"""Chunks too tall for blocks are read as often as planned, in the memory planned; costly layouts are warned about."""

from __future__ import annotations

import json
import math
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import hpv
from hpv.activations.arrays import ArrayLayer
from hpv.activations.layers import PartLayer
from hpv.activations.windows import WindowLayer
from hpv.base.floats import FLOAT32
from hpv.fitting.counting import fit_by_threads
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.running import score_to_store
from hpv.store import arrays, chunks
from hpv.walking.progress import Quiet
from hpv.walking.threads import run_in_threads
from stores import store, values_of


class Reads:
    """Counts the chunks of the array at ``path`` that are decoded, and what they hold."""

    def __init__(self, monkeypatch: Any, path: Path) -> None:
        self.times: Counter[tuple[int, ...]] = Counter()
        self.bytes, lock, get = 0, threading.Lock(), arrays.StoredArray._get

        def counted(array: Any, starts: Any, stops: Any, into: np.ndarray) -> None:
            if array.origin == str(path):
                for part in chunks.overlaps(starts, stops, array.chunks):
                    sides = zip(part.index, array.chunks, array.shape, strict=True)
                    sizes = [min(size, length - place * size) for place, size, length in sides]
                    with lock:
                        self.times[part.index] += 1
                        self.bytes += math.prod(sizes) * array.dtype.itemsize
            get(array, starts, stops, into)

        monkeypatch.setattr(arrays.StoredArray, "_get", counted)


TALL = {
    "columns": (65_536, 8),
    "one chunk": (65_536, 48),
    "tall": (40_000, 24),
}


@pytest.mark.parametrize("layout", TALL)
@pytest.mark.parametrize("threads", [1, 2])
def test_tall_chunks_are_read_as_often_as_planned(layout, threads, tmp_path, monkeypatch):
    values = values_of(FLOAT32, 65_536, 48)
    store(tmp_path / "x", values, FLOAT32, TALL[layout])
    memory = {"one chunk": "128MiB"}.get(layout, "64MiB")
    expected = hpv.fit(values)
    reads = Reads(monkeypatch, tmp_path / "x")
    job = prepare_fit(tmp_path / "x", FitOptions(memory=memory, threads=threads))
    (plan,) = job.plan.layers
    assert plan.window > 0 or threads == 1
    tracemalloc.start()
    background = fit_by_threads(job, Quiet())
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert background.fingerprint == expected.fingerprint
    assert used <= job.plan.peak
    assert values.nbytes <= reads.bytes <= plan.bytes_fetched
    assert plan.rereads < 2  # every chunk once for the pilot and once for the counts
    assert max(reads.times.values()) <= 2


@pytest.mark.parametrize("layout", ["columns", "tall"])
def test_scores_of_tall_chunks(layout, tmp_path, monkeypatch):
    values = values_of(FLOAT32, 65_536, 48)
    store(tmp_path / "x", values, FLOAT32, TALL[layout])
    head = values_of(FLOAT32, 65_536, 3, 1)
    expected = hpv.fit({"tall": values, "head": head})
    options = {"tail": "left", "statistic": "berk_jones", "form": "subset", "threads": 2}
    whole = hpv.score(expected, {"tall": values, "head": head}, tmp_path / "whole", **options)
    reads = Reads(monkeypatch, tmp_path / "x")
    job = prepare_score(expected, {"tall": tmp_path / "x", "head": head}, ScoreOptions(memory="128MiB", **options))
    assert job.plan.layers[0].window > 0
    assert job.plan.peak <= job.plan.memory
    found = hpv.Scores(*score_to_store(job, tmp_path / "s", ("codes",), False, Quiet()))
    assert values.nbytes <= reads.bytes <= job.plan.layers[0].bytes_fetched
    np.testing.assert_array_equal(found.codes("tall").read(), whole.codes("tall").read())
    kind = ("left", "subset", "berk_jones")
    np.testing.assert_array_equal(found.get(*kind).score, whole.get(*kind).score)


def hostile(samples: int = 1_000_000) -> zarr.Array:
    """Nothing of it is ever stored."""
    memory = zarr.storage.MemoryStore()
    return zarr.create_array(memory, shape=(samples, 1000), dtype="f4", chunks=(100_000, 1000))


def test_a_hostile_layout_is_warned_about_with_its_cost_once():
    message = (
        r"layer activations: every chunk of 100000 x 1000 is read [\d.]+ times: [\d.]+ GiB instead of 3.7\d GiB. Give "
        r"more memory, or store it in chunks such as \(1024, 1000\)\."
    )
    with pytest.warns(hpv.HpvWarning, match=message) as seen:
        plan = hpv.plan("fit", hostile(), memory="1500MiB", threads=2)
    assert len(seen) == 1
    assert plan.peak <= plan.memory
    assert plan.bytes_fetched > 2 * plan.bytes_read
    facts = json.loads(json.dumps(plan.as_json()))["layers"][0]
    assert facts["rereads"] == pytest.approx(plan.bytes_fetched / plan.bytes_read, abs=0.001)
    assert f"chunks read {plan.layers[0].rereads:.3g} times" in str(plan)
    enough = hpv.plan("fit", hostile(), memory="4GiB", threads=2)  # no warning
    assert enough.layers[0].rereads < 2
    background = hpv.fit(np.zeros((3, 1000), np.float32))
    with pytest.warns(hpv.HpvWarning, match="every chunk of 100000 x 1000 is read"):
        scored = hpv.plan("score", hostile(), background, memory="1500MiB", threads=2)
    assert scored.bytes_fetched > 2 * scored.bytes_read
    with pytest.raises(hpv.InputError, match="are needed beside the state to read one of its chunks of 100000 x 1000"):
        hpv.plan("fit", hostile(), memory="512MiB")


def test_usual_layouts_are_not_warned_about():
    for chunk, shards in (((64, 1000), None), ((1024, 100), None), ((100_000, 8), None), ((64, 1000), (6400, 1000))):
        memory = zarr.storage.MemoryStore()
        array = zarr.create_array(memory, shape=(300_000, 1000), dtype="f4", chunks=chunk, shards=shards)
        assert hpv.plan("fit", array, memory="512MiB", threads=4).layers[0].rereads < 2


def test_a_window_is_filled_by_all_who_want_it():
    """Also where one of them fails: all hear of it, and nobody waits for ever."""
    values = values_of(FLOAT32, 1000, 8)
    layer = ArrayLayer("x", "x", np.asfortranarray(values), FLOAT32)
    window = WindowLayer(layer, 300, 2, 2)
    found = run_in_threads(lambda i: window.read(slice(100 * i, 100 * i + 100)).copy(), range(10), 3)
    np.testing.assert_array_equal(np.concatenate(found), values)
    part = WindowLayer(PartLayer(layer, slice(170, 900)), 300, 2, 2)
    np.testing.assert_array_equal(part.read(slice(0, 730), slice(2, 5)), values[170:900, 2:5])

    def fail(*_: Any) -> Any:
        raise hpv.DataError("chunk 3 is corrupt")

    layer.read = fail  # type: ignore[method-assign]
    with pytest.raises(hpv.DataError, match="chunk 3 is corrupt"):
        run_in_threads(lambda _: WindowLayer(layer, 300, 2, 2).read(slice(0, 10)), range(4), 2)
