"""Where a command computes: in this process, or on a Dask cluster that is there or that it starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpv.backends.choosing import gpus_for
from hpv.backends.protocol import VISIBLE_GPUS
from hpv.base.errors import InputError
from hpv.base.machine import thread_count

if TYPE_CHECKING:
    from distributed import Nanny

SECONDS = 15
"""To reach a scheduler."""


@contextmanager
def cluster(
    scheduler: str | None, scheduler_file: str | None, workers: int | None, threads: int | None = None,
    backend: str = "cpu",
) -> Iterator[None]:  # fmt: skip
    """Make a cluster the active one: a scheduler's, or one of so many processes that share ``threads``.

    These processes get a GPU each, in turn, where the backend may use them.
    """
    given = [name for name, value in (("--scheduler", scheduler), ("--scheduler-file", scheduler_file),
                                      ("--workers", workers)) if value is not None]  # fmt: skip
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]}: give one of them.")
    if not given:
        yield
        return
    # What is wrong is said by hpv; Dask would say it in pages.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with _started(workers, threads, backend) if workers is not None else _reached(scheduler, scheduler_file):
        yield


def _reached(scheduler: str | None, scheduler_file: str | None) -> Any:
    from distributed import Client

    if scheduler_file is not None and not os.path.exists(scheduler_file):
        raise InputError(f"--scheduler-file {scheduler_file} does not exist; give the file that dask scheduler "
                         "--scheduler-file wrote.")  # fmt: skip
    where = scheduler or f"of {scheduler_file}"
    try:
        return Client(scheduler, scheduler_file=scheduler_file, timeout=SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"the scheduler {where} cannot be reached: {error}; check that it runs and that this machine "
                         "sees it.") from error  # fmt: skip


@contextmanager
def _started(workers: int, threads: int | None, backend: str) -> Iterator[None]:
    from distributed import Client, LocalCluster

    if workers < 1:
        raise InputError(f"--workers {workers}: give a whole number from 1 on.")
    gpus = gpus_for(backend)
    # One thread keeps a GPU at work; more only read for it.
    each = 1 if backend == "cuda" and threads is None else max(1, thread_count(threads) // workers)
    with (
        LocalCluster(n_workers=workers, threads_per_worker=each, worker_class=_nanny(gpus), dashboard_address=":0",
                     silence_logs=logging.CRITICAL) as started,
        Client(started),
    ):  # fmt: skip
        yield


def _nanny(gpus: Sequence[str]) -> type[Nanny]:
    """Starts a worker, and starts it again if it dies; the workers see one of the GPUs each, in turn."""
    from distributed import Nanny

    class WithGpu(Nanny):
        def __init__(self, scheduler: str, *, name: int, **options: Any) -> None:
            super().__init__(scheduler, name=name, env={VISIBLE_GPUS: gpus[name % len(gpus)]}, **options)

    return WithGpu if gpus else Nanny
