"""The device itself, and how long it takes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from benchmarks.measuring import MIB
from hpv.kernels.cuda.device import cuda

BINS = 32
BASE = 4096
"""Samples that are drawn; the array on the device repeats them."""


def facts() -> dict[str, Any]:
    """Name, driver, clocks in MHz and the L2 of the device."""
    device, found = cuda.get_current_device(), {}
    asked = {"name": "name", "driver": "driver_version", "memory": "memory.total", "SM clock": "clocks.sm",
             "highest SM clock": "clocks.max.sm", "memory clock": "clocks.mem"}  # fmt: skip
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader", "-i", device.uuid]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        values = answer.split(", ")
        if len(values) == len(asked):
            found = dict(zip(asked, values, strict=True))
    name = device.name if isinstance(device.name, str) else device.name.decode()
    return {"name": name, **found, "L2": device.L2_CACHE_SIZE}


def describe(found: Mapping[str, Any]) -> str:
    """The device in one line."""
    parts = [f"{name} {value}" for name, value in found.items() if name not in ("name", "L2")]
    return ", ".join([found["name"], *parts, f"L2 {found['L2'] / MIB:.0f} MiB"])


def elapsed(start: Any, end: Any) -> float:
    """Seconds between two events."""
    return float(start.elapsed_time(end)) / 1000


def timed(
    cases: Mapping[str, Callable[[], Any]], before: Callable[[], Any], stream: Any, rounds: int
) -> dict[str, float]:
    """Seconds of each case on a stream: the median of ``rounds``, all cases in turns, after a call that is not timed.

    ``before`` keeps the device busy while a case is being sent to it, and leaves other values in the L2.
    """
    for case in cases.values():
        case()
    start, end = cuda.event(), cuda.event()
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            before()
            start.record(stream)
            case()
            end.record(stream)
            end.synchronize()
            found[name].append(elapsed(start, end))
    return {name: median(taken) for name, taken in found.items()}


def rows_of(size: int, nodes: int, itemsize: int) -> int:
    """Samples of so many bytes, one at least."""
    return max(1, size // (nodes * itemsize))
