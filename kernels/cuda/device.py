"""Numba's CUDA, imported here and nowhere else, and how kernels are compiled for it and launched.

A kernel is a plain function until it is first launched, so that it can also be compiled where no device is at hand.
Kernels of one family differ in constants (how many edges, how many columns), which they know when they are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from threading import Lock
from typing import Any

from numba import config, cuda, types
from numba.extending import intrinsic, register_jitable

from hpv.kernels import rules

__all__ = [
    "SIMULATED",
    "Kernel",
    "block_columns",
    "cuda",
    "inlined",
    "intrinsic",
    "is_nan",
    "key_of_number",
    "reaches",
    "spread",
    "vector",
]

SIMULATED = bool(config.ENABLE_CUDASIM)
"""Whether kernels are run by Python on the CPU, about a hundred microseconds a thread."""

# The simulator hands the place in the grid to a kernel by way of its module: one kernel at a time.
_SIMULATOR: AbstractContextManager[Any] = Lock() if SIMULATED else nullcontext()

# A warp's lanes take columns side by side, so that what they read lies side by side; rows of lanes take turns.
LANES = 4 if SIMULATED else 32
THREADS = 8 if SIMULATED else 256
# Static shared memory of a block.
SHARED_BYTES = 48 * 1024
# Blocks that keep a large device busy, several times over, and rows that are worth the loading of the edges.
BLOCKS = 4 if SIMULATED else 4096
FEWEST_ROWS = 8 if SIMULATED else 256
MOST_ROWS = 2**20

# Few blocks are what a small input needs.
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0

inlined = register_jitable
"""Marks a plain function that kernels call; the CPU's compiled functions and Python may call it too."""
is_nan = inlined(rules.is_nan)
key_of_number = inlined(rules.key_of_number)
reaches = inlined(rules.reaches)


def vector(item: Any) -> types.Array:
    """The type of a C-contiguous array, which kernels see as one row of items."""
    return types.Array(item, 1, "C")


class Kernel:
    """A function for a grid of blocks of threads, compiled when it is first launched."""

    def __init__(
        self, function: Callable[..., None], arguments: tuple[Any, ...], threads: tuple[int, int], blocks: int = 1
    ) -> None:
        """``arguments``: Numba's types of what the function is given; ``threads``: columns and rows of a block.

        ``blocks`` are to run beside one another; the compiler shares out the registers.
        """
        self.function = function
        self.arguments = arguments
        self.threads = threads
        self.bounds = threads[0] * threads[1], blocks

    @cached_property
    def _compiled(self) -> Any:
        if SIMULATED:
            return cuda.jit(self.function)
        # Not kept on disk: numba-cuda knows a function with constants by a hash that every process has anew.
        return cuda.jit(self.function, launch_bounds=self.bounds)

    def launch(self, grid: tuple[int, int], stream: Any, *arguments: Any) -> None:
        """Run on the arguments, arrays of any number of dimensions among them; returns before it is done."""
        if 0 in grid:
            return
        with _SIMULATOR:
            self._launch(grid, stream, *arguments)

    def _launch(self, grid: tuple[int, int], stream: Any, *arguments: Any) -> None:
        flat = [one if isinstance(one, int) else one.reshape(one.size) for one in arguments]
        self._compiled[grid, self.threads, stream](*flat)


def block_columns(bytes_per_column: int) -> int:
    """Columns of a block whose tables fit into shared memory."""
    columns = LANES
    while columns * bytes_per_column > SHARED_BYTES:
        columns //= 2
    return columns


def spread(samples: int, column_blocks: int) -> tuple[int, int]:
    """How many blocks share the rows of a column block, and how many rows each of them takes."""
    parts = -(-BLOCKS // max(column_blocks, 1))
    height = min(max(-(-samples // parts), FEWEST_ROWS, -(-samples // 65_535)), MOST_ROWS)
    return -(-samples // height), height
