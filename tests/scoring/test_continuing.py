"""A score that was stopped continues where it was."""

from __future__ import annotations

import numpy as np
import pytest

import hpv
from data import two_layers
from hpv.base import keeping
from hpv.scoring import tallying
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.running import score_to_store
from hpv.scoring.stored import ScoreWriter
from hpv.walking.progress import Quiet
from stopping import Stop, StopAfter


@pytest.fixture
def data():
    return two_layers()


def test_score_continues_where_it_stopped(tmp_path, data, monkeypatch):
    background = hpv.fit(data)
    monkeypatch.setattr(tallying, "segment_length", lambda ready: 128)
    job = prepare_score(background, data, ScoreOptions(threads=1))
    with pytest.raises(Stop):
        score_to_store(job, tmp_path / "s", ("codes",), False, StopAfter(100_000))
    with pytest.raises(hpv.StoreError, match="not complete|incomplete"):
        hpv.open(tmp_path / "s")
    found = hpv.Scores(*score_to_store(job, tmp_path / "s", ("codes",), False, Quiet()))
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
    job = prepare_score(background, wide, ScoreOptions(memory=memory, threads=1))
    assert job.plan.together == (memory == "2GiB")
    seen = []
    original = ScoreWriter.take_scores

    def take(self, samples, results, missing):
        original(self, samples, results, missing)
        seen.append((samples.stop, self.output.progress["samples"]))
        if len(seen) == 2:
            raise Stop

    monkeypatch.setattr(ScoreWriter, "take_scores", take)
    with pytest.raises(Stop):
        score_to_store(job, tmp_path / "s", ("codes",), False, Quiet())
    part = job.plan.layers[0].part
    assert seen == [(part, part), (2 * part, 2 * part)]
    assert 2 * part < 700
    monkeypatch.setattr(ScoreWriter, "take_scores", original)
    found = hpv.Scores(*score_to_store(job, tmp_path / "s", ("codes",), False, Quiet()))
    for kind in whole.kinds:
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(found.get(*kind), name), getattr(whole.get(*kind), name))
    np.testing.assert_array_equal(found.codes("activations").read(), whole.codes("activations").read())
