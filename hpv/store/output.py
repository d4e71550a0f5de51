"""A store that is being written: begun, continued, finished; it never opens as complete before it is."""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from hpv.errors import DataError, InputError, OutputExistsError, StoreError
from hpv.store.arrays import (
    GROUP,
    STRINGS,
    Selection,
    WritableArray,
    array_metadata,
    create_arrays,
    open_writable,
    parents,
)
from hpv.store.locks import Lock
from hpv.store.places import ROOT, Place, output_place, place_of
from hpv.store.reading import NAMES, RESERVED, VERSION, read_header
from hpv.store.remote import PlaceError
from hpv.store.requests import difference

SCRATCH = "progress"
"""Folder of what a run needs to continue; removed once the store is complete."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Output:
    """The writer of one store; made by ``Output.begin``. Several threads may write at the same time.

    Leaving its ``with`` block without ``finish`` keeps what was written: the same request continues it.
    """

    def __init__(
        self,
        target: Place,
        place: Place,
        root: dict[str, Any],
        locks: list[Lock],
        *,
        complete: bool = False,
        fresh: bool = False,
    ) -> None:
        """``place``: where it is written, beside ``target`` while an older store there is being replaced.

        ``fresh``: nothing was written by an earlier run.
        """
        self.path = target.path
        self.already_complete = complete
        self._target, self._place = target, place
        self._root = root
        self._locks = locks
        self._group = None if complete else zarr.open_group(place.store, mode="r+")
        self._fresh = fresh
        self._arrays: dict[str, WritableArray] = {}
        self._wanted: dict[str, Any] = {}
        self._making = threading.Lock()
        self._others_write = False

    @classmethod
    def begin(
        cls, path: str | os.PathLike[str], kind: str, request: Mapping[str, Any], *, overwrite: bool = False
    ) -> Output:
        """Begin the store that ``request`` asks for, or continue it where an earlier run stopped.

        A complete store of the same request is not touched (``already_complete``). Anything else at ``path`` is
        refused with ``OutputExistsError``; with ``overwrite``, a store of hpv is replaced when the new one is complete.
        """
        target = output_place(path)
        wanted = {"format": kind, "version": VERSION, "request": json.loads(json.dumps(dict(request)))}
        locks: list[Lock] = []
        try:
            with _refusing(path):
                target.prepare()
                exchanged = _complete_exchange(target, overwrite)
                # What was just put in its place is what this command asks for: do not make it a second time.
                overwrite = overwrite and not (exchanged and difference(_header(target) or {}, wanted) is None)
                output = cls._begin(target, wanted, overwrite, locks)
            if output.already_complete:
                _remove_scratch(target)  # of a run that was killed right after it was complete
            return output
        except BaseException:
            for lock in locks:
                lock.release(remove=False)
            raise

    @classmethod
    def _begin(cls, target: Place, wanted: dict[str, Any], overwrite: bool, locks: list[Lock]) -> Output:
        place, found = target, _header(target)
        if found is not None:
            differs = difference(found, wanted)
            if found.get("complete") is True and differs is None and not overwrite:
                return cls(target, target, found, locks, complete=True)
            if found["format"] != wanted["format"]:
                raise OutputExistsError(
                    f"{target.path} is {NAMES[found['format']]}, this would be {NAMES[wanted['format']]}; overwriting "
                    "replaces only its own kind. Use another path."
                )
            if differs is not None and not overwrite:
                raise _exists(target, differs)
            if differs is not None or found.get("complete") is True:
                place = target.beside("new")
                if found.get("complete") is not True or place.copied:
                    locks.append(target.lock(target.path))
        locks.append(place.lock(target.path))
        # Another run may have changed it before the lock was ours.
        found = _header(place)
        differs = None if found is None else difference(found, wanted)
        if found is not None and differs is None and found.get("complete") is True and place is target:
            locks.pop().release(remove=True)
            return cls(target, target, found, locks, complete=True)
        if found is not None and (differs is not None or found.get("complete") is True):
            if place is target:
                raise _exists(target, differs or "")
            _empty(place)
            found = None
        fresh = found is None
        if found is None:
            found = {**wanted, "id": uuid.uuid4().hex, "complete": False, "progress": {}}
            zarr.create_group(place.store, attributes=found)
        else:
            place.tidy()
        return cls(target, place, found, locks, fresh=fresh)

    @property
    def attributes(self) -> dict[str, Any]:
        """What has been noted so far."""
        return {name: value for name, value in self._root.items() if name not in RESERVED}

    @property
    def progress(self) -> dict[str, Any]:
        """The last checkpoint; empty at the start."""
        return dict(self._root.get("progress", {}))

    def create(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any,
        chunks: Sequence[int],
        dimension_names: Sequence[str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """A new array of zeros (``dtype="string"``: of empty strings); made when any of them is used.

        In a store that is continued an array that is there is kept, with its length along the first dimension.
        """
        kind = np.dtypes.StringDType() if dtype == STRINGS else np.dtype(dtype)
        wanted = (tuple(shape)[1:], str(kind), tuple(chunks))
        origin = f"{self.path}: array {name}"
        group = self._writer()
        with self._saving(name):
            if name in self._arrays or (not self._fresh and name in group):
                array = self._arrays.get(name) or open_writable(self._place.store, name, origin)
                found = (array.shape[1:], str(array.dtype), array.chunks)
                if found != wanted:
                    raise StoreError(
                        f"{origin} was begun with row shape, dtype and chunks {found}, this run has {wanted}; "
                        f"use another path, or give overwrite=True."
                    )
                self._arrays[name] = array
                # A run that stopped while it made them may have left arrays without the groups around them.
                self._wanted |= {parent: GROUP for parent in parents(name) if parent not in group}
            else:
                names = None if dimension_names is None else tuple(dimension_names)
                noted = json.dumps(dict(attributes or {}))
                self._wanted[name] = array_metadata(tuple(shape), str(dtype), tuple(chunks), names, noted)

    def _make(self) -> None:
        """Make the arrays that are wanted, all at once."""
        with self._making:
            if self._wanted:
                with self._saving("new arrays"):
                    self._arrays |= create_arrays(self._place.store, self._wanted, str(self.path))
                self._wanted = {}

    def _array(self, name: str) -> WritableArray:
        if name not in self._arrays:
            self._make()
        return self._arrays[name]

    def write(self, name: str, selection: Selection, data: Any) -> None:
        """Put ``data`` into an array that this run created or took up; threads write different chunks."""
        with self._saving(name):
            self._array(name).write(selection, data)

    def writer(self) -> OutputWriter:
        """Writes to the arrays that were created, also in another process while this one holds the store."""
        self._make()
        self._others_write = True
        return OutputWriter(str(self._place.path), str(self.path))

    def read(self, name: str, selection: Selection = None, out: np.ndarray | None = None) -> np.ndarray:
        """What has been written."""
        return self._array(name).read(selection, out)

    def take(self, name: str) -> np.ndarray:
        """The whole of an array that this run or an earlier one wrote."""
        return open_writable(self._place.store, name, f"{self.path}: array {name}").read()

    def discard(self, name: str) -> None:
        """Remove a group or an array with all that is in it, if it is there."""
        self._arrays = {other: array for other, array in self._arrays.items() if not f"{other}/".startswith(f"{name}/")}
        with self._saving(name):
            self._place.remove(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array that this run created or took up."""
        return self._array(name).shape

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Change the lengths of an array."""
        with self._saving(name):
            self._array(name).resize(tuple(shape))

    def checkpoint(self, progress: Mapping[str, Any]) -> None:
        """Note how far the work is: what was written before is there after a kill at any moment."""
        self._save({"progress": dict(progress)})

    def note(self, attributes: Mapping[str, Any]) -> None:
        """Add to the attributes."""
        reserved = set(attributes) & set(RESERVED)
        if reserved:
            raise ValueError(f"{sorted(reserved)} are the store's own attributes")
        self._save(attributes)

    def finish(self, attributes: Mapping[str, Any] | None = None) -> Path | str:
        """Declare the store complete, put it in its place and let go of it."""
        if attributes:
            self.note(attributes)
        if self._others_write:  # of which one that was killed may have left what it was just writing
            self._place.tidy()
        self._save({"complete": True, "progress": {}})
        _remove_scratch(self._place)
        with self._saving("the whole"):
            if self._place is not self._target:
                _exchange(self._place, self._target, self._locks[-1])
                self._place = self._target
        self._release(remove=True)
        return self.path

    def close(self) -> None:
        """Let go without finishing; the same request continues it."""
        self._release(remove=False)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writer(self) -> zarr.Group:
        if self._group is None or not self._locks:
            raise ValueError(f"{self.path} is complete or closed: nothing can be written to it any more")
        return self._group

    def _save(self, changes: Mapping[str, Any]) -> None:
        """One atomic replacement of the root's metadata, once all arrays are there."""
        group = self._writer()
        self._make()
        self._root = {**self._root, **json.loads(json.dumps(dict(changes)))}
        with self._saving("attributes"):
            group.attrs.put(self._root)

    def _release(self, *, remove: bool) -> None:
        while self._locks:
            self._locks.pop().release(remove=remove)

    @contextmanager
    def _saving(self, name: str) -> Iterator[None]:
        with _saving(self.path, name):
            for lock in self._locks:
                lock.check()
            yield


