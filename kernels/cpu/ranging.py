"""From values or codes to p-value ranges.

Many samples: straight from values, with a bisection and look-ups in registers. Few samples, and processors that cannot
look up in registers: by a look-up per code, in memory.

Shapes: s = samples, N = columns of the block in memory, n = nodes, c = classes, k = edges,
t = k + 2 = entries of a node's table (codes 0..t-2, the last one for NaN), e = the same as the search trees have them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from hpv.kernels.cpu.coders.trees import plant_trees, search_tile
from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.parallel import borders, in_parts
from hpv.kernels.cpu.vectors.lanes import (
    LANE_BYTES,
    Lanes,
    address_of,
    aligned,
    fence,
    lanes_of,
    line_start,
    load,
    store,
    stream,
    transpose,
)
from hpv.kernels.cpu.vectors.registers import looks_up_in_registers, pick_entry
from hpv.kernels.cpu.vectors.stacks import padded_rows
from hpv.kernels.cpu.vectors.tiles import COLLECTED, GROUP, pack_tile, present_rows, space_of_part, spaces_of_thread

# Samples of one class that are worth a group of their own.
FEWEST_ROWS = 16
# Nodes whose answers are collected before they are written.
PIECE = 1024


class RangeTables(NamedTuple):
    """What turns values of n nodes into their p-value ranges; made once, used for many blocks."""

    pairs: tuple[np.ndarray, np.ndarray]
    """pmin and pmax by class, node and code (c, n, t), for look-ups in memory."""
    trees: np.ndarray | None
    """Edge keys as search trees; None where look-ups in registers are not to be had."""
    levels: tuple[int, ...]
    """Their levels."""
    low: np.ndarray
    """Bits of pmin by class, node and code (c, n', e), for whole vectors of nodes; the last entry is NaN's."""
    high: np.ndarray
    """The same of pmax."""
    infinity: int
    """Key of +inf in the format of the values."""


def make_tables(low: np.ndarray, high: np.ndarray, edges: np.ndarray, infinity: int) -> RangeTables:
    """Tables of pmin and pmax (c, n, t) for nodes with these edge keys (n, k); the last entries are 0 and 1."""
    pairs = pair_tables(low, high)
    if not looks_up_in_registers():
        nothing = np.empty((0, 0, 0), np.int32)
        return RangeTables(pairs, None, (), nothing, nothing, infinity)
    trees, levels = plant_trees(edges)
    wide = [spread(table, 1 << len(levels)) for table in (low, high)]
    return RangeTables(pairs, trees, levels, wide[0], wide[1], infinity)


def spread(table: np.ndarray, entries: int) -> np.ndarray:
    """Bits of a table (c, n, t) with more entries, the last one of them being the table's last."""
    classes, n, t = table.shape
    lanes = LANE_BYTES // table.itemsize
    bits = np.dtype(f"i{table.itemsize}")
    wide = aligned((classes, -(-n // lanes) * lanes, entries), bits)
    as_bits = np.ascontiguousarray(table).view(bits)
    wide[:, :n, : t - 1], wide[:, :n, -1] = as_bits[:, :, :-1], as_bits[:, :, -1]
    return wide


def fill_directly(
    bits: np.ndarray,
    first: int,
    classes: np.ndarray,
    tables: RangeTables,
    pmin: np.ndarray,
    pmax: np.ndarray,
    threads: int = 1,
) -> bool:
    """Write the ranges (s, n) of the nodes ``first : first + n`` of a block (s, N) if that needs no codes.

    False, and nothing is written, where the ranges have to be looked up by their codes.
    """
    present = np.unique(classes)
    if tables.trees is None or len(classes) < FEWEST_ROWS * len(present):
        return False
    if not all(out.flags.c_contiguous and out.flags.aligned for out in (pmin, pmax)):
        return False
    targets = [out.reshape(-1).view(tables.low.dtype) for out in (pmin, pmax)]
    starts = tuple(line_start(target) for target in targets)
    spaces = spaces_of_thread(bits.dtype, threads)
    for c in present:
        rows = padded_rows(np.flatnonzero(classes == c), GROUP)
        what = tables.trees, tables.levels, tables.infinity, spaces, tables.low[c], tables.high[c]
        range_parts(borders(len(rows), threads, GROUP), bits, first, pmin.shape[1], rows, *what, *targets, starts)
    return True


@intrinsic
def look_up_square(
    typing: Any, codes: Any, at: Any, tables: Any, start: Any, levels: Any, lines: Any, to: Any, width: Any
) -> Any:
    """Entries of l nodes for l samples each, as many as a vector holds.

    The codes of a node lie side by side from item ``at`` of ``codes`` on, GROUP from node to node. Its table of
    2**len(levels) entries starts at item ``start`` of ``tables``, table after table. The entries become lines of one
    sample each, from item ``to`` of ``lines`` on, ``width`` apart.
    """
    lanes = lanes_of(tables)
    entries = 1 << len(levels)
    signature = types.void(codes, at, tables, start, levels, lines, to, width)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, tables, start, _, lines, to, width = arguments
        square, vectors = [], range(0, entries, lanes.count)
        for q in range(lanes.count):
            offset = builder.add(at, at.type(q * GROUP))
            place = load(builder, address_of(context, builder, signature.args[0], codes, offset), Lanes(8, lanes.count))
            place = builder.and_(builder.zext(place, lanes.llvm), lanes.constant(entries - 1))
            first = address_of(context, builder, signature.args[2], tables, builder.add(start, start.type(q * entries)))
            table = [load(builder, builder.gep(first, [start.type(v)]), lanes) for v in vectors]
            square.append(pick_entry(builder, lanes, table, place))
        for q, sample in enumerate(transpose(builder, square)):
            offset = builder.add(to, builder.mul(width, width.type(q)))
            store(builder, address_of(context, builder, signature.args[5], lines, offset), sample)
        return context.get_dummy_value()

    return signature, generate


@in_parts
def range_parts(borders, bits, first, nodes, rows, trees, levels, infinity, spaces, low, high, pmin, pmax, starts):
    # (p + 1,), (s, N), (r,), (n, t), (n, e), (n, e) -> (s * n,), (s * n,)
    """Ranges of the chosen rows."""
    for p in prange(borders.size - 1):
        what = rows[borders[p] : borders[p + 1]], trees, levels, infinity, space_of_part(spaces, p)
        range_many(bits, first, nodes, *what, low, high, pmin, pmax, starts)


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


def look_up(
    codes: np.ndarray,
    classes: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    pmin: np.ndarray,
    pmax: np.ndarray,
    threads: int = 1,
) -> None:
    """Write the ranges (s, n) of codes (s, n) from tables of pmin and pmax (c, n, t)."""
    look_up_parts(borders(len(codes), threads), codes, classes, *pairs, pmin, pmax)


def pair_tables(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of two tables whose entries lie side by side, as they are read: a look-up misses the caches once."""
    pairs = np.stack([low, high], axis=-1)
    return pairs[..., 0], pairs[..., 1]


@in_parts
def look_up_parts(borders, codes, classes, low, high, pmin, pmax):
    # (p + 1,), (s, n), (s,), (c, n, t), (c, n, t) -> (s, n), (s, n)
    """Ranges of all samples, by their codes."""
    for p in prange(borders.size - 1):
        part = slice(borders[p], borders[p + 1])
        look_up_ranges(codes[part], classes[part], low, high, pmin[part], pmax[part])


@kernel
def look_up_ranges(codes, classes, low, high, pmin, pmax):  # (s, n), (s,), (c, n, t), (c, n, t) -> (s, n), (s, n)
    """``pmin = low[class, node, code]`` and ``pmax`` likewise; NAN_CODE takes the last entry.

    Whole rows, because memory is written fastest in order; tables from ``pair_tables`` are read fastest.
    """
    samples, nodes = codes.shape
    last = np.uint64(low.shape[2] - 1)
    one, two = np.empty(PIECE, low.dtype), np.empty(PIECE, high.dtype)
    for i in range(samples):
        for j0 in range(0, nodes, PIECE):
            j1 = min(nodes, j0 + PIECE)
            lowest, highest, row = low[classes[i], j0:j1], high[classes[i], j0:j1], codes[i, j0:j1]
            for j in range(row.size):
                at = min(np.uint64(row[j]), last)
                one[j] = lowest[j, at]
                two[j] = highest[j, at]
            target, other = pmin[i, j0:j1], pmax[i, j0:j1]
            for j in range(row.size):
                target[j] = one[j]
            for j in range(row.size):
                other[j] = two[j]
