"""What a processor must be able to do for hpv, and the processors that can; each is imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np

from hpv.buffers import Buffers
from hpv.errors import InputError
from hpv.floats import FloatFormat

WORTH_A_GPU = 2**26
"""Values of this machine's memory or disks, from which on a GPU is used by itself: before, it is not yet warm."""
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""Names the GPUs of a process, in the environment."""
CACHED_CODES = 2**20
"""Codes that are looked up while they are still in the caches."""
CODED_SAMPLES = 256
"""Samples that are encoded together."""


def coded_samples(nodes: int) -> int:
    """Samples whose codes are used before those of the next ones are made."""
    return max(1, CACHED_CODES // max(nodes, 1) // CODED_SAMPLES) * CODED_SAMPLES


class Room(NamedTuple):
    """What a backend needs, and has, for blocks."""

    places: int = 1
    """Blocks that a thread has under way."""
    staged: int = 0
    """Bytes of a copy that it makes of a part of a block that lies in memory already."""
    free: int | None = None
    """Bytes for blocks and tables of all threads where they are worked on; None: it is this process's memory."""


OWN_MEMORY = Room()
"""Blocks are worked on where they were read."""


@dataclass
class Counted:
    """What a set of samples adds to the state of n nodes with k edges and c classes."""

    survivors: np.ndarray
    """Samples at or above each edge (c, n, k), int64."""
    counted: np.ndarray
    """Samples that are not NaN (c, n), int64."""
    lowest: np.ndarray
    """Key of the smallest value (n,); the highest integer where there is none."""
    highest: np.ndarray
    """Key of the largest value (n,); the lowest integer where there is none."""
    seen: np.ndarray
    """Samples that went in (c,), int64: a range that was lost on the way shows here."""

    def add(self, other: Counted) -> None:
        """Take the counts of other samples in."""
        self.survivors += other.survivors
        self.counted += other.counted
        np.minimum(self.lowest, other.lowest, out=self.lowest)
        np.maximum(self.highest, other.highest, out=self.highest)
        self.seen += other.seen


class Backend(Protocol):
    """Blocks go in, integers come out; the same integers from every backend.

    ``bits`` are C-contiguous blocks (samples, columns) of values viewed as signed integers; the nodes at work begin at
    the column ``first``. Where ``make_buffers().on_device``, they may also be `OnDevice`, and results on that device.
    """

    name: str
    """What users call it."""
    codes_again: bool
    """Whether values are sooner searched again for every class than their codes are kept."""

    def make_buffers(self) -> Buffers:
        """Memory that blocks are read into, for threads of one run."""

    def room(self) -> Room:
        """What plans must know of it."""

    def one_caller(self, threads: int) -> AbstractContextManager[int]:
        """How many threads, up to so many, this caller may give meanwhile to calls that take ``threads``.

        1 where other threads may be calling, too: then they share the work by calling.
        """

    def make_counter(self, edges: np.ndarray, form: FloatFormat) -> Any:
        """Lay out inner edge keys (n, k) for counting."""

    def start_counts(self, counter: Any, classes: int, form: FloatFormat, threads: int = 1) -> Any:
        """An empty state."""

    def add_counts(self, accumulator: Any, bits: np.ndarray, first: int, group: np.ndarray) -> None:
        """Count a block; ``group`` (samples,) is the class index of every sample."""

    def finish_counts(self, accumulator: Any) -> Counted:
        """The state as plain arrays."""

    def make_coder(self, edges: np.ndarray, form: FloatFormat) -> Any:
        """Lay out closed edge keys (n, k) for encoding."""

    def encode(self, coder: Any, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
        """Write codes (samples, n)."""

    def make_look_up(self, tables: tuple[np.ndarray, np.ndarray]) -> Any:
        """Lay out pmin and pmax (groups, n, entries) for many look-ups."""

    def look_up_ranges(self, codes: np.ndarray, group: np.ndarray, tables: Any, out: tuple[Any, Any]) -> None:
        """Write pmin and pmax (samples, n) from tables (groups, n, entries), laid out or as they are."""

    def make_ranges(self, tables: tuple[np.ndarray, np.ndarray], edges: np.ndarray, form: FloatFormat) -> Any:
        """Lay out pmin and pmax (groups, n, entries) of nodes with closed edge keys (n, k)."""

    def ranges(
        self,
        coder: Any,
        ranges: Any,
        bits: np.ndarray,
        first: int,
        group: np.ndarray,
        space: Callable[[tuple[int, int]], np.ndarray],
        out: tuple[Any, Any],
        threads: int = 1,
    ) -> None:
        """Write pmin and pmax (samples, n) of values; ``space`` gives memory for codes where they are needed."""

    def make_levels(self, levels: np.ndarray, thresholds: int) -> Any:
        """Lay out levels (groups, n, entries); ``thresholds + 1`` stands for no p-value."""

    def make_tallier(
        self, edges: np.ndarray, form: FloatFormat, tables: Sequence[np.ndarray], thresholds: int
    ) -> Any | None:
        """Lay out closed edge keys (n, k) and levels (groups, n, entries) by tail for tallies straight from values.

        None where they are better made by way of codes.
        """

    def tally_values(
        self,
        tallier: Any,
        bits: np.ndarray,
        first: int,
        group: np.ndarray,
        tallies: Sequence[np.ndarray],
        codes: np.ndarray | None,
    ) -> int | None:
        """Add the nodes of all samples to a tally (samples, thresholds + 2) for each tail; the number of NaN.

        Codes (samples, n) are left behind where they are asked for. None, and nothing is done, where so few samples
        are sooner coded.
        """

    def tally(self, codes: np.ndarray, rows: np.ndarray, group: np.ndarray, levels: Any, tally: np.ndarray) -> None:
        """Add the nodes of the chosen rows to their tallies (samples, thresholds + 2)."""


def get_backend(name: str = "auto", values: int = 0, on_device: bool = False) -> Backend:
    """The backend of this name; ``InputError`` if it is not there.

    ``auto``: that of the device where the activations are; for those of this machine the GPU, if there is one and
    ``values`` are so many that it pays, else the CPU.
    """
    check_name(name)
    if name == "auto":
        name = "cuda" if on_device or (values >= WORTH_A_GPU and _has_gpu()) else "cpu"
    if name == "cpu":
        from hpv.backends import cpu

        return cpu
    from hpv.backends import cuda

    cuda.check()
    return cuda


def check_name(name: str) -> None:
    """``InputError`` for what is the name of no backend."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"backend={name!r}: give auto, cpu or cuda.")


def missing(name: str) -> str | None:
    """What a backend lacks here, and the next step; None where it can work, as ``auto`` always can."""
    if name != "cuda":
        return None
    from hpv.backends import cuda

    return cuda.missing()


def gpus_for(name: str) -> list[str]:
    """GPUs of this machine that `get_backend` would use for much data, as CUDA_VISIBLE_DEVICES names them."""
    if get_backend(name, WORTH_A_GPU).name == "cpu":
        return []
    from hpv.backends import gpu

    return gpu.visible()


def _has_gpu() -> bool:
    """Whether ``backend="cuda"`` would work; asks the driver only where the package for it is installed."""
    return find_spec("numba_cuda") is not None and missing("cuda") is None
