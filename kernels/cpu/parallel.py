"""Loops over parts of the samples: by this thread alone or, where one caller is certain, by Numba's own threads.

Numba's simplest thread layer ends the process when two threads call it at once, another one dies in forked children. So
one caller at a time comes in; whoever finds it taken, and any child forked after the first use, is told to do without.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np

from hpv.kernels.cpu.compiling import kernel, parallel_kernel

# Samples of a part that are worth another thread.
LEAST = 64
POLICY = "OMP_WAIT_POLICY"
_lock = threading.Lock()
_processes: set[int] = set()


@contextmanager
def one_caller(wanted: int) -> Iterator[int]:
    """How many threads loops over parts may be given meanwhile, up to ``wanted``: 1 where another caller has them."""
    if wanted < 2 or not _lock.acquire(blocking=False):
        yield 1
        return
    try:
        _processes.add(os.getpid())
        if len(_processes) > 1:
            yield 1
            return
        with _waiting_asleep():
            before, count = numba.get_num_threads(), min(wanted, numba.config.NUMBA_NUM_THREADS)
        numba.set_num_threads(count)
        try:
            yield count
        finally:
            numba.set_num_threads(before)
    finally:
        _lock.release()


@contextmanager
def _waiting_asleep() -> Iterator[None]:
    """OpenMP's threads start with its settings: those that spin while they wait take a busy machine's processors away
    from those that they wait for, and a call takes milliseconds longer (measured).
    """
    before = os.environ.get(POLICY)
    os.environ[POLICY] = before or "passive"
    try:
        yield
    finally:
        if before is None:
            del os.environ[POLICY]


def in_parts(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a ``prange`` over the parts between ``borders``, its first argument, for one thread and for several.

    Several only inside of ``one_caller``, which says how many; there is a part for each.
    """
    alone, together = kernel(function), parallel_kernel(function)

    def call(borders: np.ndarray, *arguments: Any) -> None:
        (alone if len(borders) == 2 else together)(borders, *arguments)

    return call


def borders(samples: int, parts: int, step: int = 1) -> np.ndarray:
    """Where the parts of the samples begin and end (parts + 1,): at multiples of ``step``; one part of few samples."""
    parts, steps = parts if samples >= parts * LEAST else 1, -(-samples // step)
    return np.minimum(np.arange(parts + 1) * steps // parts * step, samples)
