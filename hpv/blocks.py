"""Rectangles of a layer in memory, as the kernels read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hpv import streaming
from hpv.buffers import Buffers
from hpv.resources import thread_count
from hpv.sources import Layer
from hpv.tiling import LARGEST_IN_MEMORY, block_samples

SMALL = 2**18
"""Values that one thread has done before others would have started."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Block:
    """A rectangle of a layer in memory."""

    bits: Any
    """C-contiguous (samples, columns), the values viewed as signed integers: a numpy array, or on a GPU."""
    first: int
    """Column of the first node asked for."""


def in_place(layer: Layer, rows: slice) -> np.ndarray | None:
    """Bits of whole rows where they lie in memory one after the other; nothing is copied."""
    if not layer.in_memory:
        return None
    whole = layer.read(rows, slice(0, layer.shape[1]))
    return writable_view(whole, layer.form.key) if whole.flags.c_contiguous else None


def threads_in_place(layer: Layer, values: int, threads: int | None = None) -> int:
    """Threads that a single caller could give to the work on so many values of a layer, all at once.

    1 where blocks must be read first, and for much work: threads of ours take a block after the other, so that none
    waits for one whose processor is busy.
    """
    some = SMALL <= values <= LARGEST_IN_MEMORY // layer.form.key.itemsize
    return thread_count(threads) if some and in_place(layer, slice(0, 0)) is not None else 1


def read_block(layer: Layer, rows: slice, tile: slice, buffers: Buffers) -> Block:
    """Some samples of some nodes; without a copy where that is possible."""
    if buffers.on_device and layer.on_device:
        return Block(layer.bits_on_device(rows), tile.start)
    whole = in_place(layer, rows)
    if whole is not None:
        return Block(whole, tile.start)
    form = layer.form
    shape = (rows.stop - rows.start, tile.stop - tile.start)
    out = layer.read(rows, tile, buffers.get("values", shape, form.storage))
    return Block(writable_view(np.ascontiguousarray(out), form.key), 0)


def each_part(
    work: Callable[[slice], Result], samples: int, nodes: int, itemsize: int, in_memory: bool, threads: int | None
) -> list[Result]:
    """``work(rows)`` for ranges of samples that make up all of them, on all processors if that is worth it."""
    threads = 1 if samples * nodes < SMALL else thread_count(threads)
    largest, least = (max(size // 64, 1) * 64 for size in block_samples(nodes * itemsize, in_memory))
    parts = streaming.Queue(slice(0, samples), largest, least, threads)

    def task(_: int) -> list[Result]:
        return [work(rows) for rows in parts]

    return [one for found in streaming.run(task, range(threads), threads) for one in found]


def writable_view(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same memory as another type of the same width, in the native byte order.

    A read-only array (a memory map) is shown as writable: a kernel is compiled once and does not write to its input.
    """
    if array.flags.writeable:
        return array.view(dtype)
    interface = dict(array.__array_interface__, data=(array.__array_interface__["data"][0], False), typestr=dtype.str)
    holder = type("Memory", (), {"__array_interface__": interface, "array": array})()
    return np.asarray(holder)
