"""Fits and scores on a real Dask scheduler with two worker processes: the same bits, also when workers die."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import hpv
from commands import ROOT, process
from hpv.activations.opening import open_activations
from hpv.activations.writing import save_activations
from hpv.api.scores import Scores
from hpv.base import keeping
from hpv.fitting import on_cluster
from hpv.fitting.job import prepare_fit
from hpv.fitting.running import fit_to_store
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.running import score_to_store
from hpv.walking import candidates, cluster
from hpv.walking.cluster import _Work, active_client, task_ranges
from hpv.walking.progress import Quiet
from stopping import Stop

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")]
KINDS: dict[str, Any] = {"statistics": ("berk_jones", "higher_criticism"), "keep": ("codes", "ranges")}


def dask_process(*arguments: str) -> subprocess.Popen[bytes]:
    """It can load this file, of which it is sent functions."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stderr=subprocess.DEVNULL, env=environment)


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A scheduler and two workers as a user starts them; the workers' nannies start dead ones again."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    processes = [
        dask_process("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    ]
    try:
        processes += [
            dask_process(
                "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard", "--memory-limit", "2GiB",
                "--local-directory", str(folder), "--name", name,
            )
            for name in ("first", "second")
        ]  # fmt: skip
        while not file.exists():
            assert processes[0].poll() is None
            time.sleep(0.05)
        yield file
    finally:
        for process in reversed(processes):  # a nanny ends its worker
            process.terminate()
        for process in processes:
            process.wait(10)


@pytest.fixture
def client(scheduler_file: Path) -> Iterator[Client]:
    with Client(scheduler_file=str(scheduler_file)) as made:
        made.wait_for_workers(2, 60)
        yield made


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some thirty tasks in several waves, as of a store of many gigabytes."""
    monkeypatch.setattr(cluster, "TASK_BYTES", 20_000)
    monkeypatch.setattr(candidates, "KEPT_CHUNK", 2**12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that are cut differently, one of them compressed."""
    path = tmp_path_factory.mktemp("data") / "activations.zarr"
    rng = np.random.default_rng(0)
    group = zarr.open_group(path, mode="w")
    group.create_array("conv", data=rng.normal(size=(3000, 40)).astype("f4"), chunks=(50, 40), compressors=None)
    hidden = np.maximum(rng.normal(size=(3000, 30)), 0).astype("f2")
    hidden[5, 3], hidden[6, 3] = np.nan, np.inf
    group.create_array("hidden", data=hidden, chunks=(64, 20))
    return path


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).choice([2, 3, 7], 3000, p=[0.6, 0.3, 0.1])


class ActAfter(Quiet):
    """Progress that calls something after so many steps."""

    def __init__(self, steps: int, action: Any) -> None:
        self.left, self.action, self.first = steps, action, ""

    def start(self, what: str, total: int) -> None:
        self.first = self.first or what

    def advance(self, done: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def stop() -> None:
    raise Stop


def same_scores(one: Scores, other: Scores) -> None:
    for kind in one.kinds:
        for left, right in zip(vars(one.get(*kind)).values(), vars(other.get(*kind)).values(), strict=True):
            np.testing.assert_array_equal(left, right)
    for layer in one.layers:
        np.testing.assert_array_equal(one.codes(layer).read(), other.codes(layer).read())
    arrays = [{str(file.relative_to(scores.path)): file.read_bytes() for file in Path(scores.path).rglob("c/*/*")}
              for scores in (one, other)]  # fmt: skip
    assert arrays[0] == arrays[1]
    assert one.missing == other.missing


def test_the_same_bits(client: Client, store: Path, labels: np.ndarray, tmp_path: Path) -> None:
    with dask.config.set(scheduler="threads"):
        here = hpv.fit(store, labels=labels)
        scores_here = hpv.score(here, store, tmp_path / "here", labels=labels, **KINDS)
        found_here = here.scan(str(store), labels=labels)
    there = hpv.fit(store, labels=labels)
    assert there.fingerprint == here.fingerprint
    assert hpv.fit(store, edges=there, labels=labels).fingerprint == here.fingerprint
    same_scores(hpv.score(there, store, tmp_path / "there", labels=labels, **KINDS), scores_here)
    found = there.scan(str(store), labels=labels)
    np.testing.assert_array_equal(found.score, found_here.score)
    names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert {"hpv edges of conv", "hpv count hidden", "hpv add up conv", "hpv score"} <= set(names)


def test_all_that_is_not_in_memory(client: Client, store: Path, tmp_path: Path) -> None:
    values = np.asarray(zarr.open_array(store, path="conv", mode="r")[:])
    np.save(tmp_path / "values.npy", values)
    wanted = hpv.fit(values).fingerprint
    lazy = dask.array.from_array(values, chunks=(500, 40))
    for source in (tmp_path / "values.npy", lazy, lazy.persist()):
        assert hpv.fit(source).fingerprint == wanted


def test_arrays_in_memory_stay_here(client: Client) -> None:
    before = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)
    hpv.fit(np.random.default_rng(0).normal(size=(500, 7)).astype("f4"))
    assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter) == before


