"""Stores that are not on this machine: a real S3 server and a real web server on loopback, and fsspec's memory."""

from __future__ import annotations

import functools
import http.client
import http.server
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

import hpv
from hpv.activations.opening import open_activations
from hpv.activations.writing import save_activations
from hpv.api.merging import merge_shards
from hpv.cli import main
from hpv.fitting.job import prepare_fit
from hpv.fitting.merging import merge_to_store
from hpv.fitting.running import fit_shard, fit_to_store
from hpv.places import locks, remote
from hpv.places import place as places
from hpv.places.locks import ObjectLock
from hpv.places.remote import RemoteStore
from hpv.scoring import tallying
from hpv.scoring.job import prepare_score
from hpv.scoring.running import score_to_store
from hpv.store import chunks
from hpv.store.headers import BACKGROUND, SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store
from hpv.walking import keeping, tiling
from hpv.walking.progress import Quiet
from hpv.walking.shards import cut_shard

ROOT = Path(__file__).resolve().parent.parent
IDS = [f"image-{i}" for i in range(700)]
LABELS = np.arange(700) % 3
NUMBERS = itertools.count()


# ---------------------------------------------------------------- places


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real S3 server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the S3 server ended"
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def ask(url: str, method: str, content: bytes = b"") -> None:
    request = urllib.request.Request(url, content, {"Content-Type": "application/octet-stream"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def forget_connections() -> None:
    """Credentials and endpoint are looked up again, as in a new process."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder in a bucket of its own."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    bucket = f"bucket-{next(NUMBERS)}"
    ask(f"{server}/{bucket}", "PUT")
    forget_connections()
    yield f"s3://{bucket}/deep"
    forget_connections()


@pytest.fixture
def memory() -> str:
    return f"memory://place-{next(NUMBERS)}"


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest) -> str:
    """An object store that can be written."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "relu/1": np.maximum(rng.normal(size=(700, 40)), 0).astype(np.float32),
        "head": rng.normal(size=(700, 7)).astype(np.float16),
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, data: dict[str, np.ndarray]) -> Path:
    """The whole way on this machine."""
    folder = tmp_path_factory.mktemp("local")
    save_activations(folder / "a", data, labels=LABELS, ids=IDS)
    fit_to_store(prepare_fit(folder / "a", by_class=True, pilot=300), folder / "b")
    hpv.score(hpv.open(folder / "b"), folder / "a", folder / "s")
    return folder


def assert_same_scores(found: Any, wanted: Any) -> None:
    assert found.ids == wanted.ids
    for kind in wanted.kinds:
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(found.get(*kind), name), getattr(wanted.get(*kind), name))
    for name in wanted.layers:
        np.testing.assert_array_equal(found.codes(name).read(), wanted.codes(name).read())


class Stop(Exception):
    """Stands for a kill."""


