"""Counts on their way, whatever the coder: small counters, emptied into wide ones before they can overflow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpv.kernels.cpu.parallel import borders
from hpv.kernels.cpu.vectors.lanes import aligned
from hpv.kernels.cpu.vectors.tiles import GROUP
from hpv.kernels.rules import COUNT

# Counters of 16 bits are emptied after so many rows, whole groups of them: what fills a group up is counted as NaN.
MOST_ROWS = 511 * GROUP


class Counts(NamedTuple):
    """What a set of samples adds to the state of n nodes."""

    survivors: np.ndarray
    """Samples at or above each edge (n, k), int64."""
    counted: np.ndarray
    """Samples that are not NaN (n,), int64."""
    lowest: np.ndarray
    """Key of the smallest value (n,); the highest integer where none was counted."""
    highest: np.ndarray
    """Key of the largest value (n,); the lowest integer where none was counted."""


class Accumulation:
    """Counts of n nodes that are being added up, in the layout of a coder's kernels."""

    def __init__(self, nodes: int, edges: int, dtype: np.dtype, width: int, threads: int) -> None:
        """``width``: nodes with room, as the kernels want them. What threads write is apart, their number first."""
        self.threads = threads
        self.survivors = np.zeros((nodes, edges), COUNT)
        self.counted = np.zeros(nodes, COUNT)
        self.lowest = aligned((threads, width), dtype, np.iinfo(dtype).max)
        self.highest = aligned((threads, width), dtype, np.iinfo(dtype).min)
        self.rows = 0
        """Rows since the small counters were emptied."""

    def add(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        """Count the chosen rows of a C-contiguous block (s, N), nodes ``first : first + n``."""
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            height = -(-len(part) // GROUP) * GROUP
            if self.rows + height > MOST_ROWS:
                self.empty()
                self.rows = 0
            self.rows += height
            self.add_few(bits, first, part)

    def finish(self) -> Counts:
        """The counts of all that was added."""
        self.empty()
        lowest, highest = self.extremes()
        nodes = len(self.survivors)
        return Counts(self.survivors, self.counted, lowest[:nodes], highest[:nodes])

    def add_few(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        """Count so few rows that the small counters cannot overflow."""
        raise NotImplementedError

    def empty(self) -> None:
        """Take what the small counters hold into the survivors and the numbers counted."""
        raise NotImplementedError

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest keys; the lowest was kept as key - 1."""
        with np.errstate(over="ignore"):
            lowest = self.lowest.min(axis=0) + self.lowest.dtype.type(1)
        lowest[lowest == np.iinfo(lowest.dtype).min] = np.iinfo(lowest.dtype).max
        return lowest, self.highest.max(axis=0)

    def borders(self, rows: np.ndarray, step: int) -> np.ndarray:
        """Where the parts of the threads begin and end in rows that were filled up to whole steps."""
        return borders(len(rows), self.threads, step)
