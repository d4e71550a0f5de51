"""Activations in Zarr: single arrays, groups of others, and hpv's own activation stores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpv.activations.array_backed import ArrayBacked
from hpv.activations.layers import BARE, Activations, Layer
from hpv.base.addresses import absolute_path
from hpv.base.errors import DataError, StoreError
from hpv.base.floats import BFLOAT16, FORMATS, FloatFormat, format_of
from hpv.places.names import escape

if TYPE_CHECKING:
    from hpv.store.arrays import StoredArray
    from hpv.store.reading import Store


class StoredLayer(ArrayBacked):
    """A Zarr array."""

    def __init__(
        self, name: str, origin: str, array: StoredArray, float_format: FloatFormat, store: dict[str, Any] | None = None
    ) -> None:
        super().__init__(name, origin, array, float_format)
        self._stored = array
        self.is_portable = array.is_portable
        self._store = store or {"path": absolute_path(origin)}

    @property
    def chunks(self) -> tuple[int, int] | None:
        rows, columns = self._stored.chunks[:2]
        return rows, min(columns * self._inner, self.shape[1])

    @property
    def reads_whole(self) -> bool:
        return self._stored.reads_whole

    def scratch(self, rows: int) -> int:
        return self._stored.scratch(rows)

    @property
    def missing_chunks(self) -> int:
        """Chunks that are read as the fill value."""
        return self._stored.missing_chunks

    @property
    def identity(self) -> dict[str, Any]:
        """With the store."""
        return {**super().identity, **self._store}

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        sizes = tuple(side.stop - side.start for side in selection) + self._full_shape[2:]
        fits = out is not None and out.shape == sizes
        try:
            return self._stored.read(selection, out if fits else np.empty(sizes, self.float_format.storage))
        except DataError as error:
            raise DataError(f"layer {self.name}: {error}") from error


def activations_of(source: Any) -> Activations | None:
    """Layers of a path of a Zarr store, or of an object of Zarr; None for anything else."""
    if not isinstance(source, (str, os.PathLike)) and not type(source).__module__.startswith("zarr."):
        return None
    from hpv.store import foreign

    found = foreign.zarr_layers(source)
    if isinstance(found, foreign.Store):
        return _of_store(ActivationStore(found))
    if isinstance(found, foreign.StoredArray):
        return Activations({BARE: _of_array(BARE, found)}, None, None, {}, False)
    return Activations({name: _of_array(name, array) for name, array in found.items()}, None, None, {}, True)


def _of_array(name: str, array: StoredArray) -> Layer:
    """A Zarr array as a layer; one of unsigned integers may be marked as bfloat16."""
    marked = array.attributes.get("float_format")
    float_format = BFLOAT16 if marked == BFLOAT16.name and array.dtype == BFLOAT16.storage else None
    return StoredLayer(name, array.origin, array, float_format or format_of(array.dtype, _what(name, array.origin)))


def _of_store(store: ActivationStore) -> Activations:
    """All layers of an activation store, with their labels and ids."""
    path = store.store.path
    layers: dict[str, Layer] = {}
    for entry in store.entries:
        origin = f"{path}: layer {entry.name}"
        note = {"path": absolute_path(path), "store": store.store.id}
        layers[entry.name] = StoredLayer(entry.name, origin, store.layer(entry), entry.float_format, note)
    return Activations(layers, store.labels(), store.ids(), store.store.attributes, True)


def _what(name: str, origin: str) -> str:
    return origin if name == BARE else f"{origin}: layer {name}"


LABELS, IDS = "labels", "ids"
_CHUNK_BYTES = 4 << 20
_MOST_NODES = 1 << 14
CHUNK_ROWS = (64, 4096)


@dataclass(frozen=True)
class LayerEntry:
    """What the root's attributes say of one layer."""

    name: str
    nodes: int
    float_format: FloatFormat
    notes: Mapping[str, Any]
    """Such as the shape it had before its nodes were laid out in a row."""

    @property
    def array(self) -> str:
        """Path of its array."""
        return f"layers/{escape(self.name)}"


class ActivationStore:
    """A complete activation store: its layers in the order in which they were captured, labels, ids."""

    def __init__(self, store: Store) -> None:
        self.store = store
        listed = store.attributes.get("layers")
        if not isinstance(listed, list) or not listed:
            raise StoreError(f"{store.path}: its attributes list no layers; make it again.")
        self.entries = [
            LayerEntry(str(item["name"]), int(item["nodes"]), FORMATS[item["dtype"]], item) for item in listed
        ]
        self.samples = int(store.attributes["samples"])

    def layer(self, entry: LayerEntry) -> StoredArray:
        """The array (samples, nodes) of a layer."""
        array = self.store.array(entry.array)
        if array.shape != (self.samples, entry.nodes) or array.dtype != entry.float_format.storage:
            raise StoreError(
                f"{self.store.path}: layer {entry.name} has shape {array.shape} and dtype {array.dtype}, its "
                f"attributes say {(self.samples, entry.nodes)} and {entry.float_format}; make the store again."
            )
        return array

    def labels(self) -> StoredArray | None:
        """One int64 per sample, or None."""
        return self.store.array(LABELS) if LABELS in self.store else None

    def ids(self) -> StoredArray | None:
        """One string per sample, or None."""
        return self.store.array(IDS) if IDS in self.store else None


def activation_chunks(nodes: int, itemsize: int) -> tuple[int, int]:
    """Samples and nodes of a chunk: about 4 MiB, whole rows up to 16,384 nodes, a power of two of samples.

    At least 64 samples, the length of a pilot's runs, so that a pilot reads little more than it needs; at most 4,096.
    """
    columns = min(nodes, _MOST_NODES)
    rows = _CHUNK_BYTES // (columns * itemsize)
    power = 1 << max(rows, 1).bit_length() - 1
    return min(max(power, CHUNK_ROWS[0]), CHUNK_ROWS[1]), columns
