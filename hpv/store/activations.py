"""The activation store: one array (samples, nodes) per layer, labels and ids, written as they come."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpv.errors import DataError, InputError, StoreError
from hpv.floats import BFLOAT16, FORMATS, FloatFormat
from hpv.resources import quantity
from hpv.store.arrays import STRINGS, StoredArray
from hpv.store.names import escape
from hpv.store.output import Output
from hpv.store.reading import ACTIVATIONS, Store

LABELS, IDS = "labels", "ids"
_CHUNK_BYTES = 4 << 20
_MOST_NODES = 1 << 14
_ROWS = (64, 4096)


@dataclass(frozen=True)
class LayerEntry:
    """What the root's attributes say of one layer."""

    name: str
    nodes: int
    form: FloatFormat
    notes: Mapping[str, Any]
    """Such as the shape it had before its nodes were laid out in a row."""

    @property
    def array(self) -> str:
        """Path of its array."""
        return f"layers/{escape(self.name)}"


def activation_chunks(nodes: int, itemsize: int) -> tuple[int, int]:
    """Samples and nodes of a chunk: about 4 MiB, whole rows up to 16,384 nodes, a power of two of samples.

    At least 64 samples, the length of a pilot's runs, so that a pilot reads little more than it needs; at most 4,096.
    """
    columns = min(nodes, _MOST_NODES)
    rows = _CHUNK_BYTES // (columns * itemsize)
    power = 1 << max(rows, 1).bit_length() - 1
    return min(max(power, _ROWS[0]), _ROWS[1]), columns


