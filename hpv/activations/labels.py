"""One class per sample, checked; read and counted a piece at a time, so that many samples take little memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.base.errors import InputError
from hpv.base.slices import steps
from hpv.base.words import quantity

PIECE = 2**20
"""Samples whose labels are looked at together."""


@dataclass(frozen=True)
class PerSample:
    """A small number for every sample: the index of its class, or which counts answer for it."""

    numbers: np.ndarray | None
    """(s,), int32; None where every sample has 0, which then takes no memory."""

    def of(self, rows: slice) -> np.ndarray:
        """Those of some of the samples (s,), int64."""
        if self.numbers is None:
            return np.zeros(rows.stop - rows.start, np.int64)
        return self.numbers[rows].astype(np.int64)

    def part(self, rows: slice) -> PerSample:
        """The same for some of the samples."""
        return PerSample(None if self.numbers is None else self.numbers[rows])

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return 0 if self.numbers is None else self.numbers.nbytes


def check_labels(labels: Any, samples: int) -> np.ndarray:
    """One class per sample, int64: a whole number from 0 on."""
    return np.concatenate([np.empty(0, np.int64), *(piece for _, piece in label_pieces(labels, samples))])


def label_pieces(labels: Any, samples: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The same piece by piece, each with its samples; of what lies in a store no more is read at once."""
    array = labels if hasattr(labels, "shape") and hasattr(labels, "dtype") else np.asarray(labels)
    if tuple(array.shape) != (samples,):
        raise InputError(
            f"labels: shape {tuple(array.shape)} for {quantity(samples, 'sample')}; give one integer per sample."
        )
    for rows in steps(samples, PIECE):
        piece = np.asarray(array[rows])
        if piece.dtype.kind not in "iu":
            raise InputError(f"labels: dtype {piece.dtype}; give integers.")
        if not (0 <= int(piece.min()) and int(piece.max()) < 2**31):
            raise InputError(f"labels: from {piece.min()} to {piece.max()}; give numbers from 0 to 2**31 - 1.")
        yield rows, piece.astype(np.int64)


def class_indices(labels: Any, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes that there are, ascending (c,), int64, and for each sample the index of its own (s,), int32."""
    found = [np.unique(piece) for _, piece in label_pieces(labels, samples)]
    classes, index = np.unique(np.concatenate(found)), np.empty(samples, np.int32)
    for rows, piece in label_pieces(labels, samples):
        index[rows] = np.searchsorted(classes, piece)
    return classes, index
