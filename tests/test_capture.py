"""Capturing: what the store holds is what the modules gave, whatever the model, the loader and the interruptions."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hpv.activations import stored
from hpv.activations.layers import Activations
from hpv.activations.opening import open_activations
from hpv.base import keeping
from hpv.base.errors import DataError, InputError, OutputExistsError, StoreError
from hpv.capturing import estimate
from hpv.capturing.batches import CallRule, weights_hash
from hpv.capturing.estimate import CapturePlan
from hpv.capturing.storing import _alike, capture


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.zarr"


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "CHUNK_ROWS", (4, 4))
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)


class Net(nn.Module):
    """Convolution, an in-place ReLU and a ReLU that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.inplace = nn.ReLU(inplace=True)
        self.twice = nn.ReLU()
        self.head = nn.Linear(3 * 36, 5)
        self.unused = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.inplace(self.norm(self.conv(x)))
        return self.twice(self.head(self.twice(x - 0.2).flatten(1))) - 0.5


def images(count: int = 11, size: int = 8) -> torch.Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


def read(path: Any) -> tuple[Activations, dict[str, np.ndarray]]:
    found = open_activations(path)
    return found, {name: layer.read(slice(None)) for name, layer in found.layers.items()}


def run(module: Any, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = module(x).flatten(1).numpy()
    return result


# ---------------------------------------------------------------- what is stored


@given(batch=st.integers(1, 12))
def test_layers_are_what_the_modules_gave(batch: int, tmp_path_factory: Any) -> None:
    net, x = Net().train(), images()
    y = torch.arange(11)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch)
    place = tmp_path_factory.mktemp("capture") / "a.zarr"
    done = capture(net, loader, place, layers=["norm", "inplace", "twice", "head"], ids=[f"i{k}" for k in range(11)])
    found, layers = read(done)
    net.eval()
    before = net.norm(net.conv(x))
    expected = {
        "norm": before,
        "inplace": before.relu(),
        "twice": (before.relu() - 0.2).relu(),
        "twice#2": net.head((before.relu() - 0.2).relu().flatten(1)).relu(),
        "head": net.head((before.relu() - 0.2).relu().flatten(1)),
    }
    assert set(layers) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(layers[name], values.detach().flatten(1).numpy(), rtol=1e-4, atol=1e-5)
    assert (layers["norm"] < 0).any()
    assert found.labels is not None
    assert found.labels.tolist() == net(x).argmax(1).tolist()
    assert found.ids == [f"i{k}" for k in range(11)]
    assert found.attributes["model"] == f"{__name__}.Net"
    assert found.attributes["weights"] == weights_hash(net)
    assert found.attributes["labels"] == "argmax of the model's output"
    entries = {entry["name"]: entry for entry in found.attributes["layers"]}
    assert entries["conv" if "conv" in entries else "norm"]["shape"] == [3, 6, 6]
    assert entries["norm"]["reduce"] == "flatten"
    assert os.fspath(done) == str(done.path)
    assert (done.samples, done.already_complete) == (11, False)
    assert done.layers["head"] == (5, "float32")


def test_modes_hooks_and_gradients_are_as_before(out: Path) -> None:
    net = Net().train()
    net.norm.eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}

    def seen(module: nn.Module, inputs: Any, output: Any) -> None:
        assert not torch.is_grad_enabled()
        assert not any(part.training for part in net.modules())

    handle = net.conv.register_forward_hook(seen)
    capture(net, [images()], out, layers="conv")
    assert [module.training for module in net.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    handle.remove()

    def broken() -> Iterator[torch.Tensor]:
        yield images()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        capture(net, broken(), out, layers="conv", overwrite=True)
    assert [module.training for module in net.modules()] == modes
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks for module in net.modules())


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype, out: Path) -> None:
    x = torch.tensor([[1.0, -2.5], [float("nan"), float("inf")], [1e-40, 3.14159]]).to(dtype)
    net = nn.Sequential(nn.Identity()).to(dtype)
    found, layers = read(capture(net, [x[:2], x[2:]], out, layers="0"))
    assert found.layers["0"].float_format.name == str(dtype).removeprefix("torch.")
    bits = x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize]).numpy()
    np.testing.assert_array_equal(layers["0"].view(bits.dtype), bits)


def test_autocast(out: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    x = torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        done = capture(net, [x], out, layers="*")
        expected = net(x)
    found, layers = read(done)
    assert {layer.float_format.name for layer in found.layers.values()} == {"bfloat16"}
    np.testing.assert_array_equal(layers["1"], expected.detach().view(torch.int16).numpy().view(np.uint16))


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


# ---------------------------------------------------------------- batches


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sum = nn.Identity()

    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.sum(a + 10 * b) * scale


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sum = nn.Identity()

    def forward(self, batch: Any, **options: Any) -> torch.Tensor:
        texts = batch["text"] if isinstance(batch, dict) else batch
        return self.sum(torch.tensor([[float(len(text)), 1.0] for text in texts]))


A, B = torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)


