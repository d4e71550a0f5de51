"""Scanning on a device: from values, or from codes, to tallies.

A tally says how many nodes of a sample fall at each level of significance; after the thresholds come the level of
nodes above all of them, and that of nodes without a p-value.

From values, a block takes some samples past its columns, and its tallies lie in shared memory: two counters of 16 bits
in a word, because many samples must share the loading of edges and levels. Half of all nodes are above all
thresholds; they would all want the same counter, so they are found by leaving them out.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges, r = chosen rows, v = tails,
t = k + 2 = entries of a node's levels (codes 0..k, the last one for NaN), g = thresholds. Arrays lie on the device, in
C order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, int32, int64, uint8, uint32, uint64

from hpv.kernels.cuda.device import (
    BLOCKS,
    LANES,
    SHARED_BYTES,
    SIMULATED,
    THREADS,
    Kernel,
    cuda,
    inlined,
    is_nan,
    key_of_number,
    vector,
)
from hpv.kernels.cuda.searching import (
    WIDE,
    bytes_of,
    capacity_for,
    make_load_table,
    make_search,
    nan_key_of,
    no_edge_of,
    row_finder,
)
from hpv.kernels.cuda.shared import add_where, address_of, item_at
from hpv.kernels.rules import NAN_CODE

MOST_TAILS = 3
# Thresholds that counters in shared memory have room for.
MOST_THRESHOLDS = 256
WORDS = MOST_THRESHOLDS // 2
# After these words of a tally comes one for nodes without a p-value. That makes an odd number of words, so that
# tallies are added up without meeting in a bank of the memory.
PITCH = WORDS + 1
# A packed level says in so many bits which word grows, and whether by one, by one in its second counter, or not at all.
LEVEL_BITS = 10
WORD_MASK = 255
FIRST, SECOND = 256, 512
GROWTH_SHIFT, GROWTH_MASK = 8, 3
# Either bit of growth, times this number, masked: 1 or 1 << 16.
SPREAD, SPREAD_MASK = 0x8001, 0x10001
COUNT_MASK = 0xFFFF
# Columns that a block takes: enough to be worth its tallies, few enough for counters of 16 bits.
FEWEST_COLUMNS = 8 if SIMULATED else 4096
MOST_COLUMNS = 65_535
BLOCKS_TOGETHER = 4


class Shape(NamedTuple):
    """How a block is laid out."""

    columns: int
    """Columns that are searched together."""
    turns: int
    """Threads of a column."""
    each: int
    """Samples of a thread."""

    @property
    def rows(self) -> int:
        """Samples of a block."""
        return self.turns * self.each


def shape_for(capacity: int, wide_bytes: int, tails: int) -> Shape:
    """The block whose tables and tallies fit into shared memory: many samples first, then many threads."""
    if SIMULATED:
        return Shape(LANES, THREADS // LANES, 2)
    fitting, columns = [], LANES
    while columns >= 8:
        left = SHARED_BYTES - columns * (capacity * wide_bytes + (capacity + 2) * 4)
        rows, turns = left // (tails * (PITCH + 1) * 4), THREADS // columns
        while columns * turns >= 64:
            fitting += [Shape(columns, turns, each) for each in (1, 2, 3, 4, 6, 8, 9) if turns * each <= rows]
            turns //= 2
        columns //= 2
    return max(fitting, key=lambda shape: (shape.rows**2 * shape.columns * shape.turns, shape.columns))


def pack_levels(tables: Sequence[np.ndarray], thresholds: int) -> np.ndarray:
    """Levels (n, t) of some tails as `tally` takes them, (t, n) int32; ``thresholds + 1`` stands for no p-value."""
    if len(tables) > MOST_TAILS or thresholds > MOST_THRESHOLDS:
        raise ValueError(f"{len(tables)} tails and {thresholds} thresholds: at most {MOST_TAILS}, {MOST_THRESHOLDS}")
    packed = np.zeros(tables[0].shape[::-1], np.int32)
    for v, table in enumerate(tables):
        level = table.T.astype(np.int32)
        counted = np.where(level < WORDS, level + FIRST, level - WORDS + SECOND)
        # Nodes above all thresholds are not counted; their lanes should not meet in a bank of the memory for nothing.
        apart = np.arange(level.shape[1], dtype=np.int32) % 32
        beyond = np.where(level > thresholds, np.int32(WORDS + FIRST), apart)
        packed |= np.where(level < thresholds, counted, beyond) << np.int32(v * LEVEL_BITS)
    return packed


def tally(
    bits: Any,
    first: int,
    rows: Any | None,
    edges: Any,
    infinity: int,
    levels: Any,
    tallies: Any,
    codes: Any | None,
    missing: Any,
    stream: Any,
) -> None:
    """Add rows of a block (s, N), nodes ``first : first + n``, to tallies (v, s, g + 2) int32, for edge keys (k, n).

    ``rows`` (r,) int32: the chosen samples, all different; None for all. ``levels`` (t, n) int32 are those that
    `pack_levels` gives. ``codes`` (s, n) uint8 are left behind where they are asked for. ``missing`` (1,) int64 grows
    by the number of NaN.
    """
    (samples, columns), (used, nodes), (tails, _, entries) = bits.shape, edges.shape, tallies.shape
    variant = from_dtype(bits.dtype), capacity_for(used), tails
    kernel, shape = tallier(*variant, rows is not None, codes is not None)
    chosen, at_work = (bits, samples) if rows is None else (rows, rows.size)
    row_blocks, steps = -(-at_work // shape.rows), -(-nodes // shape.columns)
    parts = min(-(-BLOCKS // max(row_blocks, 1)), max(nodes // FEWEST_COLUMNS, 1))
    width = max(min(-(-steps // parts), MOST_COLUMNS // shape.columns), 1) * shape.columns
    where = bits, columns, first, chosen, at_work, samples
    what = edges, used, nodes, infinity, levels, width
    left = bits if codes is None else codes
    kernel.launch((row_blocks, -(-nodes // width)), stream, *where, *what, tallies, entries - 2, left, missing)


@cache
def tallier(bits_type: Any, capacity: int, tails: int, chosen: bool, coded: bool) -> tuple[Kernel, Shape]:
    """The kernel for values of this type, at most so many edges and so many tails."""
    wide, nan_key, no_edge = WIDE[bits_type], nan_key_of(bits_type), no_edge_of(bits_type)
    shape = shape_for(capacity, bytes_of(wide), tails)
    columns, turns, each = shape
    together = next(number for number in (4, 3, 2, 1) if each % number == 0)
    rows_there, threads, row_of = shape.rows, columns * turns, row_finder(chosen)
    room, levels_room = capacity * columns, (capacity + 2) * columns
    tallies_room = rows_there * tails
    words_room, chosen_room = tallies_room * PITCH, rows_there if chosen else 1
    search = make_search(capacity, columns)
    load_edges, load_levels = make_load_table(capacity, columns, turns), make_load_table(capacity + 2, columns, turns)

    @inlined
    def add(packed, tally, words):
        """Add a node to the tallies of a sample, the first of which begins at the word ``tally``."""
        for v in range(tails):
            level = uint32(packed >> (LEVEL_BITS * v))
            word = address_of(words, uint32(tally + v * PITCH + (level & uint32(WORD_MASK))))
            growth = uint32((level >> uint32(GROWTH_SHIFT)) & uint32(GROWTH_MASK))
            add_where(words, word, True, int32(uint32(growth * uint32(SPREAD)) & uint32(SPREAD_MASK)))

    @inlined
    def hand_over(words, counted, begin, stop, rows, samples, above, tallies, number):
        """Add the block's tallies to those in memory; ``counted`` nodes went into each."""
        entries = uint64(above + 2)
        at = uint32(number)
        while at < tallies_room * WORDS:
            mine, word = uint32(at // uint32(WORDS)), uint32(at % uint32(WORDS))
            i = uint32(begin + mine // uint32(tails))
            pair = words[uint32(mine * PITCH + word)]
            if i < stop and pair != 0:
                tally = uint64(mine % uint32(tails)) * uint64(samples) + uint64(row_of(rows, i))
                target = tally * entries + uint64(word)
                first, second = int32(pair & COUNT_MASK), int32((pair >> 16) & COUNT_MASK)
                if first != 0:
                    cuda.atomic.add(tallies, target, first)
                if second != 0:
                    cuda.atomic.add(tallies, target + uint64(WORDS), second)
            at = uint32(at + threads)
        mine = uint32(number)
        while mine < tallies_room:
            i = uint32(begin + mine // uint32(tails))
            if i < stop:
                without = words[uint32(mine * PITCH + WORDS)]
                rest = int32(counted - without)
                for word in range(WORDS):
                    pair = words[uint32(mine * PITCH + word)]
                    rest = int32(rest - (pair & COUNT_MASK) - ((pair >> 16) & COUNT_MASK))
                tally = uint64(mine % uint32(tails)) * uint64(samples) + uint64(row_of(rows, i))
                cuda.atomic.add(tallies, tally * entries + uint64(above), rest)
                cuda.atomic.add(tallies, tally * entries + uint64(above + 1), without)
            mine = uint32(mine + threads)

    def tally_rows(
        bits,
        width,
        first,
        rows,
        at_work,
        samples,
        edges,
        used,
        nodes,
        infinity,
        levels,
        step,
        tallies,
        above,
        codes,
        missing,
    ):  # (s, N), (r,), (k, n), (t, n) -> (v, s, g + 2), (s, n), (1,)
        # The simulator knows shared arrays by their lines.
        bound = cuda.shared.array(room, wide)
        here = cuda.shared.array(levels_room, int32)
        words = cuda.shared.array(words_room, int32)
        samples_here = cuda.shared.array(chosen_room, int32)
        values = cuda.local.array(each, wide)
        places = cuda.local.array(together, uint32)
        packed = cuda.local.array(together, int32)
        width, used, nodes, infinity, above = uint32(width), uint32(used), uint32(nodes), wide(infinity), uint32(above)
        lane, turn = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        number = uint32(turn * columns + lane)
        at = number
        while at < words_room:
            words[at] = 0
            at = uint32(at + threads)
        begin, stop = uint32(uint64(cuda.blockIdx.x) * uint64(rows_there)), uint32(at_work)
        # How many samples this thread has: the last block's may end before.
        row = uint32(begin + turn)
        there = uint32((min(stop, uint32(begin + rows_there)) - row + turns - 1) // turns) if row < stop else uint32(0)
        if chosen:
            at = number
            while at < rows_there:
                samples_here[at] = int32(row_of(rows, uint32(min(uint32(begin + at), uint32(stop - 1)))))
                at = uint32(at + threads)
        jump, jump_to = uint64(turns) * uint64(width), uint64(turns) * uint64(nodes)
        nans = uint32(0)
        start = uint32(uint64(cuda.blockIdx.y) * uint64(step))
        end = uint32(min(uint64(start) + uint64(step), uint64(nodes)))
        nan_entry = address_of(here, uint32((used + 1) * columns + lane))
        tally = uint32(turn * tails * PITCH)
        cuda.syncthreads()
        c = start
        while c < end:
            node = uint32(c + lane)
            # Where there is nothing, a zero is tallied, for nobody.
            real = uint32(there if node < nodes else 0)
            column = uint64(first) + uint64(node)
            at = uint64(row) * uint64(width) + column
            if c + columns <= nodes and begin + rows_there <= stop and not chosen:
                for q in range(each):
                    values[q] = wide(bits[at])
                    at = at + jump
            else:
                for q in range(each):
                    values[q] = wide(0)
                    if uint32(q) < real:
                        if chosen:
                            at = uint64(samples_here[uint32(q * turns + turn)]) * uint64(width) + column
                        values[q] = wide(bits[at])
                    at = at + jump
            cuda.syncthreads()
            load_edges(edges, used, nodes, node, lane, turn, wide(no_edge), bound)
            load_levels(levels, uint32(used + 2), nodes, node, lane, turn, int32(0), here)
            cuda.syncthreads()
            to = uint64(row) * uint64(nodes) + uint64(node)
            for p in range(0, each, together):
                for q in range(together):
                    places[q] = search(wide(key_of_number(values[p + q], wide(nan_key))), bound, lane)
                for q in range(together):
                    absent = is_nan(values[p + q], infinity, wide(nan_key))
                    entry = address_of(here, places[q])
                    packed[q] = item_at(here, nan_entry if absent else entry, 0)
                for q in range(together):
                    add(packed[q], uint32(tally + (p + q) * turns * tails * PITCH), words)
                    absent = is_nan(values[p + q], infinity, wide(nan_key))
                    if absent:
                        nans = uint32(nans + 1)
                    if coded and uint32(p + q) < real:
                        code = uint32(NAN_CODE) if absent else uint32(places[q] // uint32(columns))
                        if chosen:
                            sample = uint64(samples_here[uint32((p + q) * turns + turn)])
                            to = sample * uint64(nodes) + uint64(node)
                        codes[to] = uint8(code)
                    to = to + jump_to
            c = uint32(c + columns)
        if nans != 0:
            cuda.atomic.add(missing, 0, int64(nans))
        cuda.syncthreads()
        hand_over(words, int32(end - start), begin, stop, rows, samples, above, tallies, number)

    given = vector(bits_type)
    where = given, int64, int64, vector(int32) if chosen else given, int64, int64
    what = vector(wide), int64, int64, int64, vector(int32), int64
    out = vector(int32), int64, vector(uint8) if coded else given, vector(int64)
    # Registers are to leave room for as many blocks beside one another as shared memory does.
    return Kernel(tally_rows, (*where, *what, *out), (columns, turns), BLOCKS_TOGETHER), shape


def tally_codes(codes: Any, rows: Any, levels: Any, tally: Any, stream: Any) -> None:
    """Add rows of codes (s, n) to their tallies (s, g + 2) int32; any number of thresholds.

    ``rows`` (r,) int32: the chosen samples, all different. ``levels`` (n, t), uint16 or int32.
    """
    nodes, entries = levels.shape
    kernel = code_tallier(from_dtype(levels.dtype))
    turns = kernel.threads[1]
    parts = max(nodes // FEWEST_COLUMNS, 1)
    step = -(-nodes // parts)
    grid = -(-rows.size // turns), parts if nodes else 0
    kernel.launch(grid, stream, codes, rows, rows.size, levels, nodes, entries, step, tally, tally.shape[1] - 2)


@cache
def code_tallier(levels_type: Any) -> Kernel:
    """The kernel for levels of this type: a row of lanes takes a sample."""
    lanes, turns = LANES, THREADS // LANES

    def tally_codes(codes, rows, at_work, levels, nodes, entries, step, tally, above):
        # (s, n), (r,), (n, t) -> (s, g + 2)
        i = uint64(cuda.blockIdx.x) * uint64(turns) + uint64(cuda.threadIdx.y)
        if i < uint64(at_work):
            sample, last = uint64(rows[i]), uint32(entries - 1)
            target, row = sample * uint64(above + 2), sample * uint64(nodes)
            begin = uint64(cuda.blockIdx.y) * uint64(step)
            end = min(begin + uint64(step), uint64(nodes))
            j = begin + uint64(cuda.threadIdx.x)
            beyond = int32(0)
            while j < end:
                code = min(uint32(codes[row + j]), last)
                level = uint32(levels[j * uint64(entries) + uint64(code)])
                # So many nodes have this level that they would wait for one another.
                if level == uint32(above):
                    beyond = int32(beyond + 1)
                else:
                    cuda.atomic.add(tally, target + uint64(level), int32(1))
                j = j + uint64(lanes)
            if beyond != 0:
                cuda.atomic.add(tally, target + uint64(above), beyond)

    arguments = vector(uint8), vector(int32), int64, vector(levels_type), int64, int64, int64, vector(int32), int64
    return Kernel(tally_codes, arguments, (lanes, turns))


def clear(counts: Any, stream: Any) -> None:
    """Fill with zeros."""
    kernel = clearer(from_dtype(counts.dtype))
    blocks = _blocks_for(counts.size)
    kernel.launch((blocks, 1), stream, counts, counts.size, blocks * THREADS)


def add(counts: Any, tallies: Sequence[Any], stream: Any) -> None:
    """Add counts (v, s, g + 2) to a tally (s, g + 2) of each tail, int32."""
    for v, tally in enumerate(tallies):
        blocks = _blocks_for(tally.size)
        what = counts, v * tally.size, tally, tally.size
        adder().launch((blocks, 1), stream, *what, blocks * THREADS)


def _blocks_for(items: int) -> int:
    """Blocks whose threads take every so many items."""
    return min(-(-items // THREADS), BLOCKS)


@cache
def clearer(item: Any) -> Kernel:
    """The kernel for items of this type."""

    def clear_items(items, count, step):
        at = item_of_thread()
        while at < uint64(count):
            items[at] = 0
            at = at + uint64(step)

    return Kernel(clear_items, (vector(item), int64, int64), (LANES, THREADS // LANES))


@cache
def adder() -> Kernel:
    """The kernel for counts."""

    def add_items(counts, start, tally, count, step):
        at = item_of_thread()
        while at < uint64(count):
            tally[at] += counts[uint64(start) + at]
            at = at + uint64(step)

    return Kernel(add_items, (vector(int32), int64, vector(int32), int64, int64), (LANES, THREADS // LANES))


@inlined
def item_of_thread():
    """The number of a thread among those of all blocks."""
    inside = uint64(cuda.threadIdx.y) * uint64(LANES) + uint64(cuda.threadIdx.x)
    return uint64(cuda.blockIdx.x) * uint64(THREADS) + inside
