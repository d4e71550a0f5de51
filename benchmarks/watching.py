"""Child processes that are told when to go on, and whose memory is watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 0.01
"""Seconds between two looks at a child's memory."""


def environment(**changes: str) -> dict[str, str]:
    """For children: they find this checkout first, so that it works uninstalled."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]), **changes}


class Child:
    """``python -m benchmarks.child JOB``: it stops after each of its steps, prints what it found, waits for a word."""

    def __init__(self, job: str, **arguments: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.child", job, json.dumps(arguments)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._job = job
        self.peak: int | None = None
        """Most private memory that was seen during the last step, bytes; None where the system does not tell."""

    def step(self) -> dict[str, Any]:
        """Let it do its next step; what it found."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            done.set()
            watcher.join()
        if not line:
            raise RuntimeError(f"the benchmark's child process {self._job} ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def private(self) -> int | None:
        """Private resident memory now, bytes."""
        return private_memory(self._process.pid)

    def _watch(self, done: threading.Event) -> None:
        self.peak = None
        while not done.wait(INTERVAL):
            now = self.private()
            if now is not None:
                self.peak = max(self.peak or 0, now)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]


def private_memory(process: int) -> int | None:
    """Of a process, bytes: what is resident and not shared with files; None where the system does not tell."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{process}/statm").read_text().split()
    except (OSError, ValueError):
        return None
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def empty_page_cache() -> bool:
    """Write everything out and let the system forget what it read; False where this user may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True
