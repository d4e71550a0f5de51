"""One GPU for each worker of a Dask cluster: who gets which, who has none, and the same bits as on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import zarr

import hpv
from hpv.backends import cuda, gpu
from hpv.backends.choosing import gpus_for
from hpv.backends.protocol import VISIBLE_GPUS
from hpv.cli import clusters
from hpv.cli.clusters import cluster as started
from hpv.walking import cluster

EDGES = [-0.2, 0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.maximum(np.random.default_rng(5).normal(size=(12, 3)), -0.3).astype(np.float32)


@pytest.fixture(scope="module")
def store(values: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "acts.zarr"
    zarr.create_array(path, data=values, chunks=(4, 3))
    return path


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    """Two workers on a machine where a queue has given out two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VISIBLE_GPUS, "3, GPU-5f2a")
        patch.setattr(cluster, "TASK_BYTES", 48)
        with started(None, None, 2, None, "cuda"):
            yield distributed.default_client()


def test_each_worker_has_a_gpu(client: distributed.Client) -> None:
    client.wait_for_workers(2, 60)
    found = client.run(lambda dask_worker: (dask_worker.name, os.environ["CUDA_VISIBLE_DEVICES"]))
    assert sorted(found.values()) == [(0, "3"), (1, "GPU-5f2a")]
    assert set(client.nthreads().values()) == {1}
    assert os.environ[VISIBLE_GPUS] == "3, GPU-5f2a"


def test_more_workers_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go round, and a worker that is started again keeps its own."""

    class Nanny:
        def __init__(self, scheduler: str, **options: Any) -> None:
            self.options = options

    monkeypatch.setattr(distributed, "Nanny", Nanny)
    found = [clusters._nanny(["3", "GPU-5f2a"])("tcp://s", name=name, nthreads=1).options for name in range(3)]
    assert [one["env"][VISIBLE_GPUS] for one in found] == ["3", "GPU-5f2a", "3"]
    assert found[2] == {"name": 2, "nthreads": 1, "env": {VISIBLE_GPUS: "3"}}
    assert clusters._nanny([]) is Nanny


def test_the_same_bits(client: distributed.Client, values: np.ndarray, store: Path, tmp_path: Path) -> None:
    """The workers do the work: this process, as that of a login node, finds no GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "missing", lambda: "no GPU here")
        background = hpv.fit(store, edges=EDGES, backend="cuda")
        there = hpv.score(background, store, tmp_path / "there", tails="right", backend="cuda")
        with pytest.raises(hpv.InputError, match="backend='cuda': no GPU here"):
            hpv.fit(values, edges=EDGES, backend="cuda")
    assert background.fingerprint == hpv.fit(values, edges=EDGES, backend="cpu").fingerprint
    here = hpv.score(background, values, tmp_path / "here", tails="right", backend="cpu")
    for kind in here.kinds:
        np.testing.assert_array_equal(there.get(*kind).score, here.get(*kind).score)
    np.testing.assert_array_equal(there.codes("activations").read(), here.codes("activations").read())


def test_a_worker_without_a_gpu(client: distributed.Client, store: Path) -> None:
    address = sorted(client.nthreads())[1]

    def lose(back: bool) -> None:
        from hpv.backends import cuda

        cuda.missing, cuda.kept = cuda.kept if back else lambda: "no GPU (no driver)", cuda.missing

    client.run(lose, False, workers=[address])
    try:
        with pytest.raises(hpv.InputError, match=rf"on the worker {address}: no GPU .no driver.. Start workers"):
            hpv.fit(store, edges=EDGES, backend="cuda")
    finally:
        client.run(lose, True, workers=[address])


def test_command_line(values: np.ndarray, store: Path, tmp_path: Path) -> None:
    given = hpv.fit(values[:9], edges=EDGES, backend="cpu")
    given.save(tmp_path / "given")
    wanted = hpv.fit(values, edges=given, backend="cpu").fingerprint
    options = ["-o", str(tmp_path / "b"), "--edges", str(tmp_path / "given"), "--workers", "2"]
    command = [sys.executable, "-m", "hpv", "fit", str(store), *options, "--backend", "cuda", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fingerprint"] == wanted


def test_which_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "GPU-5f2a,1,7")
    assert gpus_for("cpu") == []
    assert gpus_for("cuda") == ["GPU-5f2a", "1", "7"]
    monkeypatch.setattr(gpu, "SIMULATED", False)
    monkeypatch.setattr(gpu.cuda, "gpus", [None, None])  # the driver takes none after the first that is not there
    assert gpus_for("cuda") == ["GPU-5f2a", "1"]
    monkeypatch.delenv(VISIBLE_GPUS)
    assert gpus_for("cuda") == ["0", "1"]
    monkeypatch.setattr(cuda, "missing", lambda: "no driver")
    assert gpus_for("auto") == []
    with pytest.raises(hpv.InputError, match="backend='cuda': no driver"):
        gpus_for("cuda")
