"""The compiled walks over a block for ``searching``: GROUP samples by as many nodes as fill the nearer caches.

First the keys of the tile, node by node; then, for every node, its edges in registers and a bisection of all its
samples at once. Tiles are wide: memory gives and takes long pieces of a row several times faster than short ones.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges, t = items of a node's search tree,
e = 2**levels = entries of a node's table, r = chosen rows, filled up with -1 to whole groups.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.lanes import LANE_BYTES, aligned
from hpv.kernels.cpu.searching import (
    CODE_NODES,
    GROUP,
    count_from,
    extremes,
    fetch,
    load_code_group,
    load_tree,
    look_up_square,
    mark_missing,
    pack,
    search,
    store_codes,
    stride,
    transpose_codes,
)
from hpv.kernels.cpu.writing import fence, stream

# Nodes of a tile, and bytes of a sample in it, at most.
TILE_NODES = 2048
TILE_BYTES = 8192
# Bytes of ranges of a node that are collected before they are written.
COLLECTED = 128
# Arrays of codes larger than this are written past the caches.
STREAMED_CODES = 2**22
# Search trees whose edges are few enough to be counted by comparing codes.
SHALLOW = 6
# Nodes whose codes are counted by turns.
TURNS = 8


class Space(NamedTuple):
    """Working memory of one call."""

    keys: np.ndarray
    """Keys of a tile (nodes, stride), node by node."""
    square: np.ndarray
    """Values of a square that reaches beyond the block."""
    codes: np.ndarray
    """Codes of a tile (nodes, GROUP), node by node."""
    answers: np.ndarray
    """A byte for each of them."""
    lines: np.ndarray
    """Bytes of the results of some samples of a tile, sample by sample."""


def make_space(dtype: np.dtype) -> Space:
    """Working memory for values of one format."""
    nodes, lanes = min(TILE_NODES, TILE_BYTES // dtype.itemsize), LANE_BYTES // dtype.itemsize
    keys, square = aligned((nodes, stride(lanes)), dtype), aligned((GROUP, lanes), dtype)
    # A line is longer than its tile, and so starts elsewhere in the caches than the one before.
    lines = max(COLLECTED * (nodes + LANE_BYTES // 4), GROUP * (nodes + LANE_BYTES))
    codes, answers = (aligned((nodes, GROUP), np.uint8) for _ in range(2))
    return Space(keys, square, codes, answers, aligned((lines,), np.uint8))


class _Spaces(threading.local):
    """Working memory that a thread keeps: fresh pages cost more than the work on them."""

    def __init__(self) -> None:
        self.known: dict[np.dtype, Space] = {}


_spaces = _Spaces()


def space_of_thread(dtype: np.dtype) -> Space:
    """This thread's working memory for values of one format."""
    if dtype not in _spaces.known:
        _spaces.known[dtype] = make_space(dtype)
    return _spaces.known[dtype]


@kernel
def pack_tile(bits, column, width, rows, r, infinity, space):  # (s, N), (r,)
    """Keys of ``width`` nodes from ``column`` on; a square that reaches beyond the block is copied out first."""
    spare = space.square
    lanes = spare.shape[1]
    line = space.keys.shape[1]
    skip = GROUP // lanes
    whole = rows[r + GROUP - 1] >= 0
    for v in range(skip):
        inside = width // lanes * lanes if whole else 0
        for j in range(0, inside, lanes):
            pack(bits, rows, r + v, column + j, infinity, space.keys, j * line + v * lanes)
        for j in range(inside, width, lanes):
            copy_square(bits, column + j, min(lanes, width - j), rows, r + v, skip, spare)
            pack(spare, np.arange(GROUP), 0, 0, infinity, space.keys, j * line + v * lanes)


@kernel
def copy_square(bits, column, width, rows, r, skip, spare):
    """Every ``skip``-th of the chosen rows; NaN where there is no value."""
    spare[:] = np.iinfo(spare.dtype).max
    for q in range(0, GROUP, skip):
        row = rows[r + q]
        if row >= 0:
            for c in range(width):
                spare[q, c] = bits[row, column + c]


@kernel
def search_tile(trees, first, width, levels, space, bits, column, nodes, rows, i):  # (n, t)
    """Codes of a tile whose nodes begin at ``first``; all bits are set in NaN's, which is the tree's highest code."""
    size, line = trees.shape[1], space.keys.shape[1]
    start = first + space.keys.shape[0]
    if start >= nodes:
        start, i = 0, i + GROUP
    ahead = min(space.keys.shape[0], nodes - start)
    for c in range(width):
        done = c * GROUP
        r = i + done // ahead
        if r < min(rows.size, i + GROUP) and rows[r] >= 0:
            fetch(bits, rows[r], column + start + done % ahead)
        at = (first + c) * size
        tree = load_tree(trees, at, levels)
        found = search(tree, trees, at, levels, space.keys, c * line)
        store_codes(space.codes, c * GROUP, mark_missing(found, levels))


