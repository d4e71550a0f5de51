"""Batches: how a model is called with one, which labels come of it, and what is no series of batches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hpv.base.errors import InputError
from hpv.capturing.batches import CallRule, weights_hash
from hpv.capturing.storing import capture
from networks import Net, images, read

pytestmark = pytest.mark.slow


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


# ---------------------------------------------------------------- labels, weights


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
