"""A layer is read in blocks of samples and nodes wherever it lies; activations are layers with the same samples."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.base.errors import InputError
from hpv.base.floats import FloatFormat
from hpv.base.words import quantity

BARE = "activations"
"""The layer name of an array that comes without one."""


class Layer:
    """The activations of one layer, (samples, nodes). The base of one class per kind of array."""

    in_memory = False
    """``read`` gives views and needs no buffer."""
    on_device = False
    """On a GPU: ``bits_on_device`` gives views there, ``read`` copies."""
    is_portable = False
    """A pickle of it is small, and reads the same values in another process that sees the same files."""

    def __init__(self, name: str, origin: str, array: Any, float_format: FloatFormat) -> None:
        """``array``: anything with a shape of at least two dimensions."""
        self.name = name
        self.origin = origin
        """What messages call it."""
        self.float_format = float_format
        self._array = array
        self._full_shape = _checked_shape(array.shape, origin)
        self._inner = math.prod(self._full_shape[2:])

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and nodes; dimensions after the first are laid out in a row (C order)."""
        samples, *rest = self._full_shape
        return samples, math.prod(rest)

    @property
    def chunks(self) -> tuple[int, int] | None:
        """Samples and nodes of the pieces that are read at once; None where any block is as good."""
        return None

    @property
    def offset(self) -> int:
        """Samples before the first one in the array that the chunks are those of."""
        return 0

    @property
    def reads_whole(self) -> bool:
        """Whether reading a part of a chunk costs as much as reading all of it."""
        return False

    def scratch(self, rows: int) -> int:
        """Bytes that a thread needs to read a block of so many samples, beside the block."""
        return 0

    @property
    def missing_chunks(self) -> int:
        """Chunks of a foreign Zarr array that have no file and are read as its fill value."""
        return 0

    @property
    def identity(self) -> dict[str, Any]:
        """Names the data in the request of an output."""
        return {"shape": list(self._full_shape), "dtype": self.float_format.name}

    @property
    def device(self) -> str | None:
        """Where the values are, as torch says it; None for this machine's memory and disks."""
        return None

    def part(self, rows: slice) -> Layer:
        """Consecutive samples of it."""
        return PartLayer(self, rows)

    def bits_on_device(self, rows: slice) -> Any:
        """Some samples as signed integers (samples, nodes) where they are, on a GPU: what its backend reads."""
        raise NotImplementedError

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """An array for results beside the values."""
        return np.empty(shape, dtype)

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        """A block (samples, nodes) in ``float_format.storage``, each row's values side by side.

        ``out`` is a buffer of that shape that may be used; the result is what is returned. Threads may read at once.
        """
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


class PartLayer(Layer):
    """Consecutive samples of another layer."""

    def __init__(self, whole: Layer, rows: slice) -> None:
        self.name, self.origin, self.float_format = whole.name, whole.origin, whole.float_format
        self.in_memory, self.is_portable, self.on_device = whole.in_memory, whole.is_portable, whole.on_device
        self._whole, self._start, self._samples = whole, rows.start, rows.stop - rows.start

    @property
    def shape(self) -> tuple[int, int]:
        """Samples of this part, and nodes."""
        return self._samples, self._whole.shape[1]

    @property
    def chunks(self) -> tuple[int, int] | None:
        """Those of the whole."""
        return self._whole.chunks

    @property
    def offset(self) -> int:
        """Also of a part of a part."""
        return self._whole.offset + self._start

    @property
    def reads_whole(self) -> bool:
        """That of the whole."""
        return self._whole.reads_whole

    def scratch(self, rows: int) -> int:
        """That of the whole."""
        return self._whole.scratch(rows)

    @property
    def missing_chunks(self) -> int:
        """Those of the whole."""
        return self._whole.missing_chunks

    @property
    def identity(self) -> dict[str, Any]:
        """With the first sample, and the one after the last."""
        return {**self._whole.identity, "part": [self._start, self._start + self._samples]}

    def bits_on_device(self, rows: slice) -> Any:
        return self._whole.bits_on_device(slice(self._start + rows.start, self._start + rows.stop))

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        return self._whole.empty(shape, dtype)

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        rows = range(*samples.indices(self._samples))
        return self._whole.read(slice(self._start + rows.start, self._start + rows.stop), nodes, out)


def hash_of(layer: Layer) -> str:
    """Of a layer's values: 128 bits of SHA-256, for which many processors have instructions."""
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


@dataclass(frozen=True)
class Activations:
    """Layers with the same samples."""

    layers: dict[str, Layer]
    labels: np.ndarray | None
    """One int64 per sample, where the source has them."""
    ids: list[str] | None
    """One string per sample, where the source has them."""
    attributes: dict[str, Any]
    """What an activation store says of its origin: ``model``, ``weights`` and so on."""
    is_mapping: bool
    """Several named layers were given, so answers per layer are mappings too."""

    def __repr__(self) -> str:
        given = [name for name, values in (("labels", self.labels), ("ids", self.ids)) if values is not None]
        layers = (
            f"{name}: {quantity(layer.shape[1], 'node')} {layer.float_format}" for name, layer in self.layers.items()
        )
        return f"<hpv.Activations of {', '.join([quantity(self.samples, 'sample'), *given])}; {', '.join(layers)}>"

    @property
    def samples(self) -> int:
        """Rows of every layer."""
        return next(iter(self.layers.values())).shape[0]

    @property
    def values(self) -> int:
        """Of all layers together."""
        return sum(layer.shape[0] * layer.shape[1] for layer in self.layers.values())

    @property
    def on_device(self) -> bool:
        """Whether they are on a GPU."""
        return any(layer.on_device for layer in self.layers.values())

    @property
    def is_portable(self) -> bool:
        """Whether other processes can read it from a small description."""
        return all(layer.is_portable for layer in self.layers.values())

    @property
    def chunk_rows(self) -> int:
        """Samples of the tallest chunk of a layer: ranges of samples that start at its multiples share no chunk."""
        return max(1 if layer.chunks is None else layer.chunks[0] for layer in self.layers.values())

    def part(self, rows: slice) -> Activations:
        """Consecutive samples of all layers."""
        return Activations(
            {name: layer.part(rows) for name, layer in self.layers.items()},
            None if self.labels is None else self.labels[rows],
            None if self.ids is None else self.ids[rows],
            self.attributes,
            self.is_mapping,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Names the data in the request of an output: paths where there are any, shapes, dtypes."""
        return {"layers": {name: layer.identity for name, layer in self.layers.items()}}
