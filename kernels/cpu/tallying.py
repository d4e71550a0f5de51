"""Scanning: from codes to tallies.

A *tally* says how many nodes of a sample fall at each level of significance; level i means that thresholds[i] is the
smallest one with pmax <= threshold. Two more entries follow the thresholds: nodes above all of them, and nodes
without a p-value. Tallies of disjoint sets of nodes add up.

Levels are looked up in memory, or, if they fit into bytes and the processor has an instruction that leaves bytes out,
found 64 at once: from codes by comparing them with 0, 1, 2, ..., from many values at once in registers.

Shapes: s = samples, n = nodes, c = classes, t = entries of a node's table (codes 0..t-2, the last one for NaN),
g = thresholds, l = 64 lanes, b = ceil(n / l), r = chosen rows, filled up with -1, v = tables of levels (tails),
e = 2**levels = entries of a table beside a search tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.entries import (
    append_below,
    count_nan,
    join_codes,
    load_codes,
    load_entries,
    mark_nan_level,
    repeat,
    take_from,
)
from hpv.kernels.cpu.lanes import INT64, LANE_BYTES, address_of, aligned, load, load_lanes, splat, store
from hpv.kernels.cpu.registers import compress, looks_up_bytes_in_registers, pick_entry
from hpv.kernels.cpu.stacks import ROWS, padded_rows
from hpv.kernels.cpu.tiles import (
    BYTES,
    GROUP,
    Space,
    copy_line,
    pack_tile,
    present_rows,
    spaces_of_thread,
    transpose_tile,
)
from hpv.kernels.cpu.trees import plant_trees, search_tile
from hpv.kernels.rules import CODE, NAN_CODE, TALLY

# Tables of this many nodes stay in the processor's nearest caches while these many samples pass over them.
TILE_NODES = 128
TILE_ROWS = 64
# Samples of one class that are worth a pass of their own, from codes and from values.
FEWEST_ROWS = 4
FEWEST_VALUES = 16
# More codes than these are looked up faster.
MOST_CODES = 128
# Blocks of lanes whose levels are collected before they are counted.
PIECE_BLOCKS = 16
# Levels of a byte.
BYTE = 256


class Levels(NamedTuple):
    """Levels of n nodes by class and code; made once, used for many blocks."""

    table: np.ndarray
    """Levels (c, n, t)."""
    packed: np.ndarray | None
    """Levels as bytes, packed (c, b, t - 1, l); None where they are looked up."""
    without: np.ndarray
    """NAN_CODE for a node without p-values, else 0 (c, b * l)."""


class Tallier(NamedTuple):
    """What turns values of n nodes into tallies; made once, used for many blocks."""

    trees: np.ndarray
    """Edge keys as search trees (n, t)."""
    levels: tuple[int, ...]
    """Their levels."""
    infinity: int
    """Key of +inf in the format of the values."""
    tables: np.ndarray
    """Levels as bytes, those of NaN last (c, v, n, e)."""
    without: np.ndarray
    """Whether a node has no p-values (c, n)."""


def nodes_without(table: np.ndarray, thresholds: int) -> np.ndarray | None:
    """Nodes without p-values (c, n) of levels (c, n, t), if levels fit into bytes; else None.

    A byte has no room for "no p-value": that may stand only for NaN and for all codes of a node.
    """
    nothing = table == thresholds + 1
    without = nothing.all(axis=2)
    fits = thresholds < BYTE and nothing[:, :, -1].all() and (nothing[:, :, :-1].any(axis=2) == without).all()
    return without if fits else None


def make_tallier(edges: np.ndarray, infinity: int, tables: Sequence[np.ndarray], thresholds: int) -> Tallier | None:
    """For nodes with these edge keys (n, k) and levels (c, n, k + 2) by tail; None where it would not work or pay."""
    without = [nodes_without(table, thresholds) for table in tables]
    if not looks_up_bytes_in_registers() or without[0] is None or any(one is None for one in without):
        return None
    trees, levels = plant_trees(edges)
    classes, nodes, entries = tables[0].shape
    wide = aligned((classes, len(tables), nodes, 1 << len(levels)), np.uint8, thresholds)
    for v, table in enumerate(tables):
        wide[:, v, :, : entries - 1] = np.minimum(table[:, :, :-1], thresholds)
    return Tallier(trees, levels, infinity, wide, without[0])


def tally_values(
    bits: np.ndarray,
    first: int,
    classes: np.ndarray,
    tallier: Tallier,
    tallies: Sequence[np.ndarray],
    codes: np.ndarray | None = None,
) -> int | None:
    """Add the nodes ``first : first + n`` of a C-contiguous block (s, N) to a tally (s, g + 2), int32, for each tail.

    The codes (s, n) are left behind if they are asked for. Returns the number of NaN; None, and nothing is done, where
    so few samples are sooner coded.
    """
    present = np.unique(classes)
    if len(classes) < FEWEST_VALUES * len(present):
        return None
    space, missing = Space(*(one[0] for one in spaces_of_thread(bits.dtype, 1))), 0
    left = np.empty((0, 0), CODE) if codes is None else codes
    for c in present:
        rows = padded_rows(np.flatnonzero(classes == c), GROUP)
        what = tallier.trees, tallier.levels, tallier.infinity, space, tallier.tables[c], tallier.without[c]
        missing += tally_many(bits, first, len(tallier.trees), rows, *what, tuple(tallies), left)
    return missing


@kernel
def tally_many(bits, first, nodes, rows, trees, levels, infinity, space, tables, without, tallies, left):
    # (s, N), (r,), (n, t), (v, n, e), (n,) -> v times (s, g + 2), (s, n)
    """Add the nodes of the chosen rows to tallies; returns the number of NaN. Codes are ``left`` where there is room.

    Most nodes are above all thresholds: those are counted by leaving them out.
    """
    entries = tables.shape[2]
    codes, answers = space.codes.reshape(-1), space.answers.reshape(-1)
    kept = np.empty(space.codes.shape[0] + GROUP, np.uint8)
    parts, missing = np.empty(2 * BYTE, TALLY), np.empty(GROUP, np.int64)
    total = np.int64(0)
    for i in range(0, rows.size, GROUP):
        count = present_rows(rows, i)
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            total += count_gone(codes, without[j : j + width], count, missing)
            step = width + LANE_BYTES
            if left.size > 0:
                transpose_tile(codes, width, space.lines, step)
                for q in range(count):
                    copy_line(space.lines, q * step, left[rows[i + q], j : j + width])
            for v in range(tables.shape[0]):
                tally = tallies[v]
                above = tally.shape[1] - 2
                table = tables[v]
                for c in range(width):
                    look_up_codes(codes, c * GROUP, table, (j + c) * entries, levels, answers, c * GROUP)
                transpose_tile(answers, width, space.lines, step)
                for q in range(count):
                    space.lines[q * step + width : (q + 1) * step] = above
                    size = 0
                    for c in range(0, width, GROUP):
                        size += keep_below(space.lines, q * step + c, above, kept, size)
                    parts[:] = 0
                    add_bytes(kept[:size], parts)
                    target = tally[rows[i + q]]
                    for level in range(above):
                        target[level] += parts[level] + parts[BYTE + level]
                    target[above] += width - size - missing[q]
                    target[above + 1] += missing[q]
    return total


@kernel
def count_gone(codes, without, samples, missing):  # (n * GROUP,), (n,) -> (GROUP,)
    """How many nodes of each sample have no p-value; returns how many of all codes are NaN's."""
    missing[:] = 0
    total = np.int64(0)
    for c in range(without.size):
        gone = nan_among(load_lanes(codes, c * GROUP))
        if gone != 0:
            for q in range(samples):
                one = np.int64((gone >> np.uint64(q)) & np.uint64(1))
                total += one
                missing[q] += 0 if without[c] else one
        if without[c]:
            missing += 1
    return total


