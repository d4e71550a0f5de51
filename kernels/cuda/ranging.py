"""From values or codes to p-value ranges, on a device.

Of one group, the tables of a block's columns lie in shared memory. Of several groups each sample reads its own group's
tables where they are: samples that are many for their group are sooner given group by group.

Shapes: s = samples, N = columns of the block in memory, n = nodes, c = groups, k = edges, r = chosen rows,
t = k + 2 = entries of a node's table (codes 0..k, the last one for NaN). Arrays lie on the device, in C order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import from_dtype, int32, int64, uint8, uint32, uint64

from hpv.kernels.cuda.device import THREADS, Kernel, block_columns, cuda, inlined, spread, vector
from hpv.kernels.cuda.searching import (
    ROWS,
    WIDE,
    bytes_of,
    capacity_for,
    make_entry,
    make_load_table,
    no_edge_of,
    row_finder,
    rows_of_block,
)


def ranges(
    bits: Any,
    first: int,
    rows: Any | None,
    group: Any | None,
    edges: Any,
    infinity: int,
    tables: tuple[Any, Any],
    out: tuple[Any, Any],
    stream: Any,
) -> None:
    """Write pmin and pmax (s, n) of rows of a block (s, N), nodes ``first : first + n``, for edge keys (k, n).

    ``rows`` (r,) int32: the chosen samples; None for all. ``tables``: pmin and pmax (c, t, n). ``group`` (s,) int32:
    the table of each sample; None where there is one.
    """
    used, nodes = edges.shape
    what = edges, used, nodes, infinity
    _look_up(bits, first, rows, group, what, tables, out, stream)


def look_up(
    codes: Any, rows: Any | None, group: Any | None, tables: tuple[Any, Any], out: tuple[Any, Any], stream: Any
) -> None:
    """The same from codes (s, n): ``pmin = low[group, code, node]``; NAN_CODE takes the last entry."""
    _, entries, nodes = tables[0].shape
    # No edges are looked at.
    what = codes, entries - 2, nodes, 0
    _look_up(codes, 0, rows, group, what, tables, out, stream)


def _look_up(
    values: Any,
    first: int,
    rows: Any | None,
    group: Any | None,
    what: tuple[Any, int, int, int],
    tables: tuple[Any, Any],
    out: tuple[Any, Any],
    stream: Any,
) -> None:
    (samples, columns), (_, used, nodes, _) = values.shape, what
    grouped, chosen = group is not None, rows is not None
    variant = from_dtype(values.dtype), capacity_for(used), from_dtype(tables[0].dtype)
    kernel = ranger(*variant, grouped, chosen)
    samples = samples if rows is None else rows.size
    width = -(-nodes // kernel.threads[0])
    parts, height = spread(samples, width)
    where = values, columns, first, values if rows is None else rows, samples, height, group if grouped else values
    kernel.launch((width, parts), stream, *where, *what, *tables, *out)


@cache
def ranger(values_type: Any, capacity: int, range_type: Any, grouped: bool, chosen: bool) -> Kernel:
    """The kernel for values or codes of this type, at most so many edges, and ranges of this type."""
    wide, entries_room = WIDE.get(values_type, int32), 1 if grouped else capacity + 2
    edges_room = 1 if values_type is uint8 else capacity
    columns = block_columns(edges_room * bytes_of(wide) + 2 * entries_room * bytes_of(range_type))
    turns, row_of, no_edge = THREADS // columns, row_finder(chosen), no_edge_of(wide)
    room, table_room = edges_room * columns, entries_room * columns
    load_edges = make_load_table(0 if values_type is uint8 else capacity, columns, turns)
    load_ranges = make_load_table(0 if grouped else capacity + 2, columns, turns)
    entry_of = make_entry(values_type, capacity, columns)

    def make_looking(rows_together: int) -> Any:
        """Ranges of so many samples, ``turns`` apart from one another."""

        @inlined
        def look(values, width, column, rows, i, infinity, bound, lane, last, group, tables, pmin, pmax, nodes, node):
            low, high = tables
            read = cuda.local.array(rows_together, values_type)
            places = cuda.local.array(rows_together, uint32)
            for q in range(rows_together):
                sample = row_of(rows, uint32(i + q * turns))
                read[q] = values[uint64(sample) * uint64(width) + column]
            for q in range(rows_together):
                places[q] = entry_of(read[q], infinity, bound, lane, last)
            for q in range(rows_together):
                sample = row_of(rows, uint32(i + q * turns))
                to = uint64(sample) * uint64(nodes) + uint64(node)
                at = uint64(places[q])
                if grouped:
                    at = uint64(uint32(group[sample]) * uint32(last + 1) + places[q] // uint32(columns))
                    at = at * uint64(nodes) + uint64(node)
                pmin[to] = low[at]
                pmax[to] = high[at]

        return look

    look_several, look_one = make_looking(ROWS), make_looking(1)

    def look_up_columns(
        values, width, first, rows, samples, height, group, edges, used, nodes, infinity, low, high, pmin, pmax
    ):  # (s, N), (r,), (s,), (k, n), (c, t, n), (c, t, n) -> (s, n), (s, n)
        # The simulator knows shared arrays by their lines.
        bound = cuda.shared.array(room, wide)
        low_there = cuda.shared.array(table_room, range_type)
        high_there = cuda.shared.array(table_room, range_type)
        width, used, nodes, infinity = uint32(width), uint32(used), uint32(nodes), wide(infinity)
        lane, turn = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        begin = uint32(uint32(cuda.blockIdx.x) * uint32(columns))
        # Lanes beyond the last node do what its lane does.
        lane = uint32(min(lane, uint32(nodes - 1 - begin)))
        node, last = uint32(begin + lane), uint32(used + 1)
        load_edges(edges, used, nodes, node, lane, turn, wide(no_edge), bound)
        load_ranges(low, uint32(last + 1), nodes, node, lane, turn, range_type(0), low_there)
        load_ranges(high, uint32(last + 1), nodes, node, lane, turn, range_type(1), high_there)
        cuda.syncthreads()
        tables = (low, high) if grouped else (low_there, high_there)
        column = uint64(first) + uint64(node)
        what = infinity, bound, lane, last, group, tables, pmin, pmax, nodes, node
        i, whole, stop = rows_of_block(cuda.blockIdx.y, turn, turns, samples, height)
        while i < whole:
            look_several(values, width, column, rows, i, *what)
            i = uint32(i + ROWS * turns)
        while i < stop:
            look_one(values, width, column, rows, i, *what)
            i = uint32(i + turns)

    values, table = vector(values_type), vector(range_type)
    rows_type, group_type = vector(int32) if chosen else values, vector(int32) if grouped else values
    edges_type = values if values_type is uint8 else vector(wide)
    given = values, int64, int64, rows_type, int64, int64, group_type, edges_type, int64, int64, int64
    return Kernel(look_up_columns, (*given, table, table, table, table), (columns, turns))
