"""Layers are chosen by names and patterns, in one way: to fit, to score, to scan, to watch and to capture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.activations.writing import save_activations
from hpv.base.patterns import select_names
from hpv.fitting.job import fit_request, prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_to_store

NODES = {"features.0": 5, "features.1": 5, "pool": 3, "head": 2}


def layers(samples: int = 60) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=(samples, nodes)).astype(np.float32) for name, nodes in NODES.items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "activations"
    save_activations(path, layers(), labels=np.arange(60) % 2)
    return path


CHOICES = [
    ("head", ["head"]),
    ("features.*", ["features.0", "features.1"]),
    (["head", "features.?"], ["features.0", "features.1", "head"]),
    (("*o*", "pool"), ["pool"]),
    (["*"], list(NODES)),
    (["features.[1-9]", "he*"], ["features.1", "head"]),
]


@pytest.mark.parametrize(("patterns", "chosen"), CHOICES)
def test_a_fit_of_some_layers(store: Path, patterns: Any, chosen: list[str]) -> None:
    expected = hpv.fit({name: values for name, values in layers().items() if name in chosen})
    for source in (store, layers(), hpv.open(store)):
        background = hpv.fit(source, layers=patterns)
        assert list(background.layers) == chosen
        assert background.fingerprint == expected.fingerprint
    assert list(hpv.edges(store, layers=patterns)) == chosen
    assert [layer.name for layer in hpv.plan("fit", store, layers=patterns).layers] == chosen


@pytest.mark.parametrize(("patterns", "chosen"), CHOICES)
def test_scores_of_some_layers(store: Path, patterns: Any, chosen: list[str], tmp_path: Path) -> None:
    background = hpv.fit(store)
    assert list(background.select(patterns).layers) == chosen
    scan = background.scan(store, layers=patterns)
    assert list(scan.nodes(0)) == chosen
    scores = hpv.score(background, store, tmp_path / "s", layers=patterns)
    assert scores.layers == chosen
    assert hpv.score(background, store, tmp_path / "s", layers=chosen).already_complete
    assert [layer.name for layer in hpv.plan("score", store, background, layers=patterns).layers] == chosen


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.pool = nn.Linear(5, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.pool(self.features(x)))
        return result


@pytest.mark.parametrize(("patterns", "chosen"), CHOICES[:4])
def test_a_model_is_captured_and_watched_by_the_same_patterns(patterns: Any, chosen: list[str], tmp_path: Path) -> None:
    model, x = Network().eval(), torch.randn(80, 4)
    some = hpv.capture(model, [x], tmp_path / "some", layers=patterns)
    assert list(some.layers) == chosen
    background = hpv.fit(hpv.capture(model, [x], tmp_path / "all", layers=list(NODES)))
    with hpv.Monitor(model, background, layers=patterns) as monitor:
        model(x)
    assert monitor.scores().layers == chosen
    expected = background.select(chosen).scan(some, statistic="higher_criticism")
    np.testing.assert_array_equal(monitor.scores().get().score, expected.score)


def test_what_no_layer_is_called(store: Path, tmp_path: Path) -> None:
    background, model = hpv.fit(store), Network()
    there = "features.0, features.1, pool, head"
    wrong: list[tuple[Callable[[Any], Any], str]] = [
        (lambda names: hpv.fit(store, layers=names), f"of the activations is called {{}}.{{}} There are: {there}."),
        (lambda names: hpv.edges(store, layers=names), "no layer of the activations is called {}.{} There are: "),
        (lambda names: hpv.plan("fit", store, layers=names), "no layer of the activations is called {}.{} There are: "),
        (lambda names: background.scan(store, layers=names), f"no layer of the background is called {{}}.{{}} There are: {there}."),  # noqa: E501
        (lambda names: hpv.score(background, store, tmp_path / "s", layers=names), "the background is called {}.{}"),
        (lambda names: hpv.Monitor(model, background, layers=names), "no layer of the background is called {}.{}"),
        (lambda names: hpv.capture(model, [torch.zeros(1, 4)], tmp_path / "a", layers=names), "no module of the model is called {}.{}"),  # noqa: E501
    ]  # fmt: skip
    for call, words in wrong:
        for names, first, hint in ((["head", "pol"], "pol", " Close to it: pool."), ("conv*", "conv*", "")):
            with pytest.raises(hpv.InputError) as caught:
                call(names)
            assert words.format(repr(first), hint) in str(caught.value)
        with pytest.raises(
            hpv.InputError, match=r"layers: none given; name (layer|module)s of the .*, or give patterns"
        ):
            call([])
        with pytest.raises(hpv.InputError, match=r"layers: 5 is no name; give names of"):
            call([5])
        with pytest.raises(hpv.InputError, match=r"layers: 5 is no name"):
            call(5)
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_full_is_no_pattern() -> None:
    assert select_names("a[0]", ["a[0]", "a0"], "layer", "x") == ["a[0]"]
    assert select_names("a*", ["b", "a*", "ab"], "layer", "x") == ["a*"]
    assert select_names(["b", "a?"], ["a1", "b", "a2"], "layer", "x") == ["a1", "b", "a2"]


def test_a_mapping_names_layers_one_by_one(store: Path) -> None:
    background = hpv.fit(store)
    with pytest.raises(hpv.InputError, match=r"layers: 'hea\*' is a pattern; in a mapping give the name of each layer"):
        hpv.Monitor(Network(), background, layers={"hea*": "head"})
    with pytest.raises(hpv.InputError, match="no layer of the background is called 'haed'. Close to it: head"):
        hpv.Monitor(Network(), background, layers={"haed": "head"})


def test_only_the_chosen_layers_are_read(tmp_path: Path) -> None:
    save_activations(tmp_path / "a", layers())
    for chunk in (tmp_path / "a" / "layers" / "pool" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(hpv.DataError, match="pool"):
        hpv.fit(tmp_path / "a")
    assert hpv.fit(tmp_path / "a", layers=["features.*", "head"]).nodes == 12


def test_requests_of_fits_are_those_that_they_were(store: Path, tmp_path: Path) -> None:
    """Equal backgrounds are asked for by equal requests, however their layers are named."""
    assert fit_request(prepare_fit(store)) == fit_request(prepare_fit(store, FitOptions(layers="*")))
    assert not {"layers", "layer"} & set(fit_request(prepare_fit(store)))
    assert fit_to_store(prepare_fit(store, FitOptions(layers="fe*")), tmp_path / "b")[1] is False
    assert fit_to_store(prepare_fit(store, FitOptions(layers=["features.1", "features.0"])), tmp_path / "b")[1] is True
    with pytest.raises(hpv.OutputExistsError, match="with the layers features.0, features.1 there and .* head here"):
        fit_to_store(prepare_fit(store), tmp_path / "b")


def test_some_layers_at_the_edges_of_more(store: Path) -> None:
    first = hpv.fit(store)
    for edges in (first, hpv.edges(store)):
        again = hpv.fit(store, layers="features.*", edges=edges)
        assert again.fingerprint == first.select("features.*").fingerprint
    with pytest.raises(hpv.InputError, match="edges: they are those of the layers head, the activations have pool"):
        hpv.fit(store, layers="pool", edges=first.select("head"))
    with pytest.raises(hpv.InputError, match="give edges for every layer"):
        hpv.fit({"head": layers()["head"]}, edges=first)


def test_labels_stay_with_the_layers(store: Path) -> None:
    background = hpv.fit(store, layers="head", by_class=True)
    assert background.classes is not None
    assert background.classes.tolist() == [0, 1]