class StopAfter(Quiet):
    """Stops after so many bytes."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def advance(self, done: int) -> None:
        self.left -= done
        if self.left < 0:
            raise Stop


# ---------------------------------------------------------------- the same answers


def test_the_whole_way(place: str, local: Path, data: dict[str, np.ndarray]) -> None:
    assert save_activations(f"{place}/a/", data, labels=LABELS, ids=IDS) == f"{place}/a"
    background, _ = fit_to_store(prepare_fit(f"{place}/a", by_class=True, pilot=300), f"{place}/b")
    assert background.fingerprint == hpv.open(local / "b").fingerprint
    again = hpv.open(f"{place}/b")
    assert again.fingerprint == background.fingerprint
    assert again.path == f"{place}/b"
    found = hpv.score(again, f"{place}/a", f"{place}/s")
    assert_same_scores(found, hpv.open(local / "s"))
    assert hpv.open(f"{place}/s").background().fingerprint == background.fingerprint
    assert hpv.score(again, f"{place}/a/", f"{place}/s").already_complete
    assert not [key for key in RemoteStore(place).sizes() if locks.LOCK in key]


def test_parts_are_merged(place: str, data: dict[str, np.ndarray]) -> None:
    first = hpv.fit({name: x[:400] for name, x in data.items()})
    first.save(f"{place}/1")
    hpv.fit({name: x[400:] for name, x in data.items()}, edges=first).save(f"{place}/2")
    merged, _ = merge_to_store([f"{place}/2", f"{place}/1"], f"{place}/both")
    assert merged.fingerprint == hpv.fit(data, edges=first).fingerprint
    with pytest.raises(hpv.InputError, match="given twice"):
        merge_to_store([f"{place}/1", f"{place}/1/"], f"{place}/c")


WAYS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "zstd": {},
    "sharded": {"shards": (200, 40)},
    "v2": {"zarr_format": 2},
    "v2 plain": {"zarr_format": 2, "compressors": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_stores_of_others(memory: str, way: str, data: dict[str, np.ndarray]) -> None:
    address, values = f"{memory}/x.zarr", data["relu/1"].copy()
    values[:200] = 0
    options = {"chunks": (100, 20), "dtype": "f4", **WAYS[way]}
    group = zarr.create_group(RemoteStore(address), zarr_format=options.get("zarr_format", 3))
    options.pop("zarr_format", None)
    group.create_array("deep/x", shape=values.shape, **options)[...] = values
    assert hpv.fit(address).fingerprint == hpv.fit({"deep/x": values}).fingerprint
    (stored,) = layers(address)
    assert stored.missing_chunks == (1 if way == "sharded" else 4)
    assert stored.chunks == (100, 20)
    np.testing.assert_array_equal(stored.read(slice(150, 333), slice(3, 25)), values[150:333, 3:25])
    np.testing.assert_array_equal(stored.read(slice(310, 333)), values[310:333])


def layers(source: Any) -> list[Any]:
    from hpv.activations.opening import open_activations

    return list(open_activations(source).layers.values())


def test_capture(memory: str) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    batches = list(torch.rand(5, 6, 4))
    said: list[str] = []
    captured = hpv.capture(
        model, batches, f"{memory}/a", layers="1", ids=map(str, range(30)), announce=lambda plan: said.append(str(plan))
    )
    assert captured.path == f"{memory}/a"
    assert "are free" not in said[0]
    (layer,) = layers(captured)
    np.testing.assert_array_equal(layer.read(slice(0, 30)), model[:2](torch.cat(batches)).detach().numpy())
    assert hpv.capture(model, batches, f"{memory}/a", layers="1", ids=map(str, range(30))).already_complete


def test_shards(place: str, local: Path) -> None:
    ready = prepare_fit(local / "a", by_class=True, pilot=300)
    for number in (3, 1):
        fit_shard(ready, cut_shard(ready.source, f"{number}/3"), f"{place}/b")
    with pytest.raises(hpv.StoreError, match="shard 2 of 3 is missing"):
        hpv.open(f"{place}/b")
    fit_shard(ready, cut_shard(ready.source, "2/3"), f"{place}/b")
    merged, already = merge_shards(f"{place}/b")
    assert (merged.fingerprint, already) == (hpv.open(local / "b").fingerprint, False)
    assert merge_shards(f"{place}/b")[1]
    for number in (1, 2):
        hpv.score(merged, local / "a", f"{place}/s", shard=f"{number}/2")
    assert_same_scores(hpv.merge(f"{place}/s"), hpv.open(local / "s"))


# ---------------------------------------------------------------- outputs that exist


def test_a_stopped_fit_continues(place: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(tiling, "SEGMENT", 4000)
    monkeypatch.setattr(tiling, "LARGEST_BLOCK", 4000)
    ready = prepare_fit(local / "a", by_class=True, pilot=300, threads=1)
    out = f"{place}/b"
    with pytest.raises(Stop):
        fit_to_store(ready, out, progress=StopAfter(60_000))
    with pytest.raises(hpv.StoreError, match="incomplete"):
        hpv.open(out)
    with pytest.raises(hpv.OutputExistsError, match="bins=32 there and bins=9 here"):
        fit_to_store(prepare_fit(local / "a", by_class=True, pilot=300, bins=9), out)
    background, before = fit_to_store(ready, out)
    assert not before
    assert background.fingerprint == hpv.open(out).fingerprint == hpv.open(local / "b").fingerprint
    assert "progress" not in (places.place_of(out).names() or [])
    assert fit_to_store(ready, out)[1]


def test_a_stopped_score_continues(memory: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "segment_length", lambda ready: 128)
    ready = prepare_score(hpv.open(local / "b"), local / "a", threads=1)
    with pytest.raises(Stop):
        score_to_store(ready, f"{memory}/s", ("codes",), False, StopAfter(40_000))
    found = hpv.Scores(*score_to_store(ready, f"{memory}/s", ("codes",), False, Quiet()))
    assert not found.already_complete
    assert_same_scores(found, hpv.open(local / "s"))


def small(address: str, request: dict[str, Any], **options: Any) -> Output:
    """A begun output with one written array."""
    output = Output.begin(address, SCORES, request, **options)
    if not output.already_complete:
        output.create("a", (10, 6), "f4", (4, 6))
        output.write("a", None, np.full((10, 6), request["bins"]))
    return output


def content(address: str) -> set[float]:
    return set(open_store(address).array("a").read().ravel().tolist())


def test_a_store_is_replaced_when_the_new_one_is_complete(place: str) -> None:
    out = f"{place}/out"
    small(out, {"bins": 32}).finish()
    assert small(out, {"bins": 32}).already_complete
    with pytest.raises(hpv.OutputExistsError, match="bins=32 there and bins=10 here"):
        small(out, {"bins": 10})
    with small(out, {"bins": 10}, overwrite=True) as output:
        assert content(out) == {32}
        with pytest.raises(hpv.OutputExistsError, match="is being written by process"):
            small(out, {"bins": 10}, overwrite=True)
        output.finish()
    assert content(out) == {10}
    assert set(RemoteStore(place).sizes()) == {
        "out/zarr.json",
        "out/a/zarr.json",
        *(f"out/a/c/{i}/0" for i in range(3)),
    }
    with pytest.raises(hpv.OutputExistsError, match="replaces only its own kind"):
        Output.begin(out, BACKGROUND, {}, overwrite=True)


def test_a_kill_while_a_store_is_replaced(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any number of requests: whatever opens is whole, and the same command ends with the new store."""
    monkeypatch.setattr(locks, "EXPIRY_SECONDS", 1000.0)
    real = RemoteStore._do
    for allowed in itertools.count():
        out = f"{memory}/{allowed}/out"
        small(out, {"bins": 32}).finish()
        output = small(out, {"bins": 10}, overwrite=True)
        left = [allowed]

        def dying(store: RemoteStore, request: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] < 0:
                request.close()
                raise KeyboardInterrupt
            return real(store, request)

        with monkeypatch.context() as patch:
            patch.setattr(RemoteStore, "_do", dying)
            try:
                output.finish()
            except KeyboardInterrupt:
                pass
            for lock in output._locks:
                lock._ended.set()  # type: ignore[attr-defined]
        assert content_if_complete(out) in (None, {32}, {10})
        # The locks of the killed run are gone after a while.
        store = RemoteStore(f"{memory}/{allowed}")
        store.remove([key for key in store.sizes() if locks.LOCK in key])
        begun = open_header(out)["request"] == {"bins": 10}
        with small(out, {"bins": 10}, overwrite=not begun) as again:
            if not again.already_complete:
                again.finish()
        assert content(out) == {10}
        assert {key.partition("/")[0] for key in store.sizes()} == {"out"}
        if left[0] >= 0:
            break
    assert allowed > 6


