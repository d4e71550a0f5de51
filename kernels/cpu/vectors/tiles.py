"""The walk over a block: GROUP samples by as many nodes as fill the nearer caches, node by node.

A tile's keys are laid out node after node, GROUP samples of each; so are its codes, whatever is done with them. Tiles
are wide: memory gives and takes long pieces of a row several times faster than short ones.

Shapes: s = samples, N = columns of the block in memory, n = nodes, r = chosen rows, filled up with -1 to whole groups.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.vectors.lanes import (
    INT64,
    LANE_BYTES,
    Lanes,
    address_of,
    aligned,
    columns_of,
    interleave,
    keys_of,
    lanes_of,
    load,
    prefetch,
    shuffle,
    splat,
    store,
    transpose,
)
from hpv.kernels.cpu.vectors.registers import has_registers
from hpv.kernels.rules import CODE

# Samples whose codes fill one vector: so many are worked on at once.
GROUP = 64
BYTES = Lanes(8, GROUP)
# Nodes whose codes are transposed at once.
CODE_NODES = 16
# Nodes of a tile, and bytes of a sample in it, at most.
TILE_NODES = 2048
TILE_BYTES = 8192
# Bytes of results of a node that are collected before they are written.
COLLECTED = 128


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


def make_spaces(dtype: np.dtype, parts: int) -> Space:
    """Working memory for values of one format, for every part (the first axis) its own."""
    nodes, lanes = min(TILE_NODES, TILE_BYTES // dtype.itemsize), LANE_BYTES // dtype.itemsize
    keys, square = aligned((parts, nodes, stride(lanes)), dtype), aligned((parts, GROUP, lanes), dtype)
    # A line is longer than its tile, and so starts elsewhere in the caches than the one before.
    lines = max(COLLECTED * (nodes + LANE_BYTES // 4), GROUP * (nodes + LANE_BYTES))
    codes, answers = (aligned((parts, nodes, GROUP), CODE) for _ in range(2))
    return Space(keys, square, codes, answers, aligned((parts, lines), np.uint8))


@kernel
def space_of_part(spaces, p):
    """Working memory of part number ``p``."""
    return Space(spaces.keys[p], spaces.square[p], spaces.codes[p], spaces.answers[p], spaces.lines[p])


class _Spaces(threading.local):
    """Working memory that a thread keeps: fresh pages cost more than the work on them."""

    def __init__(self) -> None:
        self.known: dict[tuple[np.dtype, int], Space] = {}


_spaces = _Spaces()


def spaces_of_thread(dtype: np.dtype, parts: int) -> Space:
    """This thread's working memory for values of one format; for so many parts, which other threads may do."""
    if (dtype, parts) not in _spaces.known:
        _spaces.known[dtype, parts] = make_spaces(dtype, parts)
    return _spaces.known[dtype, parts]


def stride(lanes: int) -> int:
    """From a node's keys to the next one's: an odd number of lines, so that they do not all meet in the same lines of
    the nearest cache.
    """
    return GROUP + lanes


