"""What people read beside the answers: names that are near, counts of things, reprs, the line that a warning names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hpv
from hpv.errors import near
from hpv.resources import quantity
from hpv.store import save_activations

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [(1, "sample", "1 sample"), (0, "node", "0 nodes"), (2000, "class", "2,000 classes"), (3, "batch", "3 batches")],
)
def test_counts(number: int, what: str, words: str) -> None:
    assert quantity(number, what) == words


def test_near_names() -> None:
    assert near("nrom", ["conv", "norm"]) == ["norm"]
    assert near("head", ["conv", "features.0", "norm"]) == []


def test_only_near_paths_are_named(tmp_path: Path) -> None:
    for name in ("scores.zarr", "b.zarr"):
        (tmp_path / name).mkdir()
    with pytest.raises(hpv.StoreError, match=r"Close to it there is scores\.zarr\.$"):
        hpv.open(tmp_path / "score.zarr")
    with pytest.raises(hpv.StoreError, match=r"Close to it there is scores\.zarr\.$"):
        hpv.open(tmp_path / "scores")
    with pytest.raises(hpv.StoreError, match=r"check the path\.$"):
        hpv.open(tmp_path / "a.zarr")  # only its ending is that of b.zarr


def test_reprs(tmp_path: Path) -> None:
    layers = {"conv": X, "head": X[:, :1]}
    edges = hpv.edges(layers, bins=4)
    shapes = [edges[name].shape for name in layers]
    assert repr(edges) == f"<hpv.Edges of conv: 6 nodes x {shapes[0][1]} edges, head: 1 node x {shapes[1][1]} edges>"
    labels = np.zeros(len(X), np.int64)
    background = hpv.fit(layers, labels=labels)
    assert repr(background) == "<hpv.Background of 200 samples, 1 class; conv: 6 nodes, head: 1 node>"
    save_activations(tmp_path / "x.zarr", layers, labels=labels)
    assert repr(hpv.open(tmp_path / "x.zarr")) == (
        "<hpv.Activations of 200 samples, labels; conv: 6 nodes float32, head: 1 node float32>"
    )
    assert repr(background.scan({name: x[:1] for name, x in layers.items()}, against="pooled")) == (
        "<hpv.ScanResult of 1 sample>"
    )
    scores = hpv.score(background, layers, tmp_path / "s.zarr", against="pooled", tails="left", forms="whole")
    assert repr(scores) == f"<hpv.Scores of 200 samples, 2 kinds, in {tmp_path}/s.zarr>"


def test_a_warning_names_the_line_of_the_caller(tmp_path: Path) -> None:
    background = hpv.fit(X, labels=np.zeros(len(X), np.int64))
    other = np.ones(len(X), np.int64)
    missing = np.full((1, 6), np.nan, np.float32)
    calls = (
        lambda: background.scan(X, labels=other),
        lambda: hpv.plan("score", X, background, labels=other),
        lambda: hpv.score(background, X, tmp_path / "s.zarr", labels=other),
        lambda: hpv.score(background, missing, tmp_path / "m.zarr", against="pooled"),
    )
    for call in calls:
        with pytest.warns(hpv.HpvWarning) as caught:
            call()
        assert [(one.filename, one.lineno) for one in caught] == [(__file__, call.__code__.co_firstlineno)]
    assert "6 NaN values" in str(caught[0].message)
