"""One stored array: reading with damage named, creating, writing."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import NDBuffer
from zarr.core.group import GroupMetadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath

from hpv.errors import DataError
from hpv.store.accelerating import accelerated
from hpv.store.chunks import AGAIN, RESTORE, ChunkError, RawChunks, overlaps, read_region, write_region
from hpv.store.remote import PlaceError, RemoteStore

STRINGS = "string"
"""The dtype of arrays of strings."""
LARGEST_REQUEST = 1 << 20
"""Bytes of small chunks that Zarr is asked for at once."""
FRUGAL = {"bytes", "blosc", "crc32c", "endian", "numcodecs.blosc", "numcodecs.zstd", "sharding_indexed", "zstd"}
"""Codecs that hold a chunk twice while they decode it, as it was and as it becomes; measured. Others: four times."""
GROUP = GroupMetadata()
"""Metadata of a group within a store."""
Selection = slice | Sequence[slice] | None


class StoredArray:
    """A Zarr array that is read block by block; any number of threads may read at the same time."""

    def __init__(self, array: zarr.Array, origin: str, *, strict: bool) -> None:
        """``strict``: a missing chunk is an error, as in everything that hpv wrote; else it holds the fill value."""
        self._array = array
        self._raw = raw_chunks(array, strict=strict)
        self._fast = accelerated(array) if self._raw is None else None
        self._blosc = self._raw is None and _ends_with_blosc(array)
        self._strict = strict
        self._missing: int | None = None
        self._layout = _layout(array)
        self._stamp = _stamp(array)
        self._fresh = True
        self.origin = origin
        """What messages call it."""

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: zarrs is opened anew there, with the settings and switches of there."""
        return {**self.__dict__, "_fast": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fast = accelerated(self._array) if self._raw is None else None

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
    def is_portable(self) -> bool:
        """Whether another process can read it, too."""
        return not str(self._array.store).startswith("memory:")  # Zarr's and fsspec's are of one process

    @property
    def reads_whole(self) -> bool:
        """Whether any part of a chunk costs as much as all of it: compressed, with a checksum, or by way of Zarr."""
        return self._raw is None or self._raw.checksum

    def scratch(self, rows: int) -> int:
        """Bytes that a thread needs while it reads so many rows, beside what it reads into."""
        if self._raw is not None:
            height, *sides = self.chunks
            beside = math.prod(-(-size // side) for size, side in zip(self.shape[1:], sides, strict=True))
            held = min(self._raw.ahead, -(-rows // height) * beside) * self._raw.bytes
            return held if self._raw.checksum else held // height * min(rows, height)
        copies = 2 if self._fast is not None or _codec_names(self._array) <= FRUGAL else 4
        return copies * math.prod(self._request) * self.dtype.itemsize

    @cached_property
    def _request(self) -> tuple[int, ...]:
        """Shape of what Zarr is asked for at once: a chunk, or several small ones, whole rows first."""
        return _grown(self.chunks, self.shape, max(LARGEST_REQUEST // self.dtype.itemsize, 1))

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
        try:
            if self._raw is not None:
                read_region(self._raw, starts, stops, out)
            else:
                self._read_by_zarr(starts, stops, out)
        except ChunkError as error:
            self._refuse_changed(failed=True)
            raise self._damaged(error.index, error.reason, error.step) from error
        self._refuse_changed()
        return out

    def _read_by_zarr(self, starts: tuple[int, ...], stops: tuple[int, ...], out: np.ndarray) -> None:
        """Compressed, sharded, remote or of strings; one request at a time, so that a thread holds no more."""
        if isinstance(self._array.store, LocalStore):
            self._check_files(starts, stops)
        elif self._strict:
            self._refuse_missing(starts, stops)
        # zarrs decodes one chunk after the other, straight to where it belongs.
        at_once = self._fast is not None and out.dtype == self.dtype and out.flags.c_contiguous
        for part in overlaps(starts, stops, self.shape if at_once else self._request):
            low = tuple(start + side.start for start, side in zip(starts, part.outside, strict=True))
            high = tuple(start + side.stop for start, side in zip(starts, part.outside, strict=True))
            try:
                self._get(low, high, out[part.outside])
            except PlaceError as error:
                raise self._damaged((), f"cannot be read: {error.strerror}", AGAIN) from error
            except Exception as error:  # every codec raises what it likes
                self._refuse_changed(failed=True)
                reason = f"cannot be read: {_one_line(error)}"
                raise self._damaged(self._first_bad_chunk(low, high), reason) from error

    def _get(self, starts: tuple[int, ...], stops: tuple[int, ...], into: np.ndarray) -> None:
        selection = tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))
        if into.dtype.kind in "TUO":
            into[...] = self._array[selection]
            return
        fast = self._fast is not None and into.dtype == self.dtype
        # zarrs writes to no other memory.
        target = np.empty(into.shape, into.dtype) if fast and not into.flags.c_contiguous else into
        array = self._fast if fast and self._fast is not None else self._array
        array.get_basic_selection(selection, out=NDBuffer.from_numpy_array(target))
        if target is not into:
            into[...] = target

    def _check_files(self, starts: tuple[int, ...], stops: tuple[int, ...]) -> None:
        """What Zarr does not see: it reads a shard whose file is empty as if there were none, as the fill value, and
        beyond the end of what is left of a blosc chunk.
        """
        for part in overlaps(starts, stops, tuple(self._array.shards or self.chunks)):
            path = _chunk_file(self._array, part.index)
            try:
                size = os.stat(path).st_size
            except OSError:
                size = None
            if size == 0:
                raise ChunkError(part.index, "is damaged: its file is empty")
            if size is None and self._strict:
                raise ChunkError(part.index, "is missing")
            wanted = _blosc_size(path) if self._blosc and size else size
            if wanted != size:
                raise ChunkError(part.index, f"is damaged: its file has {size} bytes instead of {wanted}")

    def _refuse_missing(self, starts: tuple[int, ...], stops: tuple[int, ...]) -> None:
        wanted = {_chunk_key(self._array, part.index): part.index for part in overlaps(starts, stops, self.chunks)}
        for key in sorted(_missing(self._array, wanted)):
            raise self._damaged(wanted[key], "is missing")

    def _first_bad_chunk(self, starts: tuple[int, ...], stops: tuple[int, ...]) -> tuple[int, ...]:
        for part in overlaps(starts, stops, self.chunks):
            sides = zip(part.index, self.chunks, self.shape, strict=True)
            places = [(place * size, min((place + 1) * size, length)) for place, size, length in sides]
            low, high = (tuple(ends) for ends in zip(*places, strict=True))
            try:
                self._get(low, high, np.empty([b - a for a, b in places], self.dtype))
            except Exception:  # any reason will do: the chunk's index is all that is wanted here
                return part.index
        return ()

    def _refuse_changed(self, *, failed: bool = False) -> None:
        """Another writer may have made another array of it since it was opened.

        Where it cannot be told cheaply it is looked up at the first read, and when a read ``failed``.
        """
        stamp = _stamp(self._array)
        if stamp == self._stamp and not (stamp is None and (self._fresh or failed)):
            return
        self._fresh = False
        store, path, version = self._array.store, self._array.path, self._array.metadata.zarr_format
        try:
            found = zarr.open_array(store, path=path, mode="r", zarr_format=version)
        except PlaceError:
            return  # what was read, or could not be, says more
        except Exception as error:
            raise DataError(
                f"{self.origin}: it was there when it was opened and cannot be opened any more ({_one_line(error)}). "
                "Put it back, or start again with another one."
            ) from error
        now = _layout(found)
        changed = [name for name in (*self._layout, *now) if self._layout.get(name) != now.get(name)]
        if changed:
            name = changed[0]
            raise DataError(
                f"{self.origin}: it was changed while it was in use: {name.replace('_', ' ')} was "
                f"{self._layout.get(name)}, now it is {now.get(name)}. Run this again when nothing writes to it."
            )
        self._stamp = stamp

    def _damaged(self, index: tuple[int, ...], reason: str, step: str = RESTORE) -> DataError:
        chunk = f"chunk {index} " if index else ""
        return DataError(f"{self.origin}: {chunk}{reason}. {step}")


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
        return RawChunks(partial(_chunk_key, array), tuple(array.chunks), dtype, checksum, fill, array.store)
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


def _grown(chunk: tuple[int, ...], shape: tuple[int, ...], values: int) -> tuple[int, ...]:
    """A multiple of a chunk's shape with up to so many values, the last dimensions first."""
    grown = list(chunk)
    for axis in reversed(range(len(chunk))):
        most = -(-shape[axis] // chunk[axis])
        grown[axis] *= max(1, min(most, values // math.prod(grown)))
        if grown[axis] < shape[axis]:
            break
    return tuple(grown)


def _layout(array: zarr.Array) -> dict[str, Any]:
    """What the array's metadata say of its chunks and where they are."""
    known: dict[str, Any] = json.loads(json.dumps(array.metadata.to_dict(), default=str))
    return {name: known[name] for name in known if name not in ("attributes", "consolidated_metadata")}


def _stamp(array: zarr.Array) -> tuple[int, ...] | None:
    """Differs when the metadata of a local array have been written; None where that cannot be told cheaply."""
    if not isinstance(array.store, LocalStore):
        return None
    name = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    try:
        entry = os.stat(os.path.join(array.store.root, array.path, name))
    except OSError:
        return None
    return entry.st_mtime_ns, entry.st_size, entry.st_ino


def _codec_names(array: zarr.Array) -> set[str]:
    """Of all codecs, those within shards too."""

    def names(codecs: Any) -> Iterator[str]:
        for codec in codecs:
            known = codec if isinstance(codec, Mapping) else codec.to_dict()
            yield known["name"]
            yield from names(known.get("configuration", {}).get("codecs", ()))

    if array.metadata.zarr_format == 3:
        return set(names(array.metadata.codecs))
    every = (*(array.metadata.filters or ()), *([array.metadata.compressor] if array.metadata.compressor else []))
    return {codec.get_config()["id"] for codec in every}


def _ends_with_blosc(array: zarr.Array) -> bool:
    """Whether the files of chunks are what blosc made."""
    if array.metadata.zarr_format == 2:
        return array.metadata.compressor is not None and array.metadata.compressor.get_config()["id"] == "blosc"
    return isinstance(array.metadata.codecs[-1], BloscCodec)


def _blosc_size(path: str) -> int:
    """Bytes that a blosc buffer says it has."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(16)[12:], "little")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _chunk_file(array: zarr.Array, index: tuple[int, ...]) -> str:
    assert isinstance(array.store, LocalStore)
    return os.path.join(array.store.root, _chunk_key(array, index))


def _chunk_key(array: zarr.Array, index: tuple[int, ...]) -> str:
    key: str = array.metadata.encode_chunk_key(index)
    return f"{array.path}/{key}" if array.path else key


def _count_missing(array: zarr.Array) -> int:
    pieces = array.shards or array.chunks
    everything = overlaps((0,) * array.ndim, tuple(array.shape), tuple(pieces))
    return len(_missing(array, [_chunk_key(array, part.index) for part in everything]))


def _missing(array: zarr.Array, keys: Iterable[str]) -> set[str]:
    """Those of the chunks' keys that are not there: one listing tells of all, but web servers have none."""

    async def stored() -> set[str]:
        return {key async for key in array.store.list_prefix(array.path)}

    if isinstance(array.store, RemoteStore) and not array.store.lists:
        return set(keys) - array.store.present(list(keys))
    return set(keys) - sync(stored())
