"""The simulator, one thread after another.

Its own scheduler asks in a loop who is waiting, and its threads fight for the interpreter. Here a thread runs from
barrier to barrier, then the next one does, always in the same order: quick, and the same every time.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from hypothesis import settings
from numba.cuda.simulator import kernel

# A simulated thread takes about a hundred microseconds, and examples take many.
settings.register_profile("simulated", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("simulated")

_run = kernel.BlockThread.run


def _run_in_turn(thread: Any) -> None:
    try:
        _run(thread)  # keeps what it raised in thread.exception
    finally:
        thread.finished = True
        thread.paused.set()


def _wait_at_barrier(thread: Any) -> None:
    thread.paused.set()
    thread.syncthreads_event.wait()
    thread.syncthreads_event.clear()
    if thread.abort:
        raise RuntimeError("another thread of the block failed")


def _run_block(manager: Any, block: tuple[int, ...], *arguments: Any) -> None:
    threads = []
    for place in np.ndindex(*manager._block_dim):
        thread = kernel.BlockThread(lambda: manager._f(*arguments), manager, block, place, manager._debug)
        thread.paused, thread.finished = threading.Event(), False
        threads.append(thread)
    waiting = threads
    while waiting:
        for thread in waiting:
            thread.paused.clear()
            if thread.ident is None:
                thread.start()
            else:
                thread.syncthreads_event.set()
            thread.paused.wait()
            if thread.exception:
                for other in threads:
                    other.abort = True
                    other.syncthreads_event.set()
                raise thread.exception[0].with_traceback(thread.exception[1])
        waiting = [thread for thread in waiting if not thread.finished]


kernel.BlockThread.run = _run_in_turn
kernel.BlockThread.syncthreads = _wait_at_barrier
kernel.BlockManager.run = _run_block