@intrinsic
def pack(typing: Any, bits: Any, rows: Any, r: Any, column: Any, infinity: Any, keys: Any, at: Any) -> Any:
    """Keys of a square: l nodes from ``column`` on of l samples, ``rows[r]``, ``rows[r + GROUP // l]``, ...

    The keys of a node go to ``keys`` side by side, from ``at`` on, ``stride(l)`` from node to node. The samples skip in
    this way because ``search`` joins the codes of several vectors byte by byte.
    """
    lanes = lanes_of(bits)
    signature = types.void(bits, rows, r, column, infinity, keys, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        bits, rows, r, column, infinity, keys, at = arguments
        columns = columns_of(context, builder, signature.args[0], bits)
        at_most = splat(builder, lanes, infinity)
        square = []
        for q in range(lanes.count):
            number = builder.add(r, r.type(q * (GROUP // lanes.count)))
            row = builder.load(address_of(context, builder, signature.args[1], rows, number), typ=INT64)
            offset = builder.add(builder.mul(row, columns), column)
            value = load(builder, address_of(context, builder, signature.args[0], bits, offset), lanes)
            square.append(keys_of(builder, lanes, value, at_most, lanes.highest))
        for q, samples in enumerate(transpose(builder, square)):
            offset = builder.add(at, at.type(q * stride(lanes.count)))
            store(builder, address_of(context, builder, signature.args[5], keys, offset), samples)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather_codes(typing: Any, codes: Any, rows: Any, r: Any, column: Any, tile: Any, to: Any) -> Any:
    """The reverse of ``transpose_codes``: from a matrix, the rows ``rows[r : r + GROUP]`` and CODE_NODES columns."""
    signature = types.void(codes, rows, r, column, tile, to)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, rows, r, column, tile, to = arguments
        columns, short = columns_of(context, builder, signature.args[0], codes), Lanes(8, CODE_NODES)
        lines = []
        for q in range(GROUP):
            place = address_of(context, builder, signature.args[1], rows, builder.add(r, r.type(q)))
            offset = builder.add(builder.mul(builder.load(place, typ=INT64), columns), column)
            lines.append(load(builder, address_of(context, builder, signature.args[0], codes, offset), short))
        square = []
        for q in range(CODE_NODES):
            a, b, c, d = lines[q::CODE_NODES]
            halves = [shuffle(builder, one, other, list(range(2 * CODE_NODES))) for one, other in ((a, b), (c, d))]
            square.append(shuffle(builder, *halves, list(range(GROUP))))
        for q, node in enumerate(interleave(builder, square, CODE_NODES)):
            offset = builder.add(to, to.type(q * GROUP))
            store(builder, address_of(context, builder, signature.args[4], tile, offset), node)
        return context.get_dummy_value()

    return signature, generate


@kernel
def load_code_tile(codes, column, width, rows, r, space):  # (s, N), (r,)
    """Codes of ``width`` nodes from ``column`` on, node by node; NAN_CODE where a row is -1."""
    inside = width // CODE_NODES * CODE_NODES if rows[r + GROUP - 1] >= 0 else 0
    tile = space.codes.reshape(-1)
    for j in range(0, inside, CODE_NODES):
        gather_codes(codes, rows, r, column + j, tile, j * GROUP)
    for j in range(inside, width, CODE_NODES):
        copy_square(codes, column + j, min(CODE_NODES, width - j), rows, r, 1, space.square)
        gather_codes(space.square, np.arange(GROUP), 0, 0, tile, j * GROUP)


@intrinsic
def transpose_codes(typing: Any, codes: Any, at: Any, lines: Any, to: Any, width: Any) -> Any:
    """GROUP codes of CODE_NODES nodes, node after node, become lines of one sample each, ``width`` apart."""
    signature = types.void(codes, at, lines, to, width)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, lines, to, width = arguments
        rows = []
        for q in range(CODE_NODES):
            offset = builder.add(at, at.type(q * GROUP))
            rows.append(load(builder, address_of(context, builder, signature.args[0], codes, offset), BYTES))
        for q, row in enumerate(interleave(builder, rows, CODE_NODES)):
            for c in range(GROUP // CODE_NODES):
                line = shuffle(builder, row, row, list(range(c * CODE_NODES, (c + 1) * CODE_NODES)))
                offset = builder.add(to, builder.mul(width, width.type(c * CODE_NODES + q)))
                store(builder, address_of(context, builder, signature.args[2], lines, offset), line)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fetch(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Ask for GROUP items of a C-contiguous matrix before they are needed.

    Only where trees are searched in registers: in memory the search is up to 1.6 times as fast without (measured).
    """
    signature = types.void(array, row, column)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        array, row, column = arguments
        if not has_registers(context):
            return context.get_dummy_value()
        columns = columns_of(context, builder, signature.args[0], array)
        start = builder.add(builder.mul(row, columns), column)
        for c in range(0, GROUP, LANE_BYTES * 8 // signature.args[0].dtype.bitwidth):
            prefetch(builder, address_of(context, builder, signature.args[0], array, builder.add(start, start.type(c))))
        return context.get_dummy_value()

    return signature, generate


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
    """Every ``skip``-th of the chosen rows; NaN, or its code, where there is no value."""
    spare[:] = np.iinfo(spare.dtype).max
    for q in range(0, GROUP, skip):
        row = rows[r + q]
        if row >= 0:
            for c in range(width):
                spare[q, c] = bits[row, column + c]


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