def test_a_kill_before_a_new_store_is_begun(place: str) -> None:
    """What is left is a lock; the next run removes it once it has expired."""
    small(f"{place}/out", {"bins": 32}).finish()
    new = RemoteStore(f"{place}/out.hpv-new")
    for until, names in ((time.time() + 1000, [".lock"]), (0, None)):
        new.write(".lock", json.dumps({"id": "1", "holder": "a run that was killed", "until": until}).encode())
        assert small(f"{place}/out", {"bins": 32}).already_complete
        assert new.names() == names


def content_if_complete(address: str) -> set[float] | None:
    return content(address) if open_header(address)["complete"] else None


def open_header(address: str) -> dict[str, Any]:
    found = (places.place_of(address).read("zarr.json") or b"{}").decode()
    attributes: dict[str, Any] = json.loads(found)["attributes"]
    return attributes


# ---------------------------------------------------------------- two runs


def test_many_runs_at_once_only_one_writes(place: str) -> None:
    ready = threading.Barrier(6)
    out = f"{place}/out"

    def attempt(number: int) -> str:
        ready.wait()
        try:
            with Output.begin(out, SCORES, {}) as output:
                if output.already_complete:
                    return "complete"
                output.create("a", (1,), "f4", (1,))
                output.write("a", None, [number])
                output.finish()
                return "wrote"
        except hpv.OutputExistsError:
            return "refused"

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(attempt, range(6)))
    assert results.count("wrote") == 1
    assert open_store(out).array("a").read() == [results.index("wrote")]


