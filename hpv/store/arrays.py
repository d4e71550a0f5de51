"""One stored array: reading with damage named."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer.cpu import NDBuffer
from zarr.storage import LocalStore

from hpv.base.errors import DataError
from hpv.base.slices import Index, indexed
from hpv.places.remote import PlaceError
from hpv.store.accelerating import accelerated
from hpv.store.chunks import AGAIN, RESTORE, ChunkError, overlaps, read_region
from hpv.store.layouts import (
    FRUGAL,
    blosc_size,
    chunk_file,
    chunk_key,
    codec_names,
    count_missing_chunks,
    ends_with_blosc,
    grown,
    layout_of,
    missing_chunks_of,
    raw_chunks,
    stamp_of,
)

LARGEST_REQUEST = 1 << 20
"""Bytes of small chunks that Zarr is asked for at once."""
Selection = slice | Sequence[slice] | None


class StoredArray:
    """A Zarr array that is read block by block; any number of threads may read at the same time.

    It behaves as an array does: ``np.asarray(stored)`` reads all of it, ``stored[rows, columns]`` a part.
    """

    def __init__(self, array: zarr.Array, origin: str, *, strict: bool) -> None:
        """``strict``: a missing chunk is an error, as in everything that hpv wrote; else it holds the fill value."""
        self._array = array
        self._raw = raw_chunks(array, strict=strict)
        self._fast = accelerated(array) if self._raw is None else None
        self._blosc = self._raw is None and ends_with_blosc(array)
        self._strict = strict
        self._missing: int | None = None
        self._layout = layout_of(array)
        self._stamp = stamp_of(array)
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
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Any:
        return indexed(self.read, self.shape, index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.read()
        return np.array(values, dtype, copy=copy) if dtype is not None or copy else values

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the pieces that can be read alone."""
        return tuple(self._array.chunks)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of this array."""
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
        copies = 2 if self._fast is not None or codec_names(self._array) <= FRUGAL else 4
        return copies * math.prod(self._request) * self.dtype.itemsize

    @cached_property
    def _request(self) -> tuple[int, ...]:
        """Shape of what Zarr is asked for at once: a chunk, or several small ones, whole rows first."""
        return grown(self.chunks, self.shape, max(LARGEST_REQUEST // self.dtype.itemsize, 1))

    @property
    def missing_chunks(self) -> int:
        """How many chunks have no file and are read as the fill value; 0 in stores that hpv wrote."""
        if self._missing is None:
            self._missing = 0 if self._strict else count_missing_chunks(self._array)
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
            path = chunk_file(self._array, part.index)
            try:
                size = os.stat(path).st_size
            except OSError:
                size = None
            if size == 0:
                raise ChunkError(part.index, "is damaged: its file is empty")
            if size is None and self._strict:
                raise ChunkError(part.index, "is missing")
            wanted = blosc_size(path) if self._blosc and size else size
            if wanted != size:
                raise ChunkError(part.index, f"is damaged: its file has {size} bytes instead of {wanted}")

    def _refuse_missing(self, starts: tuple[int, ...], stops: tuple[int, ...]) -> None:
        wanted = {chunk_key(self._array, part.index): part.index for part in overlaps(starts, stops, self.chunks)}
        for key in sorted(missing_chunks_of(self._array, wanted)):
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
        stamp = stamp_of(self._array)
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
        now = layout_of(found)
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
