"""Threads of this process, and the queue that they share."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from hpv.base.errors import StoppedError
from hpv.walking.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """``function`` of every item, in order, by threads of this process: Dask's threaded scheduler.

    One after the other where Dask is set to work without threads, as for debugging, and inside of another call.
    """
    if min(threads, len(items)) <= 1 or _thread.work is not None:
        return [function(item) for item in items]
    import dask
    from dask.threaded import get

    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return [function(item) for item in items]
    work = _Work(function)
    # A task is a call without arguments: Dask then does not look through them for others.
    tasks = {("part", number): (partial(work, item),) for number, item in enumerate(items)}
    try:
        return list(get(tasks, list(tasks), pool=_pool(threads)))
    finally:
        work.end()


def in_a_task() -> bool:
    """Whether this thread is at work inside of a call of `run_in_threads`."""
    return _thread.work is not None


class _Thread(threading.local):
    """What a thread must know."""

    work: _Work | None = None


_thread = _Thread()
_pools: dict[int, ThreadPoolExecutor] = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # the threads stay with the parent


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: they keep their memory, and are there at once."""
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, "hpv")
    return _pools[threads]


class _Work(Generic[Item, Result]):
    """Calls of a function, until its results are not wanted any more."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.function = function
        self.stopped = False
        self.calls = 0
        self.changed = threading.Condition()

    def __call__(self, item: Item) -> Result:
        with self.changed:
            self.check()
            self.calls += 1
        outer, _thread.work = _thread.work, self
        try:
            return self.function(item)
        finally:
            _thread.work = outer
            with self.changed:
                self.calls -= 1
                self.changed.notify_all()

    def check(self) -> None:
        """End this call where its result is not wanted."""
        if self.stopped:
            raise StoppedError("stopped; run it again.")

    def end(self) -> None:
        """After an error or an interrupt nothing goes on behind the caller's back."""
        with self.changed:
            self.stopped = True
            self.changed.wait_for(lambda: self.calls == 0)


def in_steps(rows: slice, step: int) -> Iterator[slice]:
    """A range of samples in steps of ``step``."""
    for start in range(rows.start, rows.stop, step):
        if _thread.work is not None:
            _thread.work.check()
        yield slice(start, min(rows.stop, start + step))


class Queue:
    """A range, of samples most often, for several threads at once: each takes the next block, so none waits.

    Blocks are of ``largest`` length, shorter near the end: half of a thread's share of what is left, or the ``least``.
    After so many ``seconds``, or when the work is told to end, there are no more: what was given out ends at
    ``taken_to``. Without ``seconds`` all is given out.
    """

    def __init__(self, rows: slice, largest: int, least: int, threads: int, seconds: float = math.inf) -> None:
        self.taken_to, self.stop = rows.start, rows.stop
        self.end = time.monotonic() + seconds
        self.largest, self.least, self.threads = largest, least, threads
        self.given = self.cut_short = False
        self.lock = threading.Lock()

    def __iter__(self) -> Iterator[slice]:
        return self

    def __next__(self) -> slice:
        if _thread.work is not None:
            _thread.work.check()
        with self.lock:
            share = (self.stop - self.taken_to) // (2 * self.threads) // self.least * self.least
            block = slice(self.taken_to, min(self.stop, self.taken_to + min(self.largest, max(self.least, share))))
            over = self.cut_short or time.monotonic() > self.end
            if block.start == block.stop or (over and self.given):
                raise StopIteration
            self.taken_to, self.given = block.stop, True
        return block

    def advance(self, progress: Progress, done: int) -> None:
        """Tell that so much is done. Where the work is to end, blocks at work are finished, so that none is lost."""
        try:
            progress.advance(done)
        except StoppedError:
            self.cut_short = self.end < math.inf
