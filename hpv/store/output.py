"""A store that is being written: begun, continued, finished; it never opens as complete before it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from hpv.errors import DataError, InputError, OutputExistsError, StoreError
from hpv.store.arrays import GROUP, STRINGS, Selection, WritableArray, array_metadata, create_arrays, open_writable
from hpv.store.locks import Lock
from hpv.store.reading import LOCK, RESERVED, VERSION, read_header

SCRATCH = "progress"
"""Folder of what a run needs to continue; removed once the store is complete."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Output:
    """The writer of one store; made by ``Output.begin``. Several threads may write at the same time.

    Leaving its ``with`` block without ``finish`` keeps what was written: the same request continues it.
    """

    def __init__(self, path: Path, place: Path, root: dict[str, Any], locks: list[Lock], *, complete: bool) -> None:
        """``place``: where it is written, beside ``path`` while an older store there is being replaced."""
        self.path = path
        self.already_complete = complete
        self._place = place
        self._root = root
        self._locks = locks
        self._group = None if complete else zarr.open_group(place, mode="r+")
        self._arrays: dict[str, WritableArray] = {}
        self._wanted: dict[str, Any] = {}
        self._making = threading.Lock()

    @classmethod
    def begin(
        cls, path: str | os.PathLike[str], kind: str, request: Mapping[str, Any], *, overwrite: bool = False
    ) -> Output:
        """Begin the store that ``request`` asks for, or continue it where an earlier run stopped.

        A complete store of the same request is not touched (``already_complete``). Anything else at ``path`` is
        refused with ``OutputExistsError``; with ``overwrite``, a store of hpv is replaced when the new one is complete.
        """
        target = _local(path)
        wanted = {"format": kind, "version": VERSION, "request": json.loads(json.dumps(dict(request)))}
        locks: list[Lock] = []
        try:
            with _refusing(path):
                target.parent.mkdir(parents=True, exist_ok=True)
                exchanged = (overwrite or not target.exists()) and _complete_exchange(target)
                # What was just put in its place is what this command asks for: do not make it a second time.
                overwrite = overwrite and not (exchanged and _difference(_header(target) or {}, wanted) is None)
                output = cls._begin(target, wanted, overwrite, locks)
            if output.already_complete:
                _remove_scratch(target)  # of a run that was killed right after it was complete
            return output
        except BaseException:
            for lock in locks:
                lock.release(remove=False)
            raise

    @classmethod
    def _begin(cls, target: Path, wanted: dict[str, Any], overwrite: bool, locks: list[Lock]) -> Output:
        place, found = target, _header(target)
        if found is not None:
            difference = _difference(found, wanted)
            if found.get("complete") is True and difference is None and not overwrite:
                return cls(target, target, found, locks, complete=True)
            if difference is not None and not overwrite:
                raise _exists(target, difference)
            if found.get("format") != wanted["format"]:
                raise OutputExistsError(
                    f"{target} is {found.get('format')}, this would be {wanted['format']}; overwriting replaces only "
                    "its own kind. Use another path."
                )
            if difference is not None or found.get("complete") is True:
                place = _beside(target, "new")
                if found.get("complete") is not True:
                    locks.append(Lock(target, str(target)))
        locks.append(Lock(place, str(target)))
        # Another run may have changed it before the lock was ours.
        found = _header(place)
        difference = None if found is None else _difference(found, wanted)
        if found is not None and difference is None and found.get("complete") is True and place == target:
            locks.pop().release(remove=True)
            return cls(target, target, found, locks, complete=True)
        if found is not None and (difference is not None or found.get("complete") is True):
            if place == target:
                raise _exists(target, difference or "")
            _empty(place, wanted["format"])
            found = None
        if found is None:
            found = {**wanted, "id": uuid.uuid4().hex, "complete": False, "progress": {}}
            zarr.create_group(place, attributes=found)
        else:
            _remove_partial_files(place)
        return cls(target, place, found, locks, complete=False)

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
            if name in group:
                array = open_writable(self._place, name, origin)
                found = (array.shape[1:], str(array.dtype), array.chunks)
                if found != wanted:
                    raise StoreError(
                        f"{origin} was begun with row shape, dtype and chunks {found}, this run has {wanted}; "
                        f"use another path, or overwrite it."
                    )
                self._arrays[name] = array
                # A run that stopped while it made them may have left arrays without the groups around them.
                parents = (str(parent) for parent in PurePosixPath(name).parents if parent.name)
                self._wanted |= {parent: GROUP for parent in parents if parent not in group}
            else:
                names = None if dimension_names is None else tuple(dimension_names)
                noted = json.dumps(dict(attributes or {}))
                self._wanted[name] = array_metadata(tuple(shape), str(dtype), tuple(chunks), names, noted)

    def _make(self) -> None:
        """Make the arrays that are wanted, all at once."""
        with self._making:
            if self._wanted:
                with self._saving("new arrays"):
                    self._arrays |= create_arrays(self._place, self._wanted, str(self.path))
                self._wanted = {}

    def _array(self, name: str) -> WritableArray:
        if name not in self._arrays:
            self._make()
        return self._arrays[name]

    def write(self, name: str, selection: Selection, data: Any) -> None:
        """Put ``data`` into an array that this run created or took up; threads write different chunks."""
        with self._saving(name):
            self._array(name).write(selection, data)

    def read(self, name: str, selection: Selection = None, out: np.ndarray | None = None) -> np.ndarray:
        """What has been written."""
        return self._array(name).read(selection, out)

    def take(self, name: str) -> np.ndarray:
        """The whole of an array that this run or an earlier one wrote."""
        return open_writable(self._place, name, f"{self.path}: array {name}").read()

    def discard(self, name: str) -> None:
        """Remove a group or an array with all that is in it, if it is there."""
        with self._saving(name):
            shutil.rmtree(self._place / name, ignore_errors=not (self._place / name).exists())

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

    def finish(self, attributes: Mapping[str, Any] | None = None) -> Path:
        """Declare the store complete, put it in its place and let go of it."""
        if attributes:
            self.note(attributes)
        self._save({"complete": True, "progress": {}})
        _remove_scratch(self._place)
        with self._saving("the whole"):
            if self._place != self.path:
                _exchange(self._place, self.path)
                self._locks[-1].moved(self.path)
                self._place = self.path
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
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SPACE:
                what = "no space left; free some and run the same command again, it continues."
            else:
                what = f"cannot be written: {error.strerror or error}; when that is mended, run the same command again."
            raise DataError(f"{self.path}: {name}: {what}") from error


