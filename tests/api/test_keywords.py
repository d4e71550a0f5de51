"""Keywords have one documented name; the other number of it is understood, and a wrong one is told the right one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.capturing.monitoring import BatchScores
from hpv.fitting.options import FitOptions
from hpv.scoring.options import ScoreOptions

X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
FUNCTIONS = [name for name in hpv.__all__ if inspect.isfunction(getattr(hpv, name))]
METHODS = {
    hpv.Background: ("encode", "pvalues", "scan", "quantile", "save", "select", "edges", "modal"),
    hpv.ScanResult: ("get", "nodes"),
    hpv.Scores: ("get", "column", "codes", "pvalues", "nodes", "background"),
    BatchScores: ("get", "pvalues", "nodes"),
    hpv.Monitor: ("scores",),
}


@pytest.fixture(scope="module")
def background() -> hpv.Background:
    return hpv.fit(X)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "plan"])
def test_every_public_function_names_itself_and_its_keywords(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(hpv, name)(frobnicate=1)
    message = str(caught.value)
    assert message.startswith(f"hpv.{name}: there is no keyword frobnicate; there are ")
    assert next(iter(inspect.signature(getattr(hpv, name)).parameters)) in message


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in METHODS.items() for name in names])
def test_every_public_method_too(kind: type, name: str) -> None:
    with pytest.raises(TypeError, match=rf"hpv\.{kind.__name__}\.{name}: there is no keyword frobnicate; there are "):
        getattr(object.__new__(kind), name)(frobnicate=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: hpv.fit(X, bin=5), "hpv.fit: there is no keyword bin; did you mean bins?"),
        (lambda b: hpv.fit(X, byclass=True), "hpv.fit: there is no keyword byclass; did you mean by_class?"),
        (lambda b: hpv.edges(X, binnning="uniform"), "hpv.edges: there is no keyword binnning; did you mean binning?"),
        (lambda b: hpv.score(b, X, "x", tial="left"), "hpv.score: there is no keyword tial; did you mean tail?"),
        (lambda b: hpv.score(b, X, "x", stat="left"), "hpv.score: there is no keyword stat; did you mean statistic?"),
        (lambda b: hpv.score(b, X, "x", overwrites=True), "did you mean overwrite?"),
        (lambda b: hpv.plan("fit", X, bin=5), "hpv.plan of a fit: there is no keyword bin; did you mean bins?"),
        (lambda b: hpv.plan("fit", X, tail="left"), "hpv.plan of a fit: there is no keyword tail; there are backend, "),
        (
            lambda b: hpv.plan("score", X, b, tial=5),
            "hpv.plan of a score: there is no keyword tial; did you mean tail?",
        ),
        (lambda b: hpv.open("x", pth=1), "hpv.open: there is no keyword pth; did you mean path?"),
        (lambda b: b.scan(X, alpha=0.1), "hpv.Background.scan: there is no keyword alpha; did you mean alphas?"),
        (
            lambda b: b.scan(X).get(statistc="x"),
            "ScanResult.get: there is no keyword statistc; did you mean statistic?",
        ),
        (
            lambda b: hpv.Monitor(nn.ReLU(), b, thread=1),
            "hpv.Monitor: there is no keyword thread; did you mean threads?",
        ),
        (lambda b: b.scan(X, tail="left", tails="right"), "scan: tails and tail are the same; give tail alone."),
        (lambda b: hpv.fit(X, layers="*", layer="*"), "hpv.fit: layer and layers are the same; give layers alone."),
    ],
)
def test_the_right_keyword_is_named(background: hpv.Background, call: Callable[..., Any], words: str) -> None:
    with pytest.raises(TypeError) as caught:
        call(background)
    assert words in str(caught.value)


def test_both_numbers_are_understood_everywhere(background: hpv.Background, tmp_path: Path) -> None:
    kinds = {"tails": ("left", "right"), "statistics": "berk_jones", "forms": ["whole"]}
    one = {"tail": ("left", "right"), "statistic": "berk_jones", "form": ["whole"]}
    scored = [hpv.score(background, X, tmp_path / "s", **given) for given in (kinds, one)]
    assert [scores.already_complete for scores in scored] == [False, True]
    assert background.scan(X, **kinds).kinds == background.scan(X, **one).kinds == scored[0].kinds
    assert str(hpv.plan("score", X, background, **kinds)) == str(hpv.plan("score", X, background, **one))
    for asked in (scored[0], background.scan(X, **kinds)):
        np.testing.assert_array_equal(asked.get(tails="right").score, asked.get(tail="right").score)
        assert asked.nodes(1, tails="right").keys() == {"activations"}
    np.testing.assert_array_equal(background.pvalues(X, tails="left"), background.pvalues(X, tail="left"))
    assert hpv.fit({"a": X, "b": X}, layer="a").layers.keys() == {"a"}
    assert hpv.edges({"a": X, "b": X}, layer="a").keys() == {"a"}
    assert background.select(layer="*").layers.keys() == {"activations"}


def test_both_numbers_with_a_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    store = hpv.capture(model, [torch.from_numpy(X)], tmp_path / "a", layer="0")
    monitor = hpv.Monitor(model, hpv.fit(store), tails="left", layer="0")
    with monitor:
        model(torch.from_numpy(X))
    assert {tail for tail, _, _ in monitor.scores().kinds} == {"left"}
    assert monitor.scores().layers == ["0"]


def test_help_and_checkers_see_the_real_signature() -> None:
    for call in (hpv.score, hpv.Background.scan):
        names = inspect.signature(call).parameters
        assert {"tail", "form", "statistic", "layers"} <= set(names)
        assert not {"tails", "forms", "statistics", "layer", "options"} & set(names)
    assert inspect.signature(hpv.fit).parameters["bins"].default == 32
    assert list(inspect.signature(hpv.Monitor).parameters)[:2] == ["model", "background"]
    assert hpv.fit.__module__ == "hpv.api.calls"
    assert "Represent background activations" in (hpv.fit.__doc__ or "")


def test_positions_are_as_python_has_them(background: hpv.Background) -> None:
    with pytest.raises(TypeError, match="positional"):
        hpv.fit(X, 5)  # type: ignore[misc]
    with pytest.raises(TypeError, match="multiple values for argument 'tail'"):
        background.pvalues(X, "left", tails="right")


@pytest.mark.parametrize(("call", "options"), [(hpv.fit, FitOptions), (hpv.score, ScoreOptions)])
def test_options_have_the_defaults_of_the_call(call: Callable[..., Any], options: type) -> None:
    """A fit and a score are asked for by value: what is written out in the signature is the same."""
    parameters = inspect.signature(call).parameters
    assert {field.name: field.default for field in fields(options)}.items() <= {
        name: parameter.default for name, parameter in parameters.items()
    }.items()
    given = ("activations", "background", "out", "overwrite", "shard", "progress")
    assert [name for name in parameters if name not in given] == [field.name for field in fields(options)]
