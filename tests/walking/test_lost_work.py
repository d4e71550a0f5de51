"""Samples that are lost or counted twice are noticed, in fits and in scores."""

from __future__ import annotations

import numpy as np
import pytest

import hpv
from data import two_layers
from hpv.fitting import counting
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_to_store
from hpv.scoring import tallying
from hpv.scoring.stored import ScoreWriter
from hpv.walking import candidates
from hpv.walking.threads import Queue


@pytest.fixture
def data():
    return two_layers()


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
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 4000)
    monkeypatch.setattr(candidates, "LEAST_IN_MEMORY", 4000)
    monkeypatch.setattr(candidates, "LARGEST_IN_MEMORY", 4000)
    monkeypatch.setattr(candidates, "KEPT_CHUNK", 1)
    monkeypatch.setattr(Leaky, "twice", twice)
    monkeypatch.setattr(counting, "Queue", Leaky)
    monkeypatch.setattr(tallying, "Queue", Leaky)
    with pytest.raises(hpv.DataError, match=r"sample 0 was not counted once; part of the work was lost"):
        fit_to_store(prepare_fit(data, FitOptions(edges=background)), tmp_path / "b")
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
    monkeypatch.setattr(candidates, "LARGEST_IN_MEMORY", 4000)
    with pytest.raises(hpv.DataError, match=r"node 0 has seen \d+ of 900 samples; part of the work was lost"):
        hpv.fit(data, edges={name: [0.0] for name in data})