@pytest.mark.parametrize(
    "batch",
    [
        (A, B),
        [A, B, torch.arange(3)],
        ((A, B), torch.arange(3)),
        {"a": A, "b": B},
        {"b": B, "a": A, "label": torch.arange(3)},
        ({"a": A, "b": B}, torch.arange(3)),
    ],
)
def test_batches_for_a_model_of_two_arguments(batch: Any, out: Path) -> None:
    _, layers = read(capture(Two(), [batch, batch], out, layers="sum"))
    np.testing.assert_array_equal(layers["sum"], torch.cat([A + 10, A + 10]).numpy())


@pytest.mark.parametrize("batch", [["one", "three"], {"text": ["one", "three"]}])
def test_batches_without_tensors(batch: Any, out: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = Words()

        def forward(self, batch: Any) -> torch.Tensor:
            result: torch.Tensor = self.words(batch)
            return result

    found, layers = read(capture(Model(), [batch], out, layers="words.sum"))
    assert layers["words.sum"].tolist() == [[3, 1], [5, 1]]
    assert found.samples == 2


def test_rules_of_calls() -> None:
    rule = CallRule(Words())
    assert rule.arrange({"batch": 1, "any": 2}).kwargs == {"batch": 1, "any": 2}
    assert rule.arrange((A, B)).args == (A,)
    assert rule.arrange((A, B)).targets is B
    assert CallRule(nn.Sequential(nn.Identity())).arrange([A]).args == (A,)
    assert CallRule(nn.DataParallel(Two())).arrange((A, B)).args == (A,)
    assert CallRule(Two()).arrange({"b": A, "c": B}).args == ({"b": A, "c": B},)
    with pytest.raises(InputError, match="a batch has 1 entries, the model's forward needs 2 arguments"):
        CallRule(Two()).arrange([A])
    assert CallRule(Two()).arrange((A, B)).samples == 3
    assert CallRule(Two()).arrange("text").samples is None


def test_batches_go_to_the_model(out: Path) -> None:
    moved = []

    class Holder(dict[str, Any]):
        pass

    class Bag:
        def to(self, device: torch.device) -> torch.Tensor:
            moved.append(device)
            return B

    _, layers = read(capture(Two(), [(A, Bag())], out, layers="sum", device="cpu"))
    np.testing.assert_array_equal(layers["sum"], A + 10)
    assert moved == [torch.device("cpu")]
    model = Two()
    model.sum.register_buffer("here", torch.zeros(1))
    _, layers = read(capture(model, [Holder(a=A, b=Bag())], out, layers="sum", overwrite=True))
    assert len(moved) == 2
    with pytest.raises(TypeError):  # a model without tensors is nowhere in particular: nothing is moved
        capture(Two(), [(A, Bag())], out, layers="sum", overwrite=True)
    assert len(moved) == 2


@pytest.mark.parametrize("batches", [torch.zeros(3, 2), np.zeros((3, 2)), {"x": 1}, "text", 7])
def test_what_is_no_series_of_batches(batches: Any, out: Path) -> None:
    with pytest.raises(InputError, match="is no series of batches"):
        capture(Two(), batches, out, layers="sum")


def test_no_batches_and_empty_ones(out: Path) -> None:
    with pytest.raises(InputError, match="batches: there is none"):
        capture(Two(), [], out, layers="sum")
    empty = (A[:0], B[:0])
    done = capture(Two(), [(A, B), empty, (A, B), empty], out, layers="sum")
    assert done.samples == 6


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


# ---------------------------------------------------------------- labels, ids, weights


def test_labels(out: Path) -> None:
    x, y = images(), torch.arange(11) * 3
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    found, _ = read(capture(Net(), loader, out, layers="head", labels=None))
    assert found.labels is None
    assert found.attributes["labels"] == "none: not asked for"
    found, _ = read(capture(Net(), loader, out, layers="head", labels="targets", overwrite=True))
    assert found.labels is not None
    assert found.labels.tolist() == y.tolist()
    with pytest.raises(InputError, match=r"the targets are float32 of shape \(4,\), not one integer"):
        capture(Net(), DataLoader(TensorDataset(x, y.float()), batch_size=4), out, layers="head", labels="targets")
    with pytest.raises(InputError, match="labels: the targets are object"):
        capture(Net(), [x], out, layers="head", labels="targets")
    with pytest.raises(InputError, match="labels='classes': give 'argmax', 'targets', or labels=None"):
        capture(Net(), [x], out, layers="head", labels="classes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("give", "note"),
    [
        (lambda x: x[:, :1], r"none: the model's output is float32 of shape \(3, 1\)"),
        (lambda x: x[:, :, None], r"none: .* of shape \(3, 2, 1\)"),
        (lambda x: x.long(), r"none: the model's output is int64"),
        (lambda x: "text", "none: the model's output holds no tensor"),
        (lambda x: {"loss": x.sum(), "logits": -x}, "argmax"),
    ],
)
def test_labels_of_other_outputs(give: Any, note: str, out: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x: torch.Tensor) -> Any:
            return give(self.part(x))

    found, _ = read(capture(Model(), [A], out, layers="part"))
    assert re.match(note, found.attributes["labels"])
    assert (found.labels is None) == (note != "argmax")
    if note == "argmax":
        assert found.labels is not None
        assert found.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (["a"] * 10, DataError, "there are fewer of them than samples"),
        (["a"] * 12, DataError, "there are more of them than samples \\(11\\)"),
        ([1] * 11, DataError, "not all of them are strings"),
        ("abcdefghijk", InputError, "a single string"),
    ],
)
def test_ids_that_do_not_fit(ids: Any, error: type[Exception], words: str, out: Path) -> None:
    with pytest.raises(error, match=words):
        capture(Net(), images().split(4), out, layers="head", ids=ids)
    with pytest.raises(StoreError):
        open_activations(out)


