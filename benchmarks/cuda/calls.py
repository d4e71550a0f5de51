"""Whole calls on values in pinned memory and on the device, beside the copies that bound them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import hpv
from benchmarks.cuda.device import BASE, BINS, rows_of
from benchmarks.measuring import MIB, Options, Table, half_relu, met, rounds_of
from hpv.api.background import Background
from hpv.backends import gpu, moving
from hpv.base.machine import available_memory
from hpv.kernels.cuda.device import cuda

LEAST_OF_PCIE = 0.85
"""Share of the copy's rate that a call on pinned memory must reach."""
PIECE = 32 * MIB
"""Bytes that are copied at once: larger pieces go no faster."""


def measure(options: Options) -> list[Table]:
    """``hpv.fit`` and its fellows on values in pinned memory and on the device, beside the copy that bounds them."""
    columns = ("call", "values_in", "GB_per_s", "share_of_copy", "least", "met")
    table = Table("cuda calls", f"Calls at {BINS} bins, float32, {options.threads} threads", columns)
    size = min(options.pinned_bytes, available_memory() // 4)
    base = half_relu(min(BASE, rows_of(size, options.nodes, 4)), options.nodes)
    background = hpv.fit(base, bins=BINS, backend="cpu")
    pinned = cuda.pinned_array((rows_of(size, options.nodes, 4), options.nodes), np.float32)
    for start in range(0, len(pinned), len(base)):
        part = pinned[start : start + len(base)]
        part[:] = base[: len(part)]
    if (free := gpu.free_memory()) is not None:
        size = min(size, free // 4)
    there = cuda.to_device(pinned[: rows_of(size, options.nodes, 4)])
    place = moving.Slot()
    of_pinned = {"copy": partial(copy_from_pinned, pinned, place)}
    of_pinned |= whole(pinned, background, np.empty(pinned.shape, np.uint8), options.threads)
    of_there = {"copy": partial(copy_there, there, place)}
    of_there |= whole(resident(there), background, cuda.device_array(there.shape, np.uint8), options.threads)
    for where, cases, least, values, moved in (
        ("pinned memory", of_pinned, LEAST_OF_PCIE, pinned.size, {}),
        ("the GPU", of_there, None, there.size, {"copy": 8, "Background.encode": 5}),
    ):
        taken = {name: median(found) for name, found in rounds_of(cases, options.rounds).items()}
        rates = {name: values * moved.get(name, 4) / seconds / 1e9 for name, seconds in taken.items()}
        for name, rate in rates.items():
            share, wanted = rate / rates["copy"], None if name == "copy" else least
            table.add(call=name, values_in=where, GB_per_s=rate, share_of_copy=share, least=wanted,
                      met=None if wanted is None else met(share, least=wanted))  # fmt: skip
    table.notes += [
        f"Medians of {options.rounds} rounds, from call to answer. In pinned memory: {pinned.nbytes / 1e9:.2g} GB of",
        f"values, which are copied to the GPU in pieces of {PIECE // MIB} MiB; encode writes a byte for each here.",
        f"On the GPU: {there.nbytes / 1e9:.2g} GB; what is read there and written there counts.",
    ]
    return [table]


def resident(array: Any) -> Any:
    """Activations on the device, as a user gives them."""
    return array


def whole(values: Any, background: Background, codes: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """The calls, by name."""
    return {
        "hpv.fit at given edges": lambda: hpv.fit(values, edges=background, threads=threads, backend="cuda"),
        "Background.scan, grid": lambda: background.scan(values, backend="cuda"),
        "Background.encode": lambda: background.encode(values, out=codes, backend="cuda"),
    }


def copy_from_pinned(pinned: np.ndarray, place: Any) -> None:
    """Everything to the device, piece by piece, to one place there."""
    step = max(1, PIECE // pinned[0].nbytes)
    for start in range(0, len(pinned), step):
        place.send("values", pinned[start : start + step])
    place.stream.synchronize()


def copy_there(values: Any, place: Any) -> None:
    """A copy on the device."""
    place.on_device("target", values.shape, np.float32).copy_to_device(values, stream=place.stream)
    place.stream.synchronize()