def test_what_is_in_the_memory_of_this_process_stays_here(client: Client, store: Path) -> None:
    values = np.asarray(zarr.open_array(store, path="conv", mode="r")[:])
    background = hpv.fit(values)
    save_activations("memory://cluster/a", {"x": values})
    assert not open_activations("memory://cluster/a").is_portable
    assert not open_activations(zarr.create_array(zarr.storage.MemoryStore(), data=values)).is_portable
    assert hpv.fit("memory://cluster/a").edges("x").tobytes() == background.edges("activations").tobytes()
    scores = hpv.score(hpv.fit(store), store, "memory://cluster/s")
    assert scores.codes("conv").read().shape == values.shape


def test_a_local_cluster_of_processes(store: Path) -> None:
    here = hpv.fit(store)
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as local, Client(local):
        assert active_client() is not None
        assert hpv.fit(store).fingerprint == here.fingerprint
    assert active_client() is None


def test_within_a_task_the_worker_itself_computes(client: Client, store: Path) -> None:
    assert client.submit(lambda path: hpv.fit(path).fingerprint, store).result() == hpv.fit(store).fingerprint


def test_workers_die(client: Client, store: Path, tmp_path: Path) -> None:
    def kill() -> None:
        pids = client.run(os.getpid)
        os.kill(next(iter(pids.values())), signal.SIGKILL)

    with dask.config.set(scheduler="threads"):
        here = hpv.fit(store)
        scores_here = hpv.score(here, store, tmp_path / "here", **KINDS)
    there = hpv.fit(store, progress=ActAfter(8, kill))
    assert there.fingerprint == here.fingerprint
    client.wait_for_workers(2, 60)
    same_scores(hpv.score(here, store, tmp_path / "s", progress=ActAfter(8, kill), **KINDS), scores_here)
    client.wait_for_workers(2, 60)


def test_a_worker_that_dies_of_its_task(client: Client, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cluster, "_ProposeTask", lambda *_: os._exit)
    monkeypatch.setattr(_Work, "submit", lambda self, name, function, *rest: client.submit(os._exit, 1))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(hpv.DataError, match="died again and again.*run the same command again"),
    ):
        hpv.fit(store)
    client.wait_for_workers(2, 60)


def test_continues(client: Client, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    here = hpv.fit(store)
    scores_here = hpv.score(here, store, tmp_path / "undisturbed", **KINDS)
    for steps in (2, 10, 10):
        with pytest.raises(Stop):
            fit_to_store(prepare_fit(store), tmp_path / "b", progress=ActAfter(steps, stop))
        with pytest.raises(hpv.StoreError, match="incomplete"):
            hpv.open(tmp_path / "b")
    job = prepare_score(here, store, ScoreOptions(keep=KINDS["keep"], statistic=KINDS["statistics"]))
    for steps in (2, 12):
        with pytest.raises(Stop):
            score_to_store(job, tmp_path / "s", KINDS["keep"], False, ActAfter(steps, stop))
    progress = ActAfter(10_000, stop)
    found, already = fit_to_store(prepare_fit(store), tmp_path / "b", progress=progress)
    assert (found.fingerprint, already) == (here.fingerprint, False)
    assert 10_000 - progress.left < 25, "it did everything again"
    same_scores(hpv.Scores(*score_to_store(job, tmp_path / "s", KINDS["keep"], False, Quiet())), scores_here)


def refuse(number: int) -> None:
    """On a worker: a chunk in the second half of the samples cannot be written."""
    from hpv.store import chunks

    write = chunks.write_file

    def refusing(path: str, *rest: Any) -> None:
        if path.endswith("codes/conv/c/40/0"):
            raise OSError(number, os.strerror(number))
        write(path, *rest)

    chunks.__dict__.update(write_file=refusing, accept=write)


def accept() -> None:
    from hpv.store import chunks

    chunks.write_file = chunks.__dict__.pop("accept")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left; free some and run"), (errno.EACCES, "cannot be written: Permission denied; when")],
)
def test_a_worker_that_cannot_write(client: Client, store: Path, tmp_path: Path, number: int, words: str) -> None:
    """All that was done before stays done."""
    background = hpv.fit(store)
    with dask.config.set(scheduler="threads"):
        here = hpv.score(background, store, tmp_path / "here", **KINDS)
    client.run(refuse, number)
    try:
        with pytest.raises(hpv.DataError, match=f"^{tmp_path / 's'}: codes/conv: {words}"):
            hpv.score(background, store, tmp_path / "s", **KINDS)
    finally:
        client.run(accept)
    with pytest.raises(hpv.StoreError, match="incomplete"):
        hpv.open(tmp_path / "s")
    done = json.loads((tmp_path / "s" / "zarr.json").read_text())["attributes"]["progress"]["samples"]
    assert done == 40 * 64, "all samples before that chunk"
    steps = ActAfter(10_000, stop)
    same_scores(hpv.score(background, store, tmp_path / "s", progress=steps, **KINDS), here)
    assert steps.first == f"score from sample {done:,} on"


