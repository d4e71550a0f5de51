"""From values to codes and to survivor counts, by one comparison per edge.

The contract, here and everywhere: ``code = number of edges e with value >= e``; NaN has MISSING_CODE.

Shapes: s = samples, N = columns of the block in memory, n = nodes, k = edges, l = lanes, b = ceil(n / l).
Edges are packed, lanes innermost, so that the edges of the nodes at work lie side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpv.kernels.compiling import kernel
from hpv.kernels.lanes import (
    LANE_BYTES,
    ROWS,
    add_reached,
    count_reached,
    keep_highest,
    keep_lowest,
    load_keys,
    load_lanes,
    no_codes,
    store_codes,
    store_lanes,
)

# Counters of 16-bit keys are 16 bits wide.
MOST_ROWS = 32_760


class Coder(NamedTuple):
    """Edges of some nodes, laid out for the kernels; made once, used for many blocks."""

    packed: np.ndarray
    """Edge keys (b, k, l)."""
    nodes: int
    infinity: int
    """Key of +inf in the format of the values."""


class Counts(NamedTuple):
    """What a set of samples adds to the state of n nodes."""

    survivors: np.ndarray
    """Samples at or above each edge (n, k), int64."""
    counted: np.ndarray
    """Samples that are not NaN (n,), int64."""
    lowest: np.ndarray
    """Key of the smallest value (n,); the highest integer where none was counted."""
    highest: np.ndarray
    """Key of the largest value (n,); the lowest integer where none was counted."""


def make_coder(edges: np.ndarray, infinity: int) -> Coder:
    """A coder for edge keys (n, k), ascending per node, filled up with the highest integer."""
    return Coder(pack_edges(edges), len(edges), infinity)


def make_counter(edges: np.ndarray, infinity: int) -> Coder:
    """The same for ``count``: below the first edge stands -inf, whose survivors are all values but NaN."""
    lowest = np.full((len(edges), 1), -infinity, edges.dtype)
    return make_coder(np.concatenate([lowest, edges], axis=1), infinity)


def encode(bits: np.ndarray, first: int, coder: Coder, codes: np.ndarray) -> None:
    """Codes (s, n) of the nodes ``first : first + n`` of a C-contiguous block (s, N)."""
    encode_few(bits, first, coder.packed, coder.infinity, codes)


def count(bits: np.ndarray, first: int, rows: np.ndarray, counter: Coder) -> Counts:
    """Counts of the chosen rows of a C-contiguous block (s, N), nodes ``first : first + n``."""
    survivors = np.zeros((counter.nodes, counter.packed.shape[1]), np.int64)
    blocks, _, lanes = counter.packed.shape
    lowest = np.full((blocks, lanes), np.iinfo(bits.dtype).max, bits.dtype)
    highest = np.full((blocks, lanes), np.iinfo(bits.dtype).min, bits.dtype)
    for start in range(0, len(rows), MOST_ROWS):
        part = np.zeros_like(counter.packed)
        chosen = padded_rows(rows[start : start + MOST_ROWS])
        count_survivors(bits, first, counter.nodes, chosen, counter.packed, counter.infinity, part, lowest, highest)
        survivors += unpack(part, counter.nodes)
    with np.errstate(over="ignore"):
        lowest += bits.dtype.type(1)
    lowest[lowest == np.iinfo(bits.dtype).min] = np.iinfo(bits.dtype).max
    flat = (array.reshape(-1)[: counter.nodes] for array in (lowest, highest))
    return Counts(np.ascontiguousarray(survivors[:, 1:]), survivors[:, 0].copy(), *flat)


def lanes_of(dtype: np.dtype) -> int:
    """Nodes that are worked on at once for keys of this dtype."""
    return LANE_BYTES // dtype.itemsize


def pack_edges(edges: np.ndarray) -> np.ndarray:
    """Edges of nodes (n, k) as packed blocks (b, k, l); nodes beyond the last have edges that nothing reaches."""
    n, k = edges.shape
    lanes = lanes_of(edges.dtype)
    blocks = -(-n // lanes)
    padded = np.full((blocks * lanes, k), np.iinfo(edges.dtype).max, edges.dtype)
    padded[:n] = edges
    return np.ascontiguousarray(padded.reshape(blocks, lanes, k).transpose(0, 2, 1))


def unpack(packed: np.ndarray, nodes: int) -> np.ndarray:
    """The reverse: (b, k, l) to (n, k)."""
    blocks, k, lanes = packed.shape
    return packed.transpose(0, 2, 1).reshape(blocks * lanes, k)[:nodes]


def padded_rows(rows: np.ndarray) -> np.ndarray:
    """Row numbers filled up with -1 to whole stacks, as the kernels read them."""
    return np.concatenate([rows, np.full(-len(rows) % ROWS, -1)]).astype(np.int64)


@kernel
def encode_few(bits, first, edges, infinity, codes):  # (s, N), (b, k, l) -> (s, n)
    """Codes of the nodes ``first : first + n`` of every sample; meant for few edges."""
    samples, nodes = codes.shape
    blocks, k, lanes = edges.shape
    rows = np.full(ROWS, -1, np.int64)
    for i in range(0, samples, ROWS):
        height = min(ROWS, samples - i)
        for q in range(ROWS):
            rows[q] = i + q if q < height else -1
        for b in range(blocks):
            j = b * lanes
            keys = load_keys(bits, rows, 0, first + j, nodes - j, infinity)
            stack = no_codes(keys)
            at = b * k * lanes
            for _ in range(k):
                stack = add_reached(stack, keys, load_lanes(edges, at))
                at += lanes
            store_codes(codes, i, j, nodes - j, height, stack, keys)


@kernel
def count_survivors(bits, first, nodes, rows, edges, infinity, survivors, lowest, highest):
    # (s, N), (r,), (b, k, l) -> (b, k, l), (b, l), (b, l)
    """Add the chosen rows to the survivors at each edge and to the extremes; ``lowest`` is kept as key - 1.

    Counters have the keys' width: at most MOST_ROWS rows between two times that they are emptied.
    """
    blocks, k, lanes = edges.shape
    for i in range(0, rows.size, ROWS):
        for b in range(blocks):
            j = b * lanes
            keys = load_keys(bits, rows, i, first + j, nodes - j, infinity)
            store_lanes(lowest, j, keep_lowest(load_lanes(lowest, j), keys))
            store_lanes(highest, j, keep_highest(load_lanes(highest, j), keys))
            at = b * k * lanes
            for _ in range(k):
                store_lanes(survivors, at, count_reached(load_lanes(survivors, at), keys, load_lanes(edges, at)))
                at += lanes
