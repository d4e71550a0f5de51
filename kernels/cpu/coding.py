"""From values to codes and to survivor counts.

The contract, here and everywhere: ``code = number of edges e with value >= e``; NaN has MISSING_CODE.
Few edges are compared one by one, many are searched by bisection; the results are the same.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges, l = lanes, b = ceil(n / l),
t = items of a search tree. Packed edges have their lanes innermost, so that those of the nodes at work lie side by
side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.grid import Grid, collect, count_grid, encode_grid, lay_out
from hpv.kernels.cpu.lanes import (
    LANE_BYTES,
    ROWS,
    add_reached,
    aligned,
    count_reached,
    keep_highest,
    keep_lowest,
    load_keys,
    load_lanes,
    no_codes,
    store_codes,
    store_lanes,
)
from hpv.kernels.cpu.searching import GROUP, tree_vectors
from hpv.kernels.cpu.tiles import STREAMED_CODES, count_many, counts_reached, encode_many, space_of_thread

# Comparisons of a vector that are still faster than a bisection, by bytes of a key; for float32 on a grid (grid.py).
FEW = {2: 56, 4: 20, 8: 20}
FEW_ON_GRID = 56.0
# Depths of search trees: a kernel is compiled for each depth that is used.
DEPTHS = (6, 7, 8)
# Counters of 16 bits are emptied after so many rows, whole groups of them: what fills a group up is counted as NaN.
MOST_ROWS = 511 * GROUP


class Coder(NamedTuple):
    """Edges of some nodes, laid out for the kernels; made once, used for many blocks."""

    table: np.ndarray
    """Edge keys, packed (b, k, l) or as search trees (n, t); empty where there is a grid."""
    levels: tuple[int, ...]
    """0, 1, ... up to the depth of the search trees; empty where edges are compared."""
    grid: Grid | None
    """Edges of float32 that are mostly compared as 16-bit cells."""
    nodes: int
    edges: int
    """Edges per node, unused ones included."""
    infinity: int
    """Key of +inf in the format of the values."""


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


def make_coder(edges: np.ndarray, infinity: int) -> Coder:
    """A coder for edge keys (n, k), ascending per node, filled up with the highest integer."""
    n, k = edges.shape
    if k <= FEW[edges.itemsize]:
        return Coder(pack_edges(edges), (), None, n, k, infinity)
    if edges.itemsize == 4:
        grid = lay_out(edges)
        if grid.cost <= FEW_ON_GRID:
            return Coder(edges[:0], (), grid, n, k, infinity)
    return Coder(*plant_trees(edges), None, n, k, infinity)


def make_counter(edges: np.ndarray, infinity: int) -> Coder:
    """The same for counting: below few edges stands -inf, whose survivors are all values but NaN."""
    n, k = edges.shape
    if k > FEW[edges.itemsize]:
        return make_coder(edges, infinity)
    lowest = np.full((n, 1), -infinity, edges.dtype)
    return Coder(pack_edges(np.concatenate([lowest, edges], axis=1)), (), None, n, k, infinity)


def encode(bits: np.ndarray, first: int, coder: Coder, codes: np.ndarray) -> None:
    """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""
    if coder.grid is not None:
        encode_grid(bits, first, coder.grid.arrays, coder.infinity, codes)
    elif not coder.levels:
        encode_few(bits, first, coder.table, coder.infinity, codes)
    else:
        rows = padded_rows(np.arange(len(bits)), GROUP)
        start = line_start(codes) if codes.nbytes > STREAMED_CODES else -1
        what, space = (coder.table, coder.levels, coder.infinity), space_of_thread(bits.dtype)
        encode_many(bits, first, rows, *what, space, codes, start)


def count(bits: np.ndarray, first: int, rows: np.ndarray, counter: Coder) -> Counts:
    """Counts of the chosen rows of a C-contiguous block (s, N), nodes ``first : first + n``."""
    state = start_counts(counter, bits.dtype)
    state.add(bits, first, rows)
    return state.finish()


def start_counts(counter: Coder, dtype: np.dtype) -> Accumulation:
    """An empty state, to which blocks of bits of this dtype can be added."""
    if counter.grid is not None:
        return _OnGrid(counter, dtype)
    return _ByTree(counter, dtype) if counter.levels else _OneByOne(counter, dtype)


