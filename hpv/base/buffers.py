"""Memory of threads, used again and again."""

from __future__ import annotations

import math
import mmap
import threading
from typing import Any

import numpy as np

LARGE_PAGE = 2**21
"""Bytes."""


class Buffers(threading.local):
    """Memory that a thread reads its blocks into, again and again: fresh pages cost more than the work on them."""

    on_device = False
    """Whether blocks that are on a GPU stay there."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}

    def get(self, purpose: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of this shape; whatever the last one for this purpose held is lost."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self.arrays.get(purpose)
        if memory is None or memory.size < size:
            memory = self.arrays[purpose] = np.frombuffer(_pages(size), np.uint8)
        return memory[:size].view(dtype).reshape(shape)


def _pages(size: int) -> mmap.mmap:
    """Fresh memory of at least so many bytes, in large pages where the system has them.

    Sorting took twice as long in the small pages that memory consists of that was used before.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, max(size, 1))
    if size >= LARGE_PAGE:  # whole large pages: others begin where no large page may begin
        size = -(-size // LARGE_PAGE) * LARGE_PAGE
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