def save(
    path: str | os.PathLike[str],
    kind: str,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    request: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
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


def _local(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" in text or not text:
        raise InputError(f"{text!r} is not a local path; give a folder on this machine as output.")
    return Path(os.path.realpath(text))


def _header(folder: Path) -> dict[str, Any] | None:
    try:
        return read_header(folder)
    except StoreError as error:
        raise OutputExistsError(str(error)) from None


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first entry that differs, with both values; the rest of ``found`` does not matter at the top level."""
    names = list(wanted) if not prefix else list({**wanted, **found})
    for name in names:
        there, here = found.get(name), wanted.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            inner = _difference(there, here, f"{prefix}{name}.")
            if inner is not None:
                return inner
        elif type(there) is not type(here) or there != here:
            label = f"{prefix}{name}".removeprefix("request.")
            return f"{label} is {_short(there)} there and {_short(here)} here"
    return None


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _exists(target: Path, difference: str) -> OutputExistsError:
    return OutputExistsError(f"{target} holds something else: {difference}. Use another path, or overwrite it.")


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the file system before anything is written, in plain words."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DataError(f"{os.fspath(path)}: no space left; free some and run the same command again.") from error
        where = f" ({error.filename})" if error.filename else ""
        raise InputError(
            f"{os.fspath(path)} cannot be written: {error.strerror or error}{where}; use another path."
        ) from error


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}.hpv-{suffix}")


def _empty(folder: Path, kind: str) -> None:
    """Remove what is in a folder but its lock."""
    # First it becomes a store of nothing: a kill on the way must leave neither a complete store nor one to continue.
    nothing: dict[str, Any] = {
        "format": kind,
        "version": VERSION,
        "request": {"removed": uuid.uuid4().hex},
        "complete": False,
    }
    zarr.open_group(folder, mode="r+").attrs.put(nothing)
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name not in (LOCK, "zarr.json"):
            os.unlink(entry.path)
    (folder / "zarr.json").unlink()


def _remove_scratch(folder: Path) -> None:
    """Of a store that is complete; before, a kill would leave notes of things that are not there."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)


def _remove_partial_files(folder: Path) -> None:
    """What a killed run was just writing."""
    for file in folder.rglob("*.partial"):
        file.unlink(missing_ok=True)


def _exchange(new: Path, target: Path) -> None:
    """Put the complete store ``new`` in the place of the old one."""
    old = _beside(target, "old")
    if target.exists():
        if old.exists():
            shutil.rmtree(old)
        os.rename(target, old)
    os.rename(new, target)
    if old.exists():
        shutil.rmtree(old)


def _complete_exchange(target: Path) -> bool:
    """Finish what a run was doing that was killed after its new store was complete; whether there was such a run."""
    new = _beside(target, "new")
    header = _header(new)
    if header is None or header.get("complete") is not True:
        return False
    lock = Lock(new, str(target))
    _exchange(new, target)
    lock.moved(target)
    lock.release(remove=True)
    return True
