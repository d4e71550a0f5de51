"""Parts of what lies in memory, by all processors where that is worth it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hpv.activations.blocks import in_place
from hpv.activations.layers import Layer
from hpv.base.machine import thread_count
from hpv.walking.candidates import LARGEST_IN_MEMORY, block_samples
from hpv.walking.threads import Queue, run_in_threads

SMALL = 2**18
"""Values that one thread has done before others would have started."""
Result = TypeVar("Result")


def threads_in_place(layer: Layer, values: int, threads: int | None = None) -> int:
    """Threads that a single caller could give to the work on so many values of a layer, all at once.

    1 where blocks must first be read. Also 1 for much work: there our own threads take blocks in turn, so that none
    waits for one whose processor is busy.
    """
    some = SMALL <= values <= LARGEST_IN_MEMORY // layer.float_format.key.itemsize
    return thread_count(threads) if some and in_place(layer, slice(0, 0)) is not None else 1


def each_part(
    work: Callable[[slice], Result], samples: int, nodes: int, itemsize: int, in_memory: bool, threads: int | None
) -> list[Result]:
    """``work(rows)`` for ranges of samples that make up all of them, on all processors if that is worth it."""
    threads = 1 if samples * nodes < SMALL else thread_count(threads)
    largest, least = (max(size // 64, 1) * 64 for size in block_samples(nodes * itemsize, in_memory))
    parts = Queue(slice(0, samples), largest, least, threads)

    def task(_: int) -> list[Result]:
        return [work(rows) for rows in parts]

    return [one for found in run_in_threads(task, range(threads), threads) for one in found]
