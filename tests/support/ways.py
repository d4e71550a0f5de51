"""Fit and score one store in every way there is, as processes of their own: in the end the same bits.

    python tests/support/ways.py [--store-bytes 2e9] [--shards 5] [--memory 512MiB] [--folder DIR] [--seed 0]

makes an activation store of that size (two layers), then runs hpv fit and hpv score with one thread and with all,
with --workers 2, on a `dask scheduler` with two `dask worker` processes, and in shards that are done and merged in a
random order. Kills are what tests/support/crash.py does. Exit code 1 and a message if anything differs.

tests/walking/test_cluster.py and the files test_shards.py do the same with small data.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
NODES = {"conv": 3072, "hidden": 1024}


class Different(Exception):
    """One way did not end as the first one."""


def hpv(*arguments: object) -> None:
    """Run a command."""
    words = [str(one) for one in arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-m", "hpv", *words], check=True, env=environment, stdout=subprocess.DEVNULL)


def make_store(path: Path, size: float, seed: int) -> None:
    """Activations of that many bytes, float32, in chunks as hpv captures them."""
    import zarr

    samples = max(int(size / 4 / sum(NODES.values())) // 512, 1) * 512
    rng, group = np.random.default_rng(seed), zarr.open_group(path, mode="w")
    for name, nodes in NODES.items():
        array = group.create_array(name, shape=(samples, nodes), chunks=(256, nodes), dtype="f4", compressors=None)
        for start in range(0, samples, 512):
            array[start : start + 512] = np.maximum(rng.standard_normal((512, nodes), np.float32), -1)


@contextmanager
def scheduler(folder: Path) -> Iterator[Path]:
    """A scheduler and two workers on this machine; the file that the scheduler wrote."""
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    with ExitStack() as running:

        def start(*arguments: str) -> None:
            process = subprocess.Popen([sys.executable, "-m", "dask", *arguments, *common], stderr=subprocess.DEVNULL)
            running.callback(process.wait)
            running.callback(process.terminate)

        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(2):
            start("worker", "--nthreads", "1", "--local-directory", str(folder))
        while not file.exists():
            time.sleep(0.1)
        yield file


def contents(store: Path) -> str:
    """A hash of the names and bytes of all chunks."""
    found = hashlib.sha256()
    for path in sorted(store.rglob("c/**/*")):
        if path.is_file():
            found.update(str(path.relative_to(store)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Every way, each beside the first one."""
    store, chance = folder / "activations.zarr", random.Random(arguments.seed)
    make_store(store, arguments.store_bytes, arguments.seed)
    wanted: dict[str, str] = {}

    def both(way: str, options: Sequence[object], *, shards: int = 0) -> None:
        background = folder / "fit 1 thread"
        for command, inputs in (("fit", [store]), ("score", [background, store])):
            out, begun = folder / f"{command} {way}", time.monotonic()
            line = [command, *inputs, "-o", out, "--memory", arguments.memory, *options]
            for number in chance.sample(range(1, shards + 1), shards):
                hpv(*line, "--shard", f"{number}/{shards}")
            hpv("merge", out) if shards else hpv(*line)
            seconds, found = time.monotonic() - begun, contents(out)
            print(f"{command:6s} {way:28s} {seconds:7.1f} s   {found}", flush=True)
            if wanted.setdefault(command, found) != found:
                raise Different(f"{command} {way}: {found}, with one thread {wanted[command]}")

    both("1 thread", ["--threads", 1])
    both("all threads", [])
    both("2 processes", ["--workers", 2])
    with scheduler(folder) as file:
        both("a scheduler and 2 workers", ["--scheduler-file", file])
    both(f"{arguments.shards} shards", [], shards=arguments.shards)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store-bytes", type=float, default=2e9)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--folder", help="where everything is made, and removed afterwards")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        try:
            run(Path(folder), arguments)
        except Different as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
