"""The public calls in memory, as multiples of a copy of the same array in the same run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import hpv
from benchmarks.measuring import (
    Options,
    Table,
    compute_in_threads,
    copy_in_threads,
    half_relu,
    met,
    processors,
    rounds_of,
)

TARGETS = {
    "fit at given edges, 10 bins": 2.0,
    "fit at given edges, 32 bins": 3.5,
    "fit, 32 bins": 6.0,
    "encode, 10 bins": 2.5,
    "encode, 32 bins": 4.0,
    "encode, 254 bins": 5.0,
    "pvalues float32, 32 bins": 6.0,
    "scan, grid, 32 bins": 5.0,
}
"""Most copies that a call may cost on one thread."""
LEAST_GAIN = 1.7
"""Of two threads; or ``OF_COMPUTE`` of what work gains that needs no memory."""
OF_COMPUTE = 0.9
COLUMNS = ("call", "ns_per_value", "copies", "most", "met", "threads", "gain", "least_gain", "gain_met")


def measure(options: Options) -> list[Table]:
    """One thread, then all of them."""
    values = half_relu(options.samples, options.nodes)
    table = Table(
        "library", f"Library calls, {options.samples:,} x {options.nodes:,} float32, half Gaussian, half ReLU", COLUMNS
    )
    with processors(options.threads) as threads:
        calls = prepare(values)
    calls["compute"] = partial(compute_in_threads, 12_000)
    counts = (1, threads) if threads > 1 else (1,)
    # In turns: what else runs on the machine then slows both down.
    taken = rounds_of({(name, count): partial(_held, call, count) for name, call in calls.items() for count in counts},
                      options.rounds)  # fmt: skip
    # Of pairs that follow each other: the machine's speed changes, less so within a pair.
    gains = {name: median(a / b for a, b in zip(taken[name, 1], taken[name, threads], strict=True)) for name in calls}
    limit = threads * gains["compute"] if threads > 1 else None
    least = {name: min(taken[name, 1]) for name in calls}
    for name in calls:
        if name != "compute":
            table.add(**_row(name, least, values.size, gains[name], threads, limit))
    if limit is None:
        table.notes.append("One processor is allowed: no gain of several threads.")
    else:
        table.notes.append(f"Comparisons in the nearest cache are made {limit:.2f} times as fast by {threads} threads.")
        if limit < 0.8 * threads:
            table.notes.append("That is little: the machine was busy, and these figures say little.")
    table.notes.append("gain: the median of pairs of calls, with one thread and with all, one after the other.")
    table.notes.append("encode and pvalues write to arrays that were given; fit and scan allocate what they return.")
    return [table]


def _held(call: Callable[[int], Any], count: int) -> None:
    with processors(count):
        call(count)


def prepare(values: np.ndarray) -> dict[str, Callable[[int], Any]]:
    """The calls; each takes the number of threads."""
    edges = {bins: hpv.edges(values, bins=bins) for bins in (10, 32)}
    backgrounds = {bins: hpv.fit(values, bins=bins) for bins in (10, 32, 254)}
    codes, target = np.empty(values.shape, np.uint8), np.empty_like(values)
    ranges = (np.empty(values.shape, np.float32), np.empty(values.shape, np.float32))
    calls: dict[str, Callable[[int], Any]] = {"copy": partial(copy_in_threads, values, target)}
    calls |= {
        f"fit at given edges, {bins} bins": lambda threads, bins=bins: hpv.fit(
            values, edges=edges[bins], threads=threads
        )
        for bins in (10, 32)
    }
    calls["fit, 32 bins"] = lambda threads: hpv.fit(values, bins=32, threads=threads)
    for bins in (10, 32, 254):
        calls[f"encode, {bins} bins"] = lambda _, bins=bins: backgrounds[bins].encode(values, out=codes)
    calls["pvalues float32, 32 bins"] = lambda _: backgrounds[32].pvalues(values, out=ranges)
    calls["scan, grid, 32 bins"] = lambda _: backgrounds[32].scan(values, alphas="grid")
    calls["scan, all alphas, 32 bins"] = lambda _: backgrounds[32].scan(values, alphas="all")
    return calls


def _row(
    name: str, least: dict[str, float], size: int, gain: float, threads: int, limit: float | None
) -> dict[str, Any]:
    copies, most = least[name] / least["copy"], TARGETS.get(name)
    row: dict[str, Any] = {
        "call": name, "ns_per_value": least[name] / size * 1e9, "copies": copies, "most": most,
        "met": None if most is None else met(copies, most=most),
    }  # fmt: skip
    if limit is not None:
        row |= {"threads": threads, "gain": gain}
        if name != "copy":
            wanted = min(LEAST_GAIN, OF_COMPUTE * limit)
            row |= {"least_gain": wanted, "gain_met": met(gain, least=wanted)}
    return row
