"""What layers have in common that are made of an array, whatever library it is of."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from hpv.activations.layers import Layer
from hpv.base.errors import InputError
from hpv.base.floats import FloatFormat


class ArrayBacked(Layer):
    """A layer whose values are in an array of at least two dimensions."""

    def __init__(self, name: str, origin: str, array: Any, float_format: FloatFormat) -> None:
        """``array``: anything that has a shape."""
        self.name = name
        self.origin = origin
        self.float_format = float_format
        self._array = array
        self._full_shape = _checked_shape(array.shape, origin)
        self._inner = math.prod(self._full_shape[2:])

    @property
    def shape(self) -> tuple[int, int]:
        samples, *rest = self._full_shape
        return samples, math.prod(rest)

    @property
    def identity(self) -> dict[str, Any]:
        return {"shape": list(self._full_shape), "dtype": self.float_format.name}

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        rows = range(*samples.indices(self.shape[0]))
        columns = range(*nodes.indices(self.shape[1]))
        if len(self._full_shape) == 2:
            selection = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            return self._block(selection, out)
        # The planes of the second dimension that hold these nodes, and the nodes within them.
        first, last = columns.start // self._inner, -(-columns.stop // self._inner)
        planes, target = (len(rows), last - first, *self._full_shape[2:]), None
        if out is not None and out.flags.c_contiguous and out.size == math.prod(planes):
            target = out.reshape(planes)
        block = self._block((slice(rows.start, rows.stop), slice(first, last)), target)
        if out is not None and block is target:
            return out
        block = block.reshape(len(rows), (last - first) * self._inner)
        start = columns.start - first * self._inner
        return contiguous(block[:, start : start + len(columns)], self.float_format, out)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        """A block along the first two dimensions, all of the others."""
        raise NotImplementedError


def hash_of(layer: Layer) -> str:
    """Hash of a layer's values: 128 bits of SHA-256, for which many processors have instructions."""
    digest = hashlib.sha256()
    samples, nodes = layer.shape
    step = max(1, (16 << 20) // (nodes * layer.float_format.storage.itemsize))
    for start in range(0, samples, step):
        block = layer.read(slice(start, min(samples, start + step)), slice(0, nodes))
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    return digest.hexdigest()[:32]


def contiguous(block: np.ndarray, float_format: FloatFormat, out: np.ndarray | None) -> np.ndarray:
    """The same values side by side in the format's storage: in ``out`` where that has the shape, else in new memory."""
    if out is None or out.shape != block.shape:
        return np.ascontiguousarray(block, float_format.storage)
    np.copyto(out, block)
    return out


def _checked_shape(shape: tuple[Any, ...], origin: str) -> tuple[int, ...]:
    if len(shape) < 2:
        raise InputError(f"{origin}: shape {tuple(shape)}; activations have two dimensions, samples and nodes.")
    if any(size != size for size in shape):
        raise InputError(f"{origin}: a Dask array of unknown shape {shape}; call its compute_chunk_sizes() first.")
    if shape[0] == 0:
        raise InputError(f"{origin}: there are no samples, shape {tuple(shape)}; give at least one.")
    if 0 in shape:
        raise InputError(f"{origin}: there are no nodes, shape {tuple(shape)}; leave this layer out.")
    return tuple(int(size) for size in shape)
