"""Walking blocks: the only module that knows Dask. Tasks are big, states are added up where the data is."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from hpv.errors import StoppedError

LINE = 64
"""Bytes that a processor moves at once."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Progress(Protocol):
    """Who is told how far the work is."""

    def start(self, what: str, total: int) -> None:
        """A part of the work begins: ``total`` bytes to read."""

    def advance(self, done: int) -> None:
        """So many more bytes are done; called from the threads that do them."""


class Quiet:
    """Nobody is told."""

    def start(self, what: str, total: int) -> None:
        """See `Progress`."""

    def advance(self, done: int) -> None:
        """See `Progress`."""


def run(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """``function`` of every item, in order, by threads of this process: Dask's threaded scheduler.

    One after the other where Dask is set to work without threads, as for debugging.
    """
    if min(threads, len(items)) <= 1:
        return [function(item) for item in items]
    import dask
    from dask.threaded import get

    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return [function(item) for item in items]
    # A task is a call without arguments: Dask then does not look through them for others.
    tasks = {("part", number): (partial(function, item),) for number, item in enumerate(items)}
    stop = threading.Event()
    with ThreadPoolExecutor(threads, initializer=lambda: setattr(_thread, "stop", stop)) as pool:
        try:
            return list(get(tasks, list(tasks), pool=pool))
        finally:
            stop.set()  # after an error or an interrupt: nothing goes on behind the caller's back


class _Thread(threading.local):
    """What a thread must know."""

    stop: threading.Event | None = None
    """Set when its work is no longer wanted."""


_thread = _Thread()


def split(rows: slice, parts: int, step: int) -> list[slice]:
    """A range of samples in up to ``parts`` contiguous ranges that start at multiples of ``step`` from its start."""
    steps = -(-(rows.stop - rows.start) // step)
    parts = max(1, min(parts, steps))
    borders = [rows.start + min(steps * i // parts * step, rows.stop - rows.start) for i in range(parts)] + [rows.stop]
    return [slice(start, stop) for start, stop in zip(borders, borders[1:], strict=False) if start < stop]


def blocks(rows: slice, step: int) -> Iterator[slice]:
    """A range of samples in blocks of ``step``."""
    for start in range(rows.start, rows.stop, step):
        if _thread.stop is not None and _thread.stop.is_set():
            raise StoppedError("stopped; run it again.")
        yield slice(start, min(rows.stop, start + step))


def shared(rows: slice, step: int) -> Iterator[slice]:
    """The same for several threads at once: each block goes to whoever asks first, so none waits for a slower one."""
    return _Shared(blocks(rows, step))


class _Shared:
    def __init__(self, parts: Iterator[slice]) -> None:
        self.parts = parts
        self.lock = threading.Lock()

    def __iter__(self) -> Iterator[slice]:
        return self

    def __next__(self) -> slice:
        with self.lock:
            return next(self.parts)


class Buffers(threading.local):
    """Memory that a thread reads its blocks into, again and again: fresh pages cost more than the work on them."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}

    def get(self, purpose: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of this shape; whatever the last one for this purpose held is lost."""
        import numpy as np

        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self.arrays.get(purpose)
        if memory is None or memory.size < size:
            # From the start of a line of the cache: vectors that lie across two lines cost twice.
            memory = np.empty(size + LINE, np.uint8)
            start = -memory.ctypes.data % LINE
            memory = self.arrays[purpose] = memory[start : start + size]
        return memory[:size].view(dtype).reshape(shape)