@intrinsic
def look_up_codes(
    typing: Any, codes: Any, at: Any, tables: Any, start: Any, levels: Any, answers: Any, place: Any
) -> Any:
    """Bytes for GROUP codes of one node; its table of 2**len(levels) bytes starts at item ``start`` of ``tables``."""
    entries = 1 << len(levels)
    signature = types.void(codes, at, tables, start, levels, answers, place)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, tables, start, _, answers, place = arguments
        code = load(builder, address_of(context, builder, signature.args[0], codes, at), BYTES)
        first = address_of(context, builder, signature.args[2], tables, start)
        table = [load(builder, builder.gep(first, [start.type(v)]), BYTES) for v in range(0, entries, GROUP)]
        found = pick_entry(builder, BYTES, table, code)
        store(builder, address_of(context, builder, signature.args[5], answers, place), found)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def nan_among(typing: Any, codes: Any) -> Any:
    """A bit for each of GROUP codes: whether it is NAN_CODE."""
    signature = types.uint64(codes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        nan = builder.icmp_unsigned("==", arguments[0], BYTES.constant(NAN_CODE))
        return builder.bitcast(nan, INT64)

    return signature, generate


@intrinsic
def keep_below(typing: Any, items: Any, at: Any, most: Any, kept: Any, to: Any) -> Any:
    """Write those of GROUP bytes that are not ``most`` to ``kept``, side by side from item ``to`` on; their number."""
    signature = types.int64(items, at, most, kept, to)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        items, at, most, kept, to = arguments
        item = load(builder, address_of(context, builder, signature.args[0], items, at), BYTES)
        wanted = builder.icmp_unsigned("!=", item, splat(builder, BYTES, most))
        left = compress(builder, BYTES, item, wanted)
        store(builder, address_of(context, builder, signature.args[3], kept, to), left)
        return builder.ctpop(builder.bitcast(wanted, INT64))

    return signature, generate


def make_levels(table: np.ndarray, thresholds: int) -> Levels:
    """Lay out levels (c, n, t); ``thresholds + 1`` stands for no p-value."""
    without = nodes_without(table, thresholds) if looks_up_bytes_in_registers() else None
    if without is None or table.shape[2] - 1 > MOST_CODES:
        return Levels(table, None, np.empty((0, 0), np.uint8))
    packed = pack_entries(np.where(without[:, :, None], 0, table[:, :, :-1]).astype(np.uint8), LANE_BYTES)
    marks = np.zeros((len(table), packed.shape[1] * LANE_BYTES), np.uint8)
    marks[:, : table.shape[1]][without] = NAN_CODE
    return Levels(table, packed, marks)


def pack_entries(tables: np.ndarray, lanes: int) -> np.ndarray:
    """Tables (c, n, t) as packed blocks (c, b, t, l); 0 beyond the last node."""
    classes, n, entries = tables.shape
    blocks = -(-n // lanes)
    padded = np.zeros((classes, blocks * lanes, entries), tables.dtype)
    padded[:, :n] = tables
    packed = aligned((classes, blocks, entries, lanes), tables.dtype)
    packed[:] = padded.reshape(classes, blocks, lanes, entries).transpose(0, 1, 3, 2)
    return packed


def tally(codes: np.ndarray, rows: np.ndarray, classes: np.ndarray, levels: Levels, tally: np.ndarray) -> None:
    """Add the nodes of the chosen rows (r,) of codes (s, n), all different, to their tallies (s, g + 2), int32.

    ``classes`` (r,) says which tables count. A class with few rows is not worth a pass of its own.
    """
    present = np.unique(classes)
    if levels.packed is None or len(rows) < FEWEST_ROWS * len(present) * (len(levels.packed) > 1):
        tally_levels(codes, rows, classes, levels.table, tally)
        return
    for c in present:
        chosen = padded_rows(rows[classes == c], ROWS)
        tally_bytes(codes, chosen, levels.packed[c], levels.without[c], tally)


@kernel
def tally_bytes(codes, rows, table, without, tally):  # (s, n), (r,), (b, t - 1, l), (b * l,) -> (s, g + 2)
    """Add the nodes of the chosen rows to their tallies; ``codes`` are C-contiguous.

    Most nodes are above all thresholds: those are counted by leaving them out.
    """
    nodes, above = codes.shape[1], tally.shape[1] - 2
    blocks, entries, lanes = table.shape
    step = (PIECE_BLOCKS + 1) * lanes
    found = np.empty(ROWS * step, np.uint8)
    sizes, kept, missing = np.empty(ROWS, np.int64), np.empty(ROWS, np.int64), np.empty(ROWS, np.int64)
    parts = np.empty((ROWS, 2 * BYTE), TALLY)
    for i in range(0, rows.size, ROWS):
        parts[:], kept[:], missing[:] = 0, 0, 0
        for b0 in range(0, blocks, PIECE_BLOCKS):
            sizes[:] = 0
            for b in range(b0, min(blocks, b0 + PIECE_BLOCKS)):
                j = b * lanes
                stack = load_codes(codes, rows, i, j, nodes - j)
                stack = join_codes(stack, load_entries(without, j, stack))
                at = j * entries
                levels = repeat(load_entries(table, at, stack))
                for code in range(1, entries):
                    levels = take_from(levels, stack, code, load_entries(table, at + code * lanes, stack))
                count_nan(stack, missing, 0)
                append_below(found, step, sizes, mark_nan_level(levels, stack, above), above)
            kept += sizes
            for q in range(ROWS):
                add_bytes(found[q * step : q * step + sizes[q]], parts[q])
        beyond = blocks * lanes - nodes
        for q in range(ROWS):
            if rows[i + q] >= 0:
                target = tally[rows[i + q]]
                for level in range(above + 1):
                    target[level] += parts[q, level] + parts[q, BYTE + level]
                target[above] += blocks * lanes - kept[q] - missing[q]
                target[above + 1] += missing[q] - beyond


@kernel
def add_bytes(levels, parts):  # (m,) -> (2 * BYTE,)
    """Count levels, by turns in two parts: an entry that has just been written is slow to read again.

    Unsigned indices, because a signed one might be negative, and that would be asked every time.
    """
    last, other, eight = np.uint64(255), np.uint64(BYTE), np.uint64(8)
    whole = levels.size // 8
    words = levels[: whole * 8].view(np.uint64)
    for p in range(whole):
        word = words[p]
        for _ in range(4):
            parts[word & last] += 1
            word >>= eight
            parts[other + (word & last)] += 1
            word >>= eight
    for p in range(whole * 8, levels.size):
        parts[np.uint64(levels[p])] += 1


@kernel
def tally_levels(codes, rows, classes, levels, tally):  # (s, n), (r,), (r,), (c, n, t) -> (s, g + 2)
    """Add the nodes of the chosen rows, all different, to their tallies."""
    nodes = codes.shape[1]
    for r0 in range(0, rows.size, TILE_ROWS):
        r1 = min(rows.size, r0 + TILE_ROWS)
        for j0 in range(0, nodes, TILE_NODES):
            j1 = min(nodes, j0 + TILE_NODES)
            paired = r0 + (r1 - r0) // 4 * 4
            for r in range(r0, paired, 4):
                add_four(codes[:, j0:j1], rows[r : r + 4], classes[r : r + 4], levels[:, j0:j1], tally)
            for r in range(paired, r1):
                add_one(codes[rows[r], j0:j1], levels[classes[r], j0:j1], tally[rows[r]])


@kernel
def add_one(codes, levels, tally):  # (n,), (n, t) -> (g + 2,)
    """Add the nodes of one sample to its tally."""
    last = levels.shape[1] - 1
    for j in range(codes.size):
        tally[levels[j, min(np.intp(codes[j]), last)]] += 1


@kernel
def add_four(codes, rows, classes, levels, tally):  # (s, n), (4,), (4,), (c, n, t) -> (s, g + 2)
    """The same for four samples in turns: an entry that has just been written is slow to read again."""
    last = levels.shape[2] - 1
    one, two, three, four = codes[rows[0]], codes[rows[1]], codes[rows[2]], codes[rows[3]]
    first, second, third, fourth = tally[rows[0]], tally[rows[1]], tally[rows[2]], tally[rows[3]]
    a, b, c, d = levels[classes[0]], levels[classes[1]], levels[classes[2]], levels[classes[3]]
    for j in range(codes.shape[1]):
        first[a[j, min(np.intp(one[j]), last)]] += 1
        second[b[j, min(np.intp(two[j]), last)]] += 1
        third[c[j, min(np.intp(three[j]), last)]] += 1
        fourth[d[j, min(np.intp(four[j]), last)]] += 1
