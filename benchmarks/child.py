"""Jobs of the streaming benchmark, each in a fresh process: ``python -m benchmarks.child JOB ARGUMENTS``.

A job is a generator. The first ``yield`` comes after the imports, the next after the kernels are loaded, the last with
the result; every ``yield`` prints its value and waits for a line.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.measuring import halves, together
from hpv.fitting.options import FitOptions
from hpv.scoring.options import ScoreOptions

IMPORTS = (
    "dask.threaded", "zarr", "numba", "hpv.api.calls", "hpv.backends.cpu",
    "hpv.kernels.cpu.coders.coding", "hpv.kernels.cpu.placing", "hpv.kernels.cpu.ranging",
    "hpv.kernels.cpu.sorting", "hpv.kernels.cpu.tallying",
)  # fmt: skip
Steps = Iterator[dict[str, Any]]


class Stopwatch:
    """Seconds since it was made, on the clock and of processors: the second do not suffer from a busy machine."""

    def __init__(self) -> None:
        self.start, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both."""
        return {"seconds": time.perf_counter() - self.start, "cpu": time.process_time() - self.processor}


def load() -> dict[str, Any]:
    """Have the kernels loaded, or compiled: a tiny fit and scan."""
    import hpv

    start = time.perf_counter()
    background = hpv.fit(np.random.default_rng(0).normal(size=(200, 70)).astype(np.float32), threads=1)
    background.scan(np.zeros((70, 70), np.float32))
    return {"loading": time.perf_counter() - start}


def fit(store: str, out: str, memory: str, threads: int) -> Steps:
    """What ``hpv fit`` does."""
    from hpv.fitting.job import prepare_fit
    from hpv.fitting.running import fit_to_store

    yield {}
    yield load()
    watch = Stopwatch()
    job = prepare_fit(store, FitOptions(memory=memory, threads=threads))
    background, _ = fit_to_store(job, out)
    took = watch.read()
    yield {**took, "planned": job.plan.peak, "found": background.fingerprint}


def score(store: str, background: str, out: str, memory: str, threads: int) -> Steps:
    """What ``hpv score`` does."""
    import hpv
    from hpv.scoring.job import prepare_score

    yield {}
    yield load()
    planned = prepare_score(hpv.open(background), store, ScoreOptions(memory=memory, threads=threads)).plan.peak
    watch = Stopwatch()
    scores = hpv.score(hpv.open(background), store, out, keep=("codes",), memory=memory, threads=threads)
    took = watch.read()
    yield {**took, "planned": planned, "found": float(scores.get(*scores.kinds[0]).score.sum())}


def fit_in_memory(store: str, memory: str, threads: int, times: int = 1) -> Steps:
    """The fit of the same values as one array; counted so many times, for a store of so many times the samples."""
    import hpv

    yield {}
    values = whole(store, threads)
    yield load()
    watch = Stopwatch()
    background = hpv.fit({layer_name(store): values}, memory=memory, threads=threads)
    for _ in range(times - 1):
        hpv.fit({layer_name(store): values}, edges=background, memory=memory, threads=threads)
    took = watch.read()
    yield {**took, "found": background.fingerprint}


def score_in_memory(store: str, background: str, memory: str, threads: int, times: int = 1) -> Steps:
    """The scores and codes of the same values as one array, made so many times; nothing is written."""
    import hpv
    from hpv.scoring.job import prepare_score
    from hpv.scoring.tallying import score_by_threads
    from hpv.walking.progress import Quiet

    yield {}
    values = whole(store, threads)
    yield load()
    watch = Stopwatch()
    parts: list[Any] = []
    source = {layer_name(store): values}
    job = prepare_score(hpv.open(background), source, ScoreOptions(memory=memory, threads=threads))  # type: ignore[arg-type]
    for _ in range(times):
        parts.clear()
        score_by_threads(job, Quiet(), lambda _, results, *more: parts.append(results), lambda *codes: None)
    took = watch.read()
    yield {**took, "found": float(sum(part[job.options.kinds[0]].score.sum() for part in parts))}


