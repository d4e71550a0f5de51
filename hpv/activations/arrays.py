"""Numpy arrays, and .npy files that are mapped into memory."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from hpv.activations.array_backed import ArrayBacked, contiguous, hash_of
from hpv.activations.layers import BARE, Activations, Layer
from hpv.base.addresses import absolute_path, is_address, without_scheme
from hpv.base.errors import InputError, StoreError
from hpv.base.floats import BFLOAT16, FloatFormat, format_of


class ArrayLayer(ArrayBacked):
    """A numpy array, also one that is mapped from a file."""

    def __init__(
        self, name: str, origin: str, array: np.ndarray, float_format: FloatFormat, file: dict[str, Any] | None = None
    ) -> None:
        if array.ndim > 2 and array.size and array.flags.c_contiguous:
            array = array.reshape(len(array), -1)  # a view
        super().__init__(name, origin, array, float_format)
        self._file = file
        plain = array.ndim == 2 and array.dtype == float_format.storage and array.dtype.isnative
        side_by_side = array.shape[1] == 1 or array.strides[1] == array.itemsize
        self.in_memory = file is None and plain and side_by_side
        self.is_portable = file is not None

    def __reduce__(self) -> Any:
        """A file goes by its path."""
        if self._file is None:
            return super().__reduce__()
        return _map_again, (self.name, self.origin, self.float_format, self._file)

    @property
    def identity(self) -> dict[str, Any]:
        """With the file, or a hash of the values: another array of the same shape is another input."""
        return {**super().identity, **(self._file or {"values": self.values_hash})}

    @functools.cached_property
    def values_hash(self) -> str:
        """SHA-256 of the values, in parts of about 16 MiB."""
        return hash_of(self)

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        block = self._array[selection]
        return block if self.in_memory or block.ndim > 2 else contiguous(block, self.float_format, out)


def _map_again(name: str, origin: str, float_format: FloatFormat, file: dict[str, Any]) -> ArrayLayer:
    return ArrayLayer(name, origin, np.load(file["path"], mmap_mode="r", allow_pickle=False), float_format, file)


def activations_of(source: Any) -> Activations | None:
    """The one layer of an .npy file; None for anything else."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = os.fspath(source)
    if not path.endswith(".npy") or is_address(path) or os.path.isdir(without_scheme(path)):
        return None
    return Activations({BARE: _map_file(without_scheme(path))}, None, None, {}, False)


def layer_of(name: str, source: Any, origin: str) -> Layer | None:
    """A numpy array as a layer; None for anything else."""
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(f"{origin}: a masked array; fill it first, with NaN for what is masked: x.filled(np.nan).")
    if not isinstance(source, np.ndarray):
        return None
    float_format = format_of(source.dtype, origin)
    # The package ml_dtypes gives numpy a bfloat16.
    return ArrayLayer(name, origin, source.view(np.uint16) if float_format is BFLOAT16 else source, float_format)


def _map_file(path: str) -> Layer:
    if not os.path.exists(path):
        raise StoreError(f"{path} does not exist; check the path.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise StoreError(f"{path} is not an .npy file that can be read: {error}") from error
    entry = os.stat(path)
    file = {"path": absolute_path(path), "bytes": entry.st_size, "modified": entry.st_mtime_ns}
    return ArrayLayer(BARE, path, array, format_of(array.dtype, path), file)
