"""hpv beside other libraries that do a part of the same: same run, same arrays, one thread."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import hpv
from benchmarks.measuring import Options, Table, best, gaussian, met, processors

COLUMNS = ("system", "ns_per_value", "times_hpv", "least", "met", "values")
RANGES, COUNTS, SCANS = 5.0, 4.0, 100.0
"""How many times as long the library that is named in the table's title must take."""
Cases = dict[str, Callable[[], Any]]


def measure(options: Options) -> list[Table]:
    """Three comparisons; a library that is not installed has a row that says so."""
    background = gaussian(options.samples, options.peer_nodes)
    values = gaussian(options.peer_samples, options.peer_nodes, seed=1)
    tables = []
    with _one_torch_thread():
        for compare in (ranges, counts, scans):
            tables.append(compare(background, values, options))
    return tables


def ranges(background: np.ndarray, values: np.ndarray, options: Options) -> Table:
    """Values to p-value ranges."""
    cases, left = ranges_cases(background, values)
    title = f"P-value ranges at 254 bins, Gaussian, against {len(background):,} samples, one thread"
    table = Table("ranges", title, COLUMNS)
    name = "torch searchsorted, 256 edges, gather"
    _fill(table, "hpv pvalues, 254 bins", cases, values.size, options, {name: RANGES})
    if "missing" in left:
        _absent(table, name, left["missing"])
    table.notes.append("hpv writes pmin and pmax, torch gathers one table. numpy gives exact p-values.")
    return table


def ranges_cases(background: np.ndarray, values: np.ndarray) -> tuple[Cases, dict[str, Any]]:
    """What is timed, and what it leaves behind: ``ours`` (pmin, pmax), ``torch`` p-values, ``numpy`` counts."""
    model = hpv.fit(background, bins=254)
    ours = (np.empty(values.shape, np.float32), np.empty(values.shape, np.float32))
    cases: Cases = {"hpv pvalues, 254 bins": lambda: model.pvalues(values, out=ours)}
    left: dict[str, Any] = {"ours": ours}
    torch = _import("torch")
    if isinstance(torch, str):
        left["missing"] = torch
    else:
        edges, table = torch_quantiles(torch, background)
        rows, columns = torch.from_numpy(values), torch.from_numpy(values).t().contiguous()
        codes = torch.empty(columns.shape, dtype=torch.int64)
        left["torch"] = torch.empty(columns.shape, dtype=torch.float32)

        def look_up(turned: Any) -> None:
            torch.searchsorted(edges, turned, right=True, out=codes)
            torch.gather(table, 1, codes, out=left["torch"])

        cases["torch searchsorted, 256 edges, gather"] = lambda: look_up(columns.copy_(rows.t()))  # rows as they come
        cases["the same, values transposed before"] = lambda: look_up(columns)
    ordered = np.sort(background.T, axis=1)
    below = left["numpy"] = np.empty((values.shape[1], len(values)), np.int64)

    def search() -> None:
        for node, column in enumerate(values.T):
            below[node] = np.searchsorted(ordered[node], column)

    cases["numpy sort, searchsorted on the transpose"] = search
    return cases, left


def torch_quantiles(torch: Any, background: np.ndarray) -> tuple[Any, Any]:
    """256 quantile edges (nodes, 256) of each node, and pmax (nodes, 257) of each bin."""
    ordered = np.sort(background.T, axis=1)
    samples = len(background)
    at = np.linspace(0, samples - 1, 256).round().astype(np.int64)
    edges = np.ascontiguousarray(ordered[:, at])
    survivors = np.stack([samples - np.searchsorted(row, e) for row, e in zip(ordered, edges, strict=True)])
    table = np.concatenate([np.full((len(edges), 1), samples), survivors], axis=1) + 1
    return torch.from_numpy(edges), torch.from_numpy((table / (samples + 1)).astype(np.float32))


def counts(background: np.ndarray, values: np.ndarray, options: Options) -> Table:
    """Background to counts per bin."""
    table = Table("counting", f"Counting {len(background):,} samples in 32 bins, Gaussian, one thread", COLUMNS)
    cases, left = counts_cases(background)
    _fill(table, "hpv fit at given edges", cases, background.size, options, {"fast-histogram per column": COUNTS})
    if "missing" in left:
        _absent(table, "fast-histogram per column", left["missing"])
    table.notes.append("hpv counts at any edges, also finds each node's extremes, and reads the rows as they come.")
    return table


