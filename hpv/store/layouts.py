"""What the metadata of an array say of its chunks: their codecs, where they lie, which are there."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore

from hpv.places.remote import RemoteStore
from hpv.store.chunks import RawChunks, overlaps


def raw_chunks(array: zarr.Array, *, strict: bool) -> RawChunks | None:
    """How to read the chunks directly; None where that needs Zarr: compressed, sharded, another byte order or store."""
    dtype = np.dtype(array.dtype)
    checksum = _plain_codecs(array)
    native = dtype.isnative and sys.byteorder == "little" and dtype.kind in "fiub"
    if checksum is None or not native or array.ndim == 0 or not isinstance(array.store, (LocalStore, RemoteStore)):
        return None
    fill = None if strict else array.fill_value
    if fill is None and not strict:
        fill = 0
    if isinstance(array.store, RemoteStore):
        return RawChunks(partial(chunk_key, array), tuple(array.chunks), dtype, checksum, fill, array.store)
    return RawChunks(partial(chunk_file, array), tuple(array.chunks), dtype, checksum, fill)


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


def grown(chunk: tuple[int, ...], shape: tuple[int, ...], values: int) -> tuple[int, ...]:
    """A multiple of a chunk's shape with up to so many values, the last dimensions first."""
    grown = list(chunk)
    for axis in reversed(range(len(chunk))):
        most = -(-shape[axis] // chunk[axis])
        grown[axis] *= max(1, min(most, values // math.prod(grown)))
        if grown[axis] < shape[axis]:
            break
    return tuple(grown)


def layout_of(array: zarr.Array) -> dict[str, Any]:
    """What the array's metadata say of its chunks and where they are."""
    known: dict[str, Any] = json.loads(json.dumps(array.metadata.to_dict(), default=str))
    return {name: known[name] for name in known if name not in ("attributes", "consolidated_metadata")}


def stamp_of(array: zarr.Array) -> tuple[int, ...] | None:
    """Differs when the metadata of a local array have been written; None where that cannot be told cheaply."""
    if not isinstance(array.store, LocalStore):
        return None
    name = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    try:
        entry = os.stat(os.path.join(array.store.root, array.path, name))
    except OSError:
        return None
    return entry.st_mtime_ns, entry.st_size, entry.st_ino


FRUGAL = {"bytes", "blosc", "crc32c", "endian", "numcodecs.blosc", "numcodecs.zstd", "sharding_indexed", "zstd"}
"""Codecs that hold a chunk twice while they decode it, as it was and as it becomes; measured. Others: four times."""


def codec_names(array: zarr.Array) -> set[str]:
    """Names of all codecs, those within shards too."""

    def names(codecs: Any) -> Iterator[str]:
        for codec in codecs:
            known = codec if isinstance(codec, Mapping) else codec.to_dict()
            yield known["name"]
            yield from names(known.get("configuration", {}).get("codecs", ()))

    if array.metadata.zarr_format == 3:
        return set(names(array.metadata.codecs))
    every = (*(array.metadata.filters or ()), *([array.metadata.compressor] if array.metadata.compressor else []))
    return {codec.get_config()["id"] for codec in every}


def ends_with_blosc(array: zarr.Array) -> bool:
    """Whether the files of chunks are what blosc made."""
    if array.metadata.zarr_format == 2:
        return array.metadata.compressor is not None and array.metadata.compressor.get_config()["id"] == "blosc"
    return isinstance(array.metadata.codecs[-1], BloscCodec)


def blosc_size(path: str) -> int:
    """Bytes that a blosc buffer says it has."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(16)[12:], "little")


def chunk_file(array: zarr.Array, index: tuple[int, ...]) -> str:
    """Path of a chunk on a local disk."""
    assert isinstance(array.store, LocalStore)
    return os.path.join(array.store.root, chunk_key(array, index))


def chunk_key(array: zarr.Array, index: tuple[int, ...]) -> str:
    """Name of a chunk within its store."""
    key: str = array.metadata.encode_chunk_key(index)
    return f"{array.path}/{key}" if array.path else key


def count_missing_chunks(array: zarr.Array) -> int:
    """How many chunks have no file."""
    pieces = array.shards or array.chunks
    everything = overlaps((0,) * array.ndim, tuple(array.shape), tuple(pieces))
    return len(missing_chunks_of(array, [chunk_key(array, part.index) for part in everything]))


def missing_chunks_of(array: zarr.Array, keys: Iterable[str]) -> set[str]:
    """Those of the chunks' keys that are not there: one listing tells of all, but web servers have none."""

    async def stored() -> set[str]:
        return {key async for key in array.store.list_prefix(array.path)}

    if isinstance(array.store, RemoteStore) and not array.store.lists:
        return set(keys) - array.store.present(list(keys))
    return set(keys) - sync(stored())
