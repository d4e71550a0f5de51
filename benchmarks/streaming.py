"""Stores larger than memory: time beside a bare loop and the same work in memory, and private memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import MIB, Options, Table, back_memory, half_relu, met
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
                _run(Child("fit", **_without(job, "background"), out=job["background"]), store)
            compute: list[dict[str, Any]] = []
            for cache in caches:
                table.add(**_compare(what, cache, job, folder, compute, options))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.notes += [
        "seconds: plan, read, compute and write, once the kernels are loaded. read: a bare loop over the same chunks",
        "into one buffer per thread, the pilot's included; for score it writes as many bytes as there are codes.",
        "compute: the same values as one array; for score codes are made, not written. private: above what the",
        "imports take, loading the kernels included. Right before each of these 2 GiB of memory are used and given",
        "back, so that all find memory that is there; for a warm page cache the store is read through once more.",
        "cpu ratio: the same ratio of the seconds that processors worked; a busy machine changes it less.",
    ]
    return [table]


def write_store(path: Path, size: int) -> int:
    """An activation store of about ``size`` bytes, half Gaussian and half ReLU; how many samples it holds."""
    from hpv.activations.writing import ActivationWriter
    from hpv.base.floats import FORMATS
    from hpv.store.headers import ACTIVATIONS
    from hpv.store.output import Output

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
    reading = _without(job, "background") | {"pilot": what == "fit"}
    cold = cache == "cold"
    ours, bare = [], []
    warm = None if cold else Path(job["store"])
    for number in range(1 if cold else options.rounds):
        # Nothing is removed on the way: a file system (ext4) is slow to make files right after many were removed.
        place = str(folder / f"{what}-{cache}-{number}")
        ours.append(_run(Child(what, **job, out=place), warm))
        write = None if what == "fit" else f"{place}-bytes"
        bare.append(_run(Child("read", **reading, write=write), warm))
        if not cold:
            compute.append(_run(Child(f"{what}_in_memory", **job), warm))
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


def _run(child: Child, warm: Path | None) -> dict[str, Any]:
    """All steps of a child: what they found, and its private memory above the imports. A ``warm`` store is cached."""
    found: dict[str, Any] = {}
    with child:
        child.step()
        imports = child.private()
        found |= child.step()
        peaks = [child.peak]
        if warm is None:
            empty_page_cache()
        settle()
        if warm is not None:
            read_through(warm)
        found |= child.step()
        peaks = [peak for peak in (*peaks, child.peak) if peak is not None]
        found["private"] = max(peaks) - imports if peaks and imports is not None else None
    return found


def settle() -> None:
    """Leave nothing behind that would be charged to what runs next: what was written before goes to the disk now."""
    os.sync()
    back_memory(BACKED)


def read_through(store: Path) -> None:
    """Have a store in the page cache: some machines empty theirs within seconds."""
    buffer = bytearray(4 * MIB)
    for path in store.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def _without(job: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key != name}


def _bytes(memory: str) -> int:
    from hpv.base.machine import bytes_of

    return bytes_of(memory)
