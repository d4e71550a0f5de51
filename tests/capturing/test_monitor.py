"""A monitor: what it finds while a model runs are the bits of a capture that is scored."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.base.errors import HpvWarning, InputError
from hpv.capturing.monitoring import BatchScores
from hpv.scanning.options import STATISTICS
from hpv.walking import candidates, parts
from hpv.walking.parts import each_part
from networks import LAYERS, Branching, Linear, images, rows

pytestmark = pytest.mark.slow


TAILS = ("right", "left", "two-sided")


def batches() -> list[torch.Tensor]:
    """Of several sizes, above and below what the kernels take together; one value is missing, one is infinite."""
    x = images(97, seed=2) * 1.5
    x[20, 0, 3, 3], x[30, 0, 3, 3] = torch.nan, torch.inf
    return list(x.split([70, 20, 7]))


def watch(
    net: nn.Module, background: hpv.Background, inputs: Any, place: Path, reduce: Any = "flatten", layers: Any = LAYERS,
    **options: Any,
) -> tuple[hpv.Scores, list[BatchScores]]:  # fmt: skip
    """Scores of a capture, and what a monitor found in the same forward passes."""
    found: list[BatchScores] = []
    with hpv.Monitor(net, background, reduce=reduce, **options) as monitor:
        store = hpv.capture(
            net, inputs, place / "a", layers=layers, reduce=reduce, progress=lambda *_: found.append(monitor.scores())
        )
    options.pop("threads", None)
    scores = hpv.score(background, store, place / "s", statistics=STATISTICS, **options)
    return scores, found


def assert_same(scores: hpv.Scores, found: list[BatchScores], background: hpv.Background, codes: bool = True) -> None:
    """Every score, alpha, size and label, every code and range, the NaN and some subsets."""
    starts = np.cumsum([0, *(one.samples for one in found)])
    assert starts[-1] == scores.samples
    assert sum(one.missing for one in found) == scores.missing
    assert {tuple(one.kinds) for one in found} == {tuple(scores.kinds)}
    for kind in scores.kinds:
        ours = scores.get(*kind)
        for name in ("score", "alpha", "size", "label"):
            theirs = np.concatenate([getattr(one.get(*kind), name) for one in found])
            np.testing.assert_array_equal(theirs, getattr(ours, name), strict=True)
    if not codes:
        return
    for layer in scores.layers:
        whole = torch.cat([one.codes(layer) for one in found])
        np.testing.assert_array_equal(whole.numpy(), scores.codes(layer).read(), strict=True)
        for tail, dtype in itertools.product(TAILS, ("float32", "float64")):
            for end in (0, 1):
                whole = torch.cat([one.pvalues(layer, tail, dtype)[end] for one in found])
                exact = scores.pvalues(layer, tail)[end]
                if dtype == "float64":
                    np.testing.assert_array_equal(whole.numpy(), exact, strict=True)
                else:
                    assert whole.dtype == torch.float32
                    assert ((whole.double().numpy() - exact) * (1 if end else -1) >= 0).all()
    for one, start in zip(found, starts, strict=False):
        for kind in (scores.kinds[0], scores.kinds[-1]):
            for i in (0, one.samples - 1):
                ours, theirs = scores.nodes(int(start) + i, *kind), one.nodes(i, *kind)
                assert ours.keys() == theirs.keys()
                for layer in ours:
                    np.testing.assert_array_equal(ours[layer], theirs[layer])


@pytest.mark.parametrize("against", ["own", "lowest", "pooled"])
@pytest.mark.parametrize("alphas", ["grid", "all"])
@pytest.mark.filterwarnings("ignore:.* NaN value:hpv.HpvWarning")
@pytest.mark.filterwarnings("ignore:.* have a label that the background:hpv.HpvWarning")
def test_the_bits_are_those_of_a_score(
    against: str, alphas: str, net: Branching, by_class: hpv.Background, tmp_path: Path
) -> None:
    scores, found = watch(net, by_class, batches(), tmp_path, against=against, alphas=alphas)
    assert {"twice", "twice#2", "pair.0", "pair.1.scaled"} < set(scores.layers)
    assert scores.missing > 0
    assert found[0].missing == scores.missing
    assert_same(scores, found, by_class)
    labels = np.concatenate([one.get("left", "whole", "berk_jones").label for one in found])
    assert (set(labels) == {-1}) == (against == "pooled")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float(dtype: torch.dtype, linear_background: hpv.Background, tmp_path: Path) -> None:
    """Against a background of float32."""
    inputs = [rows(40, 2, dtype) * 1.2, rows(5, 3, dtype)]
    scores, found = watch(Linear(dtype).eval(), linear_background, inputs, tmp_path, layers=["first", "relu"])
    assert_same(scores, found, linear_background)
    assert found[0].codes("first").dtype == torch.uint8


def test_autocast(linear_background: hpv.Background, tmp_path: Path) -> None:
    net = Linear().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, found = watch(net, linear_background, rows(60).split(30), tmp_path, layers=["first", "relu"])
    assert_same(scores, found, linear_background)
    with torch.no_grad(), hpv.Monitor(net, linear_background) as monitor:
        net(rows(30))
        wide = monitor.scores().codes("first")
    assert not torch.equal(wide, found[0].codes("first"))


@pytest.mark.parametrize("reduce", ["mean", {"conv": "max", "tw*": "mean:1"}])
def test_reduce(reduce: Any, net: Branching, tmp_path: Path) -> None:
    store = hpv.capture(net, images(200).split(100), tmp_path / "b", layers=["conv", "twice"], reduce=reduce)
    background = hpv.fit(store)
    inputs = images(40, seed=3).split(20)
    scores, found = watch(net, background, inputs, tmp_path, reduce, layers=["conv", "twice"], tails="right")
    assert_same(scores, found, background)
    assert found[0].codes("conv").shape == (20, 3)


@pytest.mark.parametrize("against", ["pooled", "own"])
def test_threads(
    against: str, by_class: hpv.Background, net: Branching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SMALL", 0)
    monkeypatch.setattr(candidates, "LEAST_IN_MEMORY", 1)
    seen = []
    run = parts.run_in_threads

    def watched(function: Any, items: Any, threads: int) -> Any:
        seen.append(threads)
        return run(function, items, threads)

    monkeypatch.setattr(parts, "run_in_threads", watched)
    options = {"against": against, "threads": 3, "tails": "two-sided"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HpvWarning)
        scores, found = watch(net, by_class, images(300, seed=3).split(200), tmp_path, **options)
        assert_same(scores, found, by_class)
    assert 3 in seen


def test_large_batches_go_in_parts() -> None:
    parts = each_part(lambda rows: (rows.start, rows.stop), 5000, 1000, 4, True, 2)
    assert len(parts) > 2
    assert sorted(parts)[0][0] == 0
    assert sorted(parts)[-1][1] == 5000
    assert all(one[1] == two[0] for one, two in itertools.pairwise(sorted(parts)))
    assert each_part(lambda rows: rows, 100, 10, 4, True, 2) == [slice(0, 100)]


def test_without_codes(by_class: hpv.Background, net: Branching, tmp_path: Path) -> None:
    for against in ("pooled", "lowest"):
        place = tmp_path / against
        scores, found = watch(net, by_class, images(80, seed=3).split(64), place, against=against, keep=())
        assert_same(scores, found, by_class, codes=False)
        assert found[0].get("left", "subset", "berk_jones").size.max() > 0
    for ask in (lambda: found[0].codes("conv"), lambda: found[0].nodes(0, "left", "subset", "berk_jones")):
        with pytest.raises(InputError, match="codes were not kept; make the monitor with keep='codes'"):
            ask()


def test_tensors_on_two_devices_add_up(
    linear_background: hpv.Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer is tallied where it is; the host adds the tallies. (Two names of one device stand for two.)"""
    net, places = Linear().eval(), iter([torch.device("cpu"), torch.device("cpu", 0)])
    with torch.no_grad(), hpv.Monitor(net, linear_background) as monitor:
        net(rows(30))
        expected = monitor.scores().get("left", "subset", "berk_jones")
        take = monitor._take

        class Elsewhere:
            """Rows that say that they are on the next device."""

            def __init__(self, rows: torch.Tensor) -> None:
                self._rows, self.device, self.shape = rows, next(places), rows.shape

            def __len__(self) -> int:
                return len(self._rows)

            def contiguous(self) -> torch.Tensor:
                return self._rows.contiguous()

        monkeypatch.setattr(
            monitor._hooks, "_take", lambda given: take(type(given)(**{**vars(given), "rows": Elsewhere(given.rows)}))
        )
        net(rows(30))
        assert len(monitor._done.tallies) == 2  # type: ignore[union-attr]
        np.testing.assert_array_equal(monitor.scores().get("left", "subset", "berk_jones").score, expected.score)
