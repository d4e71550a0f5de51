"""From values to codes, on a device.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges. Arrays lie on the device, in C order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import from_dtype, int64, uint8, uint32, uint64

from hpv.kernels.cuda.device import THREADS, Kernel, block_columns, cuda, inlined, key_of, spread, vector
from hpv.kernels.cuda.searching import (
    ROWS,
    WIDE,
    bytes_of,
    capacity_for,
    make_load_table,
    make_search,
    missing_of,
    rows_of_block,
    unused_of,
)
from hpv.kernels.rules import MISSING_CODE


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
    wide, missing, unused = WIDE[bits_type], missing_of(bits_type), unused_of(bits_type)
    columns = block_columns(capacity * bytes_of(wide))
    turns, room = THREADS // columns, capacity * columns
    search, load_edges = make_search(capacity, columns), make_load_table(capacity, columns, turns)

    def make_coding(rows: int) -> Any:
        """Codes of so many samples, ``turns`` apart from one another."""

        @inlined
        def code(bits, width, column, i, infinity, bound, lane, codes, nodes, node):
            keys, places = cuda.local.array(rows, wide), cuda.local.array(rows, uint32)
            for q in range(rows):
                sample = uint32(i + q * turns)
                keys[q] = key_of(wide(bits[uint64(sample) * uint64(width) + column]), infinity, wide(missing))
            for q in range(rows):
                places[q] = search(keys[q], bound, lane)
            for q in range(rows):
                sample = uint32(i + q * turns)
                found = uint8(MISSING_CODE) if keys[q] == wide(missing) else uint8(places[q] // uint32(columns))
                codes[uint64(sample) * uint64(nodes) + uint64(node)] = found

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
        load_edges(edges, used, nodes, node, lane, turn, wide(unused), bound)
        cuda.syncthreads()
        column = uint64(first) + uint64(node)
        i, stop = rows_of_block(cuda.blockIdx.y, turn, samples, height)
        while i + (ROWS - 1) * turns < stop:
            code_several(bits, width, column, i, infinity, bound, lane, codes, nodes, node)
            i = uint32(i + ROWS * turns)
        while i < stop:
            code_one(bits, width, column, i, infinity, bound, lane, codes, nodes, node)
            i = uint32(i + turns)

    arguments = vector(bits_type), int64, int64, vector(wide), int64, int64, int64, int64, int64, vector(uint8)
    return Kernel(encode_columns, arguments, (columns, turns))
