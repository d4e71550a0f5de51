"""Stores larger than memory: time beside a bare loop and the same work in memory, and private memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import MIB, Options, Table, half_relu, met
from benchmarks.watching import Child, empty_page_cache

NODES = 4_096
BACKED = 2**31
"""Bytes that are used before each run: more than a run takes."""
MOST_TIME = 1.2
"""Times the sum of reading and computing."""
COLUMNS = (
    "what", "page_cache", "seconds", "read_s", "compute_s", "ratio", "most", "in_time", "cpu_ratio",
    "private_MiB", "budget_MiB", "in_budget", "planned_MiB", "loading_s",
)  # fmt: skip


def measure(options: Options) -> list[Table]:
    """Fit and score of a store on disk; the folder is removed, whatever happens."""
    table = Table("streaming", "Streaming an uncompressed Zarr store", COLUMNS)
    folder = Path(tempfile.mkdtemp(prefix="hpv-benchmark-", dir=options.folder))
    try:
        store = folder / "activations"
        samples = write_store(store, options.store_bytes)
        table.title += f", {samples:,} x {NODES:,} float32, {options.threads} threads, memory {options.memory}"
        job = {"store": str(store), "memory": options.memory, "threads": options.threads}
        caches = ["warm"]
        if options.cold and empty_page_cache():
            caches.append("cold")
        elif options.cold:
            table.notes.append("The page cache may be emptied by root only: no cold figures.")
        for what in options.streamed:
            if what == "score":
                job["background"] = str(folder / "background")
                _run(Child("fit", **_without(job, "background"), out=job["background"]))
            compute: list[dict[str, Any]] = []
            for cache in caches:
                table.add(**_compare(what, cache, job, folder, compute, options))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.notes += [
        "seconds: plan, read, compute and write, once the kernels are loaded. read: a bare loop over the same chunks",
        "into one buffer per thread, the pilot's included; for score it writes as many bytes as there are codes.",
        "compute: the same values as one array. private: above what the imports take, loading the kernels included.",
        "Right before each of these 2 GiB of memory are used and given back: all find memory that is there.",
        "cpu ratio: the same ratio of the seconds that processors worked; a busy machine changes it less.",
    ]
    return [table]


def write_store(path: Path, size: int) -> int:
    """An activation store of about ``size`` bytes, half Gaussian and half ReLU; how many samples it holds."""
    from hpv.floats import FORMATS
    from hpv.store import ACTIVATIONS, ActivationWriter, Output

    samples = max(size // (NODES * 4), 64)
    base = half_relu(min(samples, 2048), NODES)
    with Output.begin(path, ACTIVATIONS, {"benchmark": samples}, overwrite=False) as output:
        writer = ActivationWriter(output, {"layer": (NODES, FORMATS["float32"])})
        block = np.empty_like(base)
        for start in range(0, samples, len(base)):
            # Other values in every block, at a hundredth of the cost of drawing them.
            np.multiply(base, np.float32(1 + 1e-4 * (start // len(base))), out=block)
            writer.append({"layer": block[: samples - start]})
        writer.finish()
    return samples


def _compare(
    what: str, cache: str, job: dict[str, Any], folder: Path, compute: list[dict[str, Any]], options: Options
) -> dict[str, Any]:
    """One row: hpv, the bare loop and, while the cache is warm, the work in memory, in turns."""
    write = None if what == "fit" else str(folder / "bytes")
    reading = _without(job, "background") | {"pilot": what == "fit", "write": write}
    cold = cache == "cold"
    ours, bare = [], []
    for _ in range(1 if cold else options.rounds):
        ours.append(_run(Child(what, **job, out=str(folder / "out")), cold))
        shutil.rmtree(folder / "out")
        bare.append(_run(Child("read", **reading), cold))
        if not cold:
            compute.append(_run(Child(f"{what}_in_memory", **job)))
    answers = {str(one["found"])[:12] for one in ours + compute}
    if len(answers) != 1:
        raise RuntimeError(f"{what} of the store and of the array in memory differ: {', '.join(sorted(answers))}")
    took, read, computed = (min(one["seconds"] for one in runs) for runs in (ours, bare, compute))
    cpu = [min(one["cpu"] for one in runs) for runs in (ours, bare, compute)]
    private = max((one["private"] for one in ours if one["private"] is not None), default=None)
    ratio, budget = took / (read + computed), _bytes(options.memory)
    return {
        "what": what, "page_cache": cache, "seconds": took, "read_s": read, "compute_s": computed, "ratio": ratio,
        "most": MOST_TIME, "in_time": met(ratio, most=MOST_TIME), "cpu_ratio": cpu[0] / (cpu[1] + cpu[2]),
        "private_MiB": "not known here" if private is None else private / MIB, "budget_MiB": budget / MIB,
        "in_budget": None if private is None else met(private, most=budget),
        "planned_MiB": ours[0]["planned"] / MIB, "loading_s": min(one["loading"] for one in ours),
    }  # fmt: skip


def _run(child: Child, cold: bool = False) -> dict[str, Any]:
    """All steps of a child: what they found, and its private memory above the imports."""
    found: dict[str, Any] = {}
    with child:
        child.step()
        imports = child.private()
        peaks = []
        for number in range(2):
            if number and cold:
                empty_page_cache()
            if number:
                back_memory()
            found |= child.step()
            peaks += [child.peak] if child.peak is not None else []
        found["private"] = max(peaks) - imports if peaks and imports is not None else None
    return found


def back_memory() -> None:
    """Use memory and give it back, so that what runs next finds memory that is there.

    A virtual machine's host takes free memory back within seconds, and gives it again at a second or more per GB.
    """
    np.ones(BACKED, np.uint8)


def _without(job: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key != name}


def _bytes(memory: str) -> int:
    from hpv.planning import bytes_of

    return bytes_of(memory)
