"""A monitor from batch to batch: labels, batches that do not fit, and a model that stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.base.errors import HpvWarning, InputError
from hpv.scanning.scanner import Scanner
from hpv.scanning.scored import Scored
from networks import Branching, Linear, images, rows

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- labels


def test_given_labels(by_class: hpv.Background, net: Branching) -> None:
    x = images(30, seed=3)
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


def test_an_output_without_classes(by_class: hpv.Background, net: Branching) -> None:
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
def pooled(by_class: hpv.Background, net: Branching) -> Iterator[hpv.Monitor]:
    with torch.no_grad(), hpv.Monitor(net, by_class, against="pooled") as monitor:
        yield monitor
        net.skip = False


def test_batches_that_do_not_fit(pooled: hpv.Monitor, net: Branching) -> None:
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


def test_a_layer_that_is_not_given(net: Branching, by_class: hpv.Background) -> None:
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
