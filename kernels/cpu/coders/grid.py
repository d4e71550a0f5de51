"""Coder: comparisons in half the bits. Float32 edges on a grid are compared as 16-bit cells, twice as many at once.

A node's grid has steps of 2**shift keys and 65,535 cells; the cell of a value says on which side of an edge on the grid
it lies, exactly. Proposed edges are placed on such a grid (placing.py); the others (modal values, extremes, edges that
someone gave) are compared in full. Which edge is which is found from the edges themselves, so any edges will do.

Shapes: n = nodes, k = edges, b = blocks of 32 nodes, v = slots (rows of 32 cells, or of twice 16 full edges).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from hpv.kernels.cpu.coders.accumulation import Accumulation
from hpv.kernels.cpu.coders.cells import HALF, NODES, add_one, count_one, join, start_codes, store_bytes, to_cells
from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.parallel import borders, in_parts
from hpv.kernels.cpu.vectors.lanes import aligned, load_lanes, store_lanes
from hpv.kernels.cpu.vectors.stacks import (
    ROWS,
    add_reached,
    count_reached,
    keep_highest,
    keep_lowest,
    load_keys,
    padded_rows,
)

MOST_SHIFT = 16
LAST_CELL = 65_534
OTHERS = 6
"""A grid is good enough where no more edges than these lie off it: extremes, and pairs of modal values."""
NEVER = np.iinfo(np.int16).max
"""A cell above the last one: no value reaches it."""
NO_EDGE = np.iinfo(np.int32).max


class Grid(NamedTuple):
    """Edges of some nodes, laid out for the kernels."""

    cells: np.ndarray
    """Edges on the grid, as cells (v, 32) int16; the slots of block b are ``cell_slots[b] : cell_slots[b + 1]``."""
    cell_slots: np.ndarray
    full: np.ndarray
    """All other edges, as keys (v, 32) int32, likewise."""
    full_slots: np.ndarray
    low: np.ndarray
    """First key of the grid, by node (32 b,)."""
    high: np.ndarray
    """Last key of the grid, by node."""
    shift: np.ndarray
    """log2 of the grid's step, by node."""
    places: np.ndarray
    """Slot of every edge (n, k): v for cells, -1 - v for full edges; unused edges have none (the least integer)."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the kernels take."""
        return self[:7]

    @property
    def cost(self) -> float:
        """Comparisons of a vector per block of nodes."""
        return (len(self.cells) + 2 * len(self.full)) / (len(self.cell_slots) - 1)


NO_PLACE = np.iinfo(np.int64).min