def test_a_second_run_at_the_same_output_is_told_so(
    client: Client, scheduler_file: Path, store: Path, tmp_path: Path
) -> None:
    background = hpv.fit(store)
    background.save(tmp_path / "b")
    seen: list[subprocess.CompletedProcess[str]] = []

    def again() -> None:
        where = ("--scheduler-file", scheduler_file)
        seen.append(process("score", tmp_path / "b", store, "-o", tmp_path / "s", "--keep", "codes,ranges", *where))

    scores = hpv.score(background, store, tmp_path / "s", progress=ActAfter(2, again), **KINDS)
    assert scores.samples == 3000
    assert seen[0].returncode == 2
    assert f"{tmp_path / 's'} is being written by process {os.getpid()} on " in seen[0].stderr


def test_a_corrupt_chunk_is_named(client: Client, store: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3000, 40)).astype("f4")
    array = zarr.create_array(tmp_path / "a", data=values, chunks=(100, 40), compressors=None)
    background = hpv.fit(values)
    chunk = tmp_path / "a" / "c" / "7" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:100])
    with pytest.raises(hpv.DataError, match=r"chunk \(7, 0\)"):
        hpv.fit(tmp_path / "a")
    chunk.write_bytes(content)
    assert hpv.fit(array).fingerprint == background.fingerprint


def test_another_version(client: Client, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "VERSION", "99.0")
    version = client.run(lambda: hpv.__version__)
    assert "99.0" not in version.values()
    with pytest.raises(hpv.InputError, match=rf"has hpv {next(iter(version.values()))}, this is hpv 99\.0"):
        hpv.fit(store)


def test_workers_that_do_not_see_the_data(client: Client, store: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(store)
    source = open_activations(tmp_path / "a")
    (tmp_path / "a").unlink()
    hidden = tmp_path / "elsewhere"
    store.rename(hidden)
    try:
        with pytest.raises(hpv.InputError, match="does not see .*give a path that all workers see"):
            hpv.fit(source)
    finally:
        hidden.rename(store)


def test_a_scheduler_without_hpv(client: Client, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_version", lambda: lambda: None)
    with pytest.raises(hpv.InputError, match=r"the scheduler tcp://.* has no hpv, this is hpv .*same version on both"):
        hpv.fit(store)


def test_no_workers(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.2)
    with LocalCluster(1, processes=False, dashboard_address=":0") as local, Client(local) as client:
        local.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        with pytest.raises(Stop):  # told to end while it waits
            hpv.fit(store, progress=ActAfter(1, stop))
        with pytest.raises(hpv.InputError, match="has no workers; start some"):
            hpv.fit(store)


def test_too_little_memory(client: Client, store: Path) -> None:
    with (
        LocalCluster(1, threads_per_worker=4, processes=False, dashboard_address=":0") as local,
        Client(local),
        pytest.raises(hpv.InputError, match="at least 64MiB for each"),
    ):
        hpv.fit(store, memory="128MiB")


@given(start=st.integers(0, 10**6), more=st.integers(1, 10**6), row=st.integers(1, 10**7), height=st.integers(1, 10**5))
def test_tasks_are_large_and_share_no_chunk(start: int, more: int, row: int, height: int) -> None:
    ranges = list(task_ranges(start, start + more, row, height))
    assert [rows.start for rows in ranges] == [start, *(rows.stop for rows in ranges[:-1])]
    assert ranges[-1].stop == start + more
    assert all(rows.start % height == 0 for rows in ranges[1:])
    assert all((rows.stop - rows.start + height) * row >= cluster.TASK_BYTES for rows in ranges[:-1])


def test_command_line(scheduler_file: Path, store: Path, tmp_path: Path) -> None:
    address = json.loads(scheduler_file.read_text())["address"]
    wanted = hpv.fit(store).fingerprint
    for number, where in enumerate((["--scheduler", address], ["--scheduler-file", scheduler_file], ["--workers", 2])):
        done = process("fit", store, "-o", tmp_path / f"b{number}", *where, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["fingerprint"] == wanted
    done = process("score", tmp_path / "b0", store, "-o", tmp_path / "s", "--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert hpv.open(tmp_path / "s").samples == 3000
