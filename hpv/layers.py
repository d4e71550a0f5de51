"""The activations of one layer, read in blocks of samples and nodes wherever they are."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from hpv.addresses import absolute_path
from hpv.errors import DataError, InputError
from hpv.floats import FloatFormat

if TYPE_CHECKING:
    from hpv.store import StoredArray

LARGEST_COMPUTED = 4 << 20
"""Bytes of a Dask array that are computed at once, unless a chunk has more."""


class Layer:
    """The activations of one layer, (samples, nodes). The base of one class per kind of array."""

    in_memory = False
    """``read`` gives views and needs no buffer."""
    on_device = False
    """On a GPU: ``bits_on_device`` gives views there, ``read`` copies."""
    is_portable = False
    """A pickle of it is small, and reads the same values in another process that sees the same files."""

    def __init__(self, name: str, origin: str, array: Any, form: FloatFormat) -> None:
        """``array``: anything with a shape of at least two dimensions."""
        self.name = name
        self.origin = origin
        """What messages call it."""
        self.form = form
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
        return {"shape": list(self._full_shape), "dtype": self.form.name}

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
        """A block (samples, nodes) in ``form.storage``, each row's values side by side.

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
        return _contiguous(block[:, start : start + len(columns)], self.form, out)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        """A block along the first two dimensions, all of the others."""
        raise NotImplementedError


class ArrayLayer(Layer):
    """A numpy array, also one that is mapped from a file."""

    def __init__(
        self, name: str, origin: str, array: np.ndarray, form: FloatFormat, file: dict[str, Any] | None = None
    ) -> None:
        if array.ndim > 2 and array.size and array.flags.c_contiguous:
            array = array.reshape(len(array), -1)  # a view
        super().__init__(name, origin, array, form)
        self._file = file
        plain = array.ndim == 2 and array.dtype == form.storage and array.dtype.isnative
        side_by_side = array.shape[1] == 1 or array.strides[1] == array.itemsize
        self.in_memory = file is None and plain and side_by_side
        self.is_portable = file is not None

    def __reduce__(self) -> Any:
        """A file goes by its path."""
        if self._file is None:
            return super().__reduce__()
        return _map_again, (self.name, self.origin, self.form, self._file)

    @property
    def identity(self) -> dict[str, Any]:
        """With the file, or a hash of the values: another array of the same shape is another input."""
        return {**super().identity, **(self._file or {"values": self.values_hash})}

    @functools.cached_property
    def values_hash(self) -> str:
        """BLAKE2 of the values, in parts of about 16 MiB."""
        return hash_of(self)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        block = self._array[selection]
        return block if self.in_memory or block.ndim > 2 else _contiguous(block, self.form, out)


class StoredLayer(Layer):
    """A Zarr array."""

    def __init__(
        self, name: str, origin: str, array: StoredArray, form: FloatFormat, store: dict[str, Any] | None = None
    ) -> None:
        super().__init__(name, origin, array, form)
        self._stored = array
        self.is_portable = array.is_portable
        self._store = store or {"path": absolute_path(origin)}

    @property
    def chunks(self) -> tuple[int, int] | None:
        """Of the Zarr array."""
        rows, columns = self._stored.chunks[:2]
        return rows, min(columns * self._inner, self.shape[1])

    @property
    def reads_whole(self) -> bool:
        """Of the Zarr array."""
        return self._stored.reads_whole

    def scratch(self, rows: int) -> int:
        """Of the Zarr array."""
        return self._stored.scratch(rows)

    @property
    def missing_chunks(self) -> int:
        """Chunks that are read as the fill value."""
        return self._stored.missing_chunks

    @property
    def identity(self) -> dict[str, Any]:
        """With the store."""
        return {**super().identity, **self._store}

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        sizes = tuple(side.stop - side.start for side in selection) + self._full_shape[2:]
        fits = out is not None and out.shape == sizes
        try:
            return self._stored.read(selection, out if fits else np.empty(sizes, self.form.storage))
        except DataError as error:
            raise DataError(f"layer {self.name}: {error}") from error


class TensorLayer(Layer):
    """A torch tensor on another device; what is not done there is copied to this one block by block."""

    def __init__(self, name: str, origin: str, array: Any, form: FloatFormat) -> None:
        super().__init__(name, origin, array, form)
        self.on_device = array.is_cuda
        if self.on_device:  # Other threads read it too, and torch has streams for each thread.
            sys.modules["torch"].cuda.current_stream(array.device).synchronize()

    @property
    def device(self) -> str | None:
        """Of the tensor."""
        return str(self._array.device)

    @property
    def identity(self) -> dict[str, Any]:
        """With a hash of the values."""
        return {**super().identity, "values": hash_of(self)}

    def bits_on_device(self, rows: slice) -> Any:
        """See `Layer`; copied on the GPU where values do not lie side by side."""
        from hpv.backends.moving import of_tensor

        return of_tensor(self._array[rows].flatten(1).contiguous(), self.form.key)

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """A tensor beside the values."""
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device=self._array.device)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        block = numpy_of(self._array[selection].cpu())
        return block if block.ndim > 2 else _contiguous(block, self.form, out)


