"""From values to codes and to survivor counts: which coder for which edges.

The contract, here and everywhere: ``code = number of edges e with value >= e``; NaN has NAN_CODE. Few edges are
compared one by one, many are searched by bisection; the results are the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hpv.kernels.cpu.accumulation import Accumulation, Counts
from hpv.kernels.cpu.comparing import make_comparing, make_comparing_counter
from hpv.kernels.cpu.grid import OnGrid, lay_out
from hpv.kernels.cpu.trees import make_trees

# Comparisons of a vector that are still faster than a bisection, by bytes of a key; for float32 on a grid (grid.py).
FEW = {2: 56, 4: 20, 8: 20}
FEW_ON_GRID = 56.0


class Coder(Protocol):
    """Edges of some nodes, laid out for the kernels; made once, used for many blocks."""

    def encode(self, bits: np.ndarray, first: int, codes: np.ndarray) -> None:
        """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""

    def start(self, dtype: np.dtype) -> Accumulation:
        """Empty counts, to which blocks of bits of this dtype can be added."""


def make_coder(edges: np.ndarray, infinity: int) -> Coder:
    """A coder for edge keys (n, k), ascending per node, filled up with the highest integer."""
    if edges.shape[1] <= FEW[edges.itemsize]:
        return make_comparing(edges, infinity)
    return _make_for_many(edges, infinity)


def make_counter(edges: np.ndarray, infinity: int) -> Coder:
    """The same for counting."""
    if edges.shape[1] <= FEW[edges.itemsize]:
        return make_comparing_counter(edges, infinity)
    return _make_for_many(edges, infinity)


def _make_for_many(edges: np.ndarray, infinity: int) -> Coder:
    if edges.itemsize == 4:
        grid = lay_out(edges)
        if grid.cost <= FEW_ON_GRID:
            return OnGrid(grid, infinity)
    return make_trees(edges, infinity)


def count(bits: np.ndarray, first: int, rows: np.ndarray, counter: Coder) -> Counts:
    """Counts of the chosen rows of a C-contiguous block (s, N), nodes ``first : first + n``."""
    state = counter.start(bits.dtype)
    state.add(bits, first, rows)
    return state.finish()
