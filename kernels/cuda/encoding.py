"""From values to codes, on a device.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges. Arrays lie on the device, in C order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import from_dtype, int64, uint8, uint32, uint64

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
from hpv.kernels.rules import NAN_CODE


def encode(bits: Any, first: int, edges: Any, infinity: int, codes: Any, stream: Any) -> None:
    """Codes (s, n) of the nodes ``first : first + n`` of a block (s, N), for edge keys (k, n)."""
    (samples, columns), (used, nodes) = bits.shape, edges.shape
    kernel = encoder(from_dtype(bits.dtype), capacity_for(used))
    width = -(-nodes // kernel.threads[0])
    parts, height = spread(samples, width)
    what = bits, columns, first, edges, used, nodes, infinity
    kernel.launch((width, parts), stream, *what, samples, height, codes)


@cache
def encoder(bits_type: Any, capacity: int) -> Kernel:
    """The kernel for values of this type and at most so many edges."""
    wide, nan_key, no_edge = WIDE[bits_type], nan_key_of(bits_type), no_edge_of(bits_type)
    columns = block_columns(capacity * bytes_of(wide))
    turns, room = THREADS // columns, capacity * columns
    search, load_edges = make_search(capacity, columns), make_load_table(capacity, columns, turns)

    def make_coding(rows: int) -> Any:
        """Codes of so many samples, ``turns`` apart from one another."""

        @inlined
        def code(bits, at, jump, infinity, bound, lane, codes, to, jump_to):
            """From ``bits[at]`` to ``codes[to]``, and so on."""
            values = cuda.local.array(rows, wide)
            places = cuda.local.array(rows, uint32)
            for q in range(rows):
                values[q] = wide(bits[at + uint64(q) * jump])
            for q in range(rows):
                places[q] = search(wide(key_of_number(values[q], wide(nan_key))), bound, lane)
            for q in range(rows):
                absent = is_nan(values[q], infinity, wide(nan_key))
                found = uint32(NAN_CODE) if absent else uint32(places[q] // uint32(columns))
                codes[to + uint64(q) * jump_to] = uint8(found)

        return code

    code_several, code_one = make_coding(ROWS), make_coding(1)

    def encode_columns(bits, width, first, edges, used, nodes, infinity, samples, height, codes):
        # (s, N), (k, n) -> (s, n)
        bound = cuda.shared.array(room, wide)
        width, used, nodes, infinity = uint32(width), uint32(used), uint32(nodes), wide(infinity)
        lane, turn = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        begin = uint32(uint32(cuda.blockIdx.x) * uint32(columns))
        # Lanes beyond the last node do what its lane does.
        lane = uint32(min(lane, uint32(nodes - 1 - begin)))
        node = uint32(begin + lane)
        load_edges(edges, used, nodes, node, lane, turn, wide(no_edge), bound)
        cuda.syncthreads()
        column = uint64(first) + uint64(node)
        jump, jump_to = uint64(turns) * uint64(width), uint64(turns) * uint64(nodes)
        i, whole, stop = rows_of_block(cuda.blockIdx.y, turn, turns, samples, height)
        at, to = uint64(i) * uint64(width) + column, uint64(i) * uint64(nodes) + uint64(node)
        while i < whole:
            code_several(bits, at, jump, infinity, bound, lane, codes, to, jump_to)
            at, to = at + uint64(ROWS) * jump, to + uint64(ROWS) * jump_to
            i = uint32(i + ROWS * turns)
        while i < stop:
            at, to = uint64(i) * uint64(width) + column, uint64(i) * uint64(nodes) + uint64(node)
            code_one(bits, at, jump, infinity, bound, lane, codes, to, jump_to)
            i = uint32(i + turns)

    arguments = vector(bits_type), int64, int64, vector(wide), int64, int64, int64, int64, int64, vector(uint8)
    return Kernel(encode_columns, arguments, (columns, turns))
