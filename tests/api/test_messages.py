"""What people read beside the answers: names that are near, counts of things, reprs, the line that a warning names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hpv
from hpv.activations.writing import save_activations
from hpv.base.words import nearly_meant, quantity
from hpv.cli.app import command
from hpv.cli.spelling import spell
from hpv.store.requests import request_difference

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [(1, "sample", "1 sample"), (0, "node", "0 nodes"), (2000, "class", "2,000 classes"), (3, "batch", "3 batches")],
)
def test_counts(number: int, what: str, words: str) -> None:
    assert quantity(number, what) == words


def test_near_names() -> None:
    assert nearly_meant("nrom", ["conv", "norm"]) == ["norm"]
    assert nearly_meant("head", ["conv", "features.0", "norm"]) == []


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


SCORES = {"command": "score", "background": "ab" * 32, "keep": ["codes"], "tails": ["left", "right"], "alphas": "grid"}
FIT = {"command": "fit", "bins": 32, "pilot": "all", "binning": "balanced"}


def activations(path: str | None = "/x.zarr", shape: tuple[int, int] = (9, 3), **more: object) -> dict[str, object]:
    layer = {"shape": list(shape), "dtype": "float32", **({} if path is None else {"path": path}), **more}
    return {"layers": {"conv": layer}}


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (FIT, FIT, None),
        (FIT, FIT | {"pilot": "auto"}, "pilot=None there and pilot='auto' here"),
        (FIT, FIT | {"bins": 5, "pilot": 64}, "bins=32, pilot=None there and bins=5, pilot=64 here"),
        (FIT, {"command": "fit", "edges": "0123"},
         "bins=32, pilot=None, binning='balanced' there and given edges here"),
        (FIT | {"edges": "0123"}, FIT | {"edges": "4567"}, "given edges there and other given edges here"),
        (FIT, FIT | {"labels": "0123"}, "no labels there and labels here"),
        (FIT | {"labels": "0123"}, FIT | {"labels": "4567"}, "labels there and other labels here"),
        (FIT, SCORES, "the result of hpv fit there and that of hpv score here"),
        ({"command": "save"}, SCORES, "the result of Background.save there and that of hpv score here"),
        (SCORES, SCORES | {"keep": []}, "keep=['codes'] there and keep=[] here"),
        (SCORES, SCORES | {"tails": ["left"]}, "tail=['left', 'right'] there and tail=['left'] here"),
        (SCORES, SCORES | {"background": "cd" * 32}, "background abababababab there and background cdcdcdcdcdcd here"),
        ({"parts": ["a"]}, {"parts": ["b"]}, "parts there and other parts here"),
        ({"removed": "0123"}, {"bins": 1}, "what is left of a store that is being removed there and a new one here"),
        ({"layers": {"a": [3, "float32", "flatten"]}, "ids": False}, {"layers": {"a": [3, "float32", "mean"]},
         "ids": True}, "layer a (3, float32, flatten) there and layer a (3, float32, mean), ids here"),
        ({"labels": "argmax of the output"}, {"labels": "none: not asked for"},
         "labels: argmax of the output there and labels: none: not asked for here"),
    ],
)  # fmt: skip
def test_differences_of_requests(there: dict[str, object], here: dict[str, object], words: str | None) -> None:
    assert request_difference(there, here) == words


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (activations(), activations("/y.zarr"), "activations /x.zarr there and activations /y.zarr here"),
        (activations(None), activations(), "activations in memory there and activations /x.zarr here"),
        (activations(), activations(shape=(9, 4)),
         "activations of shape [9, 3] there and activations of shape [9, 4] here"),
        (activations(store="1"), activations(store="2"), "activations /x.zarr there and other ones at that place here"),
        (activations(None, values="1"), activations(None, values="2"),
         "activations in memory there and other ones in memory here"),
        (activations(), {"layers": {"head": {}}}, "activations /x.zarr there and activations in memory here"),
    ],
)  # fmt: skip
def test_differences_of_activations(there: dict[str, object], here: dict[str, object], words: str) -> None:
    assert request_difference({"activations": there}, {"activations": here}) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pilot=None there and pilot='auto' here", "--pilot all there and --pilot auto here"),
        ("tail=['left', 'right'], keep=[] here", "--tail left,right, --keep none here"),
        ("alpha_max=0.25, min_class_size=7.", "--alpha-max 0.25, --min-class-size 7."),
        ("by_class: no labels; give labels=, one", "--by-class: no labels; give --labels, one"),
        ("fit it with by_class=True, or give overwrite=True.", "fit it with --by-class, or give --overwrite."),
        ("layers='a b' of /data/bins=3/x and bins=3/x", "--layer 'a b' of /data/bins=3/x and bins=3/x"),
        ("edges of layer x: there are two", "edges of layer x: there are two"),
    ],
)
def test_options_as_the_command_line_spells_them(text: str, words: str) -> None:
    assert spell(text, command) == words
