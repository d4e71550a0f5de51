"""The compiled loops on one thread, as multiples of a copy of the same array in the same run.

Also runs alone: ``python -m benchmarks.kernels --samples 2000 --nodes 512 --rounds 3``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

import hpv
from benchmarks.measuring import Options, Table, best, copy, half_relu, met, show
from hpv.backends import cpu
from hpv.base.floats import FLOAT32
from hpv.histograms.ranges import outward, range_tables
from hpv.kernels.cpu import ranging, tallying
from hpv.kernels.cpu.coders import coding
from hpv.scanning.thresholds import GRID, alpha_grid, level_table

BINS = (10, 32, 64, 254)
"""Ordinary bins of the backgrounds whose edges are used."""
TARGETS = {
    "count, 10 bins": 2.0,
    "count, 32 bins": 3.5,
    "encode, 10 bins": 2.5,
    "encode, 32 bins": 4.0,
    "encode, 254 bins": 5.0,
    "ranges, 32 bins": 6.0,
    "encode and tally, 32 bins": 5.0,
}
"""Most copies that a kernel may cost."""
BLOCK = 256
"""Samples whose codes are looked up while they are still in the caches."""


def measure(options: Options) -> list[Table]:
    """One table: nanoseconds per value and copies."""
    title = f"Kernels, {options.samples:,} x {options.nodes:,} float32, half Gaussian, half ReLU, one thread"
    table = Table("kernels", title, ("kernel", "ns_per_value", "copies", "most", "met"))
    values = half_relu(options.samples, options.nodes)
    taken = best(prepare(values), options.rounds)
    for name, seconds in taken.items():
        copies, most = seconds / taken["copy"], TARGETS.get(name)
        verdict = None if most is None else met(copies, most=most)
        table.add(kernel=name, ns_per_value=seconds / values.size * 1e9, copies=copies, most=most, met=verdict)
    return [table]


def prepare(values: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The calls, by name; outputs are allocated here."""
    bits, rows = values.view(np.int32), np.arange(len(values))
    codes, target = np.empty(values.shape, np.uint8), np.empty_like(values)
    calls: dict[str, Callable[[], Any]] = {"copy": partial(copy, values, target)}
    histograms = {}
    for bins in BINS:
        background = hpv.fit(values[:4096], bins=bins, threads=1)
        histograms[bins] = background.histograms("activations").edges
        counter = coding.make_counter(background.layers["activations"].edges, FLOAT32.infinity)
        calls[f"count, {bins} bins"] = partial(coding.count, bits, 0, rows, counter)
        coder = coding.make_coder(histograms[bins], FLOAT32.infinity)
        calls[f"encode, {bins} bins"] = partial(coder.encode, bits, 0, codes)
    return calls | prepare_ends(values, histograms[32])


def prepare_ends(values: np.ndarray, keys: np.ndarray) -> dict[str, Callable[[], Any]]:
    """From values to ranges and to tallies, right tail, with the tables of a background of the same values."""
    samples, nodes = values.shape
    bits, rows, none = values.view(np.int32), np.arange(samples), np.zeros(samples, np.int64)
    counts = coding.count(bits, 0, rows, coding.make_counter(keys, FLOAT32.infinity))
    exact = range_tables(counts.survivors[None], counts.counted[None], "right")
    coder = coding.make_coder(keys, FLOAT32.infinity)
    tables = ranging.make_tables(*outward(*exact), keys, FLOAT32.infinity)
    pmin, pmax = np.empty_like(values), np.empty_like(values)
    levels = tallying.make_levels(level_table(exact[1], counts.counted[None], alpha_grid(samples, 0.5)), GRID)
    tally, codes = np.zeros((samples, GRID + 2), np.int32), np.empty((BLOCK, nodes), np.uint8)

    def tallies() -> None:
        for start in range(0, samples, BLOCK):
            part = slice(start, min(samples, start + BLOCK))
            found = codes[: part.stop - start]
            coder.encode(bits[part], 0, found)
            tallying.tally(found, rows[: len(found)], none[part], levels, tally[part])

    room = partial(np.empty, dtype=np.uint8)
    return {
        "ranges, 32 bins": partial(cpu.ranges, coder, tables, bits, 0, none, room, (pmin, pmax)),
        "encode and tally, 32 bins": tallies,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.kernels", description=__doc__)
    default = Options()
    for name in ("samples", "nodes", "rounds"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    chosen = vars(parser.parse_args())
    options = replace(default, **{one.name: chosen[one.name] for one in fields(Options) if one.name in chosen})
    for table in measure(options):
        show(table, Console())


if __name__ == "__main__":
    main()