@kernel
def present_rows(rows, r):  # (r,)
    """How many of a group's rows there are."""
    count = GROUP
    while count > 0 and rows[r + count - 1] < 0:
        count -= 1
    return count


@kernel
def transpose_tile(codes, width, lines, step):  # (n * GROUP,)
    """Codes node by node become lines of one sample each, ``step`` apart."""
    for c in range(0, width, CODE_NODES):
        transpose_codes(codes, c * GROUP, lines, c, step)


@kernel
def copy_line(lines, at, target):  # -> (n,)
    """``target[:] = lines[at : at + n]``."""
    line = lines[at : at + target.size]
    for c in range(target.size):
        target[c] = line[c]


@kernel
def encode_many(bits, first, rows, trees, levels, infinity, space, codes, start):
    # (s, N), (r,), (n, t) -> (s, n)
    """Codes of the nodes ``first : first + n`` of every sample; the chosen rows are all.

    ``start`` is an item of the codes where a line of the cache starts, or -1 to write through the caches.
    """
    nodes = codes.shape[1]
    flat = codes.reshape(-1)
    for i in range(0, rows.size, GROUP):
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            step = width + LANE_BYTES
            transpose_tile(space.codes.reshape(-1), width, space.lines, step)
            for q in range(present_rows(rows, i)):
                to = (i + q) * nodes + j
                if start >= 0:
                    stream(space.lines, q * step, width, flat, to, start)
                    continue
                copy_line(space.lines, q * step, flat[to : to + width])
    if start >= 0:
        fence()


@kernel
def range_many(bits, first, nodes, rows, trees, levels, infinity, space, low, high, pmin, pmax, starts):
    # (s, N), (r,), (n, t), (n, e), (n, e) -> (s * n,), (s * n,)
    """Ranges of the chosen rows, ``nodes`` from ``first`` on.

    ``starts`` are items of ``pmin`` and ``pmax`` where a line of the cache starts.
    """
    entries, lanes = low.shape[1], LANE_BYTES // low.itemsize
    lines = space.lines.view(low.dtype)
    collected = COLLECTED // low.itemsize
    for i in range(0, rows.size, GROUP):
        count = present_rows(rows, i)
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            step = width + lanes
            for h in range(0, count, collected):
                end = min(count, h + collected)
                for tables, target, start in ((low, pmin, starts[0]), (high, pmax, starts[1])):
                    for c in range(0, width, lanes):
                        for g in range(h, end, lanes):
                            at, to = c * GROUP + g, (g - h) * step + c
                            look_up_square(space.codes, at, tables, (j + c) * entries, levels, lines, to, step)
                    for q in range(h, end):
                        stream(lines, (q - h) * step, width, target, rows[i + q] * nodes + j, start)
    fence()


@kernel
def count_many(bits, first, nodes, rows, edges, trees, levels, infinity, space, counters, lowest, highest):
    # (s, N), (r,), (n, t) -> (n * e,), (n,), (n,)
    """Add the chosen rows, -1 as NaN, to the counters, and to the extremes (key, key + 1).

    Counters of a shallow tree (``counts_reached``) say how often each code or a higher one occurs, those of a deep one
    how often each code does. They have 16 bits: at most 65,535 rows between two times that they are emptied.
    """
    line = space.keys.shape[1]
    codes = space.codes.reshape(-1)
    entries = 1 << len(levels)
    for i in range(0, rows.size, GROUP):
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            for c in range(width):
                low, high = extremes(space.keys, c * line)
                lowest[j + c] = min(lowest[j + c], low)
                highest[j + c] = max(highest[j + c], high)
            part = counters[j * entries : (j + width) * entries]
            if len(levels) <= SHALLOW:
                add_reached(codes, width, edges, entries, part)
            else:
                add_codes(codes, width, np.uint64(entries), part)


@kernel
def add_reached(codes, width, edges, entries, counters):
    """Comparisons, each of a whole group."""
    for c in range(width):
        found = load_code_group(codes, c * GROUP)
        at = c * entries
        counters[at] += GROUP
        for k in range(1, edges + 1):
            counters[at + k] += count_from(found, k)
        counters[at + entries - 1] += count_from(found, entries - 1)


@kernel
def add_codes(codes, width, entries, counters):
    """A counter for each code; nodes by turns, because a counter that has just been written is slow to read again."""
    last = entries - np.uint64(1)
    for c0 in range(0, width, TURNS):
        for q in range(GROUP):
            for c in range(c0, min(width, c0 + TURNS)):
                counters[np.uint64(c) * entries + (np.uint64(codes[c * GROUP + q]) & last)] += np.uint16(1)


def counts_reached(levels: tuple[int, ...]) -> bool:
    """Whether ``count_many`` counts the codes from each one upwards."""
    return len(levels) <= SHALLOW
