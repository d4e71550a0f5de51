"""Chunk files of uncompressed arrays, read and written directly.

Zarr's uncompressed chunks are the plain bytes of the array, followed by four bytes of crc32c where that codec is on.
Reading them straight into the caller's buffer takes a third of the time that a codec pipeline takes.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from awscrt import checksums

CHECKSUM_BYTES = 4
LARGEST_KEPT = 32 << 20
"""Bytes of a chunk whose buffer a thread keeps for the next one."""
_local = threading.local()


class ChunkError(Exception):
    """A chunk that cannot be used: its index and what is wrong with it."""

    def __init__(self, index: tuple[int, ...], reason: str) -> None:
        super().__init__(f"chunk {index} {reason}")
        self.index = index
        self.reason = reason


@dataclass(frozen=True)
class RawChunks:
    """Where the chunks of one array lie and what they hold."""

    path: Callable[[tuple[int, ...]], str]
    """File of a chunk."""
    shape: tuple[int, ...]
    """Of every chunk, also of those that reach over the array's end."""
    dtype: np.dtype
    checksum: bool
    fill: Any
    """What a missing chunk holds; None: a missing chunk is an error."""

    @property
    def bytes(self) -> int:
        """Of a chunk's values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Overlap:
    """The part of one chunk that a region touches."""

    index: tuple[int, ...]
    inside: tuple[slice, ...]
    """In the chunk."""
    outside: tuple[slice, ...]
    """In the region's buffer."""


