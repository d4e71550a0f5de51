"""Two runs at one place: one writes, the other is told so; a lock ends with its run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import hpv
from commands import ROOT
from hpv.places import locks
from hpv.places.locks import ObjectLock
from hpv.places.remote import RemoteStore
from hpv.store.headers import SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store
from remote_data import content, small


def test_many_runs_at_once_only_one_writes(place: str) -> None:
    job = threading.Barrier(6)
    out = f"{place}/out"

    def attempt(number: int) -> str:
        job.wait()
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
