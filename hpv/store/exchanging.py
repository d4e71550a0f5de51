"""A new store takes the place of an old one, also after a kill on the way."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr

from hpv.base.errors import OutputExistsError, StoreError
from hpv.places.locks import Lock
from hpv.places.place import ROOT, Place, output_place
from hpv.store.headers import read_header

SCRATCH = "progress"
"""Folder of what a run needs to continue; removed once the store is complete."""


def header_at(place: Place) -> dict[str, Any] | None:
    """The header of a store, or None; an output is refused where something else lies."""
    try:
        return read_header(place)
    except StoreError as error:
        raise OutputExistsError(str(error)) from None


def empty(place: Place) -> None:
    """Remove what is in a place but its lock."""
    # First it becomes a store of nothing: a kill on the way must leave neither a complete store nor one to continue.
    attributes = zarr.open_group(place.store, mode="r+").attrs
    attributes.put({**attributes, "request": {"removed": uuid.uuid4().hex}, "complete": False})
    place.clear()
    place.remove(ROOT)


def remove_scratch(place: Place) -> None:
    """Remove a run's notes from a complete store; before, a kill would leave notes of things that are not there."""
    with suppress(OSError):
        place.remove(SCRATCH)


def exchange(new: Place, target: Place, lock: Lock) -> None:
    """Put the complete store ``new``, which ``lock`` is of, in the place of the old one."""
    new.exchange(target)
    lock.moved(target.path)
    if new.copied:
        empty(new)


def complete_exchange(path: str | os.PathLike[str]) -> bool:
    """Finish what a run was doing that was killed after its new store was complete; whether there was such a run."""
    return complete_exchange_at(output_place(path), overwrite=True)


def complete_exchange_at(target: Place, overwrite: bool) -> bool:
    """Finish what a run was doing that was killed after its new store was complete; whether there was such a run.

    That is wanted by whoever overwrites, and by all where the old store is gone already.
    """
    new = target.beside("new")
    header, there = header_at(new), header_at(target) or {}
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
        remove_scratch(new)  # which the killed run may not have come to
        exchange(new, target, locks[-1])
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
            header = header_at(new)
            if header is not None and _is_of_no_use(new, header, there):
                empty(new)
        finally:
            lock.release(remove=True)
        new.drop()
