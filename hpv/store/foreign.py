"""Zarr nodes of any writer: arrays, groups of arrays, and hpv's own activation stores among them."""

from __future__ import annotations

import os
from typing import Any

import zarr

from hpv.base.errors import StoreError
from hpv.store.arrays import StoredArray
from hpv.store.headers import ACTIVATIONS
from hpv.store.reading import Store, check_header, open_node


def is_zarr(source: Any) -> bool:
    """Whether an object is a Zarr array or group."""
    return isinstance(source, (zarr.Array, zarr.Group))


def zarr_layers(source: Any) -> Store | StoredArray | dict[str, StoredArray]:
    """What a path or a Zarr object holds: an activation store of hpv, one array, or all arrays of a group by path."""
    if is_zarr(source):
        node, origin = source, _location(source)
    else:
        node, origin = open_node(source), os.fspath(source)
    if isinstance(node, zarr.Array):
        return StoredArray(node, origin, strict=False)
    header = dict(node.attrs)
    if str(header.get("format", "")).startswith("hpv-"):
        check_header(header, origin, ACTIVATIONS)
        return Store(node, origin)
    members = sorted(node.members(max_depth=None))
    found = {name: StoredArray(item, f"{origin}/{name}", strict=False) for name, item in members if _is_array(item)}
    if not found:
        raise StoreError(f"{origin} is a Zarr group without arrays; give one that holds an array per layer.")
    return found


def _is_array(node: Any) -> bool:
    return isinstance(node, zarr.Array)


def _location(node: zarr.Array | zarr.Group) -> str:
    """As a path where it is one."""
    text = str(node.store_path)
    return text.removeprefix("file://")