HOLDER = """
import sys, time
from hpv.store.output import Output
from hpv.store.headers import SCORES
from hpv.places import locks
locks.EXPIRY_SECONDS = 3.0
output = Output.begin(sys.argv[1], SCORES, {"bins": 1})
output.create("a", (10, 6), "f4", (4, 6))
output.write("a", slice(0, 4), [[5.0] * 6] * 4)
output.checkpoint({"rows": 4})
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_run_holds_its_output_for_a_while_only(s3: str) -> None:
    out = f"{s3}/out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(4.0)  # longer than a lock lasts that is not renewed
        with pytest.raises(hpv.OutputExistsError) as refused:
            Output.begin(out, SCORES, {"bins": 1})
        process.send_signal(signal.SIGKILL)
    words = rf"{out} is being written by process {process.pid} on {socket.gethostname()}, which holds it until \d\d:"
    refused.match(words)
    deadline = time.monotonic() + 10
    while True:
        try:
            with Output.begin(out, SCORES, {"bins": 1}) as output:
                assert output.progress == {"rows": 4}
                output.create("a", (10, 6), "f4", (4, 6))
                assert (output.read("a", slice(0, 4)) == 5).all()
                output.write("a", slice(4, 10), np.ones((6, 6)))
                output.finish()
            break
        except hpv.OutputExistsError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert content(out) == {1, 5}
    assert not [key for key in RemoteStore(s3).sizes() if locks.LOCK in key]


def test_a_run_that_slept_too_long_writes_no_more(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "EXPIRY_SECONDS", 0.6)
    out = f"{place}/out"
    with small(out, {"bins": 1}) as asleep:
        monkeypatch.setattr(asleep._locks[0], "_keep", lambda: None)
        stop_renewing(asleep._locks[0])
        time.sleep(0.7)
        with Output.begin(out, SCORES, {"bins": 1}) as output:
            output.create("a", (10, 6), "f4", (4, 6))
            with pytest.raises(hpv.DataError, match="another one has taken over its work"):
                asleep.write("a", None, np.zeros((10, 6)))
            with pytest.raises(hpv.DataError, match="another one has taken over its work"):
                asleep.finish()
            output.finish()
    assert content(out) == {1}


def stop_renewing(lock: Any) -> None:
    """As if the whole process slept; its calls still work when it wakes."""
    lock._ended.set()
    for thread in threading.enumerate():
        if thread.name == "hpv-lock":
            thread.join(5)
    lock._ended.clear()


def test_a_run_that_slept_alone_goes_on(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "EXPIRY_SECONDS", 0.4)
    with small(f"{memory}/out", {"bins": 1}) as output:
        stop_renewing(output._locks[0])
        time.sleep(0.5)
        output.finish()
    assert content(f"{memory}/out") == {1}


def test_a_server_that_cannot_lock(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> bool:
        raise NotImplementedError

    monkeypatch.setattr(RemoteStore, "create", unable)
    with pytest.warns(hpv.HpvWarning, match="cannot lock"):
        small(f"{memory}/out", {"bins": 3}).finish()
    assert content(f"{memory}/out") == {3}


def test_a_lock_that_was_made_though_the_answer_was_lost(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RemoteStore.create

    def repeated(store: RemoteStore, key: str, content: bytes) -> bool:
        real(store, key, content)
        return real(store, key, content)

    monkeypatch.setattr(RemoteStore, "create", repeated)
    ObjectLock(RemoteStore(memory), "it").release(remove=True)
    assert RemoteStore(memory).sizes() == {}


# ---------------------------------------------------------------- damage


def own_chunk(address: str, name: str = "a/c/1/0") -> tuple[RemoteStore, str, bytes]:
    store = RemoteStore(address)
    found = store.read(name)
    assert found is not None
    return store, name, found


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda found: found[:17] + bytes([found[17] ^ 4]) + found[18:], "checksum"),
        (lambda found: found[:-3], "97 bytes instead of 100"),
        (lambda found: None, "is missing"),
    ],
)
def test_damage_is_named(place: str, damage: Callable[[bytes], bytes | None], words: str) -> None:
    out = f"{place}/out"
    small(out, {"bins": 3}).finish()
    store, name, found = own_chunk(out)
    changed = damage(found)
    if changed is None:
        store.remove([name])
    else:
        store.write(name, changed)
    stored = open_store(out).array("a")
    assert (stored.read(slice(0, 4)) == 3).all()
    with pytest.raises(hpv.DataError, match=rf"array a: chunk \(1, 0\) .*{words}.*Restore"):
        stored.read()


def test_missing_strings_are_named(place: str) -> None:
    save_activations(f"{place}/a", {"x": np.ones((3, 2), "f4")}, ids=["a", "b", "c"])
    store = RemoteStore(f"{place}/a")
    assert hpv.open(f"{place}/a").ids == ["a", "b", "c"]
    store.remove(["ids/c/0"])
    with pytest.raises(hpv.DataError, match=r"array ids: chunk \(0,\) is missing"):
        hpv.open(f"{place}/a")


def test_chunks_are_read_with_one_request_each(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_activations(f"{memory}/a", {"x": np.ones((9000, 3), "f4")})
    (layer,) = layers(f"{memory}/a")
    asked: list[str] = []
    real = RemoteStore.get

    async def get(store: RemoteStore, key: str, *rest: Any, **options: Any) -> Any:
        asked.append(key)
        return await real(store, key, *rest, **options)

    monkeypatch.setattr(RemoteStore, "get", get)
    monkeypatch.setattr(RemoteStore, "exists", None)
    layer.read(slice(0, 1))  # the first time it is asked whether the array has changed
    asked.clear()
    assert (layer.read(slice(0, 9000)) == 1).all()
    assert sorted(asked) == [f"layers/x/c/{i}/0" for i in range(3)]


# ---------------------------------------------------------------- trouble on the way


def test_what_is_asked_for_ahead_is_in_the_plan(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 8 MiB of small chunks are on their way for every thread; from a disk, one is read after the other."""
    places_of_it, chunk = (f"{memory}/a", str(tmp_path / "a")), 16 * 4000
    for place in places_of_it:
        store = places.place_of(place).store
        zarr.create_array(store, shape=(5000, 1000), dtype="f4", chunks=(16, 1000), compressors=None)
    there, here = (hpv.plan("fit", place, memory="256MiB", threads=2, pilot=None) for place in places_of_it)
    block = there.layers[0].block
    assert block == here.layers[0].block
    assert there.peak - here.peak == 2 * (block * 4000 - chunk)
    (layer,) = open_activations(places_of_it[0]).layers.values()
    waiting, most = [0], [0]
    ask, unpacked = RemoteStore.ask, chunks._unpacked

    def asking(*arguments: Any) -> Any:
        waiting[0] += 1
        most[0] = max(waiting[0], most[0])
        return ask(*arguments)

    def unpacking(*arguments: Any) -> Any:
        waiting[0] -= 1
        return unpacked(*arguments)

    layer.read(slice(0, 1))  # the array is looked up again
    monkeypatch.setattr(RemoteStore, "ask", asking)
    monkeypatch.setattr(chunks, "_unpacked", unpacking)
    layer.read(slice(0, block))
    assert most[0] * chunk == block * 4000


