"""Backgrounds and scores on disk: what is written is what was computed, and only what is complete opens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr

import hpv
from hpv.activations.writing import save_activations
from hpv.base.floats import BFLOAT16
from hpv.fitting import counting
from hpv.fitting.counting import _count_segment
from hpv.fitting.job import prepare_fit
from hpv.fitting.merging import merge_to_store
from hpv.fitting.proposing import _Pilot
from hpv.fitting.running import fit_to_store
from hpv.scoring import tallying
from hpv.scoring.job import prepare_score
from hpv.scoring.running import score_to_store
from hpv.scoring.stored import ScoreWriter
from hpv.walking import keeping, tiling
from hpv.walking.progress import Quiet
from hpv.walking.threads import Queue


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    first = np.maximum(rng.normal(size=(900, 40)), 0).astype(np.float32)
    second = rng.normal(size=(900, 7)).astype(np.float64)
    second[7, 2] = np.inf
    return {"relu/1": first, "head": second}


@pytest.fixture
def labels():
    return np.random.default_rng(6).choice([0, 3, 9], 900, p=[0.6, 0.35, 0.05])


class Stop(Exception):
    """Stands for a kill."""


class StopAfter(Quiet):
    """Stops after so many bytes."""

    def __init__(self, limit):
        self.left = limit

    def advance(self, done):
        self.left -= done
        if self.left < 0:
            raise Stop


def test_background_survives_the_disk(tmp_path, data, labels):
    background = hpv.fit(data, labels=labels)
    background.save(tmp_path / "b")
    again = hpv.open(tmp_path / "b")
    assert again.fingerprint == background.fingerprint
    assert again.rule == background.rule
    np.testing.assert_array_equal(again.classes, [0, 3, 9])
    for name in data:
        np.testing.assert_array_equal(again.edges(name), background.edges(name))
        np.testing.assert_array_equal(again.modal(name), background.modal(name))
    result, other = (b.scan(data, labels=labels) for b in (background, again))
    np.testing.assert_array_equal(result.score, other.score)


def test_background_of_bfloat16_and_of_nothing(tmp_path):
    values = np.arange(40, dtype=np.uint16).reshape(20, 2) + 0x3F80
    values[:, 1] = 0x7FC0  # NaN alone
    background = hpv.fit(torch.from_numpy(values.view(np.int16)).view(torch.bfloat16))
    background.save(tmp_path / "b")
    again = hpv.open(tmp_path / "b")
    assert again.fingerprint == background.fingerprint
    assert again.layers["activations"].form is BFLOAT16
    low, high = again.pvalues(torch.ones(3, 2, dtype=torch.bfloat16), dtype="float64")
    np.testing.assert_array_equal(low[:, 1], 0)
    np.testing.assert_array_equal(high[:, 1], 1)


def test_saving_twice(tmp_path, data):
    background = hpv.fit(data)
    background.save(tmp_path / "b")
    background.save(tmp_path / "b")
    other = hpv.fit(data, bins=5)
    with pytest.raises(hpv.OutputExistsError, match="fingerprint"):
        other.save(tmp_path / "b")
    assert hpv.open(tmp_path / "b").fingerprint == background.fingerprint
    other.save(tmp_path / "b", overwrite=True)
    assert hpv.open(tmp_path / "b").fingerprint == other.fingerprint


def test_changed_background_is_noticed(tmp_path, data):
    hpv.fit(data).save(tmp_path / "b")
    array = zarr.open_array(tmp_path / "b" / "layers" / "head" / "survivors", mode="r+")
    array[0, 0, 0] = 5
    with pytest.raises(hpv.DataError, match="fingerprint"):
        hpv.open(tmp_path / "b")


@pytest.mark.parametrize("after", [1000, 200_000, 260_000])
def test_fit_continues_where_it_stopped(tmp_path, data, labels, monkeypatch, after):
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(tiling, "SEGMENT", 4000)
    monkeypatch.setattr(tiling, "LARGEST_BLOCK", 4000)
    ready = prepare_fit(data, labels=labels, pilot=300, threads=1)
    with pytest.raises(Stop):
        fit_to_store(ready, tmp_path / "b", progress=StopAfter(after))
    with pytest.raises(hpv.StoreError, match="not complete|incomplete"):
        hpv.open(tmp_path / "b")
    with pytest.raises(hpv.OutputExistsError, match="bins"):
        fit_to_store(prepare_fit(data, labels=labels, pilot=300, bins=9), tmp_path / "b")
    background, before = fit_to_store(ready, tmp_path / "b")
    assert not before
    assert background.fingerprint == hpv.fit(data, labels=labels, pilot=300).fingerprint
    assert hpv.open(tmp_path / "b").fingerprint == background.fingerprint
    assert not (tmp_path / "b" / "progress").exists()
    assert fit_to_store(ready, tmp_path / "b")[1]


@pytest.mark.parametrize("seconds", [0.0, 20.0])
def test_edges_are_kept_tile_by_tile(tmp_path, data, monkeypatch, seconds):
    """At once or, where less time has passed, when the run is stopped; in tiles of another width it goes on as well."""
    whole = hpv.fit(data["relu/1"]).fingerprint
    array = zarr.create_array(tmp_path / "x", shape=(900, 40), chunks=(64, 4), dtype="f4")
    array[...] = data["relu/1"]
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(tiling, "SEGMENT", 1)
    with pytest.raises(Stop):
        fit_to_store(prepare_fit(tmp_path / "x", threads=1), tmp_path / "b", progress=StopAfter(13 * 900 * 4))
    kept = zarr.open_group(tmp_path / "b").attrs["progress"]["edges"]["activations"]
    assert kept == {"form": "float32", "nodes": 12, "parts": [0] if seconds else [0, 4, 8]}
    monkeypatch.setattr(tiling, "SEGMENT", 8 * (1024 + 508) * 4)
    ready, proposed = prepare_fit(tmp_path / "x", threads=2), []
    propose = _Pilot.propose

    def spy(self, tile, threads):
        proposed.append(tile)
        return propose(self, tile, threads)

    monkeypatch.setattr(_Pilot, "propose", spy)
    background, _ = fit_to_store(ready, tmp_path / "b")
    assert proposed == [slice(12, 16), slice(16, 24), slice(24, 32), slice(32, 40)]
    assert background.fingerprint == whole


def test_layers_that_are_done_before_anything_is_kept_are_kept_later(tmp_path, data, monkeypatch):
    whole = hpv.fit(data)
    ready = prepare_fit(data, threads=1)
    everything = sum(plan.bytes_read for plan in ready.plan.layers)
    with pytest.raises(Stop):
        fit_to_store(ready, tmp_path / "b", progress=StopAfter(everything - 1))
    states = zarr.open_group(tmp_path / "b").attrs["progress"]["states"]
    assert {name: (state["tile"], state["samples"]) for name, state in states.items()} == {"relu/1": (0, 900)}
    counted = []
    original = _count_segment

    def spy(layer, *rest):
        counted.append(layer.name)
        return original(layer, *rest)

    monkeypatch.setattr(counting, "_count_segment", spy)
    assert fit_to_store(ready, tmp_path / "b")[0].fingerprint == whole.fingerprint
    assert counted == ["head"]


class Leaky(Queue):
    """Loses what it gives out first, or gives it out twice and loses what comes then."""

    twice = False
    first = None

    def __next__(self):
        block = super().__next__()
        if self.first is None:
            self.first = block
            return block if self.twice else super().__next__()
        if self.twice:
            self.twice = False
            return self.first
        return block


@pytest.mark.parametrize("twice", [False, True])
def test_samples_that_are_lost_or_doubled_are_noticed(tmp_path, data, monkeypatch, twice):
    background = hpv.fit(data)
    monkeypatch.setattr(tiling, "LARGEST_BLOCK", 4000)
    monkeypatch.setattr(tiling, "LEAST_IN_MEMORY", 4000)
    monkeypatch.setattr(tiling, "LARGEST_IN_MEMORY", 4000)
    monkeypatch.setattr(tiling, "KEPT_CHUNK", 1)
    monkeypatch.setattr(Leaky, "twice", twice)
    monkeypatch.setattr(counting, "Queue", Leaky)
    monkeypatch.setattr(tallying, "Queue", Leaky)
    with pytest.raises(hpv.DataError, match=r"sample 0 was not counted once; part of the work was lost"):
        fit_to_store(prepare_fit(data, edges=background), tmp_path / "b")
    with pytest.raises(hpv.DataError, match=r"sample 0: (0|94) of 47 nodes went into its scores; part of the work"):
        hpv.score(background, data, tmp_path / "s", threads=1)
    for path in ("b", "s"):
        with pytest.raises(hpv.StoreError, match="incomplete"):
            hpv.open(tmp_path / path)


@pytest.mark.parametrize("lost", [0, 3, 7])
def test_scores_that_are_lost_are_noticed(tmp_path, data, monkeypatch, lost):
    background = hpv.fit(data)
    monkeypatch.setattr(tallying, "segment_length", lambda ready: 128)
    take, calls = ScoreWriter.take_scores, []

    def leaky(self, *part):
        calls.append(part)
        if len(calls) != lost + 1:
            take(self, *part)

    monkeypatch.setattr(ScoreWriter, "take_scores", leaky)
    with pytest.raises(hpv.DataError, match=r"not every sample from \d+ to 899 was scored once; part of the work"):
        hpv.score(background, data, tmp_path / "s", threads=1)
    assert len(calls) == 8
    monkeypatch.setattr(ScoreWriter, "take_scores", take)
    found = hpv.score(background, data, tmp_path / "s", threads=1)
    np.testing.assert_array_equal(
        found.get(*found.kinds[0]).score, background.scan(data, tail="right", statistic="berk_jones").score
    )


def test_counts_carry_what_they_have_seen(data, monkeypatch):
    """Should a range be lost where that is not noticed at once, the state of its layer shows it."""
    monkeypatch.setattr(counting, "first_gap", lambda *_: None)
    monkeypatch.setattr(counting, "Queue", Leaky)
    monkeypatch.setattr(tallying, "Queue", Leaky)
    monkeypatch.setattr(tiling, "LARGEST_IN_MEMORY", 4000)
    with pytest.raises(hpv.DataError, match=r"node 0 has seen \d+ of 900 samples; part of the work was lost"):
        hpv.fit(data, edges={name: [0.0] for name in data})


def test_merged_stores(tmp_path, data):
    first = hpv.fit({name: x[:500] for name, x in data.items()})
    first.save(tmp_path / "1")
    hpv.fit({name: x[500:] for name, x in data.items()}, edges=first).save(tmp_path / "2")
    merged, _ = merge_to_store([tmp_path / "2", tmp_path / "1"], tmp_path / "both")
    assert merged.fingerprint == hpv.fit(data, edges=first).fingerprint
    assert hpv.open(tmp_path / "both").fingerprint == merged.fingerprint
    assert merge_to_store([tmp_path / "1", tmp_path / "2"], tmp_path / "both")[1]


@pytest.mark.parametrize("against", ["own", "lowest", "pooled"])
@pytest.mark.parametrize("alphas", ["grid", "all"])
def test_scores_are_those_of_scan(tmp_path, data, labels, against, alphas):
    background = hpv.fit(data, labels=labels)
    found = hpv.score(
        background, data, tmp_path / "s", labels=labels, against=against, alphas=alphas, keep=("codes", "ranges")
    )
    codes = background.encode(data)
    for tail, form, statistic in found.kinds:
        result = background.scan(
            data, statistic=statistic, tail=tail, form=form, labels=labels, against=against, alphas=alphas
        )
        scored = found.get(tail, form, statistic)
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(scored, name), getattr(result, name))
        chosen = int(result.score.argmax())
        nodes = found.nodes(chosen, background, tail, form, statistic)
        expected = result.nodes(chosen)
        assert sum(len(part) for part in nodes.values()) == result.size[chosen]
        for name in data:
            np.testing.assert_array_equal(nodes[name], expected[name])
    for name in data:
        np.testing.assert_array_equal(found.codes(name).read(), codes[name])
    if against == "own":
        exact = background.pvalues(data, tail="left", dtype="float64", labels=labels)["head"]
        for end, values in zip(found.pvalues("head", background, "left"), exact, strict=True):
            np.testing.assert_array_equal(end, values)
        rounded = background.pvalues(data, tail="left", labels=labels)["head"]
        stored = [found._store.array(f"ranges/left/head/{end}").read() for end in ("pmin", "pmax")]
        np.testing.assert_array_equal(stored, rounded)


def test_scores_find_the_background_that_was_opened(tmp_path, data):
    background = hpv.fit(data)
    background.save(tmp_path / "b")
    found = hpv.score(hpv.open(tmp_path / "b"), data, tmp_path / "s")
    assert found.background().fingerprint == background.fingerprint
    with pytest.raises(hpv.InputError, match="was not a store; give the path of one"):
        hpv.score(background, data, tmp_path / "other").background()


def test_scores_of_many_tiles_are_those_of_one(tmp_path):
    """Where there is no room for the tables of all nodes, tallies wait for the other tiles."""
    rng = np.random.default_rng(8)
    wide = {"wide": rng.normal(size=(300, 9000)).astype(np.float32), "head": rng.normal(size=(300, 5))}
    background = hpv.fit(wide)
    plans = [prepare_score(background, wide, memory=memory).plan for memory in ("64MiB", "2GiB")]
    assert [plan.together for plan in plans] == [False, True]
    assert len(plans[0].layers[0].tiles) > 1
    tiled = hpv.score(background, wide, tmp_path / "tiled", memory="64MiB")
    whole = hpv.score(background, wide, tmp_path / "whole", memory="2GiB")
    for kind in whole.kinds:
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(tiled.get(*kind), name), getattr(whole.get(*kind), name))
    for name in wide:
        np.testing.assert_array_equal(tiled.codes(name).read(), whole.codes(name).read())


def test_codes_are_collected_until_they_fill_chunks(tmp_path):
    values = np.random.default_rng(9).normal(size=(5000, 1024)).astype(np.float32)
    save_activations(tmp_path / "a", {"layer": values})
    background = hpv.fit(tmp_path / "a")
    ready = prepare_score(background, tmp_path / "a", threads=2)
    assert (ready.plan.layers[0].block, ready.plan.layers[0].part) == (1024, 4096)
    found = hpv.score(background, tmp_path / "a", tmp_path / "s", keep=("codes", "ranges"), tails=("left",), threads=2)
    assert found.codes("layer").chunks == (4096, 1024)
    codes = background.encode({"layer": values})["layer"]
    np.testing.assert_array_equal(found.codes("layer").read(), codes)
    expected = background.pvalues({"layer": values}, tail="left")["layer"]
    for end, part in zip(("pmin", "pmax"), expected, strict=True):
        stored = found._store.array(f"ranges/left/layer/{end}")
        assert stored.chunks == (1024, 1024)
        np.testing.assert_array_equal(stored.read(), part)


def test_score_continues_where_it_stopped(tmp_path, data, monkeypatch):
    background = hpv.fit(data)
    monkeypatch.setattr(tallying, "segment_length", lambda ready: 128)
    ready = prepare_score(background, data, threads=1)
    with pytest.raises(Stop):
        score_to_store(ready, tmp_path / "s", ("codes",), False, StopAfter(100_000))
    with pytest.raises(hpv.StoreError, match="not complete|incomplete"):
        hpv.open(tmp_path / "s")
    found = hpv.Scores(*score_to_store(ready, tmp_path / "s", ("codes",), False, Quiet()))
    assert not found.already_complete
    whole = hpv.score(background, data, tmp_path / "other", threads=2)
    for kind in whole.kinds:
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(found.get(*kind), name), getattr(whole.get(*kind), name))
    np.testing.assert_array_equal(found.codes("head").read(), whole.codes("head").read())
    assert hpv.score(background, data, tmp_path / "s").already_complete


@pytest.mark.parametrize("memory", ["64MiB", "2GiB"])
def test_slow_scores_are_kept_when_some_time_has_passed(tmp_path, memory, monkeypatch):
    """As much of a segment is kept as was given out until then: here a part for each thread, in one or many passes."""
    wide = np.random.default_rng(8).normal(size=(700, 9000)).astype(np.float32)
    background = hpv.fit(wide, pilot=100)
    whole = hpv.score(background, wide, tmp_path / "whole")
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    ready = prepare_score(background, wide, memory=memory, threads=1)
    assert ready.plan.together == (memory == "2GiB")
    seen = []
    original = ScoreWriter.take_scores

    def take(self, samples, results, missing):
        original(self, samples, results, missing)
        seen.append((samples.stop, self.output.progress["samples"]))
        if len(seen) == 2:
            raise Stop

    monkeypatch.setattr(ScoreWriter, "take_scores", take)
    with pytest.raises(Stop):
        score_to_store(ready, tmp_path / "s", ("codes",), False, Quiet())
    part = ready.plan.layers[0].part
    assert seen == [(part, part), (2 * part, 2 * part)]
    assert 2 * part < 700
    monkeypatch.setattr(ScoreWriter, "take_scores", original)
    found = hpv.Scores(*score_to_store(ready, tmp_path / "s", ("codes",), False, Quiet()))
    for kind in whole.kinds:
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(found.get(*kind), name), getattr(whole.get(*kind), name))
    np.testing.assert_array_equal(found.codes("activations").read(), whole.codes("activations").read())


def test_missing_values_are_reported(tmp_path, data):
    background = hpv.fit(data)
    data["head"][5, 3] = np.nan
    data["head"][8] = np.nan
    with pytest.warns(hpv.HpvWarning, match="8 NaN values"):
        found = hpv.score(background, data, tmp_path / "s")
    assert found.missing == 8
    assert (found.codes("head").read()[8] == 255).all()


def test_another_background_is_refused(tmp_path, data):
    background = hpv.fit(data)
    found = hpv.score(background, data, tmp_path / "s")
    with pytest.raises(hpv.InputError, match="another background"):
        found.nodes(0, hpv.fit(data, bins=4), *found.kinds[0])
    with pytest.raises(hpv.OutputExistsError, match="background"):
        hpv.score(hpv.fit(data, bins=4), data, tmp_path / "s")
    with pytest.raises(hpv.InputError, match="no scores of"):
        found.get("right", "subset", "kolmogorov_smirnov")


def test_other_values_are_another_input(tmp_path, data):
    """Of an array in memory the values count, not the shape alone."""
    background = hpv.fit(data)
    hpv.score(background, data, tmp_path / "s")
    with pytest.raises(hpv.OutputExistsError, match="values"):
        hpv.score(background, {name: x + 5 for name, x in data.items()}, tmp_path / "s")


def test_no_input_is_overwritten(tmp_path, data):
    save_activations(tmp_path / "a", data)
    background = hpv.fit(data)
    background.save(tmp_path / "b")
    for path in ("a", "b"):
        with pytest.raises(hpv.OutputExistsError, match="only its own kind"):
            hpv.score(background, tmp_path / "a", tmp_path / path, overwrite=True)
    with pytest.raises(hpv.OutputExistsError, match="only its own kind"):
        fit_to_store(prepare_fit(tmp_path / "a"), tmp_path / "a", overwrite=True)
    with pytest.raises(hpv.InputError, match="one of the parts"):
        merge_to_store([tmp_path / "b"], tmp_path / "b", overwrite=True)
    with pytest.raises(hpv.InputError, match="given twice"):
        merge_to_store([tmp_path / "b", tmp_path / "b"], tmp_path / "c")
    assert hpv.open(tmp_path / "b").fingerprint == background.fingerprint
    assert hpv.open(tmp_path / "a").samples == 900


def test_ids_and_labels_travel(tmp_path, data, labels):
    ids = [f"image-{i:03}" for i in range(900)]
    save_activations(tmp_path / "a", data, labels=labels, ids=ids)
    background = hpv.fit(tmp_path / "a", by_class=True)
    assert background.fingerprint == hpv.fit(data, labels=labels).fingerprint
    found = hpv.score(background, tmp_path / "a", tmp_path / "s")
    assert found.ids == ids
    result = background.scan(data, labels=labels)
    np.testing.assert_array_equal(found.get("two-sided", "subset", "berk_jones").score, result.score)


def test_missing_and_corrupt_chunks_are_named(tmp_path, data):
    save_activations(tmp_path / "a", data)
    chunks = sorted(path for path in (tmp_path / "a" / "layers").rglob("c/*") if path.is_file() or path.is_dir())
    target = next(path for path in chunks[0].rglob("*") if path.is_file()) if chunks[0].is_dir() else chunks[0]
    content = bytearray(target.read_bytes())
    content[100] ^= 1
    target.write_bytes(content)
    with pytest.raises(hpv.DataError, match="chunk"):
        hpv.fit(tmp_path / "a")
    target.unlink()
    with pytest.raises(hpv.DataError, match="missing"):
        hpv.fit(tmp_path / "a")
