"""The monitor: what it finds while a model runs are the bits of a capture that is scored; the model stays as it is."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.base.errors import HpvWarning, InputError
from hpv.capturing.batches import weights_hash
from hpv.capturing.monitoring import BatchScores
from hpv.scanning.options import FORMS, STATISTICS
from hpv.scanning.scanner import Scanner
from hpv.scanning.scored import Scored
from hpv.walking import parts, tiling
from hpv.walking.parts import each_part

TAILS = ("right", "left", "two-sided")


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x[:, :, ::2], {"scaled": x.transpose(1, 2) * 3, "number": x.argmax(1)}


class Net(nn.Module):
    """A convolution, an in-place ReLU, a ReLU that is called twice, and a module that gives several tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3)
        self.inplace = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.twice = nn.ReLU()
        self.head = nn.Linear(18, 4)
        self.unused = nn.Linear(2, 2)
        self.skip = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inplace(self.conv(x))
        if not self.skip:
            x = self.twice(x - 0.1)
        x, _ = self.pair(x.mean(1))
        x = self.twice(x)
        result: torch.Tensor = self.head(x.flatten(1))
        return result


class Linear(nn.Module):
    """Of any dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 9)
        self.relu = nn.ReLU()
        self.head = nn.Linear(9, 3)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.relu(self.first(x)))
        return result


LAYERS = ["conv", "inplace", "twice", "pair", "head"]


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def rows(count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)


def batches() -> list[torch.Tensor]:
    """Of several sizes, above and below what the kernels take together; one value is missing, one is infinite."""
    x = images(97, seed=2) * 1.5
    x[20, 0, 3, 3], x[30, 0, 3, 3] = torch.nan, torch.inf
    return list(x.split([70, 20, 7]))


@pytest.fixture(scope="module")
def net() -> Net:
    return Net().eval()


@pytest.fixture(scope="module")
def by_class(net: Net, tmp_path_factory: Any) -> hpv.Background:
    """Two classes are too small to answer for themselves; one that the net predicts was not fitted."""
    store = hpv.capture(net, images(400).split(100), tmp_path_factory.mktemp("fit") / "a", layers=LAYERS)
    labels = hpv.open(store).labels  # type: ignore[union-attr]
    return hpv.fit(store, labels=np.where(labels == labels.max(), 7, labels), bins=12, min_class_size=60)


@pytest.fixture(scope="module")
def linear_background() -> hpv.Background:
    net = Linear().eval()
    with torch.no_grad():
        first = net.first(rows(500))
        return hpv.fit({"first": first, "relu": first.relu()}, bins=20)


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
                exact = scores.pvalues(layer, background, tail)[end]
                if dtype == "float64":
                    np.testing.assert_array_equal(whole.numpy(), exact, strict=True)
                else:
                    assert whole.dtype == torch.float32
                    assert ((whole.double().numpy() - exact) * (1 if end else -1) >= 0).all()
    for one, start in zip(found, starts, strict=False):
        for kind in (scores.kinds[0], scores.kinds[-1]):
            for i in (0, one.samples - 1):
                ours, theirs = scores.nodes(int(start) + i, background, *kind), one.nodes(i, *kind)
                assert ours.keys() == theirs.keys()
                for layer in ours:
                    np.testing.assert_array_equal(ours[layer], theirs[layer])


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("against", ["own", "lowest", "pooled"])
@pytest.mark.parametrize("alphas", ["grid", "all"])
@pytest.mark.filterwarnings("ignore:.* NaN value:hpv.HpvWarning")
@pytest.mark.filterwarnings("ignore:.* have a label that the background:hpv.HpvWarning")
def test_the_bits_are_those_of_a_score(
    against: str, alphas: str, net: Net, by_class: hpv.Background, tmp_path: Path
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
def test_reduce(reduce: Any, net: Net, tmp_path: Path) -> None:
    store = hpv.capture(net, images(200).split(100), tmp_path / "b", layers=["conv", "twice"], reduce=reduce)
    background = hpv.fit(store)
    inputs = images(40, 3).split(20)
    scores, found = watch(net, background, inputs, tmp_path, reduce, layers=["conv", "twice"], tails="right")
    assert_same(scores, found, background)
    assert found[0].codes("conv").shape == (20, 3)


@pytest.mark.parametrize("against", ["pooled", "own"])
def test_threads(
    against: str, by_class: hpv.Background, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SMALL", 0)
    monkeypatch.setattr(tiling, "LEAST_IN_MEMORY", 1)
    seen = []
    run = parts.run_in_threads

    def watched(function: Any, items: Any, threads: int) -> Any:
        seen.append(threads)
        return run(function, items, threads)

    monkeypatch.setattr(parts, "run_in_threads", watched)
    options = {"against": against, "threads": 3, "tails": "two-sided"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HpvWarning)
        scores, found = watch(net, by_class, images(300, 3).split(200), tmp_path, **options)
        assert_same(scores, found, by_class)
    assert 3 in seen


def test_large_batches_go_in_parts() -> None:
    parts = each_part(lambda rows: (rows.start, rows.stop), 5000, 1000, 4, True, 2)
    assert len(parts) > 2
    assert sorted(parts)[0][0] == 0
    assert sorted(parts)[-1][1] == 5000
    assert all(one[1] == two[0] for one, two in itertools.pairwise(sorted(parts)))
    assert each_part(lambda rows: rows, 100, 10, 4, True, 2) == [slice(0, 100)]


def test_without_codes(by_class: hpv.Background, net: Net, tmp_path: Path) -> None:
    for against in ("pooled", "lowest"):
        place = tmp_path / against
        scores, found = watch(net, by_class, images(80, 3).split(64), place, against=against, keep=())
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


# ---------------------------------------------------------------- labels


def test_given_labels(by_class: hpv.Background, net: Net) -> None:
    x = images(30, 3)
    labels = torch.arange(30) % 3
    with torch.no_grad(), hpv.Monitor(net, by_class) as monitor:
        net(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HpvWarning)
            predicted = monitor.scores()
        found = monitor.scores(labels=labels)
        again = monitor.scores(labels=labels.tolist())
        kind = ("two-sided", "whole", "higher_criticism")
        assert_equal(found.get(*kind), again.get(*kind))
        assert not np.array_equal(found.get(*kind).score, predicted.get(*kind).score)
        known = set(by_class.classes[by_class.large_classes])  # type: ignore[index]
        expected = [label if label in known else -1 for label in labels.tolist()]
        assert found.get(*kind).label.tolist() == expected
        with pytest.warns(HpvWarning, match="1 of 30 samples has a label that the background was not fitted with"):
            monitor.scores(labels=[99, *labels.tolist()[1:]])
        for wrong in (torch.arange(4), torch.rand(30), [-1] * 30):
            with pytest.raises(InputError, match="labels: "):
                monitor.scores(labels=wrong)
    with torch.no_grad(), hpv.Monitor(net, by_class, against="pooled") as monitor:
        net(x)
        with pytest.raises(InputError, match="labels: "):
            monitor.scores(labels=[1, 2])
        assert set(monitor.scores(labels=labels).get(*kind).label) == {-1}


def test_an_output_without_classes(by_class: hpv.Background, net: Net) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.net(x)[:, :, None]
            return result

    names = {layer: f"net.{layer}" for layer in by_class.layers}
    outer = Outer()
    with pytest.warns(HpvWarning, match="Capture both with the same weights"):  # their names differ
        monitor = hpv.Monitor(outer, by_class, layers=names)
    with torch.no_grad(), monitor:
        outer(images(5))
        with pytest.raises(InputError, match=r"own.*float32 of shape \(5, 4, 1\), not one float per class; give label"):
            monitor.scores()
        assert monitor.scores(labels=[0, 1, 0, 1, 0]).samples == 5


def assert_equal(one: Scored, other: Scored) -> None:
    for name in ("score", "alpha", "size", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


# ---------------------------------------------------------------- batch after batch


def test_batches_do_not_touch_each_other(linear_background: hpv.Background) -> None:
    net = Linear().eval()
    with torch.no_grad(), hpv.Monitor(net, linear_background) as monitor:
        net(rows(70))
        first = monitor.scores()
        codes, before = first.codes("first").clone(), first.get("left", "whole", "berk_jones").score.copy()
        net(rows(9, 2) * 3)
        second = monitor.scores()
        assert (first.samples, second.samples) == (70, 9)
        assert torch.equal(first.codes("first"), codes)
        late = first.get("right", "whole", "berk_jones")
        net(rows(70))
        again = monitor.scores()
        assert_equal(again.get("right", "whole", "berk_jones"), late)
        np.testing.assert_array_equal(again.get("left", "whole", "berk_jones").score, before)
        net(rows(0))
        assert monitor.scores().get("left", "whole", "berk_jones").score.shape == (0,)
        assert monitor.scores().codes("first").shape == (0, 9)
    assert_equal(monitor.scores().get("left", "whole", "berk_jones"), Scored.empty(0))


def test_tables_are_made_once(linear_background: hpv.Background, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = Scanner.tables
    monkeypatch.setattr(Scanner, "tables", lambda *given, **how: made.append(given[1]) or make(*given, **how))
    net = Linear().eval()
    with torch.no_grad(), hpv.Monitor(net, linear_background) as monitor:
        for size in (3, 70, 5):
            net(rows(size))
            monitor.scores().pvalues("first")
    assert made == ["first", "relu"]


def test_the_model_is_left_as_it_is(linear_background: hpv.Background) -> None:
    net = Linear().train()
    x = rows(20).requires_grad_()
    expected = net(x)
    with hpv.Monitor(net, linear_background) as monitor:
        found = net(x)
        assert torch.equal(found, expected)
        found.sum().backward()
        assert monitor.scores().samples == 20
    assert x.grad is not None
    assert net.training
    assert hooks(net) == 0


def test_inference_mode(linear_background: hpv.Background) -> None:
    net = Linear().eval()
    with hpv.Monitor(net, linear_background) as monitor:
        with torch.inference_mode():
            net(rows(20))
        found = monitor.scores()
        net(rows(20))
        assert torch.equal(found.codes("relu"), monitor.scores().codes("relu"))
        assert_equal(found.get("left", "subset", "berk_jones"), monitor.scores().get("left", "subset", "berk_jones"))
        assert found.pvalues("relu")[0].shape == (20, 9)


def test_hooks_are_gone_after_errors(linear_background: hpv.Background) -> None:
    net = Linear().eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), hpv.Monitor(net, linear_background):
        net(torch.rand(2, 3))
    assert hooks(net) == 0
    monitor = hpv.Monitor(net, linear_background)
    for _ in range(2):
        with monitor:
            net(rows(3))
            with pytest.raises(InputError, match="watching already"):
                monitor.__enter__()
            assert hooks(net) == 4
        assert hooks(net) == 0
    net(rows(8))
    assert monitor.scores().samples == 3


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


# ---------------------------------------------------------------- what does not fit


@pytest.fixture
def pooled(by_class: hpv.Background, net: Net) -> Iterator[hpv.Monitor]:
    with torch.no_grad(), hpv.Monitor(net, by_class, against="pooled") as monitor:
        yield monitor
        net.skip = False


def test_batches_that_do_not_fit(pooled: hpv.Monitor, net: Net) -> None:
    nothing = "there is no batch to score: the model has not run since the monitor watches, or the last forward"
    with pytest.raises(InputError, match=nothing):
        pooled.scores()
    net(images(20))
    expected = pooled.scores().get("left", "subset", "berk_jones")
    with pytest.raises(InputError, match="layer conv: 300 nodes, but the background has 108; give the model inputs"):
        net(torch.rand(4, 1, 12, 12))
    with pytest.raises(InputError, match=nothing):
        pooled.scores()
    net.skip = True
    with pytest.raises(InputError, match=r"layer twice: 18 nodes, but the background has 108"):
        net(images(4))
    net.skip = False
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|size"):
        net.head(torch.rand(2, 2))
    net.conv(images(3))  # by itself: no batch of the model
    with pytest.raises(InputError, match=nothing):
        pooled.scores()
    net(images(20))
    assert_equal(pooled.scores().get("left", "subset", "berk_jones"), expected)


def test_a_layer_that_is_not_given(net: Net, by_class: hpv.Background) -> None:
    background = by_class.select(["twice#2", "head"])
    with torch.no_grad(), hpv.Monitor(net, background, against="pooled") as monitor:
        net.skip = True
        with pytest.raises(InputError, match=r"layer twice#2: this forward pass .* did not give it\. Close to it: twi"):
            net(images(4))
        net.skip = False
        net(images(4))
        assert monitor.scores().layers == ["twice#2", "head"]


def test_outputs_that_have_no_samples_first() -> None:
    net = nn.Sequential(nn.Identity(), nn.Flatten(0))
    background = hpv.fit(
        {"0": np.random.default_rng(0).random((100, 6)), "1": np.random.default_rng(0).random(100)[:, None]}
    )
    with hpv.Monitor(net, background), pytest.raises(InputError, match=r"layer 1 has an output of shape \(24,\) for a"):
        net(torch.rand(4, 6))


def test_what_a_monitor_cannot_be_made_of(
    net: Net, by_class: hpv.Background, linear_background: hpv.Background
) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (None, {}, "background: NoneType; give what hpv.fit or hpv.open returned"),
        (linear_background, {}, r"no module of the model gives the layer 'first'\. There are: conv, inplace, "),
        (by_class, {"layers": ["cov"]}, r"layers \['cov'\]: choose one or more of conv"),
        (by_class, {"layers": {"conv": "cnov"}}, r"gives the layer 'cnov'\. Close to it: conv\. There are"),
        (by_class, {"layers": {"conv": "pair.0", "head": "pair.0"}}, "layers: pair.0 is given for two layers"),
        (by_class, {"keep": "ranges"}, "keep='ranges': give a list with codes, or none"),
        (by_class, {"tails": "up"}, "tail='up': give one of right, left, two-sided"),
        (by_class, {"alphas": "some"}, "alphas='some'"),
        (by_class, {"threads": 0}, "threads=0"),
        (by_class, {"backend": "tpu"}, "backend='tpu'"),
        (by_class, {"reduce": "median"}, "reduce: 'median' is none of flatten, mean and max"),
        (linear_background, {"against": "own"}, "against='own': the background has no classes"),
    ]
    for background, options, words in cases:
        with pytest.raises(InputError, match=words):
            hpv.Monitor(net, background, **options)
    found = hpv.Monitor(Linear(), linear_background, layers="first")
    assert repr(found) == "<hpv.Monitor of Linear; first: 9 nodes>"


def test_what_cannot_be_asked(linear_background: hpv.Background) -> None:
    net = Linear()
    with hpv.Monitor(net, linear_background, tails="left") as monitor:
        net(rows(3))
    found = monitor.scores()
    assert repr(found) == "<hpv.BatchScores of 3 samples>"
    with pytest.raises(InputError, match="no scores of right subset berk_jones; the monitor has left subset"):
        found.get("right", "subset", "berk_jones")
    with pytest.raises(InputError, match="no layer head; the monitor has first, relu"):
        found.codes("head")
    with pytest.raises(InputError, match="tail='up'"):
        found.pvalues("first", tail="up")
    with pytest.raises(InputError, match="dtype='f2'"):
        found.pvalues("first", dtype="f2")
    with pytest.raises(IndexError):
        found.nodes(3, "left", "subset", "berk_jones")
    assert found.kinds == [("left", form, statistic) for form in FORMS for statistic in STATISTICS]
    assert found.pvalues("first", tail="two-sided")[0].shape == (3, 9)


def test_layers_by_other_names(linear_background: hpv.Background) -> None:
    net = nn.ModuleDict({"inner": Linear()})
    net.forward = net["inner"].forward  # type: ignore[method-assign]
    with hpv.Monitor(net, linear_background, layers={"relu": "inner.relu"}) as monitor:
        net(rows(3))
    assert monitor.scores().layers == ["relu"]
    assert monitor.scores().codes("relu").shape == (3, 9)


def test_a_device_without_a_backend(linear_background: hpv.Background) -> None:
    net = Linear().to("meta")
    with hpv.Monitor(net, linear_background), pytest.raises(InputError, match="the activations are on meta, where no"):
        net(rows(3).to("meta"))


def test_other_weights_are_warned_of(tmp_path: Path) -> None:
    net = Linear().eval()
    background = hpv.fit(hpv.capture(net, [rows(50)], tmp_path / "a", layers="first"))
    hpv.Monitor(net, background)
    with torch.no_grad():
        net.head.bias += 1
    with pytest.warns(HpvWarning, match="come from a network with the weights .* Capture both with the same weights"):
        hpv.Monitor(net, background)


# ---------------------------------------------------------------- compiled, wrapped, and no models


def test_a_compiled_model(linear_background: hpv.Background) -> None:
    """Its hooks are called as they are: what hpv does is not traced."""
    net, found = Linear().eval(), []
    for model in (net, torch.compile(net, backend="eager")):
        with hpv.Monitor(net, linear_background) as monitor, torch.no_grad():
            model(rows(9))
            found.append(monitor.scores().get("two-sided", "subset", "berk_jones").score)
    np.testing.assert_array_equal(*found)
    torch.compiler.reset()


def test_a_model_that_is_wrapped_has_the_weights_it_had(net: Net) -> None:
    wrapped = nn.DataParallel(net) if torch.cuda.is_available() else nn.Sequential()
    wrapped.module = net
    assert weights_hash(wrapped) == weights_hash(net)


def test_what_is_no_model(linear_background: hpv.Background) -> None:
    for wrong in (None, lambda x: x):
        with pytest.raises(hpv.InputError, match="model: a .*; give a torch.nn.Module"):
            hpv.Monitor(wrong, linear_background)  # type: ignore[arg-type]
