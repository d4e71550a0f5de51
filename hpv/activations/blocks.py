"""Rectangles of a layer in memory, as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.activations.layers import Layer
from hpv.base.buffers import Buffers


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
    return writable_view(whole, layer.float_format.key) if whole.flags.c_contiguous else None


def read_block(layer: Layer, rows: slice, tile: slice, buffers: Buffers) -> Block:
    """Some samples of some nodes; without a copy where that is possible."""
    if buffers.on_device and layer.on_device:
        return Block(layer.bits_on_device(rows), tile.start)
    whole = in_place(layer, rows)
    if whole is not None:
        return Block(whole, tile.start)
    float_format = layer.float_format
    shape = (rows.stop - rows.start, tile.stop - tile.start)
    out = layer.read(rows, tile, buffers.get("values", shape, float_format.storage))
    return Block(writable_view(np.ascontiguousarray(out), float_format.key), 0)


def writable_view(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same memory as another type of the same width, in the native byte order.

    A read-only array (a memory map) is shown as writable: a kernel is compiled once and does not write to its input.
    """
    if array.flags.writeable:
        return array.view(dtype)
    interface = dict(array.__array_interface__, data=(array.__array_interface__["data"][0], False), typestr=dtype.str)
    holder = type("Memory", (), {"__array_interface__": interface, "array": array})()
    return np.asarray(holder)
