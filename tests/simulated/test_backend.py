"""The CUDA backend, by the public calls: the same answers as the CPU's, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

import hpv
from hpv.activations.blocks import Block
from hpv.activations.device_arrays import DeviceLayer
from hpv.activations.layers import Activations
from hpv.backends import cuda, gpu, moving
from hpv.backends.protocol import Room
from hpv.base.floats import FORMATS
from hpv.capturing import devices
from hpv.kernels.cuda.device import cuda as driver
from hpv.scoring import in_memory

SPECIAL = (0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-42, 6e-8, 3.0)


@st.composite
def blocks(draw: st.DrawFn) -> np.ndarray:
    """A few values of any dtype, most of them in a few places."""
    samples, nodes = draw(st.integers(1, 20)), draw(st.integers(1, 7))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.choice([*SPECIAL, *rng.normal(size=10)], size=(samples, nodes))
    return values.astype(dtype)


def same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one, other, strict=True)


@given(x=blocks(), bins=st.integers(1, 12), classes=st.integers(1, 3))
def test_counts(x: np.ndarray, bins: int, classes: int) -> None:
    options: dict[str, Any] = {"bins": bins, "threads": 1}
    if classes > 1:
        options["labels"] = np.arange(len(x)) % classes
    ours, theirs = (hpv.fit(x, backend=name, **options) for name in ("cuda", "cpu"))
    assert ours.fingerprint == theirs.fingerprint


@given(x=blocks(), y=blocks(), tail=st.sampled_from(["right", "left", "two-sided"]), kind=st.sampled_from(["f4", "f8"]))
def test_codes_and_ranges(x: np.ndarray, y: np.ndarray, tail: str, kind: str) -> None:
    nodes = min(x.shape[1], y.shape[1])
    background = hpv.fit(x[:, :nodes], labels=np.arange(len(x)) % 2, min_class_size=3, backend="cpu")
    y, labels = y[:, :nodes], np.arange(len(y)) % 3
    same(background.encode(y, backend="cuda"), background.encode(y, backend="cpu"))
    for given_labels in (None, labels):
        for one, other in zip(
            background.pvalues(y, tail, kind, given_labels, backend="cuda"),
            background.pvalues(y, tail, kind, given_labels, backend="cpu"),
            strict=True,
        ):
            same(one, other)


@given(x=blocks(), y=blocks(), against=st.sampled_from(["pooled", "own", "lowest"]), data=st.data())
def test_scans(x: np.ndarray, y: np.ndarray, against: str, data: st.DataObject) -> None:
    nodes = min(x.shape[1], y.shape[1])
    background = hpv.fit(x[:, :nodes], labels=np.arange(len(x)) % 2, min_class_size=3, backend="cpu")
    options: dict[str, Any] = {
        "against": against,
        "labels": np.arange(len(y)) % 2,
        "tail": data.draw(st.sampled_from(["right", "left", "two-sided"])),
        "form": data.draw(st.sampled_from(["subset", "whole"])),
        "alphas": data.draw(st.sampled_from(["grid", "all"])),
    }
    ours, theirs = (background.scan(y[:, :nodes], backend=name, **options) for name in ("cuda", "cpu"))
    for name in ("score", "alpha", "size", "label"):
        same(getattr(ours, name), getattr(theirs, name))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    group = zarr.create_group(tmp_path / "acts.zarr")
    for name, nodes, chunks in (("conv", 5, (8, 3)), ("head", 2, (20, 2))):
        values = np.maximum(rng.normal(size=(20, nodes)), -0.3).astype(np.float32)
        values[7, 1] = np.nan
        group.create_array(name, data=values, chunks=chunks)
    return tmp_path / "acts.zarr"


@pytest.mark.parametrize("threads", [1, 2])
def test_stores(store: Path, tmp_path: Path, threads: int) -> None:
    """Streamed through pinned memory, with codes written; by two threads as by one."""
    background = hpv.fit(store, threads=threads, backend="cuda", bins=6)
    assert background.fingerprint == hpv.fit(store, backend="cpu", bins=6).fingerprint
    scores = {}
    for name in ("cuda", "cpu"):
        with pytest.warns(hpv.HpvWarning, match="2 NaN values"):
            scores[name] = hpv.score(background, store, tmp_path / name, threads=threads, backend=name)
    one, other = scores["cuda"], scores["cpu"]
    for kind in one.kinds:
        same(one.get(*kind).score, other.get(*kind).score)
    for layer in ("conv", "head"):
        same(one.codes(layer).read(), other.codes(layer).read())
    for name in ("cuda", "cpu"):
        with pytest.raises(hpv.InputError, match=f"backend='{name}er': give auto, cpu or cuda"):
            hpv.fit(store, backend=f"{name}er")


def test_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are larger than a place go piece by piece, and results come back so."""
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    background = hpv.fit(x, backend="cpu", bins=4)
    expected = background.encode(x), *background.pvalues(x), background.scan(x).score
    monkeypatch.setattr(moving, "LARGEST_PLACE", 100)
    monkeypatch.setattr(cuda, "LARGEST_TALLIES", 4000)
    assert hpv.fit(x, edges=background, backend="cuda").fingerprint == background.fingerprint
    found = background.encode(x, backend="cuda"), *background.pvalues(x, backend="cuda")
    for one, other in zip((*found, background.scan(x, backend="cuda").score), expected, strict=True):
        same(one, other)


