"""Arrays of a store that is being written: made all at once, filled by any number of threads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.core.sync import sync
from zarr.storage import MemoryStore, StorePath

from hpv.places.remote import RemoteStore
from hpv.store.arrays import Selection, StoredArray, bounds
from hpv.store.chunks import ChunkError, write_region

STRINGS = "string"
"""The dtype of arrays of strings."""
GROUP = GroupMetadata()
"""Metadata of a group within a store."""


class WritableArray(StoredArray):
    """An array of a store that is being written."""

    def __init__(self, array: zarr.Array, origin: str) -> None:
        super().__init__(array, origin, strict=True)
        self._lock = threading.Lock()

    def _refuse_changed(self, *, failed: bool = False) -> None:
        """The run that has it changes it."""

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
        """Change the lengths; what lies beyond them is not there any more."""
        if shape == self.shape:
            return
        if isinstance(self._array.store, RemoteStore):
            # Zarr would send a request for each chunk beyond the end, of which there are those at most that a killed
            # run left behind.
            sync(self._array.async_array.resize(shape, delete_outside_chunks=False))
        else:
            self._array.resize(shape)


@lru_cache
def array_metadata(
    shape: tuple[int, ...],
    dtype: str,
    chunks: tuple[int, ...],
    dimensions: tuple[str, ...] | None,
    attributes: str,
) -> Any:
    """Metadata of an array as hpv writes it: uncompressed, with crc32c, a file per chunk. ``attributes``: as JSON."""
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


def create_arrays(store: Store, nodes: Mapping[str, Any], origin: str) -> dict[str, WritableArray]:
    """New arrays of this metadata, and the groups around them, all at once: one by one takes several milliseconds."""
    nodes = {parent: GROUP for name in nodes for parent in parents(name)} | dict(nodes)
    sync(_write_nodes(store, nodes))
    made = {}
    for name, node in nodes.items():
        if node is not GROUP:
            array = zarr.Array(zarr.AsyncArray(node, StorePath(store, name)))
            made[name] = WritableArray(array, f"{origin}: array {name}")
            if not made[name].is_plain:  # what Zarr writes needs a setting that arrays get when they are opened
                made[name] = open_writable(store, name, made[name].origin)
    return made


def parents(name: str) -> list[str]:
    """The groups around a node, but for the root."""
    return [str(parent) for parent in PurePosixPath(name).parents if parent.name]


async def _write_nodes(store: Store, nodes: Mapping[str, Any]) -> None:
    """Write metadata. After an error Zarr's own way leaves the rest at work, and logs what they raise."""
    places = asyncio.Semaphore(zarr.config.get("async.concurrency"))

    async def write(name: str, node: Any) -> None:
        async with places:
            for key, content in node.to_buffer_dict(default_buffer_prototype()).items():
                await store.set(f"{name}/{key}", content)

    ends = await asyncio.gather(*(write(*each) for each in nodes.items()), return_exceptions=True)
    for error in ends:
        if error is not None:
            raise error


def open_writable(store: Store, name: str, origin: str) -> WritableArray:
    """An array that an earlier run created."""
    array = zarr.open_array(store, path=name, mode="r+", config={"write_empty_chunks": True})
    return WritableArray(array, origin)