class Accumulation:
    """Counts that are being added up, in the layout of the kernels."""

    def __init__(self, counter: Coder, dtype: np.dtype, width: int) -> None:
        """``width``: nodes with room, as the kernels want them."""
        self.counter = counter
        self.survivors = np.zeros((counter.nodes, counter.edges), np.int64)
        self.lowest = aligned((width,), dtype, np.iinfo(dtype).max)
        self.highest = aligned((width,), dtype, np.iinfo(dtype).min)
        self.rows = 0
        """Rows since the small counters were emptied."""

    def add(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        """Count the chosen rows of a C-contiguous block (s, N), nodes ``first : first + n``."""
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            height = -(-len(part) // GROUP) * GROUP
            if self.rows + height > MOST_ROWS:
                self._empty()
                self.rows = 0
            self.rows += height
            self._add(bits, first, part)

    def finish(self) -> Counts:
        """The counts of all that was added."""
        self._empty()
        lowest, highest = self._extremes()
        nodes = self.counter.nodes
        return Counts(self.survivors, self._counted(), lowest[:nodes], highest[:nodes])

    def _extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest keys; the lowest was kept as key - 1."""
        with np.errstate(over="ignore"):
            lowest = self.lowest + self.lowest.dtype.type(1)
        lowest[lowest == np.iinfo(lowest.dtype).min] = np.iinfo(lowest.dtype).max
        return lowest, self.highest

    def _add(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        raise NotImplementedError

    def _empty(self) -> None:
        """Take what small counters hold into the survivors."""

    def _counted(self) -> np.ndarray:
        raise NotImplementedError


class _OneByOne(Accumulation):
    """A comparison per edge."""

    def __init__(self, counter: Coder, dtype: np.dtype) -> None:
        blocks, _, lanes = counter.table.shape
        super().__init__(counter, dtype, blocks * lanes)
        self.part = aligned(counter.table.shape, dtype, 0)
        self.numbers = np.zeros(counter.nodes, np.int64)

    def _add(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        chosen, what = padded_rows(rows, ROWS), (self.counter.table, self.counter.infinity)
        count_few(bits, first, self.counter.nodes, chosen, *what, self.part, self.lowest, self.highest)

    def _empty(self) -> None:
        part = unpack(self.part, self.counter.nodes)
        self.numbers += part[:, 0]
        self.survivors += part[:, 1:]
        self.part[:] = 0

    def _counted(self) -> np.ndarray:
        return self.numbers


class _OnGrid(Accumulation):
    """A comparison per edge, most of them in 16 bits."""

    def __init__(self, counter: Coder, dtype: np.dtype) -> None:
        assert counter.grid is not None
        self.grid = counter.grid
        super().__init__(counter, dtype, len(self.grid.low))
        small = (self.grid.cells, self.grid.full, self.grid.low)
        self.in_cells, self.in_full, self.numbers = (aligned(one.shape, one.dtype, 0) for one in small)
        self.counted = np.zeros(counter.nodes, np.int64)

    def _add(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        chosen, small = padded_rows(rows, ROWS), (self.in_cells, self.in_full, self.numbers)
        what = (self.grid.arrays, self.counter.infinity)
        count_grid(bits, first, self.counter.nodes, chosen, *what, *small, self.lowest, self.highest)

    def _empty(self) -> None:
        collect(self.grid.places, self.in_cells, self.in_full, self.survivors)
        self.counted += self.numbers[: self.counter.nodes]
        for small in (self.in_cells, self.in_full, self.numbers):
            small[:] = 0

    def _counted(self) -> np.ndarray:
        return self.counted


class _ByTree(Accumulation):
    """Bisection, and a counter per code."""

    def __init__(self, counter: Coder, dtype: np.dtype) -> None:
        super().__init__(counter, dtype, counter.nodes)
        self.part = aligned((counter.nodes, 1 << len(counter.levels)), np.uint16, 0)
        self.numbers = np.zeros(counter.nodes, np.int64)

    def _add(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        what = (self.counter.edges, self.counter.table, self.counter.levels, self.counter.infinity)
        state = (space_of_thread(bits.dtype), self.part.reshape(-1), self.lowest, self.highest)
        count_many(bits, first, self.counter.nodes, padded_rows(rows, GROUP), *what, *state)

    def _empty(self) -> None:
        # The highest code is NaN's.
        if counts_reached(self.counter.levels):
            above = self.part[:, :-1].astype(np.int64) - self.part[:, -1:]
        else:
            above = self.part[:, -2::-1].cumsum(axis=1, dtype=np.int64)[:, ::-1]
        self.numbers += above[:, 0]
        self.survivors += above[:, 1 : self.counter.edges + 1]
        self.part[:] = 0

    def _extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest keys; the highest was kept as key + 1."""
        least = np.iinfo(self.highest.dtype).min
        return self.lowest, np.where(self.highest > least, self.highest - (self.highest > least), least)

    def _counted(self) -> np.ndarray:
        return self.numbers


def line_start(array: np.ndarray) -> int:
    """The first item of a C-contiguous array where a line of the cache starts."""
    return -array.ctypes.data % LANE_BYTES // array.itemsize


def padded_rows(rows: np.ndarray, height: int) -> np.ndarray:
    """Row numbers filled up with -1 to whole heights, as the kernels read them."""
    return np.concatenate([rows, np.full(-len(rows) % height, -1)]).astype(np.int64)


def pack_edges(edges: np.ndarray) -> np.ndarray:
    """Edges of nodes (n, k) as packed blocks (b, k, l); nodes beyond the last have edges that nothing reaches."""
    n, k = edges.shape
    lanes = LANE_BYTES // edges.dtype.itemsize
    blocks = -(-n // lanes)
    padded = np.full((blocks * lanes, k), np.iinfo(edges.dtype).max, edges.dtype)
    padded[:n] = edges
    packed = aligned((blocks, k, lanes), edges.dtype)
    packed[:] = padded.reshape(blocks, lanes, k).transpose(0, 2, 1)
    return packed


def unpack(packed: np.ndarray, nodes: int) -> np.ndarray:
    """The reverse: (b, k, l) to (n, k)."""
    blocks, k, lanes = packed.shape
    return packed.transpose(0, 2, 1).reshape(blocks * lanes, k)[:nodes]


def plant_trees(edges: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Edges of nodes (n, k) as search trees (n, t), and their levels."""
    n, k = edges.shape
    # The highest code of a tree is NaN's.
    depth = next(depth for depth in DEPTHS if k <= (1 << depth) - 2)
    padded = np.full((n, (1 << depth) - 1), np.iinfo(edges.dtype).max, edges.dtype)
    padded[:, :k] = edges
    order = tree_order(LANE_BYTES // edges.dtype.itemsize, depth)
    trees = aligned((n, len(order)), edges.dtype)
    trees[:] = padded[:, order]
    return trees, tuple(range(depth))


def tree_order(lanes: int, depth: int) -> np.ndarray:
    """Which of the sorted edges stands at each item of a search tree, level after level, see ``searching.search``."""
    order = []
    for level, vectors in enumerate(tree_vectors(lanes, depth)):
        for item in range(vectors * lanes):
            path = item % (1 << level)
            before = sum(1 << (depth - 1 - d) for d in range(level) if path >> d & 1)
            order.append(before + (1 << (depth - 1 - level)) - 1)
    return np.array(order)


@kernel
def encode_few(bits, first, edges, infinity, codes):  # (s, N), (b, k, l) -> (s, n)
    """Codes of the nodes ``first : first + n`` of every sample; meant for few edges."""
    samples, nodes = codes.shape
    blocks, k, lanes = edges.shape
    rows = np.full(ROWS, -1, np.int64)
    for i in range(0, samples, ROWS):
        height = min(ROWS, samples - i)
        for q in range(ROWS):
            rows[q] = i + q if q < height else -1
        for b in range(blocks):
            j = b * lanes
            keys = load_keys(bits, rows, 0, first + j, nodes - j, infinity)
            stack = no_codes(keys)
            at = b * k * lanes
            for _ in range(k):
                stack = add_reached(stack, keys, load_lanes(edges, at))
                at += lanes
            store_codes(codes, i, j, nodes - j, height, stack, keys)


@kernel
def count_few(bits, first, nodes, rows, edges, infinity, survivors, lowest, highest):
    # (s, N), (r,), (b, k, l) -> (b, k, l), (b, l), (b, l)
    """Add the chosen rows to the survivors at each edge and to the extremes; ``lowest`` is kept as key - 1.

    Counters have the keys' width: at most MOST_ROWS rows between two times that they are emptied.
    """
    blocks, k, lanes = edges.shape
    for i in range(0, rows.size, ROWS):
        for b in range(blocks):
            j = b * lanes
            keys = load_keys(bits, rows, i, first + j, nodes - j, infinity)
            store_lanes(lowest, j, keep_lowest(load_lanes(lowest, j), keys))
            store_lanes(highest, j, keep_highest(load_lanes(highest, j), keys))
            at = b * k * lanes
            for _ in range(k):
                store_lanes(survivors, at, count_reached(load_lanes(survivors, at), keys, load_lanes(edges, at)))
                at += lanes
