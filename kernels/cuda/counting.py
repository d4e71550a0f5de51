"""From values to counts per code, on a device.

Every block counts in its own shared memory and adds up at its end. Shapes: s = samples, N = columns of the block in
memory, n = nodes, k = edges, r = chosen rows. Arrays lie on the device, in C order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import from_dtype, int32, int64, uint32, uint64

from hpv.kernels.cuda.device import THREADS, Kernel, block_columns, cuda, inlined, is_nan, key_of_number, spread, vector
from hpv.kernels.cuda.searching import (
    ROWS,
    WIDE,
    bytes_of,
    capacity_for,
    make_load_table,
    make_search,
    nan_key_of,
    no_edge_of,
    rows_of_block,
)
from hpv.kernels.cuda.shared import add_where, address_of


def count(
    bits: Any,
    first: int,
    rows: Any | None,
    edges: Any,
    infinity: int,
    histogram: Any,
    lowest: Any,
    highest: Any,
    stream: Any,
) -> None:
    """Add rows of a block (s, N), nodes ``first : first + n``, to counts and extremes, for edge keys (k, n).

    ``rows`` (r,) int32: the chosen samples; None for all. ``histogram`` (k + 1, n) int64: values by code, without NaN.
    ``lowest`` and ``highest`` (n,): the extreme keys, in the width of the edges.
    """
    (samples, columns), (used, nodes) = bits.shape, edges.shape
    kernel = counter(from_dtype(bits.dtype), capacity_for(used), rows is not None)
    chosen, samples = (bits, samples) if rows is None else (rows, rows.size)
    width = -(-nodes // kernel.threads[0])
    parts, height = spread(samples, width)
    what = bits, columns, first, chosen, samples, edges, used, nodes, infinity
    kernel.launch((width, parts), stream, *what, height, histogram, lowest, highest)


@cache
def counter(bits_type: Any, capacity: int, chosen: bool) -> Kernel:
    """The kernel for values of this type and at most so many edges, of chosen rows or of all."""
    wide, nan_key, no_edge = WIDE[bits_type], nan_key_of(bits_type), no_edge_of(bits_type)
    # After the counters of all codes comes one for NaN: a branch would take longer.
    columns = block_columns(capacity * bytes_of(wide) + (capacity + 2) * 4)
    turns, room, nowhere = THREADS // columns, capacity * columns, (capacity + 1) * columns
    counters_room = nowhere + columns
    search, load_edges = make_search(capacity, columns), make_load_table(capacity, columns, turns)

    def make_counting(rows_together: int) -> Any:
        """Count so many samples, ``turns`` apart from one another; the new extremes."""

        @inlined
        def count(bits, width, column, rows, i, at, jump, infinity, bound, lane, counters, low, high):
            values = cuda.local.array(rows_together, wide)
            places = cuda.local.array(rows_together, uint32)
            for q in range(rows_together):
                if chosen:
                    at_q = uint64(rows[uint32(i + q * turns)]) * uint64(width) + column
                else:
                    at_q = at + uint64(q) * jump
                values[q] = wide(bits[at_q])
            for q in range(rows_together):
                places[q] = search(wide(key_of_number(values[q], wide(nan_key))), bound, lane)
            for_nobody = address_of(counters, uint32(nowhere + lane))
            for q in range(rows_together):
                key = wide(key_of_number(values[q], wide(nan_key)))
                absent = is_nan(values[q], infinity, wide(nan_key))
                counter = address_of(counters, places[q])
                add_where(counters, for_nobody if absent else counter, True, int32(1))
                low = min(low, wide(no_edge) if absent else key)
                high = max(high, wide(nan_key) if absent else key)
            return low, high

        return count

    count_several, count_one = make_counting(ROWS), make_counting(1)

    def count_columns(
        bits, width, first, rows, samples, edges, used, nodes, infinity, height, histogram, lowest, highest
    ):  # (s, N), (r,), (k, n) -> (k + 1, n), (n,), (n,)
        # The simulator knows shared arrays by their lines.
        bound = cuda.shared.array(room, wide)
        counters = cuda.shared.array(counters_room, int32)
        width, used, nodes, infinity = uint32(width), uint32(used), uint32(nodes), wide(infinity)
        lane, turn = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        node = uint32(uint32(cuda.blockIdx.x) * uint32(columns) + lane)
        load_edges(edges, used, nodes, node, lane, turn, wide(no_edge), bound)
        c = uint32(turn * columns + lane)
        while c < counters_room:
            counters[c] = 0
            c = uint32(c + turns * columns)
        cuda.syncthreads()
        # Lanes beyond the last node count its values, for nobody.
        column = uint64(first) + uint64(min(node, uint32(nodes - 1)))
        low, high, jump = wide(no_edge), wide(nan_key), uint64(turns) * uint64(width)
        i, whole, stop = rows_of_block(cuda.blockIdx.y, turn, turns, samples, height)
        at = uint64(i) * uint64(width) + column
        while i < whole:
            low, high = count_several(
                bits, width, column, rows, i, at, jump, infinity, bound, lane, counters, low, high
            )
            at = at + uint64(ROWS) * jump
            i = uint32(i + ROWS * turns)
        while i < stop:
            at = uint64(i) * uint64(width) + column
            low, high = count_one(bits, width, column, rows, i, at, jump, infinity, bound, lane, counters, low, high)
            i = uint32(i + turns)
        cuda.syncthreads()
        if node < nodes:
            code = turn
            while code <= used:
                counted = counters[uint32(code * columns + lane)]
                if counted != 0:
                    cuda.atomic.add(histogram, uint64(code) * uint64(nodes) + uint64(node), int64(counted))
                code = uint32(code + turns)
            cuda.atomic.min(lowest, node, low)
            cuda.atomic.max(highest, node, high)

    rows_type = vector(int32) if chosen else vector(bits_type)
    given = vector(bits_type), int64, int64, rows_type, int64, vector(wide), int64, int64, int64, int64
    return Kernel(count_columns, (*given, vector(int64), vector(wide), vector(wide)), (columns, turns))