def test_weights_hash_sees_names_shapes_dtypes_and_values() -> None:
    base = nn.Linear(3, 2)
    first = weights_hash(base)
    assert weights_hash(base) == first
    assert len(first) == 64
    others = [nn.Sequential(base), base.half()]
    base = base.float()
    changed = nn.Linear(3, 2)
    changed.load_state_dict(base.state_dict())
    with torch.no_grad():
        changed.weight[0, 0] += 1
    digests = {weights_hash(model) for model in [*others, changed]} | {first}
    assert len(digests) >= 3

    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"version": 2}

        def set_extra_state(self, state: Any) -> None:
            pass

    assert len(weights_hash(Extra(1, 1, bias=False).to(torch.bfloat16))) == 64
    assert len(weights_hash(nn.BatchNorm1d(2))) == 64


# ---------------------------------------------------------------- size, progress


def test_the_plan_comes_before_anything_is_written(out: Path) -> None:
    plans: list[CapturePlan] = []
    steps: list[tuple[int, int | None]] = []

    def announce(plan: CapturePlan) -> None:
        assert not out.exists()
        plans.append(plan)

    capture(
        Net(),
        DataLoader(TensorDataset(images()), batch_size=4),
        out,
        layers=["conv", "head"],
        announce=announce,
        progress=lambda done, total: steps.append((done, total)),
    )
    (plan,) = plans
    assert plan.layers == {"conv": (108, "float32"), "head": (5, "float32")}
    assert plan.bytes_per_sample == 113 * 4
    assert plan.samples == 12
    assert plan.bytes == 12 * 452
    assert str(plan).startswith("2 layers, 113 nodes, 452 bytes per sample; at most 12 samples, ")
    assert steps == [(4, 12), (8, 12), (11, 12)]


def test_batches_of_unknown_number(out: Path) -> None:
    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(images())

    plans: list[CapturePlan] = []
    capture(Net(), DataLoader(Stream(), batch_size=4), out, layers="head", announce=plans.append)
    assert plans[0].samples is None
    assert plans[0].bytes is None
    ids = [str(k) for k in range(11)]
    loader = iter(images().split(4))
    capture(Net(), loader, out, layers="head", ids=ids, overwrite=True, announce=plans.append)
    assert plans[1].samples == 11


def test_what_cannot_fit_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=4000)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(InputError, match=r"a\.zarr would take 3\.97 KiB more, 3\.91 KiB are free; choose fewer"):
        capture(Net(), images(12).split(4), out, layers=["conv", "head"])
    assert not out.exists()
    usage.free = 4100
    capture(Net(), images(12).split(4), out, layers=["conv", "head"])


def test_no_space_while_running(out: Path, monkeypatch: pytest.MonkeyPatch, tiny_chunks: None) -> None:
    real, written = os.writev, [0]

    def full(file: int, parts: Any) -> int:
        written.append(file)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(DataError, match=r"a\.zarr: .*: no space left; free some and run the same command again"):
            capture(Net(), images().split(4), out, layers=["conv", "head"])
    done = capture(Net(), images().split(4), out, layers=["conv", "head"])
    assert done.samples == 11


# ---------------------------------------------------------------- again, continued, replaced


