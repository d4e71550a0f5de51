"""A store that is being written: begun, continued, finished; it never opens as complete before it is."""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from hpv.base.errors import DataError, InputError, OutputExistsError, StoreError
from hpv.places.locks import Lock
from hpv.places.place import Place, output_place, place_of
from hpv.places.remote import PlaceError
from hpv.store.arrays import Selection
from hpv.store.creating import GROUP, STRINGS, WritableArray, array_metadata, create_arrays, open_writable, parents
from hpv.store.exchanging import complete_exchange_at, empty, exchange, header_at, remove_scratch
from hpv.store.headers import NAMES, RESERVED, VERSION
from hpv.store.requests import difference

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
                exchanged = complete_exchange_at(target, overwrite)
                # What was just put in its place is what this command asks for: do not make it a second time.
                overwrite = overwrite and not (exchanged and difference(header_at(target) or {}, wanted) is None)
                output = cls._begin(target, wanted, overwrite, locks)
            if output.already_complete:
                remove_scratch(target)  # of a run that was killed right after it was complete
            return output
        except BaseException:
            for lock in locks:
                lock.release(remove=False)
            raise

    @classmethod
    def _begin(cls, target: Place, wanted: dict[str, Any], overwrite: bool, locks: list[Lock]) -> Output:
        place, found = target, header_at(target)
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
        found = header_at(place)
        differs = None if found is None else difference(found, wanted)
        if found is not None and differs is None and found.get("complete") is True and place is target:
            locks.pop().release(remove=True)
            return cls(target, target, found, locks, complete=True)
        if found is not None and (differs is not None or found.get("complete") is True):
            if place is target:
                raise _exists(target, differs or "")
            empty(place)
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
        """Shape of an array that this run created or took up."""
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
        remove_scratch(self._place)
        with self._saving("the whole"):
            if self._place is not self._target:
                exchange(self._place, self._target, self._locks[-1])
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
