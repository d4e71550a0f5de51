"""What a monitor can be made of and asked: models, layers, devices, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hpv
from hpv.base.errors import HpvWarning, InputError
from hpv.capturing.batches import weights_hash
from hpv.scanning.options import FORMS, STATISTICS
from networks import Branching, Linear, rows

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- made of, and asked for


def test_what_a_monitor_cannot_be_made_of(
    net: Branching, by_class: hpv.Background, linear_background: hpv.Background
) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (None, {}, "background: NoneType; give what hpv.fit or hpv.open returned"),
        (linear_background, {}, r"no module of the model gives the layer 'first'\. There are: conv, inplace, "),
        (by_class, {"layers": ["cov"]}, r"no layer of the background is called 'cov'\. Close to it: conv"),
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
    with pytest.raises(InputError, match="the monitor has no scores of right, subset, berk_jones; it has left;"):
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


def test_a_model_that_is_wrapped_has_the_weights_it_had(net: Branching) -> None:
    wrapped = nn.DataParallel(net) if torch.cuda.is_available() else nn.Sequential()
    wrapped.module = net
    assert weights_hash(wrapped) == weights_hash(net)


def test_what_is_no_model(linear_background: hpv.Background) -> None:
    for wrong in (None, lambda x: x):
        with pytest.raises(hpv.InputError, match="model: a .*; give a torch.nn.Module"):
            hpv.Monitor(wrong, linear_background)  # type: ignore[arg-type]