class OnGrid(NamedTuple):
    """Edges of float32 that are mostly compared as 16-bit cells."""

    grid: Grid
    infinity: int
    """Key of +inf in the format of the values."""

    def encode(self, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
        """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""
        encode_parts(borders(len(bits), threads), bits, first, self.grid.arrays, self.infinity, codes)

    def start(self, dtype: np.dtype, threads: int = 1) -> Accumulation:
        """Empty counts, to which blocks of bits of this dtype can be added."""
        return _OnGrid(self, dtype, threads)


class _OnGrid(Accumulation):
    """A counter for each slot."""

    def __init__(self, counter: OnGrid, dtype: np.dtype, threads: int) -> None:
        self.grid, self.infinity = counter
        super().__init__(*self.grid.places.shape, dtype, len(self.grid.low), threads)
        small = (self.grid.cells, self.grid.full, self.grid.low)
        self.small = [aligned((threads, *one.shape), one.dtype, 0) for one in small]

    def add_few(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        chosen = padded_rows(rows, ROWS)
        what = (len(self.survivors), chosen, self.grid.arrays, self.infinity)
        count_parts(self.borders(chosen, ROWS), bits, first, *what, *self.small, self.lowest, self.highest)

    def empty(self) -> None:
        for in_cells, in_full, numbers in zip(*self.small, strict=True):
            collect(self.grid.places, in_cells, in_full, self.survivors)
            self.counted += numbers[: len(self.counted)]
        for small in self.small:
            small[:] = 0


def lay_out(edges: np.ndarray) -> Grid:
    """A grid for edge keys (n, k) int32, ascending per node, filled up with the highest integer."""
    n, k = edges.shape
    blocks = -(-n // NODES)
    width = blocks * NODES
    low, high, shift = (aligned((width,), np.int32, 0) for _ in range(3))
    places = np.full((n, k), NO_PLACE, np.int64)
    cell_slots, full_slots = np.zeros(blocks + 1, np.int64), np.zeros(blocks + 1, np.int64)
    _choose(edges, low, high, shift, places, cell_slots, full_slots)
    cells = aligned((cell_slots[-1], NODES), np.int16, NEVER)
    full = aligned((full_slots[-1], NODES), np.int32, NO_EDGE)
    _fill(edges, low, shift, places, cells, full)
    return Grid(cells, cell_slots, full, full_slots, low, high, shift, places)


@kernel
def _choose(edges, low, high, shift, places, cell_slots, full_slots):
    """For every node the grid that the most edges lie on, and a slot of its block for every edge."""
    n, k = edges.shape
    on = np.empty(k, np.int64)
    for b in range(cell_slots.size - 1):
        most_cells = np.int64(0)
        most_full = np.int64(0)
        for node in range(b * NODES, min(n, (b + 1) * NODES)):
            row = edges[node]
            used = 0
            while used < row.size and row[used] != NO_EDGE:
                used += 1
            row = row[:used]
            # Proposed edges are nearly all multiples of one step; others take a search.
            step = MOST_SHIFT
            while step > 0 and _multiples(row, step) + OTHERS < used:
                step -= 1
            best, first = _most_on(row, step, on)
            if best + OTHERS < used:
                for s in range(MOST_SHIFT, -1, -1):
                    found, start = _most_on(row, s, on)
                    if found > best:
                        best, first, step = found, start, s
            lowest = first - (np.int64(1) << step) if best > 0 else np.int64(0)
            low[node], shift[node] = lowest, step
            last = lowest + ((np.int64(LAST_CELL) + 1) << step) - 1
            high[node] = min(last, np.int64(NO_EDGE) - 1)
            cells, others = 0, 0
            for j in range(row.size):
                from_low = row[j] - lowest
                cell = from_low >> step
                if best > 0 and 0 < cell <= LAST_CELL and cell << step == from_low:
                    places[node, j] = cell_slots[b] + cells
                    cells += 1
                else:
                    places[node, j] = -1 - (full_slots[b] + others)
                    others += 1
            most_cells = max(most_cells, np.int64(cells))
            most_full = max(most_full, np.int64(others))
        cell_slots[b + 1] = cell_slots[b] + most_cells
        full_slots[b + 1] = full_slots[b] + most_full


@kernel
def _multiples(edges, step):
    """How many edges are multiples of 2**step."""
    count = 0
    for j in range(edges.size):
        count += (edges[j] & ((1 << step) - 1)) == 0
    return count


@kernel
def _most_on(edges, step, on):  # (k,) -> (k,)
    """The most edges that lie on one grid of 2**step, and the first of them; ``on`` is room for them."""
    bits = (1 << step) - 1
    count = 0
    for j in range(edges.size):
        on[count] = edges[j]
        count += (edges[j] & bits) == 0
    reach = np.int64(LAST_CELL) << step
    start, best, first = 0, 0, np.int64(0)
    for i in range(count):
        while on[i] - on[start] >= reach:
            start += 1
        if i + 1 - start > best:
            best, first = i + 1 - start, on[start]
    return best, first


@kernel
def _fill(edges, low, shift, places, cells, full):
    """Put every edge in its slot."""
    n, k = edges.shape
    for node in range(n):
        for j in range(k):
            place = places[node, j]
            if place >= 0:
                cell = (np.int64(edges[node, j]) - np.int64(low[node])) >> shift[node]
                cells[place, node % NODES] = cell - 32_768
            elif place != NO_PLACE:
                full[-1 - place, node % NODES] = edges[node, j]


@kernel
def collect(places, in_cells, in_full, survivors):  # (n, k), (v, 32), (v, 32) -> (n, k)
    """Add the counters of the slots to the survivors of their edges."""
    n, k = places.shape
    for node in range(n):
        lane = node % NODES
        for j in range(k):
            place = places[node, j]
            if place >= 0:
                survivors[node, j] += in_cells[place, lane]
            elif place != NO_PLACE:
                survivors[node, j] += in_full[-1 - place, lane]


@in_parts
def encode_parts(borders, bits, first, grid, infinity, codes):  # (p + 1,), (s, N) -> (s, n)
    """Codes of all samples."""
    for p in prange(borders.size - 1):
        part = slice(borders[p], borders[p + 1])
        encode_grid(bits[part], first, grid, infinity, codes[part])


@in_parts
def count_parts(borders, bits, first, nodes, rows, grid, infinity, in_cells, in_full, numbers, lowest, highest):
    # (p + 1,), (s, N), (r,) -> (p, v, 32), (p, v, 32), (p, 32 b), (p, 32 b), (p, 32 b)
    """Add the chosen rows, each part to counters of its own."""
    for p in prange(borders.size - 1):
        what, small = (rows[borders[p] : borders[p + 1]], grid, infinity), (in_cells[p], in_full[p], numbers[p])
        count_grid(bits, first, nodes, *what, *small, lowest[p], highest[p])


@kernel
def encode_grid(bits, first, grid, infinity, codes):  # (s, N) -> (s, n)
    """Codes of the nodes ``first : first + n`` of every sample."""
    samples, nodes = codes.shape
    cells, cell_slots, full, full_slots, low, high, shift = grid
    rows = np.full(ROWS, -1, np.int64)
    one = load_lanes(np.ones(NODES, np.int16), 0)
    for i in range(0, samples, ROWS):
        height = min(ROWS, samples - i)
        for q in range(ROWS):
            rows[q] = i + q if q < height else -1
        for b in range(cell_slots.size - 1):
            j = b * NODES
            left = load_keys(bits, rows, 0, first + j, nodes - j, infinity)
            right = load_keys(bits, rows, 0, first + j + HALF, nodes - j - HALF, infinity)
            left_codes, right_codes = start_codes(left), start_codes(right)
            for slot in range(full_slots[b], full_slots[b + 1]):
                left_codes = add_reached(left_codes, left, load_lanes(full, slot * NODES))
                right_codes = add_reached(right_codes, right, load_lanes(full, slot * NODES + HALF))
            stack = join(left_codes, right_codes)
            inside = to_cells(left, right, low, high, shift, j)
            for slot in range(cell_slots[b], cell_slots[b + 1]):
                stack = add_one(stack, inside, load_lanes(cells, slot * NODES), one)
            store_bytes(codes, i, j, nodes - j, height, stack)


@kernel
def count_grid(bits, first, nodes, rows, grid, infinity, in_cells, in_full, numbers, lowest, highest):
    # (s, N), (r,) -> (v, 32), (v, 32), (32 b,), (32 b,), (32 b,)
    """Add the chosen rows to the counters of every slot, to the number of values, and to the extremes (key - 1, key).

    ``in_cells`` is 16 bits wide: at most 32,760 rows between two times that it is emptied.
    """
    cells, cell_slots, full, full_slots, low, high, shift = grid
    one, least = load_lanes(np.ones(NODES, np.int16), 0), load_lanes(np.full(HALF, -infinity, np.int32), 0)
    for i in range(0, rows.size, ROWS):
        for b in range(cell_slots.size - 1):
            j = b * NODES
            left = load_keys(bits, rows, i, first + j, nodes - j, infinity)
            right = load_keys(bits, rows, i, first + j + HALF, nodes - j - HALF, infinity)
            for keys, at in ((left, j), (right, j + HALF)):
                store_lanes(lowest, at, keep_lowest(load_lanes(lowest, at), keys))
                store_lanes(highest, at, keep_highest(load_lanes(highest, at), keys))
                store_lanes(numbers, at, count_reached(load_lanes(numbers, at), keys, least))
            for slot in range(full_slots[b], full_slots[b + 1]):
                for keys, at in ((left, slot * NODES), (right, slot * NODES + HALF)):
                    store_lanes(in_full, at, count_reached(load_lanes(in_full, at), keys, load_lanes(full, at)))
            inside = to_cells(left, right, low, high, shift, j)
            for slot in range(cell_slots[b], cell_slots[b + 1]):
                at = slot * NODES
                store_lanes(in_cells, at, count_one(load_lanes(in_cells, at), inside, load_lanes(cells, at), one))
