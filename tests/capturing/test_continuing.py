"""Captures that were interrupted go on where they were; complete ones are left alone, others refused or replaced."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from hpv.activations.opening import open_activations
from hpv.base.errors import DataError, InputError, OutputExistsError, StoreError
from hpv.capturing.storing import _alike, capture
from networks import Net, images, read

pytestmark = pytest.mark.slow


def run(module: Any, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = module(x).flatten(1).numpy()
    return result


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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
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
