"""Chunk files and objects of uncompressed arrays, read and written directly.

Zarr's uncompressed chunks are the plain bytes of the array, followed by four bytes of crc32c where that codec is on.
Reading them straight into the caller's buffer takes a third of the time that a codec pipeline takes.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from awscrt import checksums

from hpv.places.remote import PlaceError, RemoteStore

CHECKSUM_BYTES = 4
LARGEST_KEPT = 32 << 20
"""Bytes of a chunk whose buffer a thread keeps for the next one."""
AHEAD_BYTES = 8 << 20
"""Bytes of chunks that are asked for before they are needed, by every thread that reads from another machine."""
RESTORE = "Restore this file from a copy, or make the store again."
AGAIN = "When that is mended, run the same command again."
_BAD_CHECKSUM = "is damaged: its checksum (crc32c) does not fit its content"
_local = threading.local()


class ChunkError(Exception):
    """A chunk that cannot be used: its index, what is wrong with it, and what to do."""

    def __init__(self, index: tuple[int, ...], reason: str, step: str = RESTORE) -> None:
        super().__init__(f"chunk {index} {reason}")
        self.index, self.reason, self.step = index, reason, step


@dataclass(frozen=True)
class RawChunks:
    """Where the chunks of one array lie and what they hold."""

    path: Callable[[tuple[int, ...]], str]
    """File of a chunk, or its key in ``remote``."""
    shape: tuple[int, ...]
    """Shape of every chunk, also of those that reach over the array's end."""
    dtype: np.dtype
    checksum: bool
    fill: Any
    """What a missing chunk holds; None: a missing chunk is an error."""
    remote: RemoteStore | None = None
    """Where the chunks are objects and not files."""

    @property
    def bytes(self) -> int:
        """Bytes of a chunk's values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def ahead(self) -> int:
        """How many a thread asks for before it has the first one."""
        return 1 if self.remote is None else max(1, AHEAD_BYTES // max(self.bytes, 1))


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
    parts = overlaps(starts, stops, chunks.shape)
    if chunks.remote is not None:
        for part, values in _asked_ahead(chunks, chunks.remote, parts):
            out[part.outside] = _fill(chunks, part.index) if values is None else values
        return
    for part in parts:
        into = out[part.outside]
        direct = into.dtype == chunks.dtype and into.flags.c_contiguous
        path = chunks.path(part.index)
        whole = into.shape == chunks.shape
        if direct and (whole or _is_span(chunks, part)):
            found = _read_file(chunks, part.index, path, into, _offset(chunks, part))
        else:
            # Where no checksum is to be compared, the rows that are asked for are enough.
            rows = slice(0, chunks.shape[0]) if chunks.checksum else part.inside[0]
            scratch = _scratch(chunks)[: rows.stop - rows.start]
            found = _read_file(chunks, part.index, path, scratch, rows.start * chunks.bytes // chunks.shape[0])
            if found:
                first = part.inside[0]
                into[...] = scratch[(slice(first.start - rows.start, first.stop - rows.start), *part.inside[1:])]
        if not found:
            into[...] = _fill(chunks, part.index)


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
            _write(chunks, path, source)
            continue
        ends = (
            min(size, total - place * size) for place, size, total in zip(part.index, chunks.shape, shape, strict=True)
        )
        covers = all(side == slice(0, end) for side, end in zip(part.inside, ends, strict=True))
        scratch = _scratch(chunks)
        if covers:
            scratch[...] = 0
            scratch[part.inside] = source
            _write(chunks, path, scratch)
            continue
        with lock:
            if not _read_whole(chunks, part.index, path, scratch):
                scratch[...] = 0
            scratch[part.inside] = source
            _write(chunks, path, scratch)


def _write(chunks: RawChunks, path: str, data: np.ndarray) -> None:
    """Replace a chunk by contiguous ``data``."""
    if chunks.remote is None:
        write_file(path, data, chunks.checksum)
    else:
        chunks.remote.write(path, _bytes_of(data).tobytes() + (_checksum(data) if chunks.checksum else b""))


def _read_whole(chunks: RawChunks, index: tuple[int, ...], path: str, into: np.ndarray) -> bool:
    """Read a chunk; False if it is not there."""
    if chunks.remote is None:
        return _read_file(chunks, index, path, into, 0)
    values = _unpacked(chunks, index, chunks.remote.ask(path), None)
    if values is not None:
        into[...] = values
    return values is not None


def _asked_ahead(
    chunks: RawChunks, remote: RemoteStore, parts: Iterator[_Overlap]
) -> Iterator[tuple[_Overlap, np.ndarray | None]]:
    """The values of every part, or None; the next ones are on their way meanwhile."""
    asked: deque[tuple[_Overlap, tuple[int, int] | None, Future[np.ndarray | None]]] = deque()
    try:
        while True:
            for part in itertools.islice(parts, chunks.ahead - len(asked)):
                span = None
                if _is_span(chunks, part):
                    start = _offset(chunks, part)
                    size = math.prod(side.stop - side.start for side in part.inside) * chunks.dtype.itemsize
                    span = (start, start + size) if size < chunks.bytes else None
                asked.append((part, span, remote.ask(chunks.path(part.index), span)))
            if not asked:
                return
            part, span, answer = asked.popleft()
            values = _unpacked(chunks, part.index, answer, span)
            if values is not None:
                sizes = tuple(side.stop - side.start for side in part.inside)
                values = values.reshape(sizes) if span else values[part.inside]
            yield part, values
    finally:
        for _, _, answer in asked:
            answer.cancel()


def _unpacked(
    chunks: RawChunks, index: tuple[int, ...], answer: Future[np.ndarray | None], span: tuple[int, int] | None
) -> np.ndarray | None:
    """The values of a chunk in its shape, or of a span of its bytes in a row; None if it is not there."""
    try:
        content = answer.result()
    except PlaceError as error:
        raise ChunkError(index, f"cannot be read: {error.strerror}", AGAIN) from error
    if content is None:
        return None
    whole = chunks.bytes + (CHECKSUM_BYTES if chunks.checksum else 0)
    if span is not None and len(content) == whole:  # a server that knows no spans
        content = content[slice(*span)]
    wanted = whole if span is None else span[1] - span[0]
    if len(content) != wanted:
        raise ChunkError(index, f"is damaged: it has {len(content)} bytes instead of {wanted}")
    if chunks.checksum and _checksum(content[: chunks.bytes]) != content[chunks.bytes :].tobytes():
        raise ChunkError(index, _BAD_CHECKSUM)
    if span is not None:
        return content.view(chunks.dtype)
    return content[: chunks.bytes].view(chunks.dtype).reshape(chunks.shape)


def _fill(chunks: RawChunks, index: tuple[int, ...]) -> Any:
    """What a missing chunk holds."""
    if chunks.fill is None:
        raise ChunkError(index, "is missing")
    return chunks.fill


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
        raise ChunkError(index, _BAD_CHECKSUM)
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


def _is_span(chunks: RawChunks, part: _Overlap) -> bool:
    """Whether the part can be read without the rest of its chunk."""
    return not chunks.checksum and _one_piece(part.inside, chunks.shape)


def _offset(chunks: RawChunks, part: _Overlap) -> int:
    """Bytes before the part in its chunk."""
    places = zip(part.inside, _strides(chunks.shape), strict=True)
    return sum(side.start * stride for side, stride in places) * chunks.dtype.itemsize


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
