"""Hooks: which modules are chosen, which of their outputs become layers, and how an output is reduced to nodes."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpv.activations.opening import open_activations
from hpv.base.errors import DataError, InputError, StoreError
from hpv.capturing.storing import capture
from networks import Net, images, read

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- modules and their outputs


def test_patterns_and_helpful_lists(out: Path) -> None:
    net = Net()
    assert list(read(capture(net, [images()], out, layers=["*n*"]))[1]) == ["conv", "norm", "inplace"]
    with pytest.raises(InputError, match=r"no module .* called 'nrom'. Close to it: norm\. There are: conv, norm"):
        capture(net, [images()], out, layers=["conv", "nrom"])
    with pytest.raises(InputError, match=r"called 'x\*'. There are"):
        capture(net, [images()], out, layers="x*")
    with pytest.raises(InputError, match="'unused' selects unused, which the forward pass of the model does not call"):
        capture(net, [images()], out, layers=["conv", "unused"])
    with pytest.raises(InputError, match="none given"):
        capture(net, [images()], out, layers=[])
    many = nn.ModuleDict({f"m{k}": nn.Identity() for k in range(60)})
    with pytest.raises(InputError, match="and 20 more"):
        capture(many, [images()], out, layers="q")


Pair = namedtuple("Pair", "left right")


@dataclass
class Record:
    mask: torch.Tensor
    state: torch.Tensor


class Part(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        if self.kind == "tuple":
            return x, None, (x + 1, x.argmax(1)), 3
        if self.kind == "dict":
            return {"logits": x, "past": [x - 1, x - 2]}
        if self.kind == "named":
            return Pair(x, x * 2)
        return Record(x > 0, x + 4)


class Outputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.part = Part(kind)

    def forward(self, x: torch.Tensor) -> Any:
        return self.part(x)


@pytest.mark.parametrize(
    ("kind", "names", "labels"),
    [
        ("tuple", {"part.0": 0.0, "part.2.0": 1.0}, True),
        ("dict", {"part.logits": 0.0, "part.past.0": -1.0, "part.past.1": -2.0}, True),
        ("named", {"part.left": 0.0}, True),
        ("record", {"part.state": 4.0}, False),
    ],
)
def test_outputs_of_many_tensors(kind: str, names: dict[str, float], labels: bool, out: Path) -> None:
    x = torch.arange(12.0).reshape(4, 3)
    found, layers = read(capture(Outputs(kind), [x[:3], x[3:]], out, layers="part"))
    for name, added in names.items():
        np.testing.assert_array_equal(layers[name], x.numpy() + added)
    assert set(layers) == set(names) | ({"part.right"} if kind == "named" else set())
    assert (found.labels is not None) == labels
    note = found.attributes["labels"]
    assert note == ("argmax of the model's output" if labels else note)
    assert labels or note == "none: the model's output is bool of shape (3, 3), not one float per class"


def test_outputs_that_cannot_be_captured(out: Path) -> None:
    class Odd(nn.Module):
        def __init__(self, give: Any) -> None:
            super().__init__()
            self.part = nn.Identity()
            self.give = give

        def forward(self, x: torch.Tensor) -> Any:
            return self.part(self.give(x))

    for give, words in (
        (lambda x: x.long(), "the output of part holds no tensor of floats"),
        (lambda x: None, "the output of part holds no tensor of floats"),
        (lambda x: x.sum(), "layer part gives one number for the whole batch"),
        (
            lambda x: x.T,
            r"layer part has an output of shape \(3, 4\) for a batch of 4 samples; choose modules",
        ),
        (lambda x: x[:, :0], r"layer part has no nodes: its output has the shape \(4, 0\)"),
        (lambda x: x.to(torch.float8_e5m2), "layer part: dtype float8_e5m2 is not one of float16"),
    ):
        with pytest.raises(InputError, match=words):
            capture(Odd(give), [torch.ones(4, 3)], out, layers="part")
    with pytest.raises(InputError, match="no samples in the first batch"):
        capture(Odd(lambda x: x), [torch.ones(0, 3)], out, layers="part")
    assert not out.exists()


def test_an_output_beside_others_that_has_no_samples_first(out: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 6, num_layers=2, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.lstm(x)[0][:, -1]

    with pytest.raises(InputError, match=r"layer lstm\.1\.0 has an output of shape \(2, 5, 6\) for a batch"):
        capture(Recurrent(), [torch.ones(5, 7, 3)], out, layers="lstm")
    assert not out.exists()


def test_two_outputs_of_one_name(out: Path) -> None:
    class Both(nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            return self[0](x), x

    model = nn.Sequential()
    model.add_module("a", Both(nn.Identity()))
    with pytest.raises(InputError, match=r"two outputs have the name a\.0"):
        capture(model, [torch.ones(2, 2)], out, layers=["a", "a.0"])


# ---------------------------------------------------------------- reduce


@pytest.mark.parametrize(
    ("shape", "rule", "kept"),
    [
        ((4, 3, 5, 6), "mean", (2, 3)),
        ((4, 3, 5, 6), "max", (2, 3)),
        ((4, 3, 5, 6, 2), "max", (2, 3, 4)),
        ((4, 7, 3), "mean", (1,)),
        ((4, 3, 7), "mean:1", (2,)),
        ((4, 3, 7), "max:-2", (2,)),
        ((4, 5, 6, 3), "max:-1", (1, 2)),
        ((4, 3), "mean", ()),
        ((4,), "max", ()),
    ],
)
def test_reduce(shape: tuple[int, ...], rule: str, kept: tuple[int, ...], out: Path) -> None:
    x = torch.randn(shape)
    net = nn.Sequential(nn.Identity())
    found, layers = read(capture(net, [x], out, layers="0", reduce=rule))
    how = np.max if "max" in rule else np.mean
    expected = (how(x.numpy(), axis=kept) if kept else x.numpy()).reshape(4, -1)
    np.testing.assert_allclose(layers["0"], expected, rtol=1e-5, atol=1e-6)
    (entry,) = found.attributes["layers"]
    assert entry["shape"] == list(shape[1:])
    assert entry["reduce"] == rule


def test_reduce_by_layer_and_nan(out: Path) -> None:
    x = images(3)
    x[1, 0, 0, 0] = torch.nan
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Identity(), nn.Identity())
    rules = {"1": "max", "[0]": "mean"}
    _, layers = read(capture(net, [x], out, layers="*", reduce=rules))
    assert {name: values.shape for name, values in layers.items()} == {"0": (3, 2), "1": (3, 2), "2": (3, 128)}
    for name in "01":
        assert np.isnan(layers[name]).all(axis=1).tolist() == [False, True, False]
    with pytest.raises(InputError, match="reduce: 'conv' fits none of the chosen layers 0"):
        capture(net, [x], out, layers="0", reduce={"conv": "max"})
    for rule in ("median", "mean:", "mean:x", "flatten:1", "max:0"):
        with pytest.raises(InputError, match="is none of flatten, mean and max"):
            capture(net, [x], out, layers="0", reduce=rule)
    with pytest.raises(InputError, match=r"max:4 for layer 0, whose output has the shape \(3, 2, 8, 8\)"):
        capture(net, [x], out, layers="0", reduce="max:4")


# ---------------------------------------------------------------- from batch to batch


class Changing(nn.Module):
    """Gives something else for the second batch."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.part, self.other, self.change, self.count = nn.Identity(), nn.Identity(), change, 0

    def forward(self, x: torch.Tensor) -> Any:
        self.count += 1
        if self.count > 1:
            if self.change == "width":
                x = x[:, :2]
            if self.change == "dtype":
                x = x.half()
            if self.change == "calls":
                x = self.part(x)
            if self.change == "fewer":
                return self.other(x)
            if self.change == "rows":
                x = x[:1]
            if self.change == "labels":
                return self.part(self.other(x))[:, 0]
        return self.part(self.other(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("width", "layer other has 2 nodes in one batch and 3 in the first"),
        ("dtype", "layer other is float16 in one batch and float32 in the first"),
        ("calls", "layer part#2: in some batches the model gives it, in others not"),
        ("fewer", "layer part: in some batches"),
        ("rows", r"layer other has an output of shape \(1, 3\) for a batch of 4 samples"),
        ("labels", "labels: in the first batch argmax .*, in a later one none"),
    ],
)
def test_layers_that_change_between_batches(change: str, words: str, out: Path) -> None:
    x = torch.ones(4, 3)
    with pytest.raises(DataError, match=words):
        capture(Changing(change), [x, x], out, layers=["part", "other"])
    with pytest.raises(StoreError, match="incomplete"):
        open_activations(out)
