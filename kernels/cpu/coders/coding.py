"""From values to codes and to survivor counts: which coder for which edges.

The contract, here and everywhere: ``code = number of edges e with value >= e``; NaN has NAN_CODE. Few edges are
compared one by one, many are searched by bisection; the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from hpv.kernels.cpu.coders.accumulation import Accumulation, Counts
from hpv.kernels.cpu.coders.comparing import make_comparing, make_comparing_counter
from hpv.kernels.cpu.coders.grid import OnGrid, lay_out
from hpv.kernels.cpu.coders.trees import make_trees
from hpv.kernels.cpu.vectors.registers import looks_up_in_registers
from hpv.kernels.rules import MOST_EDGES


class Limits(NamedTuple):
    """Where the next coder becomes faster (measured)."""

    few: dict[int, int]
    """Most edges that are compared one by one, by bytes of a key."""
    on_grid: int
    """Most comparisons of a vector on a grid, which is for keys of four bytes; beyond that there are trees."""


# With trees in registers, and in memory.
TO_ENCODE = Limits({2: 48, 4: 16, 8: 26}, 56), Limits({2: 120, 4: 16, 8: 26}, 110)
TO_COUNT = Limits({2: 90, 4: 8, 8: 40}, 120), Limits({2: MOST_EDGES, 4: 20, 8: 64}, 150)


class Coder(Protocol):
    """Edges of some nodes, laid out to be encoded at; made once, used for many blocks.

    More than one of the ``threads``: only inside of ``parallel.one_caller``.
    """

    def encode(self, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
        """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""


class Counter(Protocol):
    """Edges of some nodes, laid out to be counted at, as a `Coder` is."""

    def start(self, dtype: np.dtype, threads: int = 1) -> Accumulation:
        """Empty counts, to which blocks of bits of this dtype can be added."""


def make_coder(edges: np.ndarray, infinity: int) -> Coder:
    """A coder for edge keys (n, k), ascending per node, filled up with the highest integer."""
    return _make(edges, infinity, make_comparing, TO_ENCODE)


def make_counter(edges: np.ndarray, infinity: int) -> Counter:
    """The same for counting."""
    return _make(edges, infinity, make_comparing_counter, TO_COUNT)


def _make(
    edges: np.ndarray, infinity: int, comparing: Callable[[np.ndarray, int], Any], limits: tuple[Limits, Limits]
) -> Any:
    few, on_grid = limits[0] if looks_up_in_registers() else limits[1]
    if edges.shape[1] <= few[edges.itemsize]:
        return comparing(edges, infinity)
    if edges.itemsize == 4:
        grid = lay_out(edges)
        if grid.cost <= on_grid:
            return OnGrid(grid, infinity)
    return make_trees(edges, infinity)


def count(bits: np.ndarray, first: int, rows: np.ndarray, counter: Counter, threads: int = 1) -> Counts:
    """Counts of the chosen rows of a C-contiguous block (s, N), nodes ``first : first + n``."""
    state = counter.start(bits.dtype, threads)
    state.add(bits, first, rows)
    return state.finish()
