"""Jobs of a real SLURM on this machine, which ``slurm.sh`` installs and starts: ``make test-slurm``, as root on Debian.

No part of ``make test``: the name of this file keeps it out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hpv
from hpv.activations.writing import save_activations

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SAMPLES, SHARDS = 6000, 4


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SLURM whose jobs find this hpv, and the code that this process has compiled."""
    folder = tmp_path_factory.mktemp("slurm")
    patch = pytest.MonkeyPatch()
    subprocess.run([HERE / "slurm.sh", "start", folder], check=True, timeout=170)
    (folder / f"hpv-{os.getuid()}").symlink_to(os.environ["NUMBA_CACHE_DIR"])
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    patch.setenv("TMPDIR", str(folder))
    patch.setenv("PYTHONPATH", str(ROOT))
    try:
        yield folder
    finally:
        subprocess.run(["scancel", "--user", str(os.getuid())], check=False)
        subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)
        patch.undo()


@pytest.fixture(scope="module")
def folder(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations with labels and ids, and what is made of them without shards."""
    folder = tmp_path_factory.mktemp("a folder")
    rng = np.random.default_rng(3)
    layers = {"relu": np.maximum(rng.normal(size=(SAMPLES, 60)), 0).astype(np.float32)}
    layers["head"] = rng.normal(size=(SAMPLES, 9))
    ids = [f"picture {i}" for i in range(SAMPLES)]
    save_activations(folder / "it's.zarr", layers, labels=rng.integers(0, 3, SAMPLES), ids=ids)
    background = hpv.fit(folder / "it's.zarr", by_class=True)
    background.save(folder / "whole")
    background = hpv.open(folder / "whole")
    hpv.score(background, folder / "it's.zarr", folder / "whole-scores", keep=("codes", "ranges"))
    return folder


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def script(folder: Path, *arguments: str) -> Path:
    """What ``hpv slurm`` prints, in a file."""
    size = ("--shards", str(SHARDS), "--threads", "1", "--memory", "256MiB")
    hpv_slurm = [sys.executable, "-m", "hpv", "slurm", *arguments, *size]
    printed = subprocess.run(hpv_slurm, check=True, capture_output=True, text=True, cwd=folder).stdout
    path = folder / f"{arguments[0]}.sh"
    path.write_text(printed)
    return path


def wait_for_jobs(seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while ask("squeue", "-h"):
        assert time.monotonic() < end, ask("squeue")
        time.sleep(0.3)


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted((folder / "hpv-logs").iterdir()))


def test_fit(folder: Path) -> None:
    ask("bash", str(script(folder, "fit", "it's.zarr", "-o", "the background", "--by-class")))
    wait_for_jobs()
    assert (folder / "the background").exists(), logs(folder)
    assert hpv.open(folder / "the background").fingerprint == hpv.open(folder / "whole").fingerprint, logs(folder)


def test_score(folder: Path) -> None:
    ask("bash", str(script(folder, "score", "whole", "it's.zarr", "-o", "scores", "--keep", "codes,ranges")))
    wait_for_jobs()
    merged, whole = hpv.open(folder / "scores"), hpv.open(folder / "whole-scores")
    assert merged.attributes == whole.attributes, logs(folder)
    assert merged.ids == whole.ids
    for kind in whole.kinds:
        for name, values in vars(whole.get(*kind)).items():
            np.testing.assert_array_equal(getattr(merged.get(*kind), name), values)
    for layer in whole.layers:
        np.testing.assert_array_equal(merged.codes(layer).read(), whole.codes(layer).read())


STUB = """#!/bin/bash
if [ -e told ]; then exec {python} -m hpv "$@"; fi
trap 'touch told; exit 75' TERM
touch waiting
for _ in $(seq 600); do sleep 0.1; done
"""


@pytest.fixture
def waiting(folder: Path) -> Iterator[tuple[str, Path]]:
    """A running job that waits until it is told to stop, and is hpv when it is started again; its working folder."""
    place = folder / "again"
    place.mkdir(exist_ok=True)
    (place / "stub").write_text(STUB.format(python=sys.executable))
    (place / "stub").chmod(0o755)
    for name in ("told", "waiting"):
        (place / name).unlink(missing_ok=True)
    path = script(place, "fit", "../it's.zarr", "-o", "out", "--by-class")
    lines = ["hpv=(./stub)" if line.startswith("hpv=") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines).replace(f"--array=1-{SHARDS}", "--array=1").replace(f"={SHARDS} ", "=1 "))
    ask("bash", str(path))
    end = time.monotonic() + 30
    while not (place / "waiting").exists():
        assert time.monotonic() < end, ask("squeue")
        time.sleep(0.1)
    yield ask("squeue", "-h", "-r", "-t", "R", "-o", "%A").strip(), place
    ask("scancel", "--user", str(os.getuid()))
    wait_for_jobs()


def test_before_the_time_limit_it_stops_and_goes_on_in_another_run(waiting: tuple[str, Path]) -> None:
    job, place = waiting
    ask("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@120 does
    end = time.monotonic() + 30
    while "Restarts=1" not in (shown := ask("scontrol", "show", "job", job)) or "JobState=PENDING" not in shown:
        assert time.monotonic() < end, shown
        time.sleep(0.1)
    ask("scontrol", "update", f"jobid={job}", "StartTime=now")  # SLURM itself waits for two minutes
    wait_for_jobs()
    assert hpv.open(place / "out").fingerprint == hpv.open(place.parent / "whole").fingerprint, logs(place)


def test_a_cancelled_job_stays_cancelled(waiting: tuple[str, Path]) -> None:
    job, _ = waiting
    ask("scancel", job)
    wait_for_jobs()
    shown = ask("scontrol", "show", "job", job)
    assert "JobState=CANCELLED" in shown
    assert "Restarts=0" in shown


def test_dask_jobqueue(folder: Path, cluster: Path) -> None:
    from dask.distributed import Client
    from dask_jobqueue import SLURMCluster

    jobs = SLURMCluster(
        cores=1, processes=1, memory="1GiB", walltime="00:10:00", interface="lo", python=sys.executable,
        log_directory=str(cluster), local_directory=str(cluster), scheduler_options={"dashboard": False},
    )  # fmt: skip
    with jobs, Client(jobs) as client:
        jobs.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        found = hpv.fit(str(folder / "it's.zarr"), by_class=True)
        assert found.fingerprint == hpv.open(folder / "whole").fingerprint
    wait_for_jobs()
