"""The benchmark of the CUDA backend at toy size, simulated: it checks its own answers, and its tables are complete."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import hpv
from benchmarks import cuda as part
from benchmarks.cuda import calls, device, kernels, peers
from benchmarks.measuring import Options, gaussian
from hpv.activations.device_arrays import DeviceLayer
from hpv.activations.layers import Activations
from hpv.base.floats import FORMATS
from hpv.scoring import in_memory

TOY = Options(rounds=1, threads=1, nodes=4, peer_nodes=4, gpu_bytes=96, pinned_bytes=64)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that the simulator does not tell, and arrays that it does not know as those of a device."""
    monkeypatch.setattr(device, "elapsed", lambda start, end: 1e-3)
    monkeypatch.setattr(kernels, "EVENTS", 1)
    monkeypatch.setattr(kernels, "STRANGE", 3)
    monkeypatch.setattr(calls, "resident", resident)
    monkeypatch.setattr(in_memory, "_result_on_device", lambda given, *_: given)


def resident(array: Any) -> Activations:
    layer = DeviceLayer("activations", "there", array, FORMATS[array.dtype.name])
    return Activations({"activations": layer}, None, None, {}, False)


def check(table: Any, count: int) -> None:
    assert len(table.rows) == count
    for row in table.rows:
        for name, value in row.items():
            if isinstance(value, float):
                assert math.isfinite(value), (name, row)
                assert value > 0, (name, row)
        assert (row["met"] is None) == (row["least"] is None)


def test_kernels() -> None:
    (table,) = kernels.measure(TOY)
    check(table, 5 * len(FORMATS))
    wanted = {(row["kernel"], row["dtype"]) for row in table.rows if row["least"]}
    assert wanted == {(kernel, dtype) for kernel in kernels.LEAST for dtype in ("float32", "bfloat16")}
    shares = [row["share_of_copy"] for row in table.rows if row["dtype"] == "bfloat16"]
    assert shares == [1, 2 / 4, 3 / 4, 10 / 4, 2 / 4]  # bytes, as all take the same time


def test_other_answers_than_the_cpus_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.backend, "encode", lambda coder, bits, first, codes: codes.fill(7))
    with pytest.raises(RuntimeError, match="codes of float16 differ between the GPU and the CPU"):
        kernels.measure(TOY)


def test_calls() -> None:
    (table,) = calls.measure(TOY)
    check(table, 8)
    assert [row["least"] for row in table.rows] == [None, 0.85, 0.85, 0.85, None, None, None, None]


def test_peers_that_are_not_there() -> None:
    for table in peers.measure(TOY):
        ours, *others = table.rows
        assert ours["times_hpv"] == 1
        assert all(row["times_hpv"] is None for row in others)
    names = [row["system"] for table in peers.measure(TOY) for row in table.rows]
    assert (
        sum(name.startswith("torch") and name.endswith(("not installed", "does not see the GPU")) for name in names)
        == 2
    )


def test_peers_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch and numpy on the CPU, as if that were the device."""
    monkeypatch.setattr(peers, "tensor_of", lambda torch, values: torch.from_numpy(np.ascontiguousarray(values)))
    values = gaussian(60, 4)
    background = hpv.fit(values, bins=5, backend="cpu")
    cases, left = peers.ranges_cases(values, background, torch)
    wanted = background.pvalues(values, "right", backend="cpu")[1]
    for number, case in enumerate(cases.values()):
        case()
        found = left["torch"].numpy().T if number else left["ours"][1].copy_to_host()
        np.testing.assert_array_equal(found, wanted)
    cases, left = peers.counts_cases(values, background, torch, np)
    for case in cases.values():
        case()
    ours = left["ours"].histograms[0].copy_to_host().T
    np.testing.assert_array_equal(ours, left["added"].numpy())
    # histc multiplies to find the bin: a value next to an edge may fall on the other side.
    for others in (left["torch"].numpy(), np.stack(left["cupy"])):
        assert np.abs(np.cumsum(ours, 1) - np.cumsum(others, 1)).max() <= 1


def test_the_simulator_tells_no_times() -> None:
    assert part.missing() == "the simulator tells no times"


def test_the_device_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        name, uuid, L2_CACHE_SIZE = b"NVIDIA H200", "GPU-1", 60 * 2**20

    answer = "NVIDIA H200, 580.159.04, 143771 MiB, 1980 MHz, 1980 MHz, 3201 MHz\n"
    monkeypatch.setattr(device.cuda, "get_current_device", Device)
    monkeypatch.setattr(device.shutil, "which", lambda name: name)
    monkeypatch.setattr(device.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": answer}))
    assert device.describe(device.facts()) == (
        "NVIDIA H200, driver 580.159.04, memory 143771 MiB, SM clock 1980 MHz, highest SM clock 1980 MHz, "
        "memory clock 3201 MHz, L2 60 MiB"
    )
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    assert device.describe(device.facts()) == "NVIDIA H200, L2 60 MiB"
