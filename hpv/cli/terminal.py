"""What a person or a program sees: results on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from hpv.errors import HpvError, HpvWarning, StoppedError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""
WIDTH_OF_FILES = 200
"""Columns of a table that goes to a file or a pipe."""


class Terminal:
    """Where a command prints: as text, or as JSON with nothing else on stdout."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, document: Mapping[str, Any], *shown: RenderableType) -> None:
        """The outcome of a command: the document with --json, else what is to be shown."""
        if self.as_json:
            typer.echo(_json(document, indent=2))
            return
        console = self.console()
        for item in shown:
            console.print(item, soft_wrap=isinstance(item, str))

    def console(self) -> Console:
        """Text for stdout; with --json it goes to stderr."""
        from rich.console import Console

        out = sys.stderr if self.as_json else sys.stdout
        width = None if out.isatty() else WIDTH_OF_FILES
        return Console(file=out, width=width, markup=False, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        """A line beside the result; nothing with --json."""
        if not self.as_json:
            typer.echo(text, err=True)

    def usage(self, text: str) -> None:
        """Help that nobody asked for."""
        typer.echo(text, err=True)

    def warn(self, text: str) -> None:
        """A warning as one line."""
        typer.echo(_json({"warning": text}) if self.as_json else f"warning: {text}", err=True)

    def fail(self, text: str, kind: str) -> None:
        """An error as one message."""
        typer.echo(_json({"error": text, "kind": kind}) if self.as_json else f"error: {text}", err=True)

    def fail_with(self, error: HpvError) -> int:
        """The error's message; its exit code."""
        self.fail(str(error), type(error).__name__)
        return error.exit_code

    @contextmanager
    def showing_warnings(self) -> Iterator[None]:
        """Warnings of hpv as lines of ours, each once; those of other libraries as Python shows them."""
        with warnings.catch_warnings():
            others, seen = warnings.showwarning, set()

            def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
                if not issubclass(category, HpvWarning):
                    others(message, category, *rest, **options)
                elif str(message) not in seen:
                    seen.add(str(message))
                    self.warn(str(message))

            warnings.simplefilter("always", HpvWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            yield

    def meter(self, command: str, total: int | None = None, unit: str = "bytes") -> Meter:
        """Progress of a command that does ``total`` units of work (None: what its parts say when they start)."""
        if self.as_json:
            return Meter(command, total, unit)
        return (Bar if sys.stderr.isatty() else Lines)(command, total, unit)


class Meter:
    """Counts work as `hpv.streaming.Progress`, and stops it between two blocks when the process is told to end."""

    def __init__(self, command: str, total: int | None, unit: str) -> None:
        """``unit``: ``bytes`` or ``samples``."""
        self.what = command
        self.done = 0
        self.total = total or 0
        self._command = command
        self._unit = unit
        self._adds_up = total is None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._handler: Any = None

    def start(self, what: str, total: int) -> None:
        """A part of the work begins."""
        with self._lock:
            self.what = what
            self.total += total if self._adds_up else 0
            self.show()

    def advance(self, done: int) -> None:
        """So much more is done; ``StoppedError`` in the thread that works if it is to end."""
        if self._stop.is_set():
            raise StoppedError(
                f"{self._command} was stopped after {self._amount(self.done)}; run the same command again, it continues."
            )
        with self._lock:
            self.done += done
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

    def describe(self) -> str:
        """Done, of how much, rate and time left."""
        rate = self.done / self.seconds
        if not 0 < self.done < self.total:
            return self.summary()
        amounts = f"{self.done / self.total:.0%}, {self._amount(self.done)} of {self._amount(self.total)}"
        return f"{amounts}, {self._amount(rate)}/s, {_duration((self.total - self.done) / rate)} left"

    def summary(self) -> str:
        """Done, time and rate."""
        return f"{self._amount(self.done)} in {_duration(self.seconds)}, {self._amount(self.done / self.seconds)}/s"

    def _amount(self, count: float) -> str:
        if self._unit != "bytes":
            return f"{count:,.0f} {self._unit}"
        from hpv.planning import human

        return human(count)

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

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            raise StoppedError(f"{self._command} was stopped; run the same command again, it continues.")
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
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.fields[what]}"), BarColumn(), TaskProgressColumn(),
                   TextColumn("{task.fields[rate]}"), TimeRemainingColumn())  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True, markup=False), transient=True)
        self._task = self._progress.add_task("", total=self.total or None, what=command, rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return super().__enter__()

    def show(self) -> None:
        """Move the bar."""
        rate = f"{self._amount(self.done)}, {self._amount(self.done / self.seconds)}/s"
        self._progress.update(self._task, completed=self.done, total=self.total or None, what=self.what, rate=rate)

    def close(self) -> None:
        """A line in the place of the bar."""
        self._progress.stop()
        if self.done:
            typer.echo(f"{self._command}: {self.summary()}", err=True)


def grid(rows: Sequence[tuple[str, object]]) -> str:
    """Names and values below each other."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[str] = ()) -> RenderableType:
    """A table of figures; the columns named in ``left`` hold text."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for head in heads:
        made.add_column(head, justify="left" if head in left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _json(document: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(document), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, numbers that JSON does not have as null, all else that it does not know as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