class Server:
    """A web server on loopback that fails as often as it is told."""

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler], **more: Any) -> None:
        self.failures: dict[str, int] = {}
        self.how = 503
        self.failed = 0
        outer = self

        class Failing(handler):  # type: ignore[misc, valid-type]
            def parse_request(self) -> bool:
                good: bool = super().parse_request()
                if good and any(part in self.path and outer.fails(part) for part in outer.failures):
                    if outer.how:
                        self.send_error(outer.how)
                    self.close_connection = True
                    return False
                return good

            def log_message(self, *_: Any) -> None:
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Failing, **more))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def fails(self, part: str) -> bool:
        self.failures[part] -= 1
        self.failed += self.failures[part] >= 0
        return self.failures[part] >= 0

    def __enter__(self) -> Server:
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()


class Forwarding(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the S3 server."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, server: str) -> None:
        self.behind = server.removeprefix("http://")
        super().__init__(*arguments)

    def forward(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(self.behind, timeout=10)
        connection.request(self.command, self.path, content, dict(self.headers))
        answer = connection.getresponse()
        found = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(found)))
        self.end_headers()
        self.wfile.write(found)
        connection.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815


@pytest.mark.parametrize("how", [503, 0])
def test_a_read_that_fails_twice_from_s3(
    s3: str, server: str, local: Path, data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    save_activations(f"{s3}/a", data, labels=LABELS, ids=IDS)
    with Server(Forwarding, server=server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_connections()
        proxy.how = how
        proxy.failures = {"relu%25": 2, "head/c/": 2}
        background = hpv.fit(f"{s3}/a", by_class=True, pilot=300)
        assert proxy.failed == 4
        assert background.fingerprint == hpv.open(local / "b").fingerprint
        forget_connections()


@pytest.fixture
def web(local: Path) -> Iterator[Server]:
    with Server(http.server.SimpleHTTPRequestHandler, directory=str(local)) as found:
        yield found


@pytest.mark.parametrize("how", [503, 0])
def test_a_read_that_fails_twice_from_the_web(
    web: Server, local: Path, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.01))
    web.how = how
    web.failures = {"relu%25": 2, "head/c/": 2, "labels": 2}
    background = hpv.fit(f"{web.url}/a", by_class=True, pilot=300)
    assert web.failed == 6
    assert background.fingerprint == hpv.open(local / "b").fingerprint
    found = hpv.open(f"{web.url}/s")
    web.failures = {"score/zarr.json": 1000}
    with pytest.raises(hpv.DataError, match=rf"{web.url}/s: "):
        found.get(*found.kinds[0])
    web.failures = {"head/c/": 1000}
    with pytest.raises(
        hpv.DataError, match=r"layers/head: chunk \(0, 0\) cannot be read: .*run the same command again"
    ):
        hpv.fit(f"{web.url}/a", pilot=300)


def test_the_web_is_read_only(web: Server, local: Path, tmp_path: Path) -> None:
    background = hpv.open(f"{web.url}/b/")
    found = hpv.score(background, f"{web.url}/a", tmp_path / "s")
    assert_same_scores(found, hpv.open(local / "s"))
    assert_same_scores(hpv.open(f"{web.url}/s"), hpv.open(local / "s"))
    with pytest.raises(hpv.InputError, match="http:// can be read only"):
        background.save(f"{web.url}/c")
    with pytest.raises(hpv.StoreError, match="is not a Zarr store: there is no zarr.json"):
        hpv.open(f"{web.url}/none")
    with pytest.raises(hpv.StoreError, match=r"\.npy files are read from this machine only"):
        hpv.fit(f"{web.url}/x.npy")


def test_chunks_that_the_web_does_not_have(tmp_path: Path) -> None:
    for name, compressors in (("plain", None), ("zstd", "auto")):
        array = zarr.create_array(
            tmp_path / name, shape=(10, 6), chunks=(4, 3), dtype="f4", fill_value=2.5, compressors=compressors
        )
        array[:4] = 1
    with Server(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)) as found:
        for name in ("plain", "zstd"):
            (layer,) = layers(f"{found.url}/{name}")
            assert layer.missing_chunks == 4
            # This server does not know how to send a span of a file.
            assert layer.read(slice(3, 5), slice(0, 2)).tolist() == [[1, 1], [2.5, 2.5]]


