"""Stores that are complete: what kind they are, their attributes and arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import zarr
from zarr.errors import NodeNotFoundError

from hpv.base.addresses import is_address, without_scheme
from hpv.base.errors import StoreError
from hpv.base.words import nearly_meant
from hpv.places.remote import PlaceError, RemoteStore
from hpv.store.arrays import StoredArray
from hpv.store.headers import NAMES, RESERVED, VERSION
from hpv.store.shards import shard_state, shards_of


class Store:
    """A complete store that hpv wrote."""

    def __init__(self, group: zarr.Group, path: str) -> None:
        self._group = group
        self._root: dict[str, Any] = dict(group.attrs)
        self.path = path

    @property
    def kind(self) -> str:
        """``hpv-activations``, ``hpv-background`` or ``hpv-scores``."""
        return str(self._root["format"])

    @property
    def id(self) -> str:
        """Drawn when the store was begun: another store at the same path has another."""
        return str(self._root.get("id", ""))

    @property
    def request(self) -> dict[str, Any]:
        """What the store was asked to hold."""
        request: dict[str, Any] = self._root.get("request", {})
        return request

    @property
    def attributes(self) -> dict[str, Any]:
        """What its writer noted."""
        return {name: value for name, value in self._root.items() if name not in RESERVED}

    def names(self) -> list[str]:
        """Paths of all arrays, sorted."""
        return sorted(name for name, node in self._group.members(max_depth=None) if isinstance(node, zarr.Array))

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def array(self, name: str) -> StoredArray:
        """The array at ``name``."""
        try:
            node = self._group[name]
        except KeyError:
            node = None
        if not isinstance(node, zarr.Array):
            names = self.names()
            shown = nearly_meant(name, names) or names[:10]
            raise StoreError(f"{self.path}: there is no array {name}; there are {', '.join(shown) or 'none at all'}.")
        return StoredArray(node, f"{self.path}: array {name}", strict=True)


def open_store(path: str | os.PathLike[str], kind: str | None = None) -> Store:
    """Open a complete store of ``kind`` (default: any of hpv's); ``StoreError`` says what the path is instead."""
    group = open_node(path)
    header = dict(group.attrs) if isinstance(group, zarr.Group) else {}
    check_header(header, os.fspath(path), kind)
    assert isinstance(group, zarr.Group)
    return Store(group, os.fspath(path))


def check_header(header: Mapping[str, Any], path: str, kind: str | None = None) -> None:
    """Refuse what is not a complete store of ``kind`` in a version that this hpv reads."""
    found = header.get("format")
    if found not in NAMES:
        wanted = NAMES.get(kind or "", "a store")
        raise StoreError(f"{path} is a Zarr store, but not one of hpv's; give {wanted} that hpv wrote.")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise StoreError(
            f"{path} has version {version} of {found}, this hpv reads up to {VERSION}; install a newer one."
        )
    if kind is not None and found != kind:
        raise StoreError(f"{path} is {NAMES[str(found)]}; this needs {NAMES[kind]}.")
    if header.get("complete") is not True:
        if (of := shards_of(header)) is not None:
            raise StoreError(f"{path} is incomplete: {shard_state(path, of)} {path}.")
        raise StoreError(f"{path} is incomplete: run the command that was writing it again, it continues.")


def open_node(path: str | os.PathLike[str]) -> zarr.Array | zarr.Group:
    """Whatever Zarr node is there; ``StoreError`` if there is none."""
    if is_address(os.fspath(path)):
        return _open_remote(os.fspath(path))
    text = without_scheme(os.fspath(path))
    if not os.path.exists(text):
        close = _siblings(text)
        hint = f" Close to it there is {', '.join(close)}." if close else ""
        raise StoreError(f"{text} does not exist; check the path.{hint}")
    if text.endswith(".npy") and os.path.isfile(text):
        raise StoreError(f"{text} is an .npy file, which holds activations; this needs a store that hpv wrote.")
    if os.path.isfile(text) and not text.endswith(".zip"):
        raise StoreError(f"{text} is a file; give a Zarr store (a folder) or an .npy file.")
    try:
        return zarr.open(text, mode="r")
    except NodeNotFoundError:
        raise StoreError(f"{text} is not a Zarr store: it has no zarr.json, .zarray or .zgroup of its own.") from None
    except PermissionError as error:
        raise StoreError(f"{text} cannot be read: {error.strerror}; ask for the right to read it.") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreError(f"{text} is not a Zarr store that can be read: {error}") from error


def _open_remote(address: str) -> zarr.Array | zarr.Group:
    store = RemoteStore(address.rstrip("/"), read_only=True)
    if address.endswith(".npy"):
        raise StoreError(f"{address}: .npy files are read from this machine only; copy it here, or store it as Zarr.")
    try:
        try:
            return zarr.open(store, mode="r")
        except NodeNotFoundError:
            store.names()  # a bucket that does not exist has no objects either, but is worth another message
        raise StoreError(
            f"{address} is not a Zarr store: there is no zarr.json, .zarray or .zgroup; check the address."
        )
    except PlaceError as error:
        raise StoreError(f"{address}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{address} is not a Zarr store that can be read: {error}") from error


def _siblings(path: str) -> list[str]:
    """Names beside a path that are near to its own, whatever they end in."""
    folder, name = os.path.split(path)
    stems: dict[str, list[str]] = {}
    for entry in sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []:
        stems.setdefault(os.path.splitext(entry)[0], []).append(entry)
    return [entry for stem in nearly_meant(os.path.splitext(name)[0], stems) for entry in stems[stem]]
