"""Memory for what a thread goes through again and again: large pages, and arrays one after the other in them.

Small pages lie anywhere in a machine's memory. Where many of them fall on the same places of a cache, or the table that
finds them is too small, the same work took up to twice as long, all through the life of a process.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

LARGE_PAGE = 2**21
SMALL_PAGE = 2**12
STEP = 512
"""Bytes: whole lines of the cache, as vectors that lie across two lines cost twice."""


def pages(size: int) -> np.ndarray:
    """At least so many bytes of fresh memory, zeros, in large pages where the system has them."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)
    if size >= LARGE_PAGE // 8:  # whole large pages: others begin where no large page may begin
        size = -(-size // LARGE_PAGE) * LARGE_PAGE
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def side_by_side(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Copies of arrays, one after the other, each from the start of a line on, a step further in a small page.

    A processor takes a load for one of what was just stored where both lie at the same place of a page.
    """
    starts, end = [], 0
    for number, array in enumerate(arrays):
        starts.append(-(-end // SMALL_PAGE) * SMALL_PAGE + number * STEP % SMALL_PAGE)
        end = starts[-1] + array.nbytes
    memory, copies = pages(end), []
    for array, start in zip(arrays, starts, strict=True):
        copies.append(memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape))
        copies[-1][...] = array
    return copies
