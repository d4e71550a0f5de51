"""Dask arrays, computed block by block where they are read."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np

from hpv.activations.array_backed import ArrayBacked
from hpv.activations.layers import Layer
from hpv.base.floats import FloatFormat, format_of
from hpv.base.slices import cut_at_multiples

LARGEST_COMPUTED = 4 << 20
"""Bytes of a Dask array that are computed at once, unless a chunk has more."""


def layer_of(name: str, source: Any, origin: str) -> Layer | None:
    """A Dask array as a layer; None for anything else."""
    if type(source).__module__.partition(".")[0] != "dask" or not hasattr(source, "dask"):
        return None
    return DaskLayer(name, origin, source, format_of(source.dtype, origin)) if hasattr(source, "chunks") else None


class DaskLayer(ArrayBacked):
    """A Dask array, computed block by block in the thread that reads; what is persisted is fetched from the cluster."""

    def __init__(self, name: str, origin: str, array: Any, float_format: FloatFormat) -> None:
        super().__init__(name, origin, array, float_format)
        distributed = sys.modules.get("distributed")
        self.is_portable = distributed is None or not distributed.futures_of(array)

    def part(self, rows: slice) -> Layer:
        """Consecutive samples, with only their share of the graph."""
        (array,) = sys.modules["dask"].optimize(self._array[rows])
        return DaskLayer(self.name, self.origin, array, self.float_format)

    @property
    def chunks(self) -> tuple[int, int] | None:
        """The largest along each dimension."""
        rows, columns = self._largest
        return rows, min(columns * self._inner, self.shape[1])

    @property
    def reads_whole(self) -> bool:
        """What is asked for of a chunk does not spare computing it."""
        return True

    def scratch(self, rows: int) -> int:
        """Measured: what is computed at once and a copy of it, and twice a chunk. What its graph holds is not known."""
        itemsize = self.float_format.storage.itemsize
        chunk, whole = math.prod(self._largest) * self._inner * itemsize, math.prod(self.shape) * itemsize
        return 2 * (min(max(chunk, LARGEST_COMPUTED), whole) + chunk)

    @property
    def identity(self) -> dict[str, Any]:
        """With the name of the graph, which is made of what it computes."""
        return {**super().identity, "name": str(self._array.name)}

    @property
    def _largest(self) -> tuple[int, int]:
        """Shape of the largest chunks, in the first two dimensions."""
        rows, columns = (max(sizes) for sizes in self._array.chunks[:2])
        return rows, columns

    def _block(self, selection: tuple[slice, slice], out: np.ndarray | None) -> np.ndarray:
        sizes = tuple(side.stop - side.start for side in selection) + self._full_shape[2:]
        if out is None or out.shape != sizes:
            out = np.empty(sizes, self.float_format.storage)
        parts = [list[slice]([side]) for side in selection]
        if out.nbytes > LARGEST_COMPUTED:
            parts = [cut_at_multiples(side, step) for side, step in zip(selection, self._largest, strict=True)]
        for rows, columns in itertools.product(*parts):
            inside = tuple(
                slice(part.start - side.start, part.stop - side.start)
                for part, side in zip((rows, columns), selection, strict=True)
            )
            # The caller decides what runs at the same time.
            out[inside] = self._array[rows, columns].compute(scheduler="synchronous" if self.is_portable else None)
        return out