def overlaps(starts: tuple[int, ...], stops: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[_Overlap]:
    """The chunks that ``[starts, stops)`` touches, in C order."""
    spans = [
        range(start // size, -(-stop // size)) if stop > start else range(0)
        for start, stop, size in zip(starts, stops, chunk, strict=True)
    ]
    for index in itertools.product(*spans):
        inside, outside = [], []
        for place, start, stop, size in zip(index, starts, stops, chunk, strict=True):
            low, high = max(start, place * size), min(stop, (place + 1) * size)
            inside.append(slice(low - place * size, high - place * size))
            outside.append(slice(low - start, high - start))
        yield _Overlap(index, tuple(inside), tuple(outside))


def read_region(chunks: RawChunks, starts: tuple[int, ...], stops: tuple[int, ...], out: np.ndarray) -> None:
    """Fill ``out`` with the region ``[starts, stops)``; ``ChunkError`` names a chunk that cannot be used."""
    for part in overlaps(starts, stops, chunks.shape):
        into = out[part.outside]
        direct = into.dtype == chunks.dtype and into.flags.c_contiguous
        path = chunks.path(part.index)
        whole = into.shape == chunks.shape
        if direct and (whole or (not chunks.checksum and _one_piece(part.inside, chunks.shape))):
            offset = sum(side.start * stride for side, stride in zip(part.inside, _strides(chunks.shape), strict=True))
            found = _read_file(chunks, part.index, path, into, offset * chunks.dtype.itemsize)
        else:
            # Where no checksum is to be compared, the rows that are asked for are enough.
            rows = slice(0, chunks.shape[0]) if chunks.checksum else part.inside[0]
            scratch = _scratch(chunks)[: rows.stop - rows.start]
            found = _read_file(chunks, part.index, path, scratch, rows.start * chunks.bytes // chunks.shape[0])
            if found:
                first = part.inside[0]
                into[...] = scratch[(slice(first.start - rows.start, first.stop - rows.start), *part.inside[1:])]
        if not found:
            if chunks.fill is None:
                raise ChunkError(part.index, "is missing")
            into[...] = chunks.fill


def write_region(
    chunks: RawChunks, shape: tuple[int, ...], starts: tuple[int, ...], data: np.ndarray, lock: threading.Lock
) -> None:
    """Write ``data`` at ``starts`` of an array of ``shape``. Each file is replaced at once, so a kill leaves no half.

    A chunk that is written in part is read, changed and replaced under ``lock``.
    """
    stops = tuple(start + size for start, size in zip(starts, data.shape, strict=True))
    for part in overlaps(starts, stops, chunks.shape):
        source = data[part.outside]
        path = chunks.path(part.index)
        if source.shape == chunks.shape and source.dtype == chunks.dtype and source.flags.c_contiguous:
            write_file(path, source, chunks.checksum)
            continue
        ends = (
            min(size, total - place * size) for place, size, total in zip(part.index, chunks.shape, shape, strict=True)
        )
        covers = all(side == slice(0, end) for side, end in zip(part.inside, ends, strict=True))
        scratch = _scratch(chunks)
        if covers:
            scratch[...] = 0
            scratch[part.inside] = source
            write_file(path, scratch, chunks.checksum)
            continue
        with lock:
            if not _read_file(chunks, part.index, path, scratch, 0):
                scratch[...] = 0
            scratch[part.inside] = source
            write_file(path, scratch, chunks.checksum)


def write_file(path: str, data: np.ndarray, checksum: bool) -> None:
    """Replace a chunk file by contiguous ``data``."""
    content = [_bytes_of(data)]
    if checksum:
        content.append(memoryview(_checksum(data)))
    partial = f"{path}.{os.getpid()}-{threading.get_ident()}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        file = os.open(partial, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = os.open(partial, flags, 0o666)
    try:
        try:
            while content:
                content = _after(content, os.writev(file, content))
        finally:
            os.close(file)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _read_file(chunks: RawChunks, index: tuple[int, ...], path: str, into: np.ndarray, offset: int) -> bool:
    """Read contiguous ``into`` from byte ``offset`` of the chunk's file; False if there is no file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        size = os.fstat(file).st_size
        stored = bytearray(CHECKSUM_BYTES if chunks.checksum else 0)
        wanted = chunks.bytes + len(stored)
        if size != wanted:
            raise ChunkError(index, f"is damaged: its file has {size} bytes instead of {wanted}")
        rest = [_bytes_of(into), memoryview(stored)] if stored else [_bytes_of(into)]
        while rest:
            count = os.preadv(file, rest, offset)
            if count == 0:
                raise ChunkError(index, "is damaged: its file ends too early")
            offset += count
            rest = _after(rest, count)
    except OSError as error:
        raise ChunkError(index, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(file)
    if stored and _checksum(into) != stored:
        raise ChunkError(index, "is damaged: its checksum (crc32c) does not fit its content")
    return True


def _checksum(array: np.ndarray) -> bytes:
    # google_crc32c, which Zarr uses, does not let other threads run meanwhile.
    value: int = checksums.crc32c(_bytes_of(array))
    return value.to_bytes(CHECKSUM_BYTES, "little")


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _after(buffers: list[memoryview], count: int) -> list[memoryview]:
    """What is left of the buffers after their first ``count`` bytes."""
    rest = []
    for buffer in buffers:
        done = min(count, len(buffer))
        count -= done
        if done < len(buffer):
            rest.append(buffer[done:])
    return rest


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Values from one place to the next along each dimension."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _one_piece(inside: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """Whether this part of a chunk lies in its file without a gap."""
    sizes = [side.stop - side.start for side in inside]
    first = next((axis for axis, size in enumerate(sizes) if size > 1), len(sizes))
    return sizes[first + 1 :] == list(shape[first + 1 :])


def _scratch(chunks: RawChunks) -> np.ndarray:
    """This thread's buffer for one chunk; fresh pages for every chunk would cost more than the reading."""
    size = chunks.bytes
    if size > LARGEST_KEPT:
        return np.empty(chunks.shape, chunks.dtype)
    buffer: np.ndarray | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.nbytes < size:
        buffer = _local.buffer = np.empty(size, np.uint8)
    return buffer[:size].view(chunks.dtype).reshape(chunks.shape)