class DeviceLayer(Layer):
    """Another library's array on a GPU: what has ``__cuda_array_interface__``, or came by DLPack."""

    on_device = True

    def __init__(self, name: str, origin: str, array: Any, form: FloatFormat) -> None:
        """``array``: of numba."""
        super().__init__(name, origin, array, form)
        if not array.is_c_contiguous():
            raise InputError(f"{origin}: an array on a GPU whose values do not lie side by side (C order); give a "
                             "contiguous copy.")  # fmt: skip

    @property
    def device(self) -> str | None:
        """Of the array."""
        from hpv.backends.moving import device_of

        return device_of(self._array)

    @property
    def identity(self) -> dict[str, Any]:
        """With a hash of the values."""
        return {**super().identity, "values": hash_of(self)}

    def bits_on_device(self, rows: slice) -> Any:
        """See `Layer`."""
        from hpv.backends.moving import of_array

        return of_array(self._array[rows.start : rows.stop], self.shape[1], self.form.key)

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """An array of numba beside the values; others read it by ``__cuda_array_interface__``."""
        from hpv.backends.moving import empty

        return empty(shape, dtype, self._array)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        rows, columns = selection
        block = self._array[rows.start : rows.stop].copy_to_host()[:, columns]
        return block if block.ndim > 2 else _contiguous(block, self.form, out)


class DaskLayer(Layer):
    """A Dask array, computed block by block in the thread that reads; what is persisted is fetched from the cluster."""

    def __init__(self, name: str, origin: str, array: Any, form: FloatFormat) -> None:
        super().__init__(name, origin, array, form)
        distributed = sys.modules.get("distributed")
        self.is_portable = distributed is None or not distributed.futures_of(array)

    def part(self, rows: slice) -> Layer:
        """Consecutive samples, with only their share of the graph."""
        (array,) = sys.modules["dask"].optimize(self._array[rows])
        return DaskLayer(self.name, self.origin, array, self.form)

    @property
    def chunks(self) -> tuple[int, int] | None:
        """The largest along each dimension."""
        rows, columns = self._largest
        return rows, min(columns * self._inner, self.shape[1])

    @property
    def reads_whole(self) -> bool:
        """What is asked for of a chunk does not spare computing it."""
        return True

    def scratch(self, rows: int) -> int:
        """Measured: what is computed at once and a copy of it, and twice a chunk. What its graph holds is not known."""
        itemsize = self.form.storage.itemsize
        chunk, whole = math.prod(self._largest) * self._inner * itemsize, math.prod(self.shape) * itemsize
        return 2 * (min(max(chunk, LARGEST_COMPUTED), whole) + chunk)

    @property
    def identity(self) -> dict[str, Any]:
        """With the name of the graph, which is made of what it computes."""
        return {**super().identity, "name": str(self._array.name)}

    @property
    def _largest(self) -> tuple[int, int]:
        """Shape of the largest chunks, in the first two dimensions."""
        rows, columns = (max(sizes) for sizes in self._array.chunks[:2])
        return rows, columns

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        sizes = tuple(side.stop - side.start for side in selection) + self._full_shape[2:]
        if out is None or out.shape != sizes:
            out = np.empty(sizes, self.form.storage)
        parts = [list[slice]([side]) for side in selection]
        if out.nbytes > LARGEST_COMPUTED:
            parts = [cut(side, step) for side, step in zip(selection, self._largest, strict=True)]
        for rows, columns in itertools.product(*parts):
            inside = tuple(
                slice(part.start - side.start, part.stop - side.start)
                for part, side in zip((rows, columns), selection, strict=True)
            )
            # The caller decides what runs at the same time.
            out[inside] = self._array[rows, columns].compute(scheduler="synchronous" if self.is_portable else None)
        return out


def cut(whole: slice, step: int, offset: int = 0) -> list[slice]:
    """A range where the numbers after ``offset`` are multiples of ``step``."""
    second = whole.start + step - (whole.start + offset) % step
    borders = [whole.start, *range(second, whole.stop, step), whole.stop]
    return [slice(start, stop) for start, stop in zip(borders, borders[1:], strict=False)]


def _map_again(name: str, origin: str, form: FloatFormat, file: dict[str, Any]) -> ArrayLayer:
    return ArrayLayer(name, origin, np.load(file["path"], mmap_mode="r", allow_pickle=False), form, file)


class PartLayer(Layer):
    """Consecutive samples of another layer."""

    def __init__(self, whole: Layer, rows: slice) -> None:
        self.name, self.origin, self.form = whole.name, whole.origin, whole.form
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
        """See `Layer`."""
        return self._whole.bits_on_device(slice(self._start + rows.start, self._start + rows.stop))

    def empty(self, shape: tuple[int, int], dtype: np.dtype) -> Any:
        """See `Layer`."""
        return self._whole.empty(shape, dtype)

    def read(self, samples: slice, nodes: slice = slice(None), out: np.ndarray | None = None) -> np.ndarray:
        """See `Layer`."""
        rows = range(*samples.indices(self._samples))
        return self._whole.read(slice(self._start + rows.start, self._start + rows.stop), nodes, out)


def hash_of(layer: Layer) -> str:
    """Of a layer's values: 128 bits of SHA-256, for which many processors have instructions."""
    digest = hashlib.sha256()
    samples, nodes = layer.shape
    step = max(1, (16 << 20) // (nodes * layer.form.storage.itemsize))
    for start in range(0, samples, step):
        block = layer.read(slice(start, min(samples, start + step)), slice(0, nodes))
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    return digest.hexdigest()[:32]


def numpy_of(tensor: Any) -> np.ndarray:
    """A tensor of this device without copying; numpy has no bfloat16."""
    torch = sys.modules["torch"]
    array: np.ndarray = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array.view(np.uint16) if tensor.dtype == torch.bfloat16 else array


def _contiguous(block: np.ndarray, form: FloatFormat, out: np.ndarray | None) -> np.ndarray:
    if out is None or out.shape != block.shape:
        return np.ascontiguousarray(block, form.storage)
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
