"""A capture: the store holds what the modules gave, the model stays as it is, what cannot fit is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hpv.activations.opening import open_activations
from hpv.base.errors import DataError, InputError, StoreError
from hpv.capturing import estimate
from hpv.capturing.batches import weights_hash
from hpv.capturing.estimate import CapturePlan
from hpv.capturing.storing import capture
from networks import Net, images, read

pytestmark = pytest.mark.slow


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
    assert found.attributes["model"] == f"{Net.__module__}.Net"
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


def test_without_torch_the_package_to_install_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; import hpv; hpv.capture"
    found = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert "hpv.capture and hpv.Monitor need torch, which is not installed: pip install 'hpv[torch]'." in found.stderr
