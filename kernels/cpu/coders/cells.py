"""Vectors of 16-bit cells, for grid.py: of twice as many nodes as a vector of float32 keys, eight samples at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.vectors.lanes import Lanes, address_of, load, shuffle
from hpv.kernels.cpu.vectors.stacks import ROWS, each, write_bytes
from hpv.kernels.rules import NAN_CODE

NODES = 32
"""Nodes of a block: as many cells as a vector holds."""
HALF = 16
CELLS = Lanes(16, NODES)
KEYS = Lanes(32, HALF)


@intrinsic
def to_cells(typing: Any, left: Any, right: Any, low: Any, high: Any, shift: Any, first: Any) -> Any:
    """Cells (a stack of 32 lanes) of the keys of 32 nodes from ``first`` on; NaN falls below all edges."""
    signature = types.UniTuple(CELLS, ROWS)(left, right, low, high, shift, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        sides, first = arguments[:2], arguments[5]
        bounds: list[list[Any]] = []
        for half in range(2):
            offset = builder.add(first, first.type(half * HALF))
            vectors = []
            for kind, array in zip(signature.args[2:5], arguments[2:5], strict=True):
                vectors.append(load(builder, address_of(context, builder, kind, array, offset), KEYS))
            bounds.append(vectors)
        stack = []
        for q in range(ROWS):
            halves = []
            for side, (lowest, highest, step) in zip(sides, bounds, strict=True):
                key = builder.extract_value(side, q)
                key = builder.select(builder.icmp_signed("<", key, lowest), lowest, key)
                key = builder.select(builder.icmp_signed(">", key, highest), highest, key)
                # The difference may pass the sign bit: as an unsigned number it is right.
                cell = builder.lshr(builder.sub(key, lowest), step)
                halves.append(builder.sub(cell, KEYS.constant(32_768)))
            whole = shuffle(builder, *halves, list(range(NODES)))
            stack.append(builder.trunc(whole, CELLS.llvm))
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def start_codes(typing: Any, keys: Any) -> Any:
    """A stack of codes before the first edge: 0, and NAN_CODE where the key is NaN's."""
    signature = keys(keys)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:

        def start(key: Any) -> Any:
            nan = builder.icmp_signed("==", key, KEYS.lowest)
            return builder.select(nan, KEYS.constant(NAN_CODE), KEYS.constant(0))

        return context.make_tuple(builder, signature.return_type, each(builder, list(arguments), start))

    return signature, generate


@intrinsic
def join(typing: Any, left: Any, right: Any) -> Any:
    """Two stacks of 16 lanes as one of 32 narrower ones."""
    signature = types.UniTuple(CELLS, ROWS)(left, right)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:

        def whole(left: Any, right: Any) -> Any:
            return builder.trunc(shuffle(builder, left, right, list(range(NODES))), CELLS.llvm)

        return context.make_tuple(builder, signature.return_type, each(builder, list(arguments), whole))

    return signature, generate


@intrinsic
def store_bytes(typing: Any, codes: Any, i: Any, first: Any, width: Any, height: Any, stack: Any) -> Any:
    """Write a stack to ``codes[i : i + height, first : first + width]``."""
    signature = types.void(codes, i, first, width, height, stack)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *place, stack = arguments
        narrow = each(builder, [stack], lambda code: builder.trunc(code, Lanes(8, NODES).llvm))
        write_bytes(context, builder, signature.args[0], tuple(place), narrow)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_one(typing: Any, codes: Any, keys: Any, edge: Any, one: Any) -> Any:
    """``codes + (keys >= edge)`` for each sample of the stack.

    ``one`` holds 1 in every lane, from memory: a 1 that LLVM knew of would become two more instructions.
    """
    signature = codes(codes, keys, edge, one)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *stacks, edge, one = arguments

        def add(code: Any, key: Any) -> Any:
            return builder.select(builder.icmp_signed(">=", key, edge), builder.add(code, one), code)

        return context.make_tuple(builder, signature.return_type, each(builder, stacks, add))

    return signature, generate


@intrinsic
def count_one(typing: Any, survivors: Any, keys: Any, edge: Any, one: Any) -> Any:
    """``survivors`` + the number of samples in the stack with ``key >= edge``; ``one`` as above."""
    signature = survivors(survivors, keys, edge, one)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        survivors, keys, edge, one = arguments
        for q in range(ROWS):
            reached = builder.icmp_signed(">=", builder.extract_value(keys, q), edge)
            survivors = builder.select(reached, builder.add(survivors, one), survivors)
        return survivors

    return signature, generate