# ---------------------------------------------------------------- no way in


@pytest.fixture
def closed(s3: str, server: str) -> Iterator[str]:
    """Only known keys are let in, and there are none."""
    ask(f"{server}/moto-api/reset-auth", "POST", b"0")
    yield s3
    ask(f"{server}/moto-api/reset-auth", "POST", b"inf")


def test_wrong_credentials(closed: str) -> None:
    out = f"{closed}/a"
    for call in (lambda: hpv.open(out), lambda: hpv.fit(out), lambda: small(out, {"bins": 1})):
        with pytest.raises(hpv.InputError, match=rf"{out}: access denied \(.*\); check the credentials"):
            call()


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for call in (lambda: hpv.open(f"{s3}/a"), lambda: small(f"{s3}/a", {"bins": 1})):
        with pytest.raises(hpv.InputError, match=rf"{s3}/a: no credentials \(.*\); set them"):
            call()


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_does_not_exist() -> None:
    for call in (lambda: hpv.fit("s3://nobody/a"), lambda: small("s3://nobody/a", {"bins": 1})):
        with pytest.raises(hpv.InputError, match="s3://nobody/a: the bucket does not exist; check its name"):
            call()


def test_an_object_that_does_not_exist(place: str) -> None:
    with pytest.raises(
        hpv.StoreError, match=rf"{place}/a is not a Zarr store: there is no zarr.json.*check the address"
    ):
        hpv.fit(f"{place}/a")


