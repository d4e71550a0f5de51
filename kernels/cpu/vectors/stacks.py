"""Eight samples at once ("a stack"): a tuple of vectors whose lanes are nodes; an edge is loaded once for all eight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.vectors.lanes import (
    INT32,
    INT64,
    Lanes,
    address_of,
    columns_of,
    first_lanes,
    keys_of,
    lanes_of,
    load,
    masked,
    prefetch,
    splat,
    store,
)
from hpv.kernels.rules import NAN_CODE

ROWS = 8


def padded_rows(rows: np.ndarray, height: int) -> np.ndarray:
    """Row numbers filled up with -1 to whole heights, as the kernels read them."""
    return np.concatenate([rows, np.full(-len(rows) % height, -1)]).astype(np.int64)


def stack_of(lanes: Lanes) -> types.UniTuple:
    """A vector for each sample."""
    return types.UniTuple(lanes, ROWS)


def each(builder: ir.IRBuilder, stacks: list[Any], operation: Callable[..., Any]) -> list[Any]:
    """``operation`` of the vectors of each sample in these stacks."""
    return [operation(*(builder.extract_value(stack, q) for stack in stacks)) for q in range(ROWS)]


def row_places(context: Any, builder: ir.IRBuilder, kinds: Any, place: Any) -> tuple[list[Any], list[Any]]:
    """Numbers, and addresses of ``matrix[rows[i + q], first]``, of the rows of a stack; ``place``: these four."""
    matrix, rows, i, first = place
    columns = columns_of(context, builder, kinds[0], matrix)
    numbers, addresses = [], []
    for q in range(ROWS):
        place = address_of(context, builder, kinds[1], rows, builder.add(i, i.type(q)))
        numbers.append(builder.load(place, typ=INT64))
        offset = builder.add(builder.mul(numbers[-1], columns), first)
        addresses.append(address_of(context, builder, kinds[0], matrix, offset))
    return numbers, addresses


def load_rows(
    context: Any, builder: ir.IRBuilder, kinds: Any, place: Any, width: Any, filled: ir.Constant, convert: Any
) -> list[Any]:
    """Vectors of the rows of a stack, ``filled`` beyond ``width`` and where a row is -1; ``place`` as above.

    -1 stands only at the end of the rows. Whole stacks are loaded without masks. Every vector is converted right after
    it is loaded, in both branches: other orders (measured) cost a tenth.
    """
    lanes = lanes_of(kinds[0])
    numbers, addresses = row_places(context, builder, kinds, place)
    whole = builder.and_(
        builder.icmp_signed(">=", width, width.type(lanes.count)), builder.icmp_signed(">=", numbers[-1], INT64(0))
    )
    branches: list[tuple[list[Any], Any]] = []
    with builder.if_else(whole) as both:
        for plain, branch in zip((True, False), both, strict=True):
            with branch:
                vectors = []
                for address, number in zip(addresses, numbers, strict=True):
                    if plain:
                        value = load(builder, address, lanes)
                    else:
                        value = _load_inside(builder, lanes, address, number, width, filled)
                    vectors.append(convert(value))
                branches.append((vectors, builder.block))
    stack = []
    for q in range(ROWS):
        stack.append(builder.phi(lanes.llvm))
        for vectors, block in branches:
            stack[-1].add_incoming(vectors[q], block)
    return stack


def _load_inside(builder: ir.IRBuilder, lanes: Lanes, address: Any, row: Any, width: Any, filled: ir.Constant) -> Any:
    """The first ``width`` lanes, none where the row is -1; all others hold ``filled``."""
    absent = builder.icmp_signed("<", row, INT64(0))
    mask = first_lanes(builder, lanes, builder.select(absent, width.type(0), width))
    place = builder.bitcast(address, lanes.llvm.as_pointer())
    return masked(builder, "load", lanes.llvm, lanes.llvm, [place, INT32(lanes.bits // 8), mask, filled])


@intrinsic
def load_keys(typing: Any, bits: Any, rows: Any, i: Any, first: Any, width: Any, infinity: Any) -> Any:
    """Keys of ``bits[rows[i : i + ROWS], first : first + lanes]``; NaN beyond ``width`` and where a row is -1.

    ``bits`` is a C-contiguous matrix; -1 stands only at the end of ``rows``.
    """
    lanes = lanes_of(bits)
    signature = stack_of(lanes)(bits, rows, i, first, width, infinity)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *place, width, infinity = arguments
        at_most = splat(builder, lanes, infinity)

        def key(value: Any) -> Any:
            return keys_of(builder, lanes, value, at_most, lanes.lowest)

        keys = load_rows(context, builder, signature.args, place, width, lanes.highest, key)
        return context.make_tuple(builder, signature.return_type, keys)

    return signature, generate


@intrinsic
def fetch_keys(typing: Any, bits: Any, rows: Any, i: Any, first: Any) -> Any:
    """Ask for what ``load_keys`` will load there before it is needed; no row may be -1."""
    signature = types.void(bits, rows, i, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        for address in row_places(context, builder, signature.args, arguments)[1]:
            prefetch(builder, address)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def no_codes(typing: Any, keys: Any) -> Any:
    """A stack of zeros like ``keys``."""
    signature = keys(keys)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, [keys.dtype.constant(0)] * ROWS)

    return signature, generate


@intrinsic
def add_reached(typing: Any, codes: Any, keys: Any, edge: Any) -> Any:
    """``codes + (keys >= edge)`` for each sample of the stack."""
    signature = codes(codes, keys, edge)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *stacks, edge = arguments

        def add(code: Any, key: Any) -> Any:
            return builder.add(code, builder.zext(builder.icmp_signed(">=", key, edge), edge.type))

        return context.make_tuple(builder, signature.return_type, each(builder, stacks, add))

    return signature, generate


@intrinsic
def count_reached(typing: Any, survivors: Any, keys: Any, edge: Any) -> Any:
    """``survivors`` + the number of samples in the stack with ``key >= edge``."""
    signature = survivors(survivors, keys, edge)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        survivors, keys, edge = arguments
        for q in range(ROWS):
            reached = builder.icmp_signed(">=", builder.extract_value(keys, q), edge)
            survivors = builder.add(survivors, builder.zext(reached, edge.type))
        return survivors

    return signature, generate


def _extreme(order: str, shift: int) -> Any:
    """An operation that keeps the lowest (``<``) or highest (``>``) of ``keys + shift``, wrapping around."""

    @intrinsic
    def keep(typing: Any, best: Any, keys: Any) -> Any:
        signature = best(best, keys)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            best, keys = arguments
            for q in range(ROWS):
                key = builder.add(builder.extract_value(keys, q), signature.args[0].constant(shift))
                best = builder.select(builder.icmp_signed(order, key, best), key, best)
            return best

        return signature, generate

    return keep


# NaN is the lowest key. One less wraps around to the highest, so the lowest number wins; it is kept as key - 1.
keep_lowest = _extreme("<", -1)
keep_highest = _extreme(">", 0)


def write_bytes(
    context: Any, builder: ir.IRBuilder, kind: types.Array, place: tuple[Any, ...], rows: list[Any]
) -> None:
    """Write vectors of bytes, one per sample of a stack, to a C-contiguous matrix of this kind.

    ``place``: the matrix, its first row and column there, and how many columns and rows may be written at most.
    """
    matrix, i, first, width, height = place
    lanes = Lanes(8, rows[0].type.count)
    columns = columns_of(context, builder, kind, matrix)
    whole = builder.and_(
        builder.icmp_signed(">=", width, width.type(lanes.count)),
        builder.icmp_signed(">=", height, height.type(ROWS)),
    )
    with builder.if_else(whole) as (plain, careful):
        for block in (plain, careful):
            with block:
                for q, value in enumerate(rows):
                    offset = builder.add(builder.mul(builder.add(i, i.type(q)), columns), first)
                    address = address_of(context, builder, kind, matrix, offset)
                    if block is plain:
                        store(builder, address, value)
                        continue
                    present = builder.icmp_signed("<", height.type(q), height)
                    mask = first_lanes(builder, lanes, builder.select(present, width, width.type(0)))
                    parts = [value, builder.bitcast(address, lanes.llvm.as_pointer()), INT32(1), mask]
                    masked(builder, "store", lanes.llvm, ir.VoidType(), parts)


@intrinsic
def store_codes(typing: Any, codes: Any, i: Any, first: Any, width: Any, height: Any, stack: Any, keys: Any) -> Any:
    """Write a stack to ``codes[i : i + height, first : first + width]``; NAN_CODE where the key is NaN's."""
    signature = types.void(codes, i, first, width, height, stack, keys)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *place, stack, keys = arguments
        lanes = signature.args[5].dtype

        def narrow(code: Any, key: Any) -> Any:
            nan = builder.icmp_signed("==", key, lanes.lowest)
            return builder.trunc(builder.select(nan, lanes.constant(NAN_CODE), code), Lanes(8, lanes.count).llvm)

        write_bytes(context, builder, signature.args[0], tuple(place), each(builder, [stack, keys], narrow))
        return context.get_dummy_value()

    return signature, generate
