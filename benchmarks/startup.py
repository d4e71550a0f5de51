"""What a user of the command line waits for: imports, compilation, kernels from the cache."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import Options, Table, met
from benchmarks.watching import ROOT, environment

COLUMNS = ("command", "seconds", "most", "met", "cpu_seconds", "measured")
FIRST, NEXT, IMPORT, HELP = 20.0, 3.0, 0.3, 0.5
"""Most seconds."""


def measure(options: Options) -> list[Table]:
    """Fresh processes; the first fit and score find no compiled kernels."""
    table = Table("startup", "Start of the command line, seconds of whole processes", COLUMNS)
    rounds = options.rounds

    def row(name: str, arguments: Sequence[str], most: float | None, times: int, cache: Path) -> None:
        took, computed = map(min, zip(*(_process(arguments, cache) for _ in range(times)), strict=True))
        kept = None if most is None else met(took, most=most)
        how = f"least of {times}" if times > 1 else "once"
        table.add(command=name, seconds=took, most=most, met=kept, cpu_seconds=computed, measured=how)

    with tempfile.TemporaryDirectory(prefix="hpv-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        cache = Path(options.kernel_cache or folder / "cache")
        np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((1000, 256), np.float32))
        fit = ["-m", "hpv", "fit", str(folder / "x.npy"), "-o", str(folder / "b"), "--overwrite"]
        score = ["-m", "hpv", "score", str(folder / "b"), str(folder / "x.npy"), "-o", str(folder / "s"), "--overwrite"]
        row("python -c pass", ["-c", "pass"], None, rounds, cache)
        row("import hpv", ["-c", "import hpv"], IMPORT, rounds, cache)
        row("hpv --help", ["-m", "hpv", "--help"], HELP, rounds, cache)
        row("hpv fit, nothing compiled yet", fit, FIRST, 1, cache)
        row("hpv fit, the next ones", fit, NEXT, rounds, cache)
        row("hpv score, after a fit", score, None, 1, cache)
        row("hpv score, the next ones", score, None, rounds, cache)
    table.notes.append("fit and score of 1,000 x 256 float32; the cache of compiled kernels was an empty folder.")
    table.notes.append("cpu seconds much below seconds: the machine was busy with something else.")
    return [table]


def _process(arguments: Sequence[str], cache: Path) -> tuple[float, float]:
    """Seconds that Python takes with these arguments, on the clock and of processors."""
    changes = environment(NUMBA_CACHE_DIR=str(cache))
    before, start = _processor_seconds(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=changes, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return took, _processor_seconds() - before


def _processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