def read(store: str, memory: str, threads: int, pilot: bool, write: str | None = None) -> Steps:
    """Only read the chunks, with ``pilot`` those of the pilot first; into ``write`` put a byte per value, too."""
    yield {}
    files, count = chunk_files(store, memory, threads, pilot)
    size = os.path.getsize(files[0])
    codes = 0 if write is None else size // 4
    plan = [(file, 0) for file in files[:count]] + [(file, codes) for file in files[count:]]
    yield {}
    watch = Stopwatch()
    bare_loop(plan, size, threads, write)
    took = watch.read()
    yield {**took, "chunks": len(files), "bytes": len(files) * size}


def bare_loop(plan: list[tuple[str, int]], size: int, threads: int, write: str | None) -> None:
    """Read files into a reused buffer; after each write so many bytes to a file of its own."""
    if write is not None:
        os.makedirs(write)

    def work(part: slice) -> None:
        buffer = np.zeros(size, np.uint8)
        for number in range(part.start, part.stop):
            name, written = plan[number]
            file = os.open(name, os.O_RDONLY)
            os.preadv(file, [buffer], 0)
            os.close(file)
            if write is not None and written:
                file = os.open(f"{write}/{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.write(file, buffer[:written])
                os.close(file)

    together([lambda part=part: work(part) for part in halves(len(plan), threads)])  # type: ignore[misc]


def chunk_files(store: str, memory: str, threads: int, pilot: bool) -> tuple[list[str], int]:
    """The files that a fit reads, in its order: those of the pilot, then all; and how many the pilot's are."""
    import zarr

    from hpv.fitting.job import prepare_fit

    array = zarr.open_group(store, mode="r")[f"layers/{layer_name(store)}"]
    rows = array.chunks[0]
    folder = os.path.join(store, array.path)
    files = [
        os.path.join(folder, array.metadata.encode_chunk_key((row, column)))
        for row in range(-(-array.shape[0] // rows)) for column in range(-(-array.shape[1] // array.chunks[1]))
    ]  # fmt: skip
    if not pilot:
        return files, 0
    across = len(files) // -(-array.shape[0] // rows)
    (layer,) = prepare_fit(store, FitOptions(memory=memory, threads=threads)).plan.layers
    touched = sorted({row for run in layer.pilot for row in range(run.start // rows, -(-run.stop // rows))})
    first = [files[row * across + column] for row in touched for column in range(across)]
    return first + files, len(first)


def layer_name(store: str) -> str:
    """Of the only layer."""
    with open(os.path.join(store, "zarr.json"), encoding="utf-8") as file:
        (layer,) = json.load(file)["attributes"]["layers"]
    name: str = layer["name"]
    return name


def whole(store: str, threads: int) -> np.ndarray:
    """The layer as an array in memory."""
    import hpv

    (layer,) = hpv.open(store).layers.values()
    values = np.empty(layer.shape, layer.float_format.storage)
    steps = [slice(at, min(at + 4096, len(values))) for at in range(0, len(values), 4096)]

    def work(part: slice) -> None:
        for rows in steps[part]:
            values[rows] = layer.read(rows, slice(0, values.shape[1]))

    together([lambda part=part: work(part) for part in halves(len(steps), threads)])  # type: ignore[misc]
    return values


JOBS: dict[str, Callable[..., Steps]] = {
    "fit": fit, "score": score, "fit_in_memory": fit_in_memory, "score_in_memory": score_in_memory, "read": read,
}  # fmt: skip


def main(job: str, arguments: str) -> None:
    """Do a job, step by step."""
    for name in IMPORTS:
        importlib.import_module(name)
    steps = JOBS[job](**json.loads(arguments))
    while sys.stdin.readline():
        found = next(steps, None)
        if found is None:
            return
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
