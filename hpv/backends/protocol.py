"""What a processor must be able to do, and what plans must know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from hpv.base.buffers import Buffers
from hpv.base.floats import FloatFormat
from hpv.histograms.counts import LayerCounts

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""Names the GPUs of a process, in the environment."""
CACHED_CODES = 2**20
"""Codes that are looked up while they are still in the caches."""
CODED_SAMPLES = 256
"""Samples that are encoded together."""


def coded_samples(nodes: int) -> int:
    """Samples to encode at a time, so that their codes are still in the caches when they are used."""
    return max(1, CACHED_CODES // max(nodes, 1) // CODED_SAMPLES) * CODED_SAMPLES


class Room(NamedTuple):
    """What a backend needs, and has, for blocks."""

    blocks_under_way: int = 1
    """Blocks that a thread has under way."""
    staged: int = 0
    """Bytes of a copy that it makes of a part of a block that lies in memory already."""
    free: int | None = None
    """Bytes for blocks and tables of all threads where they are worked on; None: it is this process's memory."""


OWN_MEMORY = Room()
"""Blocks are worked on where they were read."""


class Backend(Protocol):
    """Blocks go in, integers come out; the same integers from every backend.

    ``bits`` are C-contiguous blocks (samples, columns) of values viewed as signed integers; the nodes at work begin at
    the column ``first``. Where ``make_buffers().on_device``, they may also be `OnDevice`, and results on that device.
    """

    name: str
    """What users call it."""
    codes_again: bool
    """Whether searching values again for every class is faster than keeping their codes."""

    def make_buffers(self) -> Buffers:
        """Memory that blocks are read into, for threads of one run."""

    def room(self) -> Room:
        """What plans must know of it."""

    def one_caller(self, threads: int) -> AbstractContextManager[int]:
        """How many threads, up to so many, this caller may give meanwhile to calls that take ``threads``.

        1 where other threads may be calling, too: then they share the work by calling.
        """

    def make_counter(self, edges: np.ndarray, float_format: FloatFormat) -> Any:
        """Lay out inner edge keys (n, k) for counting."""

    def start_counts(self, counter: Any, classes: int, float_format: FloatFormat, threads: int = 1) -> Any:
        """An empty accumulator."""

    def add_counts(self, accumulator: Any, bits: np.ndarray, first: int, class_index: np.ndarray) -> None:
        """Count a block; ``class_index`` (samples,) is the class index of every sample."""

    def finish_counts(self, accumulator: Any) -> LayerCounts:
        """What was counted, in plain arrays; all nodes have seen the same samples."""

    def make_coder(self, edges: np.ndarray, float_format: FloatFormat) -> Any:
        """Lay out the edge keys (n, k) for encoding."""

    def encode(self, coder: Any, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
        """Write codes (samples, n)."""

    def make_look_up(self, tables: tuple[np.ndarray, np.ndarray]) -> Any:
        """Lay out pmin and pmax (references, n, entries) for many look-ups."""

    def look_up_ranges(self, codes: np.ndarray, reference: np.ndarray, tables: Any, out: tuple[Any, Any]) -> None:
        """Write pmin and pmax (samples, n) from tables (references, n, entries), laid out or as they are."""

    def make_ranges(self, tables: tuple[np.ndarray, np.ndarray], edges: np.ndarray, float_format: FloatFormat) -> Any:
        """Lay out pmin and pmax (references, n, entries) of nodes with all edge keys (n, k)."""

    def ranges(
        self,
        coder: Any,
        ranges: Any,
        bits: np.ndarray,
        first: int,
        reference: np.ndarray,
        space: Callable[[tuple[int, int]], np.ndarray],
        out: tuple[Any, Any],
        threads: int = 1,
    ) -> None:
        """Write pmin and pmax (samples, n) of values; ``space`` gives memory for codes where they are needed."""

    def make_levels(self, levels: np.ndarray, thresholds: int) -> Any:
        """Lay out levels (references, n, entries); ``thresholds + 1`` stands for no p-value."""

    def make_tallier(
        self, edges: np.ndarray, float_format: FloatFormat, tables: Sequence[np.ndarray], thresholds: int
    ) -> Any | None:
        """Lay out the edge keys (n, k) and levels (references, n, entries) by tail for tallies straight from values.

        None where they are better made by way of codes.
        """

    def tally_values(
        self,
        tallier: Any,
        bits: np.ndarray,
        first: int,
        reference: np.ndarray,
        tallies: Sequence[np.ndarray],
        codes: np.ndarray | None,
    ) -> int | None:
        """Add the nodes of all samples to a tally (samples, thresholds + 2) for each tail; the number of NaN.

        Codes (samples, n) are left behind where they are asked for. None, and nothing is done, where so few samples
        are sooner coded.
        """

    def tally(self, codes: np.ndarray, rows: np.ndarray, reference: np.ndarray, levels: Any, tally: np.ndarray) -> None:
        """Add the nodes of the chosen rows to their tallies (samples, thresholds + 2)."""
