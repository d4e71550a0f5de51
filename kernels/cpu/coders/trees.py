"""Coder: bisection, many samples of a node at once: one sample in each lane, the node's edges in registers.

Shapes: as in tiles.py; k = edges, t = items of a search tree of a node, e = 2**levels = its codes, the last one NaN's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from hpv.kernels.cpu.coders.accumulation import Accumulation
from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.parallel import borders, in_parts
from hpv.kernels.cpu.vectors.lanes import (
    LANE_BYTES,
    address_of,
    aligned,
    call,
    lanes_of,
    load,
    store_lanes,
)
from hpv.kernels.cpu.vectors.registers import has_registers, pick, pick_from_memory
from hpv.kernels.cpu.vectors.stacks import padded_rows
from hpv.kernels.cpu.vectors.tiles import (
    BYTES,
    GROUP,
    copy_line,
    fetch,
    pack_tile,
    present_rows,
    space_of_part,
    spaces_of_thread,
    transpose_tile,
)
from hpv.kernels.rules import NAN_CODE

# Depths of search trees: a kernel is compiled for each depth that is used.
DEPTHS = (6, 7, 8)
# Nodes whose codes are counted by turns.
TURNS = 8


class Trees(NamedTuple):
    """Edges of some nodes, to be searched by bisection."""

    trees: np.ndarray
    """Edge keys as search trees (n, t)."""
    levels: tuple[int, ...]
    """0, 1, ... up to the depth of the trees."""
    edges: int
    """Edges per node, unused ones included."""
    infinity: int
    """Key of +inf in the format of the values."""

    def encode(self, bits: np.ndarray, first: int, codes: np.ndarray, threads: int = 1) -> None:
        """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""
        rows, spaces = padded_rows(np.arange(len(bits)), GROUP), spaces_of_thread(bits.dtype, threads)
        encode_parts(borders(len(rows), threads, GROUP), bits, first, rows, *self[:2], self.infinity, spaces, codes)

    def start(self, dtype: np.dtype, threads: int = 1) -> Accumulation:
        """Empty counts, to which blocks of bits of this dtype can be added."""
        return _ByTree(self, dtype, threads)


def make_trees(edges: np.ndarray, infinity: int) -> Trees:
    """For edge keys (n, k), ascending per node, filled up with the highest integer."""
    return Trees(*plant_trees(edges), edges.shape[1], infinity)


class _ByTree(Accumulation):
    """A counter for each code."""

    def __init__(self, counter: Trees, dtype: np.dtype, threads: int) -> None:
        nodes = len(counter.trees)
        super().__init__(nodes, counter.edges, dtype, nodes, threads)
        self.counter = counter
        self.parts = aligned((threads, nodes, 1 << len(counter.levels)), np.uint16, 0)

    def add_few(self, bits: np.ndarray, first: int, rows: np.ndarray) -> None:
        chosen, what = padded_rows(rows, GROUP), (*self.counter[:2], self.counter.infinity)
        state = spaces_of_thread(bits.dtype, self.threads), self.parts, self.lowest, self.highest
        parts = self.borders(chosen, GROUP)
        count_parts(parts, bits, first, len(self.counter.trees), chosen, *what, *state)

    def empty(self) -> None:
        # The highest code is NaN's.
        for part in self.parts:
            above = part[:, -2::-1].cumsum(axis=1, dtype=np.int64)[:, ::-1]
            self.counted += above[:, 0]
            self.survivors += above[:, 1 : self.counter.edges + 1]
        self.parts[:] = 0

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest keys; the highest was kept as key + 1."""
        highest, least = self.highest.max(axis=0), np.iinfo(self.highest.dtype).min
        return self.lowest.min(axis=0), np.where(highest > least, highest - (highest > least), least)


def depth_of(edges: int) -> int:
    """Depth of the trees of so many edges; the highest code of a tree is NaN's."""
    return next(depth for depth in DEPTHS if edges <= (1 << depth) - 2)