def test_no_way_there(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01,))
        for address in (f"{s3}/a", f"{url}/a"):
            with pytest.raises(hpv.StoreError, match=rf"{address}: no connection \(.*\); check the network"):
                hpv.open(address)


def test_no_way_there_is_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the requests that are on their way at the same time one fails first; the others end without a word."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    command = [sys.executable, "-m", "hpv", "info", f"{s3}/a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: {s3}/a: no connection .*; check the network and the endpoint\.\n", done.stderr)


def test_a_write_that_fails(s3: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with small(f"{s3}/out", {"bins": 2}) as output:
        ask(f"{server}/moto-api/reset-auth", "POST", b"0")
        try:
            with pytest.raises(hpv.DataError, match=r"out: a: cannot be written: access denied .*same command again"):
                output.write("a", None, np.ones((10, 6)))
            with pytest.raises(hpv.DataError, match=r"out: attributes: cannot be written: access denied"):
                output.finish()
        finally:
            ask(f"{server}/moto-api/reset-auth", "POST", b"inf")
    with small(f"{s3}/out", {"bins": 2}) as output:
        output.finish()
    assert content(f"{s3}/out") == {2}


@pytest.mark.parametrize(
    ("address", "module", "words"),
    [
        ("s3://b/a", "s3fs", r"pip install 'hpv\[s3\]'"),
        ("gs://b/a", "gcsfs", r"pip install 'hpv\[gcs\]'"),
        ("http://h/a", "aiohttp", r"pip install 'hpv\[http\]'"),
        ("strange://b/a", "strange", "strange:// are not known"),
    ],
)
def test_missing_packages(address: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.get_filesystem_class("memory")  # imports the registry
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, address.partition(":")[0], raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(hpv.InputError, match=words):
        hpv.fit(address)


# ---------------------------------------------------------------- the command line


def test_command_line(s3: str, local: Path, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert main(list(arguments)) == code
        shown = capsys.readouterr()
        return shown.out, shown.err

    save_activations(f"{s3}/a", data, labels=LABELS, ids=IDS)
    run("fit", f"{s3}/a", "-o", f"{s3}/b", "--by-class", "--pilot", "300")
    run("score", f"{s3}/b", f"{s3}/a", "-o", f"{s3}/s")
    assert hpv.open(f"{s3}/b").fingerprint == hpv.open(local / "b").fingerprint
    assert len(json.loads(run("top", f"{s3}/s", "--n", "3", "--nodes", "--json")[0])["top"]) == 3
    for name, kind in (("a", "activations"), ("b", "background"), ("s", "scores")):
        facts = json.loads(run("info", f"{s3}/{name}", "--json")[0])
        assert facts["kind"] == kind
        assert facts["bytes_on_disk"] > 1000
    assert "this machine only" in run("export", f"{s3}/s", "-o", f"{s3}/s.csv", code=2)[1]
    assert "the bucket does not exist" in run("info", "s3://nobody/x", code=2)[1]
    command = [sys.executable, "-m", "hpv", "info", f"{s3}/b"]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{s3}/b: background" in alone.stdout
    assert alone.stderr == ""  # nothing of connections that were not closed
