"""A scan, a batch and stored scores are asked in one way, give the same, and have the same default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.api import scores as scores_module
from hpv.capturing.monitoring import BatchScores
from hpv.scanning.options import FORMS, STATISTICS, ScanKind, choose_kind
from hpv.scanning.scored import Scored

TAILS = ("right", "left", "two-sided")
DEFAULT = ("two-sided", "subset", "higher_criticism")
HOLDERS = (hpv.ScanResult, BatchScores, hpv.Scores)


@dataclass(frozen=True)
class Asked:
    """The same samples, scored three times in every way."""

    background: hpv.Background
    inputs: torch.Tensor
    scan: hpv.ScanResult
    batch: BatchScores
    scores: hpv.Scores

    def __iter__(self) -> Iterator[Any]:
        return iter((self.scan, self.batch, self.scores))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    model, inputs = network(), 2 * torch.randn(9, 6)
    background = hpv.fit(hpv.capture(model, list(torch.randn(10, 50, 6)), folder / "normal", layers="*"))
    background.save(folder / "background")
    background = hpv.open(folder / "background")
    assert isinstance(background, hpv.Background)
    new = hpv.capture(model, [inputs], folder / "new", layers="*")
    with hpv.Monitor(model, background) as monitor, torch.no_grad():
        model(inputs)
    return Asked(
        background,
        inputs,
        background.scan(new, tail=TAILS, form=FORMS, statistic=STATISTICS),
        monitor.scores(),
        hpv.score(background, new, folder / "scores", statistic=STATISTICS),
    )


def assert_equal(one: Scored, other: Scored) -> None:
    for name in ("score", "alpha", "size", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def assert_same_nodes(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other) == ["0", "1", "2"]
    for name, nodes in one.items():
        np.testing.assert_array_equal(nodes, other[name])


@pytest.mark.parametrize("name", ["get", "nodes"])
def test_signatures_are_one(name: str) -> None:
    first, *others = (inspect.signature(getattr(holder, name)) for holder in HOLDERS)
    assert first == others[0] == others[1]
    assert [one for one in first.parameters if one not in ("self", "i")] == ["tail", "form", "statistic"]


def test_every_kind_is_the_same_everywhere(asked: Asked) -> None:
    assert set(asked.scan.kinds) == set(asked.batch.kinds) == set(asked.scores.kinds)
    assert len(asked.scan.kinds) == len(TAILS) * len(FORMS) * len(STATISTICS)
    for kind in asked.scan.kinds:
        for other in (asked.batch, asked.scores):
            assert_equal(asked.scan.get(*kind), other.get(*kind))
        for i in (0, -1):
            expected = asked.scan.nodes(i, *kind)
            assert sum(map(len, expected.values())) == asked.scan.get(*kind).size[i]
            for other in (asked.batch, asked.scores):
                assert_same_nodes(expected, other.nodes(i, *kind))


def test_the_default_kind(asked: Asked) -> None:
    for one in asked:
        assert_equal(one.get(), one.get(*DEFAULT))
        assert_same_nodes(one.nodes(3), one.nodes(3, *DEFAULT))
    assert_equal(asked.scan, asked.scan.get(*DEFAULT))
    np.testing.assert_array_equal(asked.scores.column().read(), asked.scores.get(*DEFAULT).score)
    np.testing.assert_array_equal(asked.scores.column(name="size").read(), asked.scores.get(*DEFAULT).size)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"tail": "left"}, ("left", "subset", "higher_criticism")),
        ({"form": "whole"}, ("two-sided", "whole", "higher_criticism")),
        ({"statistic": "berk_jones"}, ("two-sided", "subset", "berk_jones")),
        ({"statistics": "berk_jones", "tails": ["right"]}, ("right", "subset", "berk_jones")),
        ({"tail": ("left", "two-sided")}, DEFAULT),
        ({"tail": {"left"}, "forms": ("whole", "subset")}, ("left", "subset", "higher_criticism")),
        ({"statistic": ["kolmogorov_smirnov", "berk_jones"]}, None),
    ],
)
def test_what_is_named_narrows_the_choice(asked: Asked, options: dict[str, Any], kind: ScanKind | None) -> None:
    for one in asked:
        # Where no statistic is the usual one, it is the first of those that were scored.
        expected = kind or ("two-sided", "subset", "berk_jones")
        assert_equal(one.get(**options), one.get(*expected))
        assert_same_nodes(one.nodes(0, **options), one.nodes(0, *expected))


def test_the_choice_where_the_usual_is_missing() -> None:
    kinds = [
        ("right", "whole", "berk_jones"),
        ("left", "whole", "kolmogorov_smirnov"),
        ("left", "subset", "berk_jones"),
    ]
    assert choose_kind(kinds, None, None, None, "x") == ("left", "subset", "berk_jones")
    assert choose_kind(kinds[:2], None, None, None, "x") == ("right", "whole", "berk_jones")
    assert choose_kind([*kinds, ("two-sided", "whole", "berk_jones")], None, None, None, "x")[0] == "two-sided"


def test_a_scan_of_several_is_the_scans_of_each(asked: Asked) -> None:
    x = {name: np.random.default_rng(0).normal(size=(5, n)).astype(np.float32) for name, n in
         (("0", 12), ("1", 12), ("2", 4))}  # fmt: skip
    several = asked.background.scan(x, tail=["left", "right", "left"], statistic=("berk_jones", "higher_criticism"))
    assert several.kinds == [(tail, "subset", name) for tail in ("left", "right") for name in STATISTICS[:2]]
    for kind in several.kinds:
        alone = asked.background.scan(x, tail=kind[0], form=kind[1], statistic=kind[2])
        assert alone.kinds == [kind]
        assert_equal(alone, several.get(*kind))
        assert_same_nodes(alone.nodes(4), several.nodes(4, *kind))
    assert_equal(several, several.get("left", statistic="higher_criticism"))


def test_ranges_of_several_tails(asked: Asked) -> None:
    x = {"0": np.zeros((2, 12), np.float32), "1": np.ones((2, 12), np.float32), "2": np.ones((2, 4), np.float32)}
    background = asked.background
    several = background.pvalues(x, tail=TAILS)
    assert list(several) == list(background.pvalues(x, tails=list(TAILS))) == list(TAILS)
    out = {tail: {name: (np.empty_like(v), np.empty_like(v)) for name, v in x.items()} for tail in TAILS}
    background.pvalues(x, TAILS, out=out)
    for tail in TAILS:
        for name, pair in background.pvalues(x, tail).items():
            np.testing.assert_array_equal(several[tail][name], pair)
            np.testing.assert_array_equal(out[tail][name], pair)
    for one in (asked.batch, asked.scores):
        found = one.pvalues("2", tails=("left", "right"))
        assert list(found) == ["left", "right"]
        np.testing.assert_array_equal(found["left"], one.pvalues("2", "left"))
        assert list(one.pvalues("2", ["left"])) == ["left"]
    with pytest.raises(hpv.InputError, match="out: of several tails give a mapping from each to a pair of arrays"):
        background.pvalues(x, TAILS, out=(1, 2))


# --- the background of stored scores ---


def test_scores_open_their_background_once(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    original = scores_module.open_background
    monkeypatch.setattr(scores_module, "open_background", lambda path: opened.append(path) or original(path))
    scores = hpv.open(asked.scores.path)
    assert isinstance(scores, hpv.Scores)
    for i in range(3):
        assert_same_nodes(scores.nodes(i), asked.scan.nodes(i))
    scores.pvalues("2")
    assert opened == [asked.background.path]
    assert scores.background() is scores.background()
    asked.scores.nodes(0)
    assert len(opened) == 1  # what hpv.score gives has it at hand


def test_where_the_background_is_now_is_said_once(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 5))
    hpv.fit(x).save(tmp_path / "b")
    expected = hpv.score(hpv.open(tmp_path / "b"), x[:4], tmp_path / "s").nodes(2)
    (tmp_path / "b").rename(tmp_path / "moved")
    scores = hpv.open(tmp_path / "s")
    with pytest.raises(hpv.StoreError, match=r"not where it was .* scores\.background\(path\) in Python"):
        scores.nodes(2)
    assert scores.background(tmp_path / "moved").fingerprint == scores.background().fingerprint
    np.testing.assert_array_equal(scores.nodes(2)["activations"], expected["activations"])


def test_a_background_in_memory(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 5))
    background = hpv.fit(x)
    made = hpv.score(background, x[:4], tmp_path / "s")
    again = hpv.score(background, x[:4], tmp_path / "s")
    opened = hpv.open(tmp_path / "s")
    with pytest.raises(hpv.InputError, match=r"give the path of one, or the background itself: scores\.background\("):
        opened.nodes(0)
    with pytest.raises(hpv.InputError, match="another background"):
        opened.background(hpv.fit(x, bins=4))
    with pytest.raises(hpv.InputError, match="was not a store"):
        opened.pvalues("activations")  # the other one was not taken
    opened.background(background)
    for scores in (made, again, opened):
        assert isinstance(scores.background(), hpv.Background)
        np.testing.assert_array_equal(scores.nodes(0)["activations"], background.scan(x[:1], statistic=STATISTICS).nodes(0)["activations"])  # noqa: E501  # fmt: skip


# --- what cannot be asked ---


def test_kinds_that_are_not_there(asked: Asked, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(100, 3))
    background = hpv.fit(x)
    scan = background.scan(x, tail=("left", "right"))
    scores = hpv.score(background, x, tmp_path / "s", tail="left", form="whole")
    cases: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: scan.get("two-sided"),
            "this scan has no scores of two-sided; it has left, right; subset; berk_jones.",
        ),
        (
            lambda: scan.nodes(0, form="whole"),
            "this scan has no scores of whole; it has left, right; subset; berk_jones.",
        ),
        (lambda: scan.get(tail=["up", "two-sided"]), "no scores of up or two-sided; it has left, right"),
        (lambda: scan.get(tail=["left", "up"]), "no scores of left or up; it has left, right"),
        (lambda: scan.get(tail=[]), "no scores of nothing; it has left, right"),
        (lambda: scan.get(5, statistic=None), "no scores of 5; it has left, right"),
        (lambda: scores.get("right", "whole"), f"{tmp_path / 's'} has no scores of right, whole; it has left; whole; "),
        (lambda: scores.column("left", "subset"), "no scores of left, subset; it has left; whole; berk_jones, higher"),
        (lambda: scores.column(name="scores"), "name='scores': give one of score, alpha, size, label"),
        (lambda: scores.pvalues("activations", "up"), "tail='up': give one of right, left, two-sided"),
        (lambda: background.pvalues(x, ["left", "up"]), "tail='up': give one of right, left, two-sided"),
        (lambda: background.pvalues(x, []), "tail=None: give one of right, left, two-sided"),
        (lambda: background.scan(x, tail=[]), "tail=None: give one of right, left, two-sided"),
        (lambda: background.scan(x, tail=5), "tail=5: give one of right, left, two-sided"),
        (lambda: background.scan(x, statistic=["berk_jones", None]), "statistic=None: give one of berk_jones"),
        (lambda: background.scan(x, form=b"subset"), "form=b'subset': give one of subset, whole"),
        (lambda: asked.batch.get(tail="up"), "the monitor has no scores of up; it has right, left, two-sided; subset"),
    ]
    for call, words in cases:
        with pytest.raises(hpv.InputError) as caught:
            call()
        assert words in str(caught.value)


def test_samples_that_are_not_there(asked: Asked) -> None:
    for one in asked:
        with pytest.raises(IndexError, match="sample 9: there are 9, from 0 on"):
            one.nodes(9)


def test_public_types(asked: Asked, tmp_path: Path) -> None:
    """What calls give has a public name, and an example."""
    model, inputs = network(), [asked.inputs]
    activations = hpv.open(hpv.capture(model, inputs, tmp_path / "a", layers="*"))
    assert isinstance(activations, hpv.Activations)
    assert all(isinstance(layer, hpv.Layer) for layer in activations.layers.values())
    assert isinstance(hpv.plan("score", activations, asked.background), hpv.Plan)
    assert isinstance(asked.background.scan(activations), hpv.ScanResult)
    for name in ("Activations", "Layer", "Plan", "ScanResult"):
        assert name in hpv.__all__
        assert ">>>" in getattr(hpv, name).__doc__
