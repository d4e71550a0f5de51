"""Timing beside the machine's own limit, and the tables that show it."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count as count_up
from itertools import pairwise
from typing import Any, TypeVar

import numba
import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

MIB = 2**20
Name = TypeVar("Name")
_TURNS = count_up()


@dataclass(frozen=True)
class Options:
    """Sizes of a run; the defaults are those that the targets are meant for, tests take tiny ones."""

    rounds: int = 5
    """Every figure is the least of so many, taken in turns with all others."""
    threads: int = 2
    samples: int = 20_000
    nodes: int = 4_096
    peer_nodes: int = 512
    """Of the comparisons with other libraries, most of which are slow."""
    peer_samples: int = 2_000
    """That are compared with the background."""
    store_bytes: int = 4_000_000_000
    memory: str = "512MiB"
    streamed: tuple[str, ...] = ("fit", "score")
    soak_bytes: int = 20_000_000_000
    """Of the store of the soak; at most what fits on the disk."""
    soak_memory: str = "1GiB"
    gpu_bytes: int = 4_000_000_000
    """Of values on the GPU, a seventh of its memory at most."""
    pinned_bytes: int = 8_000_000_000
    """Of values in pinned memory, at most a quarter of what is free."""
    cold: bool = True
    """Also with an empty page cache, where this user may empty it."""
    folder: str | None = None
    """Where stores are made, and removed again; default: the folder for temporary files."""
    kernel_cache: str | None = None
    """Where compiled kernels are kept while startup is measured; default: an empty folder."""
    scale: int = 4_096
    """Samples of the smallest array of the scaling table."""


@dataclass
class Table:
    """One table: rows are mappings from column to number or text; None stays empty."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Append a row; columns that are left out stay empty."""
        unknown = set(row) - set(self.columns)
        if unknown:
            raise ValueError(f"table {self.name} has no columns {sorted(unknown)}")
        self.rows.append({column: row.get(column) for column in self.columns})

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def show(table: Table, console: Console) -> None:
    """Print a table and its notes."""
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        shown.add_column(column.replace("_", " "), justify="left" if number == 0 else "right")
    for row in table.rows:
        shown.add_row(*(_text(row[column]) for column in table.columns))
    console.print(shown)
    for note in table.notes:
        console.print(f"  {note}", highlight=False)
    console.print()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def met(value: float, most: float | None = None, least: float | None = None) -> bool:
    """Whether a figure is within its target."""
    return (most is None or value <= most) and (least is None or value >= least)


def back_memory(size: int) -> None:
    """Use memory and give it back, so that what runs next finds memory that is there.

    A virtual machine's host takes free memory back within seconds, and gives it again at a second or more per GB.
    """
    np.ones(size, np.uint8)


BACKED = 128 * MIB
"""More than a call in memory takes for itself."""


def rounds_of(cases: Mapping[Name, Callable[[], Any]], rounds: int) -> dict[Name, list[float]]:
    """Seconds of each case in each of ``rounds``, all cases in turns, after a call that is not timed."""
    for case in cases.values():
        case()
    found: dict[Name, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            back_memory(BACKED)
            found[name].append(seconds(case))
    return found


def best(cases: Mapping[Name, Callable[[], Any]], rounds: int) -> dict[Name, float]:
    """Seconds of each case: the least of ``rounds``."""
    return {name: min(taken) for name, taken in rounds_of(cases, rounds).items()}


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def together(functions: Sequence[Callable[[], Any]]) -> None:
    """Call functions at the same time, each in a thread of its own; the first error is raised again."""
    errors: list[BaseException] = []

    def call(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@contextmanager
def processors(count: int) -> Iterator[int]:
    """Let this thread, and those that it starts, use so many processors; gives how many there are, at most ``count``.

    What hpv does in memory takes as many threads as processors are allowed.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    # Another one each time: a thread that is held on a processor cannot leave it where something else is busy.
    first = next(_TURNS) % len(before)
    allowed = sorted(before)
    os.sched_setaffinity(0, (allowed[first:] + allowed[:first])[:count])
    try:
        yield min(count, len(before))
    finally:
        os.sched_setaffinity(0, before)


def processor_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@numba.njit(nogil=True)
def copy(source, target):  # (s, n) -> (s, n)
    """The machine's limit for a pass over an array."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@numba.njit(nogil=True)
def compute(rounds, values, edges, counters):  # (8, n), (k, n) -> (k, n)
    """Comparisons with edges in the nearest cache: what a second thread can gain at most, memory or not.

    Steps that wait for each other would leave half of a core idle, and not notice who else uses that core.
    """
    for _ in range(rounds):
        for k in range(edges.shape[0]):
            for j in range(values.shape[1]):
                count = counters[k, j]
                for q in range(8):
                    count += values[q, j] >= edges[k, j]
                counters[k, j] = count


def halves(rows: int, threads: int) -> list[slice]:
    """Contiguous parts of a range of rows, one for each thread."""
    borders = [rows * i // threads for i in range(threads + 1)]
    return [slice(a, b) for a, b in pairwise(borders) if a < b]


def copy_in_threads(source: np.ndarray, target: np.ndarray, threads: int) -> None:
    """The copy, each thread its part."""
    together([partial(copy, source[rows], target[rows]) for rows in halves(len(source), threads)])


def compute_in_threads(rounds: int, threads: int) -> None:
    """As much work in each of the threads."""
    values, edges = (np.arange(rows * 256, dtype=np.int32).reshape(rows, 256) % 77 for rows in (8, 32))
    together([partial(compute, rounds, values, edges, np.zeros_like(edges)) for _ in range(threads)])


def gaussian(samples: int, nodes: int, seed: int = 0) -> np.ndarray:
    """Independent Gaussian values, float32; every node has a location and a scale of its own."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((samples, nodes), np.float32)
    values *= rng.uniform(0.5, 2.0, nodes).astype(np.float32)
    values += rng.uniform(-1.0, 1.0, nodes).astype(np.float32)
    return values


def half_relu(samples: int, nodes: int, seed: int = 0) -> np.ndarray:
    """Half of the nodes Gaussian, the other half those of a ReLU: 60 % exact zeros."""
    values = np.random.default_rng(seed).standard_normal((samples, nodes), np.float32)
    relu = values[:, nodes // 2 :]
    np.maximum(relu - np.float32(0.2533), 0, out=relu)
    return values


PACKAGES = ("numpy", "numba", "numba-cuda", "zarr", "dask", "torch", "fast-histogram", "adversarial-robustness-toolbox")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    model = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    return {"processor": model, "processors": processor_count(), "python": platform.python_version(), **versions}
