"""The compiled walk over a block for ``searching``: tiles of TILE_ROWS samples by TILE_NODES nodes.

First the keys of the tile, node by node; then, for every node, its edges in registers and a bisection of all its
samples at once.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges, t = items of a node's search tree,
r = chosen rows, filled up with -1 to whole tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpv.kernels.compiling import kernel
from hpv.kernels.lanes import LANE_BYTES
from hpv.kernels.searching import (
    CODE_NODES,
    GROUP,
    STRIDE,
    TILE_ROWS,
    count_from,
    extremes,
    fetch_to_read,
    fetch_to_write,
    load_tree,
    mark_missing,
    pack,
    search,
    store_codes,
    transpose_codes,
)

TILE_NODES = 128
ROWS_PER_NODE = TILE_ROWS // TILE_NODES
# Nodes whose next samples are asked for in the order in which they lie in memory.
AHEAD_NODES = 4096


def aligned(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An empty array that starts where a line of the cache does: vectors across two lines cost twice."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + LANE_BYTES, np.uint8)
    start = -memory.ctypes.data % LANE_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


class Space(NamedTuple):
    """Working memory of one call."""

    keys: np.ndarray
    """Keys of a tile, node by node."""
    square: np.ndarray
    """Values of a square that reaches beyond the block."""
    codes: np.ndarray
    """Codes of a tile, node by node."""
    lines: np.ndarray
    """Codes of GROUP samples of a tile, sample by sample."""


def make_space(dtype: np.dtype) -> Space:
    """Working memory for values of one format."""
    tile = TILE_NODES * STRIDE
    square = aligned((GROUP, LANE_BYTES // dtype.itemsize), dtype)
    return Space(aligned((tile,), dtype), square, aligned((tile,), np.uint8), aligned((GROUP, TILE_NODES), np.uint8))


@kernel
def pack_tile(bits, column, width, rows, r, infinity, space):
    # (s, N), (r,), (l, l) -> (nodes, STRIDE)
    """Keys of ``width`` nodes from ``column`` on; a square that reaches beyond the block is copied out first."""
    keys, spare = space.keys, space.square
    lanes = spare.shape[1]
    numbers = np.arange(GROUP)
    nan = np.iinfo(bits.dtype).max
    skip = GROUP // lanes
    for step in range(TILE_ROWS // lanes):
        g, v = step // skip * GROUP, step % skip
        whole = rows[r + g + GROUP - 1] >= 0
        for j in range(0, width, lanes):
            at = j * STRIDE + g + v * lanes
            if whole and column + j + lanes <= bits.shape[1]:
                pack(bits, rows, r + g + v, column + j, infinity, keys, at)
                continue
            spare[:] = nan
            for q in range(lanes):
                row = rows[r + g + v + q * skip]
                if row >= 0:
                    for c in range(min(lanes, width - j)):
                        spare[q * skip, c] = bits[row, column + j + c]
            pack(spare, numbers, 0, 0, infinity, keys, at)


@kernel
def look_ahead(bits, first, nodes, rows, i, node):  # (s, N), (r,)
    """While a node is worked on, ask for as many values of what comes next, in the order in which they lie in memory.

    A tile's values lie in short pieces far apart, which memory gives several times slower than whole rows.
    """
    start = node // AHEAD_NODES * AHEAD_NODES
    done = (node - start) * TILE_ROWS
    start += AHEAD_NODES
    if start >= nodes:
        start = 0
        i += TILE_ROWS
    width = min(AHEAD_NODES, nodes - start)
    row = i + done // width
    if row < rows.size and done < width * TILE_ROWS:
        fetch_to_read(bits, rows[row], first + start + done % width, TILE_ROWS)


@kernel
def encode_many(bits, first, rows, trees, levels, infinity, space, codes):  # (s, N), (r,), (n, t) -> (s, n)
    """Codes of the nodes ``first : first + n`` of every sample; the chosen rows are all."""
    samples, nodes = codes.shape
    size = trees.shape[1]
    keys = space.keys
    for i in range(0, samples, TILE_ROWS):
        for j in range(0, nodes, TILE_NODES):
            width = min(TILE_NODES, nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            for c in range(width):
                at = (j + c) * size
                look_ahead(bits, first, nodes, rows, i, j + c)
                for q in range(c * ROWS_PER_NODE, min((c + 1) * ROWS_PER_NODE, samples - i)):
                    fetch_to_write(codes, i + q, j, width)
                tree = load_tree(trees, at, levels)
                for g in range(0, TILE_ROWS, GROUP):
                    place = c * STRIDE + g
                    found = search(tree, trees, at, levels, keys, place)
                    store_codes(space.codes, place, mark_missing(found, levels))
            for g in range(0, min(TILE_ROWS, samples - i), GROUP):
                for c in range(0, width, CODE_NODES):
                    transpose_codes(space.codes, c * STRIDE + g, STRIDE, space.lines, c, TILE_NODES)
                for q in range(min(GROUP, samples - i - g)):
                    target, line = codes[i + g + q, j : j + width], space.lines[q, :width]
                    for c in range(width):
                        target[c] = line[c]


@kernel
def count_many(bits, first, rows, trees, levels, infinity, space, survivors, missing, lowest, highest):
    # (s, N), (r,), (n, t) -> (n, k), (n,), (n,), (n,)
    """Add the chosen rows, -1 as NaN, to survivors, NaN counts and extremes; ``highest`` is kept as key + 1."""
    nodes, edges = survivors.shape
    top = (1 << len(levels)) - 1
    size = trees.shape[1]
    keys = space.keys
    for i in range(0, rows.size, TILE_ROWS):
        for j in range(0, nodes, TILE_NODES):
            width = min(TILE_NODES, nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            for c in range(width):
                node = j + c
                at = node * size
                look_ahead(bits, first, nodes, rows, i, node)
                place = c * STRIDE
                low, high = extremes(keys, place)
                lowest[node] = min(lowest[node], low)
                highest[node] = max(highest[node], high)
                tree = load_tree(trees, at, levels)
                one = search(tree, trees, at, levels, keys, place)
                two = search(tree, trees, at, levels, keys, place + GROUP)
                three = search(tree, trees, at, levels, keys, place + 2 * GROUP)
                four = search(tree, trees, at, levels, keys, place + 3 * GROUP)
                gone = count_from(one, top) + count_from(two, top) + count_from(three, top) + count_from(four, top)
                missing[node] += gone
                for k in range(edges):
                    reached = count_from(one, k + 1) + count_from(two, k + 1)
                    reached += count_from(three, k + 1) + count_from(four, k + 1)
                    survivors[node, k] += reached - gone
