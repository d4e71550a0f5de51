"""torch and cupy on the same device, on values that are there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import hpv
from benchmarks.cuda.device import BASE, BINS, rows_of, timed
from benchmarks.cuda.kernels import tables_of
from benchmarks.measuring import Options, Table, gaussian
from hpv.api.background import Background
from hpv.backends import cuda as backend
from hpv.backends import moving
from hpv.base.floats import FLOAT32, from_keys, to_keys
from hpv.kernels.cuda import counting, ranging
from hpv.kernels.cuda.device import cuda

Cases = tuple[dict[str, Callable[[], Any]], dict[str, Any]]


def measure(options: Options) -> list[Table]:
    """torch and cupy on the same device, on values that are there."""
    samples = rows_of(options.gpu_bytes // 8, options.peer_nodes, 4)
    values = gaussian(samples, options.peer_nodes)
    background = hpv.fit(values[:BASE], bins=BINS, backend="cpu")
    torch = on_device("torch", lambda torch: torch.cuda.is_available())
    cupy = on_device("cupy", lambda cupy: cupy.is_available())
    shape = f"{samples:,} x {options.peer_nodes:,} float32, Gaussian, on the GPU"
    found = []
    for name, compare, systems in (("ranges", ranges_cases, (torch,)), ("counting", counts_cases, (torch, cupy))):
        title, columns = f"{name.capitalize()} at {BINS} bins, {shape}", ("system", "ps_per_value", "times_hpv")
        table = Table(f"cuda {name}", title, columns)
        cases, _ = compare(values, background, *systems)
        ours = next(iter(cases))
        taken = timed(cases, lambda: None, cuda.default_stream(), options.rounds)
        for system, seconds in taken.items():
            table.add(system=system, ps_per_value=seconds / values.size * 1e12, times_hpv=seconds / taken[ours])
        for system in systems:
            if isinstance(system, str):
                table.add(system=system)
        found.append(table)
    found[0].notes.append("hpv writes pmin and pmax, torch gathers one table.")
    found[1].notes.append("histc and histogram go node by node over values that were transposed before.")
    return found


def on_device(library: str, usable: Callable[[Any], bool]) -> Any:
    """A library that can use the device; else its name and what it lacks."""
    try:
        module = importlib.import_module(library)
    except ImportError:
        return f"{library}: not installed"
    return module if usable(module) else f"{library} {module.__version__}: does not see the GPU"


def tensor_of(torch: Any, values: np.ndarray) -> Any:
    """A tensor on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).cuda()


def ranges_cases(values: np.ndarray, background: Background, torch: Any) -> Cases:
    """Values to p-values; leaves ``ours`` (pmin, pmax) and ``torch`` pmax (nodes, samples) behind."""
    histograms, (tables, _) = background.histograms("activations"), tables_of(background)
    made = backend.make_ranges(tables, histograms.edges, histograms.float_format)
    (edges,) = backend.make_coder(histograms.edges, histograms.float_format).tables.on(moving.FIRST)
    bits, ours = cuda.to_device(values.view(np.int32)), tuple(cuda.device_array(values.shape, np.float32) for _ in "ab")
    by = edges, histograms.float_format.infinity, made.tables.on(moving.FIRST)
    what = bits, 0, None, None, *by, ours, cuda.default_stream()
    cases: dict[str, Callable[[], Any]] = {"hpv, ranges": partial(ranging.ranges, *what)}
    left: dict[str, Any] = {"ours": ours}
    if isinstance(torch, str):
        return cases, left
    numbers = from_keys(histograms.edges, histograms.float_format)
    bounds = tensor_of(torch, np.where(np.isnan(numbers), np.float32(np.inf), numbers))
    table, rows = tensor_of(torch, tables[1][0]), tensor_of(torch, values)
    columns = rows.t().contiguous()
    codes, found = torch.empty_like(columns, dtype=torch.int64), torch.empty_like(columns)
    left["torch"] = found

    def look_up(turned: Any) -> None:
        torch.searchsorted(bounds, turned, right=True, out=codes)
        torch.gather(table, 1, codes, out=found)

    cases["torch searchsorted, gather"] = lambda: look_up(columns.copy_(rows.t()))  # rows as they come
    cases["the same, values transposed before"] = lambda: look_up(columns)
    return cases, left


def counts_cases(values: np.ndarray, background: Background, torch: Any, cupy: Any) -> Cases:
    """Values to counts in bins of equal width; leaves ``ours`` (33, nodes) and what others count (nodes, 32) behind."""
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    numbers = (low[:, None] + (high - low)[:, None] * np.arange(1, BINS) / BINS).astype(np.float32)
    left: dict[str, Any] = {"edges": numbers}
    counter = backend.make_counter(to_keys(numbers, FLOAT32), FLOAT32)
    state = left["ours"] = backend.start_counts(counter, 1, FLOAT32).on(moving.FIRST)
    (edges,) = counter.tables.on(moving.FIRST)
    counts = state.histograms[0], state.lowest, state.highest
    bits = cuda.to_device(values.view(np.int32))
    what = bits, 0, None, edges, FLOAT32.infinity, *counts, cuda.default_stream()
    cases: dict[str, Callable[[], Any]] = {"hpv, counts": partial(counting.count, *what)}
    columns = np.ascontiguousarray(values.T)
    if not isinstance(torch, str):
        turned, bounds = tensor_of(torch, columns), tensor_of(torch, numbers)
        found = left["torch"] = torch.zeros((len(columns), BINS), dtype=torch.float32, device=turned.device)
        one = torch.ones((), dtype=torch.int32, device=turned.device).expand(turned.shape)
        added = left["added"] = torch.zeros((len(columns), BINS), dtype=torch.int32, device=turned.device)

        def histc() -> None:
            for node, column in enumerate(turned):
                found[node] = torch.histc(column, BINS, float(low[node]), float(high[node]))

        def scatter() -> None:
            added.zero_().scatter_add_(1, torch.searchsorted(bounds, turned, right=True), one)

        cases |= {"torch.histc per node": histc, "torch searchsorted, scatter_add": scatter}
    if not isinstance(cupy, str):
        there = cupy.asarray(columns)

        def histogram() -> None:
            left["cupy"] = [cupy.histogram(column, BINS, (low[n], high[n]))[0] for n, column in enumerate(there)]

        cases["cupy.histogram per node"] = histogram
    return cases, left
