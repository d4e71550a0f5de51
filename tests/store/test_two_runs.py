"""Two runs at one output, and one that is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import ROOT
from data import REQUEST, small
from hpv.base.errors import HpvWarning, OutputExistsError, StoreError
from hpv.places import locks as locks_module
from hpv.store.headers import SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store


def test_second_run_is_refused(path: Path) -> None:
    with small(path), pytest.raises(OutputExistsError, match=f"being written by process {os.getpid()} on "):
        Output.begin(path, SCORES, REQUEST)
    with Output.begin(path, SCORES, REQUEST) as output:
        output.finish()
    with small(path, {"bins": 1}, overwrite=True), pytest.raises(OutputExistsError, match="being written"):
        Output.begin(path, SCORES, {"bins": 1}, overwrite=True)


def test_many_runs_at_once_only_one_writes(path: Path) -> None:
    job = threading.Barrier(6)

    def attempt(number: int) -> str:
        job.wait()
        try:
            with Output.begin(path, SCORES, REQUEST) as output:
                if output.already_complete:
                    return "complete"
                output.create("a", (1,), "f4", (1,))
                output.write("a", None, [number])
                output.finish()
                return "wrote"
        except OutputExistsError:
            return "refused"

    for _ in range(5):
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(attempt, range(6)))
        assert results.count("wrote") == 1
        assert open_store(path).names() == ["a"]
        assert sorted(os.listdir(path)) == ["a", "zarr.json"]
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


def test_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks_module.fcntl, "flock", unable)
    with pytest.warns(HpvWarning, match="no locks"):
        small(path).finish()


KILLED = """
import os, sys, numpy as np
from hpv.store.output import Output
from hpv.store.headers import SCORES
output = Output.begin(sys.argv[1], SCORES, {})
output.create("a", (1000, 50), "f4", (10, 50))
for number in range(output.progress.get("done", 0), 100):
    output.write("a", slice(10 * number, 10 * number + 10), np.full((10, 50), number))
    output.checkpoint({"done": number + 1})
    print(number, flush=True)
output.finish()
"""


@pytest.mark.slow
def test_kill_9_leaves_what_was_noted(path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                process.send_signal(signal.SIGKILL)
                break
    with pytest.raises(StoreError, match="incomplete"):
        open_store(path)
    with Output.begin(path, SCORES, {}) as output:
        done = output.progress["done"]
        assert 20 <= done <= 100
        output.create("a", (1000, 50), "f4", (10, 50))
        np.testing.assert_array_equal(
            output.read("a", slice(0, 10 * done)), np.repeat(np.arange(done), 10)[:, None] * np.ones(50)
        )
    assert subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert open_store(path).array("a").read()[:, 7].tolist() == np.repeat(np.arange(100), 10).tolist()