def test_the_same_capture_again(out: Path) -> None:
    first = capture(Net(), images().split(4), out, layers="head")
    net = Net()
    again = capture(net, images().split(4), out, layers="head")
    assert again.already_complete
    assert (again.path, again.samples, again.layers) == (first.path, first.samples, first.layers)
    assert net.calls == 1
    with pytest.raises(OutputExistsError, match="holds the activations of other inputs: layer head differs"):
        capture(Net(), (images() + 1).split(4), out, layers="head")
    with pytest.raises(OutputExistsError, match=r"no layer conv there and layer conv \(108, float32, flatten\) here"):
        capture(Net(), images().split(4), out, layers=["head", "conv"])
    other = Net()
    nn.init.zeros_(other.head.weight)
    with pytest.raises(OutputExistsError, match=r"weights \w{12} there and weights \w{12} here"):
        capture(other, images().split(4), out, layers="head")
    done = capture(other, images(5).split(4), out, layers="head", overwrite=True)
    assert not done.already_complete
    assert open_activations(out).samples == 5


class Dying:
    """A loader that fails at its n-th batch."""

    def __init__(self, batches: Any, at: int) -> None:
        self.batches, self.at = batches, at

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            if number == self.at:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("batch", [1, 3, 4, 6])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_capture_continues(batch: int, stop: int, out: Path, tiny_chunks: None) -> None:
    x = images(22)
    ids = [str(k) for k in range(22)]
    at = min(stop, len(x.split(batch)) - 1)
    with pytest.raises(KeyboardInterrupt):
        capture(Net(), Dying(x.split(batch), at), out, layers=["twice", "head"], ids=iter(ids))
    with pytest.raises(StoreError, match="incomplete"):
        open_activations(out)
    net = Net()
    capture(net, x.split(batch), out, layers=["twice", "head"], ids=iter(ids))
    # All but the first batch and the last stored one are skipped.
    assert net.calls == len(x.split(batch)) - max(at - 2, 0)
    found, layers = read(out)
    assert found.ids == ids
    reference, expected = read(capture(Net(), x.split(batch), out.with_name("b.zarr"), layers=["twice", "head"]))
    for name, values in expected.items():
        np.testing.assert_array_equal(layers[name], values)
    assert found.labels is not None
    assert reference.labels is not None
    assert found.labels.tolist() == reference.labels.tolist()


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_in_another_order_are_noticed(dtype: torch.dtype, out: Path) -> None:
    x = images(22).to(dtype)
    net = Net().to(dtype)
    with pytest.raises(KeyboardInterrupt):
        capture(net, Dying(x.split(4), 3), out, layers="head")
    for order in (x.flip(0), torch.cat([x[:4], x[4:].flip(0)])):
        with pytest.raises(InputError, match=r"layer head: samples \d+ to \d+ differ .* fix their order"):
            capture(net, order.split(4), out, layers="head")
    with pytest.raises(InputError, match="stored 12 samples, the batches hold 8"):
        capture(net, x[:8].split(4), out, layers="head")
    assert capture(net, x.split(5), out, layers="head").samples == 22


def test_two_captures_into_one_store(out: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    def slow() -> Iterator[torch.Tensor]:
        yield images()
        inside.set()
        leave.wait(20)

    thread = threading.Thread(target=lambda: capture(Net(), slow(), out, layers="head"))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(OutputExistsError, match="is being written by process"):
        capture(Net(), [images()], out, layers="head")
    leave.set()
    thread.join()
    assert open_activations(out).samples == 11


KILLED = """
import sys, torch
from hpv.base import keeping
from hpv.capturing.storing import capture
keeping.CHECKPOINT_SECONDS = 0.0
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU())
x = torch.randn(2000, 20)
capture(net, x.split(40), sys.argv[1], layers="*", progress=lambda done, total: print(done, flush=True))
"""


def test_kill_9_and_continue(out: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 800:
                process.send_signal(signal.SIGKILL)
                break
    with pytest.raises(StoreError, match="incomplete"):
        open_activations(out)
    attributes: dict[str, Any] = dict(zarr.open_group(out, mode="r").attrs)
    assert attributes["progress"]["stored"] >= 800  # of a chunk of 4,096
    subprocess.run(command, check=True, capture_output=True, env=environment)
    _, layers = read(out)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU())
    x = torch.randn(2000, 20)
    np.testing.assert_allclose(layers["0"], run(net[0], x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layers["1"], run(net, x), rtol=1e-4, atol=1e-5)


def test_tolerance_of_comparisons() -> None:
    form = open_activations(np.ones((1, 1), "f4")).layers["activations"].float_format
    old = np.array([[1.0, np.nan, np.inf, 0.0]], "f4")
    assert _alike(old * np.float32(1.0001), old, form)
    assert not _alike(np.array([[1.0, 0.0, np.inf, 0.0]], "f4"), old, form)
    assert not _alike(np.array([[0.9, np.nan, np.inf, 0.0]], "f4"), old, form)


def test_without_torch_the_package_to_install_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; import hpv; hpv.capture"
    found = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert "hpv.capture and hpv.Monitor need torch, which is not installed: pip install 'hpv[torch]'." in found.stderr