class ActivationWriter:
    """Appends samples to an ``Output`` of kind ``ACTIVATIONS``, a chunk at a time.

    A continued output begins at sample ``durable``: what is appended first must be that sample.
    """

    def __init__(
        self,
        output: Output,
        layers: Mapping[str, tuple[int, FloatFormat]],
        *,
        labels: bool = False,
        ids: bool = False,
        notes: Mapping[str, Mapping[str, Any]] | None = None,
        seconds: float = math.inf,
    ) -> None:
        """``layers``: number of nodes and float format by name; ``notes``: more to keep by layer name.

        ``seconds`` go by between two times that all that was appended is made durable.
        """
        if not layers:
            raise InputError("There is no layer to store; name at least one.")
        self.entries = [LayerEntry(name, *size, (notes or {}).get(name, {})) for name, size in layers.items()]
        self._output, self._seconds = output, seconds
        self._saved = time.monotonic()
        self.durable = int(output.progress.get("stored", 0))
        """Samples that survive a kill."""
        self.samples = self.durable
        """Samples appended so far, those of earlier runs included."""
        self._columns: dict[str, _Column] = {}
        for entry in self.entries:
            chunks = activation_chunks(entry.nodes, entry.form.storage.itemsize)
            marks = {"float_format": entry.form.name} if entry.form is BFLOAT16 else {}
            output.create(entry.array, (0, entry.nodes), entry.form.storage, chunks, ("samples", "nodes"), marks)
            self._columns[entry.array] = _Column(output, entry.array, chunks[0], self.durable)
        for name, dtype in ((LABELS, np.dtype("i8")), (IDS, STRINGS)):
            if labels if name == LABELS else ids:
                output.create(name, (0,), dtype, (_ROWS[1],), ("samples",))
                self._columns[name] = _Column(output, name, _ROWS[1], self.durable)

    def append(
        self, blocks: Mapping[str, np.ndarray], labels: np.ndarray | None = None, ids: Sequence[str] | None = None
    ) -> None:
        """Some samples of every layer: arrays (samples, nodes) in the formats' storage."""
        given: dict[str, Any] = {entry.array: blocks[entry.name] for entry in self.entries}
        given |= {} if labels is None else {LABELS: labels}
        given |= {} if ids is None else {IDS: np.asarray(ids, np.dtypes.StringDType())}
        counts = {name: len(rows) for name, rows in given.items()}
        if given.keys() != self._columns.keys() or len(set(counts.values())) != 1:
            raise ValueError(f"every array needs the same samples, got {counts}")
        for name, column in self._columns.items():
            column.append(given[name])
        self.samples += next(iter(counts.values()))
        if time.monotonic() - self._saved >= self._seconds:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make all that was appended durable, chunks that are not full yet as well. Called between two appends."""
        self._write_waiting()
        self._output.checkpoint({"stored": self.samples})
        self.durable, self._saved = self.samples, time.monotonic()

    def read(self, layer: str, samples: slice) -> np.ndarray:
        """Samples below ``durable`` as they were stored."""
        entry = next(entry for entry in self.entries if entry.name == layer)
        return self._output.read(entry.array, (samples,))

    def finish(self, attributes: Mapping[str, Any] | None = None) -> Path | str:
        """Write what is left, and declare the store complete."""
        if self.samples == 0:
            raise InputError("There was no sample to store; check that the batches are not empty.")
        for column in self._columns.values():
            column.cut(self.samples)
        self._write_waiting()
        listed = [
            {**entry.notes, "name": entry.name, "array": entry.array, "nodes": entry.nodes, "dtype": entry.form.name}
            for entry in self.entries
        ]
        return self._output.finish({**(attributes or {}), "samples": self.samples, "layers": listed})

    def _write_waiting(self) -> None:
        for name, column in self._columns.items():
            column.write()
            if column.stored != self.samples:
                raise DataError(
                    f"{self._output.path}: {name} holds {column.stored} of {quantity(self.samples, 'sample')}; part "
                    "of the work was lost; begin anew with overwrite=True."
                )


class _Column:
    """Collects the rows of one array until they fill a chunk."""

    def __init__(self, output: Output, name: str, rows: int, stored: int) -> None:
        self._output, self._name, self._rows = output, name, rows
        self._first = stored // rows * rows
        """Row where the chunk begins that is not full yet."""
        # What a chunk holds is replaced as a whole: it is collected again.
        self._waiting = [output.read(name, slice(self._first, stored))] if stored > self._first else []

    @property
    def stored(self) -> int:
        """Rows that came in, all of them in the store after ``write``."""
        return self._first + sum(map(len, self._waiting))

    def append(self, block: np.ndarray) -> None:
        """More rows, in order."""
        while len(block):
            part = block[: self._first + self._rows - self.stored]
            # A copy: the caller may use its buffer again before the chunk is full.
            self._waiting.append(part if len(part) == self._rows else part.copy())
            block = block[len(part) :]
            if self.stored == self._first + self._rows:
                self.write()
                self._first, self._waiting = self.stored, []

    def write(self) -> None:
        """Put what is collected in its place."""
        if not self._waiting:
            return
        length, *rest = self._output.shape(self._name)
        if self.stored > length:
            self._output.resize(self._name, (max(self.stored, 2 * length), *rest))
        rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._output.write(self._name, (slice(self._first, self.stored),), rows)

    def cut(self, length: int) -> None:
        """The array's length; first, so that nothing that a killed run left beyond it stays in its last chunk."""
        self._output.resize(self._name, (length, *self._output.shape(self._name)[1:]))


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
        if array.shape != (self.samples, entry.nodes) or array.dtype != entry.form.storage:
            raise StoreError(
                f"{self.store.path}: layer {entry.name} has shape {array.shape} and dtype {array.dtype}, its "
                f"attributes say {(self.samples, entry.nodes)} and {entry.form}; make the store again."
            )
        return array

    def labels(self) -> np.ndarray | None:
        """One int64 per sample, or None."""
        return self.store.array(LABELS).read() if LABELS in self.store else None

    def ids(self) -> list[str] | None:
        """One string per sample, or None."""
        return [str(name) for name in self.store.array(IDS).read()] if IDS in self.store else None


def save_activations(
    path: str | os.PathLike[str],
    layers: Mapping[str, np.ndarray],
    *,
    labels: np.ndarray | None = None,
    ids: Sequence[str] | None = None,
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path | str:
    """Store arrays (samples, nodes) that are in memory, of float16, float32 or float64."""
    forms = {name: (values.shape[1], FORMATS[values.dtype.name]) for name, values in layers.items()}
    request = {"layers": {name: [list(values.shape), values.dtype.name] for name, values in layers.items()}}
    with Output.begin(path, ACTIVATIONS, request, overwrite=overwrite) as output:
        if output.already_complete:
            return output.path
        writer = ActivationWriter(output, forms, labels=labels is not None, ids=ids is not None)
        start = slice(writer.durable, None)
        writer.append(
            {name: values[start] for name, values in layers.items()},
            None if labels is None else labels[start],
            None if ids is None else ids[start],
        )
        return writer.finish(attributes)
