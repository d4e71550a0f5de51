"""One stored array: reading with damage named, creating, writing."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.group import GroupMetadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from hpv.errors import DataError
from hpv.store.chunks import ChunkError, RawChunks, overlaps, read_region, write_region

STRINGS = "string"
"""The dtype of arrays of strings."""
GROUP = GroupMetadata()
"""Metadata of a group within a store."""
Selection = slice | Sequence[slice] | None


class StoredArray:
    """A Zarr array that is read block by block; any number of threads may read at the same time."""

    def __init__(self, array: zarr.Array, origin: str, *, strict: bool) -> None:
        """``strict``: a missing chunk is an error, as in everything that hpv wrote; else it holds the fill value."""
        self._array = array
        self._raw = raw_chunks(array, strict=strict)
        self._strict = strict
        self._missing: int | None = None
        self.origin = origin
        """What messages call it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its dimensions."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype:
        """As stored; another byte order is turned round by ``read`` into a native ``out``."""
        return np.dtype(self._array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the pieces that can be read alone."""
        return tuple(self._array.chunks)

    @property
    def attributes(self) -> dict[str, Any]:
        """Of this array."""
        return dict(self._array.attrs)

    @property
    def is_plain(self) -> bool:
        """Whether its chunks are files of plain bytes, read and written without Zarr."""
        return self._raw is not None

    @property
    def missing_chunks(self) -> int:
        """How many chunks have no file and are read as the fill value; 0 in stores that hpv wrote."""
        if self._missing is None:
            self._missing = 0 if self._strict else _count_missing(self._array)
        return self._missing

    def read(self, selection: Selection = None, out: np.ndarray | None = None) -> np.ndarray:
        """The values of one slice per dimension (default: all), in ``out`` if given; slices have step 1."""
        starts, stops = bounds(selection, self.shape)
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        if out is None:
            out = np.empty(sizes, self.dtype)
        elif out.shape != sizes:
            raise ValueError(f"out has the shape {out.shape}, the selection {sizes}")
        if self._raw is None:
            self._read_by_zarr(starts, stops, out)
            return out
        try:
            read_region(self._raw, starts, stops, out)
        except ChunkError as error:
            raise self._damaged(error.index, error.reason) from error
        return out

    def _read_by_zarr(self, starts: tuple[int, ...], stops: tuple[int, ...], out: np.ndarray) -> None:
        """Compressed, sharded, remote or of strings."""
        if self._strict and isinstance(self._array.store, LocalStore):
            self._refuse_missing(starts, stops)
        selection = tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))
        try:
            out[...] = self._array[selection]
        except Exception as error:  # every codec raises what it likes
            index = self._first_bad_chunk(starts, stops)
            raise self._damaged(index, f"cannot be read: {error}") from error

    def _refuse_missing(self, starts: tuple[int, ...], stops: tuple[int, ...]) -> None:
        for part in overlaps(starts, stops, self.chunks):
            if not os.path.exists(_chunk_file(self._array, part.index)):
                raise self._damaged(part.index, "is missing")

    def _first_bad_chunk(self, starts: tuple[int, ...], stops: tuple[int, ...]) -> tuple[int, ...]:
        for part in overlaps(starts, stops, self.chunks):
            low = (place * size for place, size in zip(part.index, self.chunks, strict=True))
            corner = tuple(slice(start, start + 1) for start in low)
            try:
                self._array[corner]
            except Exception:  # any reason will do: the chunk's index is all that is wanted here
                return part.index
        return ()

    def _damaged(self, index: tuple[int, ...], reason: str) -> DataError:
        chunk = f"chunk {index} " if index else ""
        return DataError(f"{self.origin}: {chunk}{reason}. Restore this file from a copy, or make the store again.")


class WritableArray(StoredArray):
    """An array of a store that is being written."""

    def __init__(self, array: zarr.Array, origin: str) -> None:
        super().__init__(array, origin, strict=True)
        self._lock = threading.Lock()

    def write(self, selection: Selection, data: Any) -> None:
        """Put ``data`` where ``selection`` points; threads may write different chunks at the same time."""
        starts, stops = bounds(selection, self.shape)
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        if self._raw is None:
            strings = np.asarray(data, np.dtypes.StringDType())
            if strings.shape != sizes:
                raise ValueError(f"{self.origin}: data of shape {strings.shape} for a selection of shape {sizes}")
            with self._lock:
                self._array[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))] = strings
            return
        values = np.asarray(data, self.dtype)
        if values.shape != sizes:
            raise ValueError(f"{self.origin}: data of shape {values.shape} for a selection of shape {sizes}")
        try:
            write_region(self._raw, self.shape, starts, values, self._lock)
        except ChunkError as error:
            raise self._damaged(error.index, error.reason) from error

    def resize(self, shape: tuple[int, ...]) -> None:
        """Change the lengths; chunks beyond them are removed."""
        if shape != self.shape:
            self._array.resize(shape)


@lru_cache
def array_metadata(
    shape: tuple[int, ...],
    dtype: str,
    chunks: tuple[int, ...],
    dimensions: tuple[str, ...] | None,
    attributes: str,
) -> Any:
    """Of an array as hpv writes them: uncompressed, with crc32c, a file for every chunk. ``attributes`` are JSON."""
    return zarr.create_array(
        MemoryStore(),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value="" if dtype == STRINGS else 0,
        attributes=json.loads(attributes),
        dimension_names=dimensions,
    ).metadata


def create_arrays(folder: Path, nodes: Mapping[str, Any], origin: str) -> dict[str, WritableArray]:
    """New arrays of this metadata, all at once: one by one takes several milliseconds each."""
    made = {}
    for name, node in zarr.create_hierarchy(store=LocalStore(folder), nodes=dict(nodes)):
        if isinstance(node, zarr.Array):
            array = WritableArray(node, f"{origin}: array {name}")
            # What Zarr writes needs a setting that arrays get when they are opened.
            made[name] = array if array.is_plain else open_writable(folder, name, array.origin)
    return made


def open_writable(folder: Path, name: str, origin: str) -> WritableArray:
    """An array that an earlier run created."""
    array = zarr.open_array(folder, path=name, mode="r+", config={"write_empty_chunks": True})
    return WritableArray(array, origin)


def bounds(selection: Selection, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and last-plus-one index along each dimension."""
    if selection is None:
        return (0,) * len(shape), shape
    slices = (selection,) if isinstance(selection, slice) else tuple(selection)
    slices += (slice(None),) * (len(shape) - len(slices))
    ranges = [side.indices(length) for side, length in zip(slices, shape, strict=True)]
    if any(step != 1 for _, _, step in ranges):
        raise ValueError(f"only slices of step 1 can be read and written, not {slices}")
    return tuple(start for start, _, _ in ranges), tuple(max(start, stop) for start, stop, _ in ranges)


def raw_chunks(array: zarr.Array, *, strict: bool) -> RawChunks | None:
    """How to read the chunks directly; None where that needs Zarr: compressed, sharded, remote, another byte order."""
    dtype = np.dtype(array.dtype)
    checksum = _plain_codecs(array)
    native = dtype.isnative and sys.byteorder == "little" and dtype.kind in "fiub"
    if checksum is None or not native or array.ndim == 0 or not isinstance(array.store, LocalStore):
        return None
    fill = None if strict else array.fill_value
    if fill is None and not strict:
        fill = 0
    return RawChunks(partial(_chunk_file, array), tuple(array.chunks), dtype, checksum, fill)


def _plain_codecs(array: zarr.Array) -> bool | None:
    """Whether the plain bytes are followed by a checksum; None if the codecs do anything else."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        plain = metadata.compressor is None and not metadata.filters and metadata.order == "C"
        return False if plain else None
    codecs = metadata.codecs
    if not codecs or not isinstance(codecs[0], BytesCodec) or getattr(codecs[0].endian, "value", "little") != "little":
        return None
    if len(codecs) == 1:
        return False
    return True if len(codecs) == 2 and isinstance(codecs[1], Crc32cCodec) else None


def _chunk_file(array: zarr.Array, index: tuple[int, ...]) -> str:
    assert isinstance(array.store, LocalStore)
    return os.path.join(array.store.root, array.path, array.metadata.encode_chunk_key(index))


def _count_missing(array: zarr.Array) -> int:
    async def stored() -> set[str]:
        return {key async for key in array.store.list_prefix(array.path)}

    prefix = f"{array.path}/" if array.path else ""
    keys = sync(stored())
    pieces = array.shards or array.chunks
    everything = overlaps((0,) * array.ndim, tuple(array.shape), tuple(pieces))
    return sum(f"{prefix}{array.metadata.encode_chunk_key(part.index)}" not in keys for part in everything)
