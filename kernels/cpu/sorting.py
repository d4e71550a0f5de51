"""Sorting the pilot: as many nodes at once as a vector has lanes, by a network of minima and maxima.

A bitonic network compares the same places whatever the values are, so every lane sorts a node of its own, no branch is
ever mispredicted, and samples stay in the order in which they were read: nothing is transposed. (K. E. Batcher,
"Sorting networks and their applications", 1968.)

Shapes: b = blocks of nodes, m = samples (a power of two, at least 16), l = lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.vectors.lanes import LANE_BYTES, address_of, lanes_of, load, store
from hpv.kernels.cpu.vectors.stacks import ROWS, fetch_keys, load_keys

LEAST = 16
"""Vectors that are sorted in registers at once."""
TOGETHER = 16
"""Blocks that are filled side by side: more are too many places to write to."""
AHEAD = 2 * ROWS
"""Samples from a stack to the one that is asked for meanwhile."""
NEAR = 256
"""Vectors that stay in the nearest cache."""


def _exchange(builder: ir.IRBuilder, stack: list[Any], i: int, j: int, descending: bool) -> None:
    """Put the smaller of two vectors, lane by lane, first (last: ``descending``)."""
    less = builder.icmp_signed("<", stack[i], stack[j])
    low, high = builder.select(less, stack[i], stack[j]), builder.select(less, stack[j], stack[i])
    stack[i], stack[j] = (high, low) if descending else (low, high)


def _clean(builder: ir.IRBuilder, stack: list[Any], start: int, width: int, descending: bool) -> None:
    """Sort a bitonic part of the stack."""
    stride = width // 2
    while stride:
        for i in range(start, start + width):
            if not (i - start) & stride:
                _exchange(builder, stack, i, i + stride, descending)
        stride //= 2


def _sort(builder: ir.IRBuilder, stack: list[Any], descending: bool) -> None:
    """Sort the whole stack."""
    width = 2
    while width <= len(stack):
        for start in range(0, len(stack), width):
            _clean(builder, stack, start, width, bool(start & width) if width < len(stack) else descending)
        width *= 2


def _in_registers(width: int, descending: bool, whole: bool) -> Any:
    """An operation on ``width`` vectors ``stride`` apart: a full sort, or the cleaning of bitonic ones."""

    @intrinsic
    def operation(typing: Any, keys: Any, first: Any, stride: Any) -> Any:
        lanes = lanes_of(keys)
        signature = types.void(keys, first, stride)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            keys, first, stride = arguments
            places, stack = [], []
            for q in range(width):
                offset = builder.add(first, builder.mul(stride, stride.type(q)))
                offset = builder.mul(offset, offset.type(lanes.count))
                places.append(address_of(context, builder, signature.args[0], keys, offset))
                stack.append(load(builder, places[-1], lanes))
            if whole:
                _sort(builder, stack, descending)
            else:
                _clean(builder, stack, 0, width, descending)
            for place, vector in zip(places, stack, strict=True):
                store(builder, place, vector)
            return context.get_dummy_value()

        return signature, generate

    return operation


_sort_up, _sort_down = _in_registers(16, False, True), _in_registers(16, True, True)
_clean_up, _clean_down = _in_registers(16, False, False), _in_registers(16, True, False)
_clean8_up, _clean8_down = _in_registers(8, False, False), _in_registers(8, True, False)
_clean4_up, _clean4_down = _in_registers(4, False, False), _in_registers(4, True, False)
_clean2_up, _clean2_down = _in_registers(2, False, False), _in_registers(2, True, False)


@kernel
def _clean_levels(keys, first, size, levels, descending):
    """The first ``levels`` (1 to 4) levels of cleaning ``size`` vectors; what is left are 2**levels parts."""
    stride = size >> levels
    if descending:
        for i in range(first, first + stride):
            if levels == 4:
                _clean_down(keys, i, stride)
            elif levels == 3:
                _clean8_down(keys, i, stride)
            elif levels == 2:
                _clean4_down(keys, i, stride)
            else:
                _clean2_down(keys, i, stride)
    else:
        for i in range(first, first + stride):
            if levels == 4:
                _clean_up(keys, i, stride)
            elif levels == 3:
                _clean8_up(keys, i, stride)
            elif levels == 2:
                _clean4_up(keys, i, stride)
            else:
                _clean2_up(keys, i, stride)


@kernel
def _clean_all(keys, first, size, descending):
    """Sort ``size`` bitonic vectors: wide strides first, then part after part in the nearest cache."""
    part = size
    while part > NEAR:
        levels = 0
        while levels < 4 and (part >> levels) > NEAR:
            levels += 1
        for start in range(first, first + size, part):
            _clean_levels(keys, start, part, levels, descending)
        part >>= levels
    for start in range(first, first + size, part):
        inner = part
        while inner > 1:
            levels = 0
            while levels < 4 and (inner >> levels) > 1:
                levels += 1
            for at in range(start, start + part, inner):
                _clean_levels(keys, at, inner, levels, descending)
            inner >>= levels


@kernel
def sort_lanes(packed):  # (b, m, l) -> (b, m, l)
    """Sort every lane of every block in place, ascending."""
    blocks, m, _ = packed.shape
    for b in range(blocks):
        keys = packed[b]
        for near in range(0, m, NEAR):  # all that the nearest cache holds, before going on
            stop = min(m, near + NEAR)
            for i in range(near, stop, LEAST):
                if (i & LEAST) != 0 and m > LEAST:
                    _sort_down(keys, i, 1)
                else:
                    _sort_up(keys, i, 1)
            size = 2 * LEAST
            while size <= min(m, NEAR):
                for i in range(near, stop, size):
                    _clean_all(keys, i, size, (i & size) != 0 and size < m)
                size *= 2
        size = 2 * NEAR
        while size <= m:
            for i in range(0, m, size):
                _clean_all(keys, i, size, (i & size) != 0)
            size *= 2


def room_for(nodes: int, samples: int, dtype: np.dtype) -> tuple[int, int, int]:
    """Shape (b, m, l) of packed keys; places beyond the samples are for NaN, which stand first in the order."""
    lanes = LANE_BYTES // dtype.itemsize
    return -(-nodes // lanes), max(LEAST, 1 << max(samples - 1, 0).bit_length()), lanes


@kernel
def pack_keys(bits, rows, first, nodes, infinity, packed, at):  # (s, N), (r,) -> (b, m, l)
    """Keys of the nodes ``first : first + nodes`` of the chosen rows, written to the samples from ``at`` on.

    ``rows`` is filled up with -1 to whole stacks.
    """
    blocks, m, lanes = packed.shape
    for b0 in range(0, blocks, TOGETHER):
        for i in range(0, rows.size, ROWS):
            height = ROWS
            while rows[i + height - 1] < 0:
                height -= 1
            ahead = i + AHEAD if i + AHEAD < rows.size and rows[i + AHEAD + ROWS - 1] >= 0 else i
            for b in range(b0, min(blocks, b0 + TOGETHER)):
                if ahead > i:
                    fetch_keys(bits, rows, ahead, first + b * lanes)
                keys = load_keys(bits, rows, i, first + b * lanes, nodes - b * lanes, infinity)
                store_stack(packed, (b * m + at + i) * lanes, height, keys)


@intrinsic
def store_stack(typing: Any, packed: Any, offset: Any, height: Any, stack: Any) -> Any:
    """Write the first ``height`` samples of a stack one after the other, from item ``offset`` on."""
    signature = types.void(packed, offset, height, stack)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        packed, offset, height, stack = arguments
        lanes = signature.args[3].dtype
        for q in range(ROWS):
            with builder.if_then(builder.icmp_signed("<", height.type(q), height), likely=True):
                at = builder.add(offset, offset.type(q * lanes.count))
                place = address_of(context, builder, signature.args[0], packed, at)
                store(builder, place, builder.extract_value(stack, q))
        return context.get_dummy_value()

    return signature, generate
