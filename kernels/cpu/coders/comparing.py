"""Coder: a comparison for each edge, of as many nodes as a vector has lanes, eight samples at once.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges, l = lanes, b = ceil(n / l), r = rows.
Packed edges (b, k, l) have their lanes innermost, so that those of the nodes at work lie side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from hpv.kernels.cpu.coders.accumulation import Accumulation
from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.parallel import borders, in_parts
from hpv.kernels.cpu.vectors.lanes import LANE_BYTES, aligned, load_lanes, store_lanes
from hpv.kernels.cpu.vectors.stacks import (
    ROWS,
    add_reached,
    count_reached,
    keep_highest,
    keep_lowest,
    load_keys,
    no_codes,
    padded_rows,
    store_codes,
)


class Comparing(NamedTuple):
    """Edges of some nodes, to be compared one by one."""

    packed: np.ndarray
    """Edge keys (b, k, l)."""
    nodes: int
    infinity: int
    """Key of +inf in the format of the values."""

    def encode(self, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
        """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""
        encode_parts(borders(len(bits), threads), bits, first, self.packed, self.infinity, codes)

    def start(self, dtype: np.dtype, threads: int = 1) -> Accumulation:
        """Empty counts, to which blocks of bits of this dtype can be added."""
        return _OneByOne(self, dtype, threads)


def make_comparing(edges: np.ndarray, infinity: int) -> Comparing:
    """For edge keys (n, k)."""
    return Comparing(pack_edges(edges), len(edges), infinity)


def make_comparing_counter(edges: np.ndarray, infinity: int) -> Comparing:
    """The same for counting: below the edges stands -inf, whose survivors are all values but NaN."""
    lowest = np.full((len(edges), 1), -infinity, edges.dtype)
    return make_comparing(np.concatenate([lowest, edges], axis=1), infinity)


class _OneByOne(Accumulation):
    """The first edge is -inf."""

    def __init__(self, counter: Comparing, dtype: np.dtype, threads: int) -> None:
        blocks, edges, lanes = counter.packed.shape
        super().__init__(counter.nodes, edges - 1, dtype, blocks * lanes, threads)
        self.counter = counter
        self.parts = aligned((threads, *counter.packed.shape), dtype, 0)

    def add_few(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        chosen, what = padded_rows(rows, ROWS), (self.counter.packed, self.counter.infinity)
        state = self.parts, self.lowest, self.highest
        count_parts(self.borders(chosen, ROWS), bits, first, self.counter.nodes, chosen, *what, *state)

    def empty(self) -> None:
        for packed in self.parts:
            part = unpack(packed, self.counter.nodes)
            self.counted += part[:, 0]
            self.survivors += part[:, 1:]
        self.parts[:] = 0


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


@in_parts
def encode_parts(borders, bits, first, edges, infinity, codes):  # (p + 1,), (s, N), (b, k, l) -> (s, n)
    """Codes of all samples."""
    for p in prange(borders.size - 1):
        part = slice(borders[p], borders[p + 1])
        encode_few(bits[part], first, edges, infinity, codes[part])


@in_parts
def count_parts(borders, bits, first, nodes, rows, edges, infinity, survivors, lowest, highest):
    # (p + 1,), (s, N), (r,), (b, k, l) -> (p, b, k, l), (p, b * l), (p, b * l)
    """Add the chosen rows, each part to counters of its own."""
    for p in prange(borders.size - 1):
        chosen = rows[borders[p] : borders[p + 1]]
        count_few(bits, first, nodes, chosen, edges, infinity, survivors[p], lowest[p], highest[p])


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
