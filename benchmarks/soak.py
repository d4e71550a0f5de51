"""A store many times as large as the memory, by the real commands: time beside the machine's own, and flat memory."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import MIB, Options, Table, met
from benchmarks.streaming import MOST_TIME, NODES, settle, write_store
from benchmarks.watching import ROOT, Child, empty_page_cache, environment, private_memory
from hpv.base.machine import bytes_of

READING = 256 * MIB
"""Bytes that a command reads before its memory is looked at: more than its imports."""
INTERVAL = 0.5
"""Seconds between two looks at a command's memory."""
MARGIN = 4_000_000_000
"""Bytes of the disk that stay free."""
IN_MEMORY = 2_000_000_000
"""Bytes of the array that the work in memory is measured with, again and again."""
COLUMNS = (
    "what", "GB", "page_cache", "seconds", "read_s", "compute_s", "ratio", "most", "in_time", "GB_per_s",
    "bare_GB_per_s", "budget_MiB", "first_MiB", "median_MiB", "max_MiB", "last_MiB", "in_budget",
)  # fmt: skip


def measure(options: Options) -> list[Table]:
    """``hpv fit`` and ``hpv score`` of a store on disk; the folder is removed, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="hpv-benchmark-", dir=options.folder))
    table = Table("soak", "", COLUMNS)
    try:
        size = fitting_size(options.soak_bytes, shutil.disk_usage(folder).free)
        if size < options.soak_bytes:
            table.notes.append(f"The disk has room for {size / 1e9:.3g} GB only, not {options.soak_bytes / 1e9:.3g}.")
        times = -(-size // IN_MEMORY)
        samples = write_store(folder / "activations", size)
        write_store(folder / "in-memory", size // times)
        table.title = f"Commands on {samples:,} x {NODES:,} float32, {options.threads} threads, {options.soak_memory}"
        job = {"memory": options.soak_memory, "threads": options.threads}
        with Child("fit", store=str(folder / "activations"), out="", **job) as child:
            child.step()
            imports = child.private() or 0
            child.step()  # kernels that must be compiled are compiled
        for what in ("fit", "score"):
            table.add(**_row(what, times, imports, folder, job))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.notes += [
        "seconds: the whole process, its start included. read: a bare loop over the same chunks into one buffer per",
        "thread, the pilot's included; for score it writes as many bytes as there are codes. compute: the same work",
        f"{times} times on an array of {size / times / 1e9:.3g} GB in memory. The page cache is emptied before seconds",
        'and read; where this user may not do that, the system is asked to forget the store ("advised"). MiB: private',
        "memory above what the imports take, looked at every half second from the moment on when 256 MiB were read.",
    ]
    return [table]


def fitting_size(wanted: int, free: int) -> int:
    """Bytes of a store for which the disk has room, with its codes, as many bytes again, and the array in memory."""
    room = (free - MARGIN - IN_MEMORY) * 2 // 3
    if room < 64 * MIB:
        raise RuntimeError(f"{free / 1e9:.3g} GB are free: too little for a store, its codes and {MARGIN / 1e9:.3g} GB")
    return min(wanted, room)


def _row(what: str, times: int, imports: int, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """A command, the bare loop and the work in memory, one after the other."""
    store, background = str(folder / "activations"), str(folder / "background")
    limits = ["--memory", job["memory"], "--threads", str(job["threads"]), "--json"]
    if what == "fit":
        command, given, write = ["fit", store, "-o", background], {}, None
    else:
        command = ["score", background, store, "-o", str(folder / "scores")]
        given, write = {"background": background}, str(folder / "bytes")
    cache = forget(store)
    took, memory = watch([sys.executable, "-m", "hpv", *command, *limits])
    forget(store)
    read = run_job("read", store=store, **job, pilot=what == "fit", write=write)
    compute = run_job(f"{what}_in_memory", store=str(folder / "in-memory"), **job, **given, times=times)
    size = sum(path.stat().st_size for path in Path(store, "layers").rglob("*"))
    ratio, budget = took / (read + compute), bytes_of(job["memory"])
    flat = [(one - imports) / MIB for one in memory]
    seen = {"first": flat[0], "median": statistics.median(flat), "max": max(flat), "last": flat[-1]} if flat else {}
    return {
        "what": what, "GB": size / 1e9, "page_cache": cache, "seconds": took, "read_s": read, "compute_s": compute,
        "ratio": ratio, "most": MOST_TIME, "in_time": met(ratio, most=MOST_TIME), "GB_per_s": size / took / 1e9,
        "bare_GB_per_s": size / read / 1e9, "budget_MiB": budget / MIB,
        **{f"{name}_MiB": value for name, value in seen.items()},
        "in_budget": met(max(flat), most=budget / MIB) if flat else None,
    }  # fmt: skip


def forget(store: str) -> str:
    """Have the system forget what it read: by emptying its cache, or else by asking it about these files."""
    settle()
    if empty_page_cache():
        return "emptied"
    for path in Path(store).rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
    return "advised"


def watch(command: list[str]) -> tuple[float, list[int]]:
    """Seconds that a command takes, and its private memory, bytes, while it reads the store."""
    start, found = time.perf_counter(), []
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL) as process:
        while True:
            try:
                process.wait(INTERVAL)
                break
            except subprocess.TimeoutExpired:
                now = private_memory(process.pid)
                if now is not None and bytes_read(process.pid) > READING:
                    found.append(now)
        took = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return took, found


def bytes_read(process: int) -> int:
    """By a process, from the page cache or not."""
    try:
        found = re.search(r"rchar: (\d+)", Path(f"/proc/{process}/io").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def run_job(name: str, **arguments: Any) -> float:
    """Seconds of a job of `benchmarks.child`."""
    with Child(name, **arguments) as child:
        child.step()
        child.step()
        took: float = child.step()["seconds"]
    return took
