"""hpv capture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpv
from commands import done, refused

pytestmark = pytest.mark.slow


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``network_of_a_user`` in the current folder."""
    (tmp_path / "network_of_a_user.py").write_text("""
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.head = torch.nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))

def load():
    torch.manual_seed(0)
    return Net(), torch.randn(20, 1, 8, 8).split(8)

def misfit():
    return Net(), [torch.randn(20, 2, 8, 8)]

def number():
    return 3

def no_model():
    return load, [1]

def failing():
    raise KeyError("weights.pt")

constant = 7
""")
    (tmp_path / "needs.py").write_text("import package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("network_of_a_user", None)


def test_capture(network: Path) -> None:
    outcome = done("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "c*", "--layer", "head")
    assert "20 samples" in outcome.out
    assert outcome.err.startswith("2 layers, 147 nodes, 588 bytes per sample")
    opened = hpv.open("a.zarr")
    assert {name: layer.shape for name, layer in opened.layers.items()} == {"conv": (20, 144), "head": (20, 3)}
    assert opened.labels is not None
    document = done("capture", "network_of_a_user.py:load", "-o", "b.zarr", "--layer", "conv", "--layer", "head",
                    "--reduce", "conv=mean", "--labels", "none", "--device", "cpu", "--json").json  # fmt: skip
    assert [(layer["name"], layer["nodes"]) for layer in document["layers"]] == [("conv", 4), ("head", 3)]
    assert hpv.open("b.zarr").labels is None
    assert document["samples"] == 20
    assert "mean" in done("info", "b.zarr").out


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        ("network_of_a_user", (), "give MODULE:FUNCTION"),
        ("nowhere:load", (), "there is no module nowhere"),
        ("nowhere.py:load", (), "nowhere.py does not exist"),
        ("network_of_a_user:save", (), "network_of_a_user has no save; it has Net, load, misfit"),
        ("network_of_a_user:constant", (), "is an int; name a function"),
        ("network_of_a_user:number", (), "returned an int; let it return (model, batches)"),
        ("network_of_a_user:no_model", (), "as its model; let it return a torch.nn.Module"),
        ("network_of_a_user:failing", (), "failing failed: KeyError: 'weights.pt' ("),
        ("needs:load", (), "needs failed: ModuleNotFoundError: No module named 'package_that_nobody_has'"),
        ("network_of_a_user:load", ("--layer", "cnov"), "conv"),
        ("network_of_a_user:load", ("--reduce", "median"), "median"),
        ("network_of_a_user:load", ("--reduce", "mean", "--reduce", "conv=max"), "give one for all layers"),
        ("network_of_a_user:load", ("--labels", "mine"), "--labels mine: give 'argmax', 'targets', or --labels none"),
    ],
)
def test_capture_refuses(network: Path, function: str, options: tuple[str, ...], words: str) -> None:
    layers = () if "--layer" in options else ("--layer", "conv")
    assert words in refused("capture", function, "-o", "a.zarr", *layers, *options)
    assert not (network / "a.zarr").exists()


def test_a_device_that_is_not_here(network: Path) -> None:
    for device, words in (("mtia", "mtia"), ("cuda:99", "cuda:99"), ("toaster", "toaster")):
        message = refused("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "conv", "--device", device)
        assert f"--device {words} cannot be used here: " in message
        assert "--device cpu, or leave it out" in message
    assert not (network / "a.zarr").exists()
    done("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "conv", "--device", "cpu")


def test_a_model_that_fails(network: Path) -> None:
    message = refused("capture", "network_of_a_user:misfit", "-o", "a.zarr", "--layer", "conv", code=3)
    assert "network_of_a_user:misfit: its model or its batches failed: RuntimeError" in message


def test_capture_without_torch(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "conv")
    assert "pip install 'hpv[torch]'" in message