def test_pinned_memory_of_the_caller_is_sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    background = hpv.fit(x, backend="cpu", bins=4)
    monkeypatch.setattr(moving, "LARGEST_PLACE", 50)
    monkeypatch.setattr(gpu, "is_pinned", lambda _: True)
    monkeypatch.setattr(moving.Slot, "here", lambda _, purpose, *what: {"out 0": np.empty(*what)}[purpose])
    same(background.encode(x, backend="cuda"), background.encode(x, backend="cpu"))
    assert hpv.fit(x, edges=background, backend="cuda").fingerprint == background.fingerprint


# --- what is on a GPU stays there ---


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes activations of numpy arrays that lie on the simulated device; copies from there are counted."""

    def activations(**layers: np.ndarray) -> Activations:
        made = {}
        for name, values in layers.items():
            array = driver.to_device(values)
            array.is_c_contiguous = lambda: True
            made[name] = DeviceLayer(name, name, array, FORMATS[values.dtype.name])
        return Activations(made, None, None, {}, len(made) > 1)

    return activations


@pytest.mark.parametrize("tile", [65_536, 3])
def test_answers_stay_where_the_values_are(on_device: Any, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    """Also those of a wide layer, which is done some nodes at a time."""
    monkeypatch.setattr(in_memory, "TILE_NODES", tile)
    x = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
    there = on_device(activations=x)
    background = hpv.fit(there, bins=4)
    assert background.fingerprint == hpv.fit(x, bins=4, backend="cpu").fingerprint
    codes = background.encode(there)
    assert not isinstance(codes, np.ndarray)
    same(codes.copy_to_host(), background.encode(x, backend="cpu"))
    for one, other in zip(background.pvalues(there), background.pvalues(x, backend="cpu"), strict=True):
        assert not isinstance(one, np.ndarray)
        same(one.copy_to_host(), other)
    same(background.encode(there, backend="cpu"), background.encode(x, backend="cpu"))
    ours, theirs = background.scan(there), background.scan(x, backend="cpu")
    same(ours.score, theirs.score)
    same(ours.nodes(3)["activations"], theirs.nodes(3)["activations"])


@pytest.mark.parametrize("options", [{}, {"against": "lowest"}, {"alphas": "all"}, {"against": "own"}])
def test_a_monitor_works_where_the_activations_are(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """With tensors whose memory stands for a device's."""

    def there(array: Any) -> Any:
        return FakeCUDAArray(array.numpy()) if isinstance(array, torch.Tensor) else array

    def on_stream(array: Any) -> moving.OnDevice:
        return moving.OnDevice(there(array), driver.default_stream(), 0)

    monkeypatch.setattr(gpu, "adopted", there)
    for module in (cuda, moving):
        monkeypatch.setattr(module, "on_stream", on_stream)
    monkeypatch.setattr(devices, "array_of", lambda tensor: tensor)
    monkeypatch.setattr(devices, "block_of", lambda rows, form: Block(moving.of_tensor(rows, form.key), 0))
    x = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    x[2, 1] = np.nan
    labels = np.arange(12) % 2
    background = hpv.fit({"0": x}, labels=labels if options.get("against") else None, min_class_size=3, backend="cpu")
    model = torch.nn.Sequential(torch.nn.Identity())
    with hpv.Monitor(model, background, backend="cuda", **options) as monitor:
        model(torch.from_numpy(x[:5]))
        with pytest.warns(hpv.HpvWarning, match="1 NaN value in this batch"):
            found = monitor.scores(labels=labels[:5])
    assert found.missing == 1
    given_labels = labels[:5] if options.get("against") == "own" else None
    for tail, form, statistic in found.kinds:
        expected = background.scan({"0": x[:5]}, tail=tail, form=form, statistic=statistic, labels=given_labels,
                                   backend="cpu", **options)  # fmt: skip
        for name in ("score", "alpha", "size"):
            same(getattr(found.get(tail, form, statistic), name), getattr(expected, name))
    same(found.codes("0").numpy(), background.encode({"0": x[:5]}, backend="cpu")["0"])
    one, other = found.pvalues("0"), background.pvalues({"0": x[:5]}, labels=given_labels, backend="cpu")["0"]
    for ours, theirs in zip(one, other, strict=True):
        same(ours.numpy(), theirs)


