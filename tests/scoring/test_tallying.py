"""The walk of a score: in tiles and in parts, the same scores and whole chunks."""

from __future__ import annotations

import numpy as np

import hpv
from hpv.activations.writing import save_activations
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions


def test_scores_of_many_tiles_are_those_of_one(tmp_path):
    """Where there is no room for the tables of all nodes, tallies wait for the other tiles."""
    rng = np.random.default_rng(8)
    wide = {"wide": rng.normal(size=(300, 9000)).astype(np.float32), "head": rng.normal(size=(300, 5))}
    background = hpv.fit(wide)
    plans = [prepare_score(background, wide, ScoreOptions(memory=memory)).plan for memory in ("64MiB", "2GiB")]
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
    job = prepare_score(background, tmp_path / "a", ScoreOptions(threads=2))
    assert (job.plan.layers[0].block, job.plan.layers[0].part) == (1024, 4096)
    found = hpv.score(background, tmp_path / "a", tmp_path / "s", keep=("codes", "ranges"), tails=("left",), threads=2)
    assert found.codes("layer").chunks == (4096, 1024)
    codes = background.encode({"layer": values})["layer"]
    np.testing.assert_array_equal(found.codes("layer").read(), codes)
    expected = background.pvalues({"layer": values}, tail="left")["layer"]
    for end, part in zip(("pmin", "pmax"), expected, strict=True):
        stored = found._store.array(f"ranges/left/layer/{end}")
        assert stored.chunks == (1024, 1024)
        np.testing.assert_array_equal(stored.read(), part)
