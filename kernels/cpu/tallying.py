"""Scanning: from codes to tallies.

A *tally* says how many nodes of a sample fall at each level of significance; level i means that thresholds[i] is the
smallest one with pmax <= threshold. Two more entries follow the thresholds: nodes above all of them, and nodes
without a p-value. Tallies of disjoint sets of nodes add up.

Levels are looked up in memory, or, if they fit into bytes and the processor has an instruction that leaves bytes out,
found 64 at once: of few codes that lie in memory by comparing them with 0, 1, 2, ..., of others in registers, for tiles
of codes that were searched or loaded.

Shapes: s = samples, n = nodes, c = classes, t = entries of a node's table (codes 0..t-2, the last one for NaN),
g = thresholds, l = 64 lanes, b = ceil(n / l), r = chosen rows, filled up with -1, v = tables of levels (tails),
e = 2**levels = entries of a wide table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpv.kernels.cpu.coders.trees import depth_of, plant_trees, search_tile
from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.entries import (
    append_below,
    count_nan,
    join_codes,
    keep_below,
    load_codes,
    load_entries,
    look_up_codes,
    mark_nan_level,
    nan_among,
    repeat,
    take_from,
)
from hpv.kernels.cpu.vectors.lanes import LANE_BYTES, aligned, load_lanes
from hpv.kernels.cpu.vectors.registers import looks_up_bytes_in_registers
from hpv.kernels.cpu.vectors.stacks import ROWS, padded_rows
from hpv.kernels.cpu.vectors.tiles import (
    GROUP,
    Space,
    copy_line,
    load_code_tile,
    pack_tile,
    present_rows,
    spaces_of_thread,
    transpose_tile,
)
from hpv.kernels.rules import CODE, NAN_CODE, TALLY

# Tables of this many nodes stay in the processor's nearest caches while these many samples pass over them.
TILE_NODES = 128
TILE_ROWS = 64
# Samples of one class that are worth a pass of their own.
FEWEST_ROWS = 16
# The same where codes are compared.
FEWEST_COMPARED = 4
# More edges of a node than these, and codes are looked up faster.
MOST_COMPARED = 80
# Blocks of lanes whose levels are collected before they are counted.
PIECE_BLOCKS = 16
# Levels of a byte.
BYTE = 256


class Packed(NamedTuple):
    """Levels as bytes, for comparing codes."""

    table: np.ndarray
    """In blocks of nodes (c, b, t - 1, l)."""
    marks: np.ndarray
    """NAN_CODE for a node without p-values, else 0 (c, b * l)."""


class Wide(NamedTuple):
    """Levels as bytes, for look-ups in registers."""

    table: np.ndarray
    """Those of NaN last (c, n, e)."""
    bits: tuple[int, ...]
    """0, 1, ... up to log2 of the entries."""
    without: np.ndarray
    """Whether a node has no p-values (c, n)."""


class Levels(NamedTuple):
    """Levels of n nodes by class and code; made once, used for many blocks."""

    table: np.ndarray
    """Levels (c, n, t), for look-ups in memory."""
    many: Packed | Wide | None
    """The same for many samples; None where bytes cannot say it, or the processor has no use for them."""


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
    return Tallier(trees, levels, infinity, as_bytes(tables, thresholds, 1 << len(levels)), without[0])


def make_levels(table: np.ndarray, thresholds: int) -> Levels:
    """Lay out levels (c, n, t); ``thresholds + 1`` stands for no p-value."""
    without = nodes_without(table, thresholds) if looks_up_bytes_in_registers() else None
    if without is None:
        return Levels(table, None)
    edges = table.shape[2] - 2
    if edges <= MOST_COMPARED:
        return Levels(table, pack_levels(table, without))
    bits = tuple(range(depth_of(edges)))
    return Levels(table, Wide(as_bytes([table], thresholds, 1 << len(bits))[:, 0], bits, without))


def pack_levels(table: np.ndarray, without: np.ndarray) -> Packed:
    """Levels (c, n, t) as blocks of bytes, 0 beyond the last node; ``without``: which nodes have no p-value (c, n)."""
    classes, nodes, entries = table.shape
    blocks = -(-nodes // LANE_BYTES)
    padded = np.zeros((classes, blocks * LANE_BYTES, entries - 1), np.uint8)
    padded[:, :nodes] = np.where(without[:, :, None], 0, table[:, :, :-1])
    packed = aligned((classes, blocks, entries - 1, LANE_BYTES), np.uint8)
    packed[:] = padded.reshape(classes, blocks, LANE_BYTES, entries - 1).transpose(0, 1, 3, 2)
    marks = np.zeros((classes, blocks * LANE_BYTES), np.uint8)
    marks[:, :nodes][without] = NAN_CODE
    return Packed(packed, marks)


def as_bytes(tables: Sequence[np.ndarray], thresholds: int, entries: int) -> np.ndarray:
    """Levels (c, n, t) of each tail as bytes (c, v, n, e); those of NaN and of no p-value are above all thresholds."""
    classes, nodes, used = tables[0].shape
    wide = aligned((classes, len(tables), nodes, entries), np.uint8, thresholds)
    for v, table in enumerate(tables):
        wide[:, v, :, : used - 1] = np.minimum(table[:, :, :-1], thresholds)
    return wide


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
    if len(classes) < FEWEST_ROWS * len(present):
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
    """Add the nodes of the chosen rows to tallies, and leave their codes where there is room; the number of NaN."""
    codes, missing = space.codes.reshape(-1), np.empty(GROUP, np.int64)
    kept, parts = np.empty(space.codes.shape[0] + GROUP, np.uint8), np.empty(2 * BYTE, TALLY)
    total = np.int64(0)
    for i in range(0, rows.size, GROUP):
        count = present_rows(rows, i)
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            total += count_gone(codes, without[j : j + width], count, missing)
            if left.size > 0:
                step = width + LANE_BYTES
                transpose_tile(codes, width, space.lines, step)
                for q in range(count):
                    copy_line(space.lines, q * step, left[rows[i + q], j : j + width])
            for v in range(tables.shape[0]):
                chosen = rows[i : i + count]
                tally_tile(space, j, width, chosen, levels, tables[v], missing, kept, parts, tallies[v])
    return total


@kernel
def tally_codes(codes, rows, levels, space, table, without, tally):  # (s, n), (r,), (n, e), (n,) -> (s, g + 2)
    """Add the nodes of the chosen rows, all different, to their tallies."""
    nodes, missing = codes.shape[1], np.empty(GROUP, np.int64)
    kept, parts = np.empty(space.codes.shape[0] + GROUP, np.uint8), np.empty(2 * BYTE, TALLY)
    for i in range(0, rows.size, GROUP):
        count = present_rows(rows, i)
        for j in range(0, nodes, space.codes.shape[0]):
            width = min(space.codes.shape[0], nodes - j)
            load_code_tile(codes, j, width, rows, i, space)
            count_gone(space.codes.reshape(-1), without[j : j + width], count, missing)
            tally_tile(space, j, width, rows[i : i + count], levels, table, missing, kept, parts, tally)


@kernel
def tally_tile(space, first, width, rows, levels, table, missing, kept, parts, tally):  # (n, e) -> (s, g + 2)
    """Add a tile of codes to the tallies of its rows; ``missing`` of its nodes have no p-value there.

    Most nodes are above all thresholds: those are counted by leaving them out. ``kept`` and ``parts`` are room.
    """
    codes, answers = space.codes.reshape(-1), space.answers.reshape(-1)
    above, step = tally.shape[1] - 2, width + LANE_BYTES
    for c in range(width):
        look_up_codes(codes, c * GROUP, table, (first + c) * table.shape[1], levels, answers, c * GROUP)
    transpose_tile(answers, width, space.lines, step)
    for q in range(rows.size):
        space.lines[q * step + width : (q + 1) * step] = above
        size = 0
        for c in range(0, width, GROUP):
            size += keep_below(space.lines, q * step + c, above, kept, size)
        parts[:] = 0
        add_bytes(kept[:size], parts)
        target = tally[rows[q]]
        for level in range(above):
            target[level] += parts[level] + parts[BYTE + level]
        target[above] += width - size - missing[q]
        target[above + 1] += missing[q]


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


def tally(codes: np.ndarray, rows: np.ndarray, classes: np.ndarray, levels: Levels, tally: np.ndarray) -> None:
    """Add the nodes of the chosen rows (r,) of codes (s, n), all different, to their tallies (s, g + 2), int32.

    ``classes`` (r,) says which tables count. A class with few rows is not worth a pass of its own.
    """
    present, made = np.unique(classes), levels.many
    if isinstance(made, Packed) and len(rows) >= FEWEST_COMPARED * len(present):
        for c in present:
            chosen = padded_rows(rows[classes == c], ROWS)
            tally_compared(codes, chosen, made.table[c], made.marks[c], tally)
    elif isinstance(made, Wide) and len(rows) >= FEWEST_ROWS * len(present):
        space = Space(*(one[0] for one in spaces_of_thread(codes.dtype, 1)))
        for c in present:
            chosen = padded_rows(rows[classes == c], GROUP)
            tally_codes(codes, chosen, made.bits, space, made.table[c], made.without[c], tally)
    else:
        tally_levels(codes, rows, classes, levels.table, tally)


@kernel
def tally_compared(codes, rows, table, marks, tally):  # (s, n), (r,), (b, t - 1, l), (b * l,) -> (s, g + 2)
    """Add the nodes of the chosen rows, all different, to their tallies; codes are compared.

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
                stack = join_codes(stack, load_entries(marks, j, stack))
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
