"""A Dask cluster: who it is, its workers, tasks in waves, and its errors in plain words."""

from __future__ import annotations

import itertools
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from hpv.activations.layers import Activations, Layer
from hpv.backends.choosing import check_name, get_backend
from hpv.backends.protocol import Backend
from hpv.base.errors import DataError, InputError, StoppedError
from hpv.base.version import VERSION
from hpv.base.words import MIB, human
from hpv.walking.progress import Progress
from hpv.walking.threads import in_a_task

if TYPE_CHECKING:
    from distributed import Client, Future
TASK_BYTES = 2**28
"""Activations of a task, at least: some 0.2 seconds of work."""
MOST_IN_WAVE = 500
"""Tasks that the scheduler holds, by twos; how many the whole is divided into it never learns."""
WAVE_SECONDS = 5.0
"""Waves grow until they take so long: what two of them hold is lost when this process is killed."""
WAIT_SECONDS = 60
"""For the first worker."""


def bare(source: Activations, *layers: Layer) -> Activations:
    """All layers, or some, without what a task need not be sent."""
    return Activations({layer.name: layer for layer in layers} or source.layers, None, None, {}, True)


def task_ranges(start: int, stop: int, row: int, height: int) -> Iterator[slice]:
    """The samples of every task: whole chunks, TASK_BYTES at least."""
    step = -(-max(TASK_BYTES // max(row, 1), 1) // height) * height
    at = start
    while at < stop:
        end = min((at + step) // height * height, stop)
        yield slice(at, end)
        at = end


class Cluster:
    """The workers, once it is known that they can do the work."""

    def __init__(self, client: Client, source: Activations, memory: int, backend: str, progress: Progress) -> None:
        self.client = client
        with _explained(client):
            _wait_for_a_worker(client, progress)
            threads = client.nthreads().values()
            of_scheduler = client.run_on_scheduler(_version())
            facts = client.run(_facts_of(_paths(source), backend, VERSION))
        self.threads, most = sum(threads), max(threads)
        _check_version(f"scheduler {_address(client)}", of_scheduler)
        for address, (version, limit, absent, lacking) in facts.items():
            _check_version(f"worker {address}", version)
            if lacking:
                raise InputError(f"backend={backend!r} on the worker {address}: {lacking}. Start workers where there "
                                 "is a GPU for each, or give backend='auto' or 'cpu'.")  # fmt: skip
            if absent:
                raise InputError(f"the worker {address} does not see {absent}; give a path that all workers see.")
            memory = min(memory, limit // 2 or memory)
        if memory // most < 64 * MIB:
            raise InputError(f"memory {human(memory)} for {most} threads of a worker: give at least 64MiB for each, or "
                             "start workers with fewer threads.")  # fmt: skip
        self.memory = memory // most
        """Bytes that a task may use: a worker runs as many at once as it has threads."""

    def work(self) -> _Work:
        """Tasks that end with their ``with`` block."""
        return _Work(self.client, self.threads)


def _wait_for_a_worker(client: Client, progress: Progress) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return client.wait_for_workers(1, timeout=min(1.0, WAIT_SECONDS))
        except TimeoutError:
            progress.advance(0)  # it may have been told to end
            if time.monotonic() > end:
                raise InputError(f"the scheduler {_address(client)} has no workers; start some (dask worker "
                                 f"{_address(client)}), and run it again.") from None  # fmt: skip


def _check_version(who: str, version: str | None) -> None:
    if version != VERSION:
        raise InputError(f"the {who} has {'hpv ' + version if version else 'no hpv'}, this is hpv {VERSION}; "
                         "install the same version on both.")  # fmt: skip


def _paths(source: Activations) -> list[str]:
    """Files and folders of this machine that the activations are in."""
    found = (layer.identity.get("path") for layer in source.layers.values())
    return sorted({path for path in found if path is not None and "://" not in path})


def _version() -> Callable[[], str | None]:
    """Asks the scheduler, which takes tasks apart, for its version."""

    def version() -> str | None:  # sent as it is: the scheduler may have another hpv, or none
        from importlib import import_module

        try:
            return str(import_module("hpv").__version__)
        except ImportError:
            return None

    return version


Facts = tuple[str | None, int, str | None, str | None]


def _facts_of(paths: Sequence[str], backend: str, wanted: str) -> Callable[..., Facts]:
    """Asks a worker for its version, its memory limit, the first path that it does not see, what the backend lacks."""

    def facts(dask_worker: Any) -> Facts:  # sent as it is: a worker may have another hpv, or none
        import os
        from importlib import import_module

        try:
            found = str(import_module("hpv").__version__)
        except ImportError:
            return None, 0, None, None
        if found != wanted:
            return found, 0, None, None
        lacking = import_module("hpv.backends.choosing").lacks(backend)
        absent = next((path for path in paths if not os.path.exists(path)), None)
        return found, int(dask_worker.memory_manager.memory_limit or 0), absent, lacking

    return facts


def _address(client: Client) -> str:
    return "of the cluster" if client.scheduler is None else str(client.scheduler.address)


@contextmanager
def _explained(client: Client) -> Iterator[None]:
    """Errors of the cluster in plain words; those of hpv come from its workers as they are."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise DataError(f"{error.last_worker and error.last_worker.address}: a worker that did the same part died "
                        "again and again, most often for want of memory; give it more, or less with --memory, and run "
                        "the same command again, it continues.") from error  # fmt: skip
    except (FutureCancelledError, CommClosedError, TimeoutError) as error:
        raise StoppedError(f"the scheduler {_address(client)} is gone; when it is there again, run the same "
                           "command again, it continues.") from error  # fmt: skip


class _Work:
    """Tasks of one kind of work, under names that Dask's dashboard shows."""

    def __init__(self, client: Client, threads: int) -> None:
        self.client = client
        self.threads = threads
        self.run = uuid.uuid4().hex
        self.numbers = itertools.count()
        self.sent: WeakSet[Future] = WeakSet()
        """Results that nobody holds any more leave the workers' memory."""

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            with suppress(Exception):  # the first error is the one to tell of
                self.client.cancel(list(self.sent), force=True)

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> Future:
        """Send a task."""
        with _explained(self.client):
            key = (f"hpv {name}-{self.run}", next(self.numbers))
            future = self.client.submit(function, *arguments, key=key, pure=False)
        self.sent.add(future)
        return future

    def hold(self, what: Any) -> Future:
        """Something that many tasks need: made again wherever a worker that held it is lost."""
        return self.submit("send", _Held(what))

    def result(self, future: Future) -> Any:
        """Wait for one."""
        with _explained(self.client):
            return future.result()

    def waves(
        self,
        ranges: Iterator[slice],
        send: Callable[[slice], Future],
        finish: Callable[[Sequence[Future]], Sequence[Future]],
    ) -> Iterator[_Wave]:
        """Send tasks in waves, the next one before the last one is waited for."""
        width, waiting = 4 * self.threads, deque[_Wave]()
        while True:
            while len(waiting) < 2 and (rows := list(itertools.islice(ranges, width))):
                waiting.append(_Wave(self, rows, send, finish))
            if not waiting:
                return
            wave = waiting.popleft()
            yield wave
            if wave.seconds < WAVE_SECONDS:
                width = min(2 * width, MOST_IN_WAVE)


class _Wave:
    """Tasks for consecutive ranges of samples, and what follows from them."""

    def __init__(
        self,
        work: _Work,
        ranges: Sequence[slice],
        send: Callable[[slice], Future],
        finish: Callable[[Sequence[Future]], Sequence[Future]],
    ) -> None:
        self.work = work
        self.rows = slice(ranges[0].start, ranges[-1].stop)
        self.tasks = {send(rows): rows for rows in ranges}
        self.ends = list(finish(list(self.tasks)))
        self.seconds = 0.0

    def gather(self, progress: Progress, row: int) -> Iterator[Any]:
        """The results, in order; ``row``: bytes of a sample."""
        from distributed import as_completed

        start = time.monotonic()
        for future in as_completed(list(self.tasks)):
            if future.status != "finished":
                break  # what comes before it in order is still taken
            rows = self.tasks[future]
            progress.advance((rows.stop - rows.start) * row)
        self.tasks = {}
        while self.ends:
            yield self.work.result(self.ends.pop(0))
        self.seconds = time.monotonic() - start


class _Held:
    """Gives what it holds."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __call__(self) -> Any:
        return self.what


def active_client() -> Any:
    """The ``distributed.Client`` that Dask would compute with here; None for threads, and inside of a task."""
    distributed = sys.modules.get("distributed")
    if distributed is None or in_a_task():
        return None
    import dask
    from distributed.worker import thread_state

    if hasattr(thread_state, "execution_state"):
        return None
    get = getattr(dask.base.get_scheduler(), "__self__", None)
    return get if isinstance(get, distributed.Client) else None


def backend_for(name: str, source: Activations) -> Backend:
    """The backend for these activations; where workers of a cluster do the work, each chooses its own."""
    if source.is_portable and active_client() is not None:
        check_name(name)
        return get_backend("cpu")
    return get_backend(name, source.values, source.on_device)
