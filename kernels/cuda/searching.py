"""Which bin a value is in: a search among the edges of its column, which lie in shared memory.

Tables of a block in shared memory have the columns innermost: entry e of the block's column j lies at
``e * columns + j``. So the lanes of a warp never meet in a bank of the memory, whatever entries they look at, and
the place of a counter is found with the search itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import int16, int32, int64, uint8, uint32, uint64

from hpv.kernels.cuda.device import inlined, is_nan, key_of_number, reaches
from hpv.kernels.cuda.shared import address_of, index_of, item_at, moved_where

# How many edges a kernel is compiled for; edges that a node does not have are filled in as ones that nothing reaches.
CAPACITIES = (7, 15, 31, 40, 63, 95, 127, 191, 254)
# Samples of a thread that are in flight together.
ROWS = 4
# Entries of a thread that are copied together; more would take too many registers.
MOST_UNROLLED = 8
# The integers that edges are given as, for the integers that values are given as.
WIDE = {int16: int32, int32: int32, int64: int64}


def capacity_for(edges: int) -> int:
    """The smallest capacity that has room for so many edges."""
    return next(capacity for capacity in CAPACITIES if edges <= capacity)


def bytes_of(kind: Any) -> int:
    """Bytes of a number."""
    return int(kind.bitwidth) // 8


def nan_key_of(bits: Any) -> int:
    """The key of NaN: the lowest integer of the values' width."""
    return -(1 << (bits.bitwidth - 1))


def no_edge_of(bits: Any) -> int:
    """The key of an edge that is not there: the highest integer of the values' width."""
    return -1 - nan_key_of(bits)


@cache
def make_search(capacity: int, columns: int) -> Callable[..., Any]:
    """A search among ``capacity`` edges: as many steps as it takes, without a branch."""
    half = 1 << (capacity.bit_length() - 1)
    # So many edges are searched in whole steps; where the key reaches the one in their middle, the last of all are.
    first, jump, steps = (half - 1) * columns, (capacity + 1 - half) * columns, []
    while half > 1:
        half //= 2
        steps.append(half * columns)
    halves = tuple(steps)

    @inlined
    def search(key: Any, edges: Any, lane: Any) -> Any:
        """``code * columns + lane``, where code = number of edges that the key reaches."""
        at = address_of(edges, lane)
        at = moved_where(edges, at, reaches(key, item_at(edges, at, first)), jump)
        for step in halves:
            at = moved_where(edges, at, reaches(key, item_at(edges, at, step - columns)), step)
        return index_of(edges, at)

    return search


@cache
def make_entry(values_type: Any, capacity: int, columns: int) -> Callable[..., Any]:
    """From a value, or from a code that is there already, to the place of its entry in a table."""

    @inlined
    def entry_of_bits(bits: Any, infinity: Any, edges: Any, lane: Any, last: Any) -> Any:
        """``entry * columns + lane``; the ``last`` entry is NaN's."""
        place = search(wide(key_of_number(wide(bits), wide(nan_key))), edges, lane)
        return uint32(last * columns + lane) if is_nan(wide(bits), infinity, wide(nan_key)) else place

    @inlined
    def entry_of_code(code: Any, infinity: Any, edges: Any, lane: Any, last: Any) -> Any:
        """The same."""
        return uint32(min(uint32(code), last) * columns + lane)

    if values_type is uint8:
        return entry_of_code
    wide, nan_key, search = WIDE[values_type], nan_key_of(values_type), make_search(capacity, columns)
    return entry_of_bits


@cache
def make_load_table(room: int, columns: int, turns: int) -> Callable[..., Any]:
    """Copies the columns of a block from a table into shared memory."""
    steps, full = -(-room // turns), room % turns == 0

    @inlined
    def load_entry(table: Any, there: Any, nodes: Any, node: Any, lane: Any, e: Any, otherwise: Any, to: Any) -> None:
        """Copy entry ``e`` of a node, if there are so many."""
        entry = otherwise
        if e < there:
            entry = table[uint64(e) * uint64(nodes) + uint64(node)]
        if full or e < uint32(room):
            to[uint32(e * columns + lane)] = entry

    @inlined
    def load_table(table: Any, used: Any, nodes: Any, node: Any, lane: Any, turn: Any, otherwise: Any, to: Any) -> None:
        """``table`` (used, nodes) to ``to`` (room, columns); ``turn``: the thread's number among those of a column."""
        there = uint32(used if node < nodes else 0)
        if steps <= MOST_UNROLLED:
            for step in range(steps):
                load_entry(table, there, nodes, node, lane, uint32(turn + step * turns), otherwise, to)
        else:
            e = uint32(turn)
            while e < room:
                load_entry(table, there, nodes, node, lane, e, otherwise, to)
                e = uint32(e + turns)

    return load_table


@inlined
def rows_of_block(block: Any, turn: Any, turns: Any, samples: Any, height: Any) -> Any:
    """Samples of a thread of a block: the first, where no ROWS of them follow any more, and the end."""
    begin = uint64(block) * uint64(height)
    stop = min(uint64(samples), begin + uint64(height))
    whole = stop - min(stop, uint64((ROWS - 1) * turns))
    return uint32(begin + uint64(turn)), uint32(whole), uint32(stop)


@inlined
def every_row(rows: Any, i: Any) -> Any:
    """Where all samples are at work."""
    return i


@inlined
def chosen_row(rows: Any, i: Any) -> Any:
    """Where ``rows`` says which samples are."""
    return uint32(rows[i])


def row_finder(chosen: bool) -> Callable[..., Any]:
    """How the i-th sample at work is found."""
    return chosen_row if chosen else every_row
