"""Scores in shards are those of one run, and so are their chunks."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zarr

import hpv
from data import contents
from hpv.activations.writing import save_activations
from hpv.scoring import stored as scoring_stored
from hpv.store.shards import shard_path
from sharding import OPTIONS, SAMPLES, make_whole, score_in_shards

pytestmark = pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    return make_whole(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("of", "against"), [(1, "own"), (2, "lowest"), (5, "own"), (7, "pooled"), (SAMPLES, "own")])
def test_scores_in_shards(data: SimpleNamespace, tmp_path: Path, of: int, against: str) -> None:
    ids = [f"sample {i}" for i in range(SAMPLES)]
    layers = {name: layer[:] for name, layer in zarr.open_group(data.source).arrays()}
    save_activations(tmp_path / "acts", layers, labels=data.labels, ids=ids)
    options: dict[str, Any] = {"against": against, "keep": ("codes", "ranges"), "tails": ("right", "two-sided"),
                               "statistics": "higher_criticism"}  # fmt: skip
    source = str(tmp_path / "acts")
    hpv.score(data.background, source, tmp_path / "whole", **OPTIONS, **options)
    numbers = random.Random(of).sample(range(1, of + 1), min(of, 7))
    score_in_shards(data.background, source, tmp_path / "out", numbers, of, **options)
    if of > 7:  # as many shards as samples: a few of them
        assert hpv.open(shard_path(tmp_path / "out", numbers[0], of)).samples == 1
        return
    scores = hpv.merge(tmp_path / "out")
    assert isinstance(scores, hpv.Scores)
    assert scores.ids == ids
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_chunks_of_scores_are_filled_from_several_shards(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_stored, "SCORE_CHUNK", 64)
    monkeypatch.setattr(
        scoring_stored, "score_chunks", lambda nodes, samples, *others: (min(samples, 50), min(nodes, 4))
    )
    options: dict[str, Any] = {"labels": data.labels, "keep": ("codes", "ranges"), "tails": "right"}
    hpv.score(data.background, data.source, tmp_path / "whole", **OPTIONS, **options)
    score_in_shards(data.background, data.source, tmp_path / "out", [3, 1, 4, 2], 4, **options)
    hpv.merge(str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