class OutputWriter:
    """Writes to arrays of an `Output` from any thread; a pickle of it is small.

    Threads may write to parts of the same chunk, different processes must write to different chunks.
    """

    def __init__(self, place: str, shown: str) -> None:
        """``place``: where it is written; ``shown``: the output's name in messages."""
        self._place, self._shown = place, shown
        self._store = place_of(place).store
        self._arrays: dict[str, WritableArray] = {}
        self._opening = threading.Lock()

    def __reduce__(self) -> Any:
        return OutputWriter, (self._place, self._shown)

    @property
    def is_portable(self) -> bool:
        """Whether another process can write there, too."""
        return not self._place.startswith("memory:")

    def write(self, name: str, selection: Selection, data: Any) -> None:
        """See `Output.write`."""
        with _saving(self._shown, name):
            with self._opening:  # one object for all threads: it has the lock of chunks that are written in parts
                if name not in self._arrays:
                    self._arrays[name] = open_writable(self._store, name, f"{self._shown}: array {name}")
            self._arrays[name].write(selection, data)


@contextmanager
def _saving(shown: Path | str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            what = "no space left; free some and run the same command again, it continues."
        else:
            what = f"cannot be written: {error.strerror or error}; when that is mended, run the same command again."
        raise DataError(f"{shown}: {name}: {what}") from error


def save(
    path: str | os.PathLike[str],
    kind: str,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    request: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path | str:
    """Write a whole store of arrays that are in memory; each is cut along its first dimension into chunks of 4 MiB."""
    with Output.begin(path, kind, request or {}, overwrite=overwrite) as output:
        if output.already_complete:
            return output.path
        for name, values in arrays.items():
            row = max(values[:1].nbytes, 1)
            rows = max(1, min(len(values), (4 << 20) // row))
            output.create(name, values.shape, values.dtype, (rows, *(max(size, 1) for size in values.shape[1:])))
            output.write(name, None, values)
        return output.finish(attributes)


def _header(place: Place) -> dict[str, Any] | None:
    try:
        return read_header(place)
    except StoreError as error:
        raise OutputExistsError(str(error)) from None


def _exists(target: Place, differs: str) -> OutputExistsError:
    return OutputExistsError(
        f"{target.path} holds something else: {differs}. Use another path, or give overwrite=True."
    )


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the file system before anything is written, in plain words."""
    try:
        yield
    except PlaceError as error:
        raise InputError(f"{os.fspath(path)}: {error.strerror}.") from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DataError(f"{os.fspath(path)}: no space left; free some and run the same command again.") from error
        where = f" ({error.filename})" if error.filename else ""
        raise InputError(
            f"{os.fspath(path)} cannot be written: {error.strerror or error}{where}; use another path."
        ) from error


def _empty(place: Place) -> None:
    """Remove what is in a place but its lock."""
    # First it becomes a store of nothing: a kill on the way must leave neither a complete store nor one to continue.
    attributes = zarr.open_group(place.store, mode="r+").attrs
    attributes.put({**attributes, "request": {"removed": uuid.uuid4().hex}, "complete": False})
    place.clear()
    place.remove(ROOT)


def _remove_scratch(place: Place) -> None:
    """Of a store that is complete; before, a kill would leave notes of things that are not there."""
    with suppress(OSError):
        place.remove(SCRATCH)


def _exchange(new: Place, target: Place, lock: Lock) -> None:
    """Put the complete store ``new``, which ``lock`` is of, in the place of the old one."""
    new.exchange(target)
    lock.moved(target.path)
    if new.copied:
        _empty(new)


def complete_exchange(path: str | os.PathLike[str]) -> bool:
    """Finish what a run was doing that was killed after its new store was complete; whether there was such a run."""
    return _complete_exchange(output_place(path), overwrite=True)


def _complete_exchange(target: Place, overwrite: bool) -> bool:
    """Finish what a run was doing that was killed after its new store was complete; whether there was such a run.

    That is wanted by whoever overwrites, and by all where the old store is gone already.
    """
    new = target.beside("new")
    header, there = _header(new), _header(target) or {}
    if there.get("complete") is True:
        target.sweep()
        if _is_of_no_use(new, header, there):
            _remove(new, there, target.path)
            return header is not None and header.get("id") == there.get("id")
    if header is None or header.get("complete") is not True:
        return False
    half_way = new.copied and there.get("id") == header.get("id")
    if not (overwrite or half_way or target.names() is None):
        return False
    locks = [target.lock(target.path)] if new.copied else []
    try:
        locks.append(new.lock(target.path))
        _remove_scratch(new)  # which the killed run may not have come to
        _exchange(new, target, locks[-1])
    finally:
        for lock in reversed(locks):
            lock.release(remove=True)
    return True


def _is_of_no_use(new: Place, header: Mapping[str, Any] | None, there: Mapping[str, Any]) -> bool:
    """Whether a killed run had not begun with the new store, or was removing it: ``there`` is the complete target."""
    if header is None:
        return new.names() is not None
    return "removed" in header.get("request", {}) or header.get("id") == there.get("id")


def _remove(new: Place, there: Mapping[str, Any], shown: Path | str) -> None:
    """Remove what is of no use, unless another run is at it, or it cannot be removed now: then a later one does."""
    with suppress(OutputExistsError, OSError):
        lock = new.lock(shown)
        try:
            header = _header(new)
            if header is not None and _is_of_no_use(new, header, there):
                _empty(new)
        finally:
            lock.release(remove=True)
        new.drop()