def plant_trees(edges: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Edges of nodes (n, k) as search trees (n, t), and their levels."""
    n, k = edges.shape
    depth = depth_of(k)
    padded = np.full((n, (1 << depth) - 1), np.iinfo(edges.dtype).max, edges.dtype)
    padded[:, :k] = edges
    order = tree_order(LANE_BYTES // edges.dtype.itemsize, depth)
    trees = aligned((n, len(order)), edges.dtype)
    trees[:] = padded[:, order]
    return trees, tuple(range(depth))


def tree_order(lanes: int, depth: int) -> np.ndarray:
    """Which of the sorted edges stands at each item of a search tree, level after level, see ``search``."""
    order = []
    for level, vectors in enumerate(tree_vectors(lanes, depth)):
        for item in range(vectors * lanes):
            path = item % (1 << level)
            before = sum(1 << (depth - 1 - d) for d in range(level) if path >> d & 1)
            order.append(before + (1 << (depth - 1 - level)) - 1)
    return np.array(order)


def tree_vectors(lanes: int, depth: int) -> list[int]:
    """Vectors that hold the edges of each level of a search tree."""
    return [max(1, (1 << level) // lanes) for level in range(depth)]


@intrinsic
def load_tree(typing: Any, trees: Any, at: Any, levels: Any) -> Any:
    """The search tree of one node, from item ``at`` of the trees."""
    lanes = lanes_of(trees)
    vectors = sum(tree_vectors(lanes.count, len(levels)))
    signature = types.UniTuple(lanes, vectors)(trees, at, levels)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        trees, at, _ = arguments
        first = address_of(context, builder, signature.args[0], trees, at)
        step = lanes.count
        parts = [load(builder, builder.gep(first, [at.type(v * step)]), lanes) for v in range(vectors)]
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, generate


@intrinsic
def search(typing: Any, tree: Any, trees: Any, at: Any, levels: Any, keys: Any, place: Any) -> Any:
    """Codes of the GROUP keys of one node from item ``place`` on, its tree being at ``at``; 255 for NaN.

    Bisection from the root down. The decision at level d becomes bit d of the place in the next level, which puts the
    edges of a level in bit-reversed order: so a place is always a plain index into that level's edges.
    """
    lanes = lanes_of(keys)
    depth = len(levels)
    signature = BYTES(tree, trees, at, levels, keys, place)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        tree, trees, at, _, keys, place = arguments
        parts = [builder.extract_value(tree, v) for v in range(signature.args[0].count)]
        first = address_of(context, builder, signature.args[1], trees, at)
        native = has_registers(context)
        joined = None
        for v in range(GROUP // lanes.count):
            offset = builder.add(place, place.type(v * lanes.count))
            key = load(builder, address_of(context, builder, signature.args[4], keys, offset), lanes)
            reached: list[Any] = []
            code, start = lanes.constant(0), 0
            for level, count in enumerate(tree_vectors(lanes.count, depth)):
                if level == 0:
                    edge = parts[0]
                elif native:
                    edge = pick(builder, lanes, parts[start : start + count], code, reached)
                else:
                    begin = builder.gep(first, [at.type(start * lanes.count)])
                    edge = pick_from_memory(builder, lanes, begin, code)
                reached.append(builder.icmp_signed(">=", key, edge))
                code = builder.select(reached[-1], builder.or_(code, lanes.constant(1 << level)), code)
                start += count
            shifted = builder.shl(code, lanes.constant(8 * v)) if v else code
            joined = builder.or_(joined, shifted) if v else code
        codes = builder.bitcast(joined, BYTES.llvm)
        codes = call(builder, f"llvm.bitreverse.v{GROUP}i8", BYTES.llvm, [codes])
        return builder.lshr(codes, BYTES.constant(8 - depth)) if depth < 8 else codes

    return signature, generate


@intrinsic
def mark_nan(typing: Any, codes: Any, levels: Any) -> Any:
    """The highest code of a tree, NaN's, becomes NAN_CODE."""
    signature = BYTES(codes, levels)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        missing = builder.icmp_unsigned("==", arguments[0], BYTES.constant((1 << len(levels)) - 1))
        return builder.select(missing, BYTES.constant(NAN_CODE), arguments[0])

    return signature, generate


@intrinsic
def extremes(typing: Any, keys: Any, at: Any) -> Any:
    """The lowest of GROUP keys and the highest of the keys + 1, which wraps NaN around to the lowest integer."""
    lanes = lanes_of(keys)
    signature = types.UniTuple(keys.dtype, 2)(keys, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        keys, at = arguments
        low, high = [], []
        for v in range(0, GROUP, lanes.count):
            place = address_of(context, builder, signature.args[0], keys, builder.add(at, at.type(v)))
            low.append(load(builder, place, lanes))
            high.append(builder.add(low[-1], lanes.constant(1)))
        results = []
        for values, order, name in ((low, "<", "smin"), (high, ">", "smax")):
            best = values[0]
            for value in values[1:]:
                best = builder.select(builder.icmp_signed(order, value, best), value, best)
            verb = f"llvm.vector.reduce.{name}.v{lanes.count}i{lanes.bits}"
            results.append(call(builder, verb, lanes.llvm.element, [best]))
        return context.make_tuple(builder, signature.return_type, results)

    return signature, generate


@kernel
def search_tile(trees, first, width, levels, space, bits, column, nodes, rows, i):  # (n, t)
    """Codes of a tile whose nodes begin at ``first``; all bits are set in NaN's, which is the tree's highest code."""
    size, line = trees.shape[1], space.keys.shape[1]
    start = first + space.keys.shape[0]
    if start >= nodes:
        start, i = 0, i + GROUP
    ahead = min(space.keys.shape[0], nodes - start)
    for c in range(width):
        done = c * GROUP
        r = i + done // ahead
        if r < min(rows.size, i + GROUP) and rows[r] >= 0:
            fetch(bits, rows[r], column + start + done % ahead)
        at = (first + c) * size
        tree = load_tree(trees, at, levels)
        found = search(tree, trees, at, levels, space.keys, c * line)
        store_lanes(space.codes, c * GROUP, mark_nan(found, levels))


@in_parts
def encode_parts(borders, bits, first, rows, trees, levels, infinity, spaces, codes):
    # (p + 1,), (s, N), (r,), (n, t) -> (s, n)
    """Codes of all samples; the borders are those of rows, filled up to whole groups."""
    for p in prange(borders.size - 1):
        part, space = rows[borders[p] : borders[p + 1]], space_of_part(spaces, p)
        encode_many(bits, first, part, trees, levels, infinity, space, codes)


@in_parts
def count_parts(borders, bits, first, nodes, rows, trees, levels, infinity, spaces, counters, lowest, highest):
    # (p + 1,), (s, N), (r,), (n, t) -> (p, n, e), (p, n), (p, n)
    """Add the chosen rows, each part to counters of its own."""
    for p in prange(borders.size - 1):
        what = rows[borders[p] : borders[p + 1]], trees, levels, infinity, space_of_part(spaces, p)
        count_many(bits, first, nodes, *what, counters[p].reshape(-1), lowest[p], highest[p])


@kernel
def encode_many(bits, first, rows, trees, levels, infinity, space, codes):  # (s, N), (r,), (n, t) -> (s, n)
    """Codes of the nodes ``first : first + n`` of the chosen rows."""
    nodes = codes.shape[1]
    for i in range(0, rows.size, GROUP):
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            step = width + LANE_BYTES
            transpose_tile(space.codes.reshape(-1), width, space.lines, step)
            for q in range(present_rows(rows, i)):
                copy_line(space.lines, q * step, codes[rows[i + q], j : j + width])


@kernel
def count_many(bits, first, nodes, rows, trees, levels, infinity, space, counters, lowest, highest):
    # (s, N), (r,), (n, t) -> (n * e,), (n,), (n,)
    """Add the chosen rows, -1 as NaN, to the counters of each code, and to the extremes (key, key + 1).

    Counters have 16 bits: at most 65,535 rows between two times that they are emptied.
    """
    line = space.keys.shape[1]
    codes = space.codes.reshape(-1)
    entries = 1 << len(levels)
    for i in range(0, rows.size, GROUP):
        for j in range(0, nodes, space.keys.shape[0]):
            width = min(space.keys.shape[0], nodes - j)
            pack_tile(bits, first + j, width, rows, i, infinity, space)
            search_tile(trees, j, width, levels, space, bits, first, nodes, rows, i)
            for c in range(width):
                low, high = extremes(space.keys, c * line)
                lowest[j + c] = min(lowest[j + c], low)
                highest[j + c] = max(highest[j + c], high)
            part = counters[j * entries : (j + width) * entries]
            add_codes(codes, width, np.uint64(entries), part)


@kernel
def add_codes(codes, width, entries, counters):
    """A counter for each code; nodes by turns, because a counter that has just been written is slow to read again."""
    last = entries - np.uint64(1)
    for c0 in range(0, width, TURNS):
        for q in range(GROUP):
            for c in range(c0, min(width, c0 + TURNS)):
                counters[np.uint64(c) * entries + (np.uint64(codes[c * GROUP + q]) & last)] += np.uint16(1)
