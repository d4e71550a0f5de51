"""How far a command is: a bar on a terminal, lines in a log, nothing with --json; and stopping it between blocks."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from types import FrameType, TracebackType
from typing import Any, Self

import typer

from hpv.base.errors import StoppedError
from hpv.base.words import human, quantity

LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""
MARK_SECONDS, RATE_SECONDS = 0.5, 20.0
"""The rate is that of the last while, by marks so far apart: compiling at the start says nothing about the rest."""


def make_meter(command: str, total: int | None, unit: str, *, shown: bool) -> Meter:
    """Progress of a command that does ``total`` units of work (None: what its parts say when they start)."""
    if not shown:
        return Meter(command, total, unit)
    return (Bar if sys.stderr.isatty() else Lines)(command, total, unit)


class Meter:
    """Counts work as `Progress`, and stops it between two blocks when the process is told to end."""

    def __init__(self, command: str, total: int | None, unit: str) -> None:
        """``unit``: what is counted, as ``byte`` or ``sample``."""
        self.what = command
        self.done = 0
        self._skipped = 0
        self.total = total or 0
        self._command = command
        self._unit = unit
        self._adds_up = total is None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._marks = deque([(self._began, 0)])
        self._handler: Any = None

    def start(self, what: str, total: int) -> None:
        """A part of the work begins."""
        with self._lock:
            self.what = what
            self.total += total if self._adds_up else 0
            self.show()

    def advance(self, done: int) -> None:
        """So much more is done; ``StoppedError`` in the thread that works if it is to end."""
        with self._lock:
            self.done += done
            now = time.monotonic()
            if now - self._marks[-1][0] >= MARK_SECONDS:
                self._marks.append((now, self.done))
                while now - self._marks[0][0] > RATE_SECONDS and len(self._marks) > 2:
                    self._marks.popleft()
            self.show()
        if self._stop.is_set():
            raise self._stopped(f" after {self._amount(self.done)}")

    def skip(self, done: int) -> None:
        """So much was done by an earlier run: it counts as done, and not as fast."""
        with self._lock:
            self.done += done
            self._skipped += done
            self._marks = deque((then, at + done) for then, at in self._marks)
            self.show()

    def reach(self, done: int, total: int | None) -> None:
        """As much as this is done, of so much if that is known."""
        self.total = total or 0
        self.advance(done - self.done)

    def show(self) -> None:
        """Tell how far it is; called with the lock held."""

    def close(self) -> None:
        """The end of it, whether good or bad."""

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return max(time.monotonic() - self._began, 1e-9)

    @property
    def rate(self) -> float:
        """Units per second of late."""
        since, done = self._marks[0]
        return (self.done - done) / max(time.monotonic() - since, 1e-9)

    def describe(self) -> str:
        """Done, of how much, rate and time left."""
        text, rate = self._amount(self.done), self.rate
        if self.total:
            text += f" of {self._amount(self.total)}"
        if rate > 0:
            text += f", {self._amount(rate)}/s"
            text += f", {_duration((self.total - self.done) / rate)} left" if self.done < self.total else ""
        return text

    def summary(self) -> str:
        """Done, time and rate of the whole."""
        done = self.done - self._skipped
        return f"{self._amount(done)} in {_duration(self.seconds)}, {self._amount(done / self.seconds)}/s"

    def _amount(self, count: float) -> str:
        return human(count) if self._unit == "byte" else quantity(round(count), self._unit)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Threads that still work end at their next block.
            self._stop.set()
        self.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def _stopped(self, where: str) -> StoppedError:
        return StoppedError(f"{self._command} was stopped{where}; run the same command again, it continues.")

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            raise self._stopped("")
        self._stop.set()


class Lines(Meter):
    """A line now and then, for logs."""

    def __init__(self, command: str, total: int | None, unit: str) -> None:
        super().__init__(command, total, unit)
        self._shown = time.monotonic()

    def show(self) -> None:
        """A line if the last one is some time ago."""
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            typer.echo(f"{self.what}: {self.describe()}", err=True)

    def close(self) -> None:
        """A last line."""
        if self.done:
            typer.echo(f"{self._command}: {self.summary()}", err=True)


class Bar(Meter):
    """A bar with rate and time left."""

    def __init__(self, command: str, total: int | None, unit: str) -> None:
        super().__init__(command, total, unit)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[how]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True, markup=False), transient=True)
        self._task = self._progress.add_task("", total=self.total or None, what=command, how="")

    def __enter__(self) -> Self:
        self._progress.start()
        return super().__enter__()

    def show(self) -> None:
        """Move the bar."""
        total = self.total or None
        self._progress.update(self._task, completed=self.done, total=total, what=self.what, how=self.describe())

    def close(self) -> None:
        """A line in the place of the bar."""
        self._progress.stop()
        if self.done:
            typer.echo(f"{self._command}: {self.summary()}", err=True)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
