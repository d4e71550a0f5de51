"""Activation stores are written range by range, while a model runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpv.activations import stored
from hpv.activations.stored import IDS, LABELS, LayerEntry, activation_chunks
from hpv.base.errors import DataError, InputError
from hpv.base.floats import BFLOAT16, FORMATS, FloatFormat
from hpv.base.keeping import Every
from hpv.base.words import quantity
from hpv.store.creating import STRINGS
from hpv.store.headers import ACTIVATIONS
from hpv.store.output import Output


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
        self._output, self._every = output, Every(seconds)
        self.durable = int(output.progress.get("stored", 0))
        """Samples that survive a kill."""
        self.samples = self.durable
        """Samples appended so far, those of earlier runs included."""
        self._columns: dict[str, _Column] = {}
        for entry in self.entries:
            chunks = activation_chunks(entry.nodes, entry.float_format.storage.itemsize)
            marks = {"float_format": entry.float_format.name} if entry.float_format is BFLOAT16 else {}
            output.create(
                entry.array, (0, entry.nodes), entry.float_format.storage, chunks, ("samples", "nodes"), marks
            )
            self._columns[entry.array] = _Column(output, entry.array, chunks[0], self.durable)
        for name, dtype in ((LABELS, np.dtype("i8")), (IDS, STRINGS)):
            if labels if name == LABELS else ids:
                output.create(name, (0,), dtype, (stored.CHUNK_ROWS[1],), ("samples",))
                self._columns[name] = _Column(output, name, stored.CHUNK_ROWS[1], self.durable)

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
        if self._every.due():
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make all that was appended durable, chunks that are not full yet as well. Called between two appends."""
        self._write_waiting()
        self._output.checkpoint({"stored": self.samples})
        self.durable = self.samples
        self._every.done()

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
            {
                **entry.notes,
                "name": entry.name,
                "array": entry.array,
                "nodes": entry.nodes,
                "dtype": entry.float_format.name,
            }
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