# --- what goes wrong ---


class CudaDriverError(Exception):
    """As Numba's is called."""


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((4, 2), np.float32)
    monkeypatch.setattr(cuda, "SIMULATED", False)
    monkeypatch.setattr(cuda, "find_spec", lambda _: None)
    with pytest.raises(
        hpv.InputError, match=r"backend='cuda': the package numba-cuda is not installed: pip install 'hpv"
    ):
        hpv.fit(x, backend="cuda")
    monkeypatch.setattr(cuda, "find_spec", lambda _: "there")
    monkeypatch.setattr(driver, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "why_not", lambda: "no driver")
    with pytest.raises(
        hpv.InputError, match=r"no GPU that can be used \(no driver\); nvidia-smi .* or give backend='cpu'|Or"
    ):
        hpv.fit(x, backend="cuda")
    assert hpv.fit(x, backend="auto").nodes == 2


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY", hpv.InputError, "the GPU has no room for"),
        (
            "[719] CUDA_ERROR_LAUNCH_FAILED",
            hpv.DataError,
            r"the GPU failed: \[719\] CUDA_ERROR_LAUNCH_FAILED; start anew",
        ),
    ],
)
def test_a_device_that_fails(monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception], message: str) -> None:
    def fail(*_: Any) -> None:
        raise CudaDriverError(said)

    x = np.zeros((4, 2), np.float32)
    monkeypatch.setattr(cuda.counting, "count", fail)
    with pytest.raises(kind, match=message):
        hpv.fit(x, backend="cuda")


def test_a_small_device(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "room", lambda: Room(free=2**20))
    with pytest.raises(
        hpv.InputError, match=r"the GPU has 1 MiB left, blocks and tables need at least 64 MiB; end what"
    ):
        hpv.fit(store, backend="cuda")
    wide = np.zeros((300, 200_000), np.float32)
    monkeypatch.setattr(cuda, "room", lambda: Room(2, 2**23, free=2**26))
    narrow = hpv.plan("fit", wide, backend="cuda", memory="4GiB", edges=[0.0])
    assert len(narrow.layers[0].tiles) == len(
        hpv.plan("fit", wide, backend="cpu", memory="4GiB", edges=[0.0]).layers[0].tiles
    )
    assert narrow.layers[0].block < hpv.plan("fit", wide, backend="cpu", memory="4GiB", edges=[0.0]).layers[0].block