def counts_cases(background: np.ndarray) -> tuple[Cases, dict[str, Any]]:
    """What is timed, and what it leaves behind: a ``background`` and ``counts`` (nodes, 32), the same bins."""
    low, high = background.min(axis=0).astype(np.float64), background.max(axis=0).astype(np.float64)
    edges = (low[:, None] + (high - low)[:, None] * np.arange(1, 32) / 32).astype(np.float32)
    left: dict[str, Any] = {"edges": edges}

    def fit() -> None:
        left["background"] = hpv.fit(background, edges=edges, threads=1)

    cases: Cases = {"hpv fit at given edges": fit}
    fast = _import("fast_histogram")
    if isinstance(fast, str):
        left["missing"] = fast
        return cases, left
    columns = np.ascontiguousarray(background.T)
    found = left["counts"] = np.empty((len(columns), 32))

    def count(turned: np.ndarray) -> None:
        for node, column in enumerate(turned):
            found[node] = fast.histogram1d(column, 32, (low[node], high[node]))

    cases["fast-histogram per column"] = partial(count, background.T)
    cases["the same, values transposed before"] = partial(count, columns)
    return cases, left


def scans(background: np.ndarray, values: np.ndarray, options: Options) -> Table:
    """Values to scan scores."""
    title = f"Ranges and subset scan of {len(values):,} samples against {len(background):,}, {values.shape[1]} nodes"
    table = Table("scanning", f"{title}, one thread", COLUMNS)
    cases, left = scans_cases(background, values)
    name = "adversarial-robustness-toolbox SubsetScanningDetector"
    _fill(table, "hpv scan, grid", cases, values.size, options, {name: SCANS})
    if "missing" in left:
        _absent(table, name, left["missing"])
    table.notes.append(
        "Its detector scans exact p-values; its constructor, which scans the whole background too, is not counted."
    )
    return table


def scans_cases(background: np.ndarray, values: np.ndarray, **options: Any) -> tuple[Cases, dict[str, Any]]:
    """What is timed, and the scores that it leaves behind: ``grid``, ``all`` and ``detector``."""
    model = hpv.fit(background, **options)
    left: dict[str, Any] = {}

    def scan(alphas: str) -> None:
        left[alphas] = model.scan(values, tail="right", alphas=alphas).score

    cases: Cases = {"hpv scan, grid": partial(scan, "grid"), "hpv scan, all alphas": partial(scan, "all")}
    art = _import("art.defences.detector.evasion.subsetscanning.detector")
    if isinstance(art, str):
        left["missing"] = art
        return cases, left
    # Its constructor scans all that it is given, which takes far longer than what is compared here.
    detector = art.SubsetScanningDetector(Identity(), background[:500], 0, verbose=False)
    detector.sorted_bgd_activations = np.sort(background, axis=0)

    def detect() -> None:
        left["detector"] = detector.detect(values)[0]["scores"]

    cases["adversarial-robustness-toolbox SubsetScanningDetector"] = detect
    return cases, left


class Identity:
    """A network whose only layer gives its input."""

    layer_names = ("input",)

    def get_activations(self, x: np.ndarray, layer: str, batch_size: int, framework: bool = False) -> np.ndarray:
        """As the detector asks for them."""
        return x


def _fill(table: Table, ours: str, cases: Cases, size: int, options: Options, targets: dict[str, float]) -> None:
    found = best({name: partial(_held, case) for name, case in cases.items()}, options.rounds)
    for name, taken in found.items():
        times, least = taken / found[ours], targets.get(name)
        table.add(
            system=name, ns_per_value=taken / size * 1e9, times_hpv=times, least=least,
            met=None if least is None else met(times, least=least), values=size,
        )  # fmt: skip


def _held(case: Callable[[], Any]) -> None:
    with processors(1):
        case()


def _absent(table: Table, name: str, why: str) -> None:
    table.add(system=f"{name}: not installed")
    table.notes.append(f"{name} was not compared: {why}. Install it: pip install 'hpv[bench]'.")


def _import(name: str) -> Any:
    """A module, or why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        return str(error)


class _one_torch_thread:  # noqa: N801
    """torch computes in one thread inside."""

    def __enter__(self) -> None:
        self.torch = _import("torch")
        if not isinstance(self.torch, str):
            self.before = self.torch.get_num_threads()
            self.torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        if not isinstance(self.torch, str):
            self.torch.set_num_threads(self.before)
