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
from hpv.backends import cuda as backend
from hpv.backends import gpu
from hpv.background import Background
from hpv.kernels.cuda.device import cuda
from hpv.resources import available_memory

LEAST_OF_PCIE = 0.85
"""Share of the copy's rate that a call on pinned memory must reach."""


def measure(options: Options) -> Table:
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
    codes, place = (np.empty(pinned.shape, np.uint8), cuda.device_array(there.shape, np.uint8)), backend.Place()
    for where, values, out, least in (
        ("pinned memory", pinned, codes[0], LEAST_OF_PCIE),
        ("the GPU", resident(there), codes[1], None),
    ):
        copy = partial(copy_from_pinned, pinned, place) if values is pinned else partial(copy_there, there, place)
        cases = {"copy": copy, **whole(values, background, out, options.threads)}
        taken = {name: median(found) for name, found in rounds_of(cases, options.rounds).items()}
        moved = pinned.nbytes if values is pinned else there.nbytes
        for name, seconds in taken.items():
            share = taken["copy"] / seconds
            wanted = None if name == "copy" else least
            table.add(call=name, values_in=where, GB_per_s=moved / seconds / 1e9, share_of_copy=share, least=wanted,
                      met=None if wanted is None else met(share, least=wanted))  # fmt: skip
    table.notes += [
        f"Medians of {options.rounds} rounds, from call to answer; GB/s of values, {pinned.nbytes / 1e9:.2g} GB of them",
        f"in pinned memory, which are copied to the GPU in pieces of {backend.LARGEST_PLACE // MIB} MiB. encode also "
        "writes to",
        "the memory of the machine, a byte per value.",
    ]
    return table


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
    step = max(1, backend.LARGEST_PLACE // pinned[0].nbytes)
    for start in range(0, len(pinned), step):
        place.send("values", pinned[start : start + step])
    place.stream.synchronize()


def copy_there(values: Any, place: Any) -> None:
    """A copy on the device."""
    place.on_device("target", values.shape, np.float32).copy_to_device(values, stream=place.stream)
    place.stream.synchronize()
