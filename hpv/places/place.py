"""Where stores lie: folders of this machine and, with the same operations, prefixes of object stores."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store as ZarrStore
from zarr.storage import LocalStore

from hpv.base.addresses import is_address, real_path
from hpv.base.errors import InputError
from hpv.places.locks import LOCK, FileLock, Lock, ObjectLock
from hpv.places.remote import WRITABLE, RemoteStore

ROOT = "zarr.json"
"""The root's metadata: who replaces it changes the whole store at once."""


class Place(Protocol):
    """What an output needs of the place where it lies."""

    copied: bool
    """``exchange`` copies, which takes a while: whoever will do it holds the lock of the target as well."""

    @property
    def path(self) -> Path | str:
        """What messages call it, and what opens it."""

    @property
    def store(self) -> ZarrStore:
        """For Zarr."""

    def names(self) -> list[str] | None:
        """Names of what lies at the top; None where there is nothing."""

    def read(self, name: str) -> bytes | None:
        """A file or object; None: it is not there."""

    def size(self) -> int | None:
        """Bytes of all that it holds; None where that cannot be known."""

    def beside(self, suffix: str) -> Place:
        """The place of another attempt at the same output."""

    def prepare(self) -> None:
        """Make what must be there before the place itself."""

    def lock(self, shown: Path | str) -> Lock:
        """Take the lock; ``OutputExistsError`` if another run holds it. ``shown``: the output's name in messages."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""

    def clear(self) -> None:
        """Remove all but the root's metadata and the lock."""

    def drop(self) -> None:
        """Remove the place itself if it is empty."""

    def tidy(self) -> None:
        """Remove what a killed run was just writing."""

    def sweep(self) -> None:
        """Remove an old store that a killed exchange left beside this complete one."""

    def exchange(self, target: Place) -> None:
        """Put the complete store that lies here in the place of the one at ``target``, which may be none.

        A place that is ``copied`` is still there afterwards.
        """


def place_of(path: str | os.PathLike[str], *, read_only: bool = False) -> Place:
    """The place that a path or an address names."""
    text = os.fspath(path)
    return Prefix(RemoteStore(text.rstrip("/"), read_only=read_only)) if is_address(text) else Folder(real_path(text))


def output_place(path: str | os.PathLike[str]) -> Place:
    """The place of an output; ``InputError`` where nothing can be written."""
    text = os.fspath(path)
    if not text:
        raise InputError(f"{text!r} is no path; give a folder as output.")
    if is_address(text):
        kind, _, rest = text.partition("://")
        if kind not in WRITABLE:
            raise InputError(
                f"{text}: {kind}:// can be read only; give a folder or an address that begins with s3:// or gs:// as "
                "output."
            )
        if "/" not in rest.rstrip("/") and kind != "memory":
            raise InputError(
                f"{text} is a whole bucket; give a place inside it as output, such as {kind}://{rest}/out."
            )
    if re.match("[a-z0-9]+:/[^/]", text):
        raise InputError(f"{text} is an address that has lost a slash, as in a pathlib.Path; give it as text.")
    return place_of(text)


class Folder:
    """A folder of this machine."""

    copied = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = LocalStore(path)

    def names(self) -> list[str] | None:
        return os.listdir(self.path) if self.path.exists() else None

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def beside(self, suffix: str) -> Folder:
        return Folder(self.path.with_name(f"{self.path.name}.hpv-{suffix}"))

    def prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def lock(self, shown: Path | str) -> Lock:
        return FileLock(self.path, str(shown))

    def remove(self, name: str) -> None:
        place = self.path / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def clear(self) -> None:
        for name in os.listdir(self.path):
            if name not in (LOCK, ROOT):
                self.remove(name)

    def drop(self) -> None:
        with suppress(OSError):
            self.path.rmdir()

    def tidy(self) -> None:
        for file in self.path.rglob("*.partial"):
            file.unlink(missing_ok=True)

    def sweep(self) -> None:
        old = self.beside("old").path
        if old.exists():
            shutil.rmtree(old)

    def exchange(self, target: Place) -> None:
        """See `Place`: two renames."""
        assert isinstance(target, Folder)
        old = target.beside("old").path
        if target.path.exists():
            if old.exists():
                shutil.rmtree(old)
            os.rename(target.path, old)
        os.rename(self.path, target.path)
        target.sweep()


class Prefix:
    """What lies under an address."""

    copied = True

    def __init__(self, store: RemoteStore) -> None:
        self.path = store.address
        self.store = store

    def names(self) -> list[str] | None:
        return self.store.names()

    def read(self, name: str) -> bytes | None:
        return self.store.read(name)

    def size(self) -> int | None:
        return sum(self.store.sizes().values()) if self.store.lists else None

    def beside(self, suffix: str) -> Prefix:
        return Prefix(RemoteStore(f"{self.path}.hpv-{suffix}"))

    def prepare(self) -> None:
        """See `Place`: object stores have no folders."""

    def lock(self, shown: Path | str) -> Lock:
        return ObjectLock(self.store, str(shown))

    def remove(self, name: str) -> None:
        self.store.remove([key for key in self.store.sizes(name) if key == name or key.startswith(f"{name}/")])

    def clear(self) -> None:
        self.store.remove(self._contents())

    def drop(self) -> None:
        """See `Place`: object stores have no folders."""

    def tidy(self) -> None:
        """See `Place`: an object is there as a whole or not at all."""

    def sweep(self) -> None:
        """See `Place`: an exchange leaves nothing."""

    def exchange(self, target: Place) -> None:
        """See `Place`: objects cannot be renamed, so they are copied, where they are.

        Meanwhile the target says that it is the new store and incomplete; after a kill all begins again.
        """
        assert isinstance(target, Prefix)
        complete = self.store.read(ROOT)
        assert complete is not None
        metadata = json.loads(complete)
        metadata["attributes"] |= {"complete": False}
        target.store.write(ROOT, json.dumps(metadata).encode())
        target.clear()
        self.store.copy(self._contents(), target.store)
        target.store.write(ROOT, complete)

    def _contents(self) -> list[str]:
        return [key for key in self.store.sizes() if key != ROOT and not key.startswith(LOCK)]
