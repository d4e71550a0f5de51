"""Vectors in Numba: as many nodes, or samples, as fit in 64 bytes ("lanes").

LLVM's loop vectoriser gives up on the loops here, so operations emit LLVM's own portable vector instructions, which it
fits to whatever the processor has. Integers only. This file holds what all of them are made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

from hpv.kernels.cpu.compiling import kernel

LANE_BYTES = 64
BLOCK_BYTES = 16
"""Processors shuffle within blocks of this size, and such blocks, in one step."""
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)


def aligned(shape: tuple[int, ...], dtype: np.dtype | type, value: int | None = None) -> np.ndarray:
    """An array from the start of a line of the cache on, because vectors that lie across two lines cost twice.

    Filled with ``value``, or with whatever was there.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + LANE_BYTES, np.uint8)
    start = -memory.ctypes.data % LANE_BYTES
    array = memory[start : start + size].view(dtype).reshape(shape)
    if value is not None:
        array[...] = value
    return array


def line_start(array: np.ndarray) -> int:
    """The first item of a C-contiguous array where a line of the cache starts."""
    return -array.ctypes.data % LANE_BYTES // array.itemsize


class Lanes(types.Type):
    """A vector of ``count`` signed integers of ``bits`` bits."""

    def __init__(self, bits: int, count: int) -> None:
        self.bits = bits
        self.count = count
        super().__init__(name=f"Lanes({bits}, {count})")

    @property
    def llvm(self) -> ir.VectorType:
        """LLVM's own type."""
        return ir.VectorType(ir.IntType(self.bits), self.count)

    def constant(self, value: int) -> ir.Constant:
        """``value`` in every lane."""
        return ir.Constant(self.llvm, [value] * self.count)

    @property
    def highest(self) -> ir.Constant:
        """The highest integer in every lane."""
        return self.constant((1 << (self.bits - 1)) - 1)

    @property
    def lowest(self) -> ir.Constant:
        """The lowest integer in every lane."""
        return self.constant(-(1 << (self.bits - 1)))


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.llvm)


def lanes_of(array: types.Array) -> Lanes:
    """The vector that holds items of an array."""
    return Lanes(array.dtype.bitwidth, LANE_BYTES * 8 // array.dtype.bitwidth)


def address_of(context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any, offset: Any) -> Any:
    """Where item ``offset`` of a C-contiguous array lies, whatever its shape; other layouts are not compiled."""
    if kind.layout != "C":
        raise TypingError(f"an array of layout {kind.layout} where items must lie side by side")
    return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])


def columns_of(context: Any, builder: ir.IRBuilder, kind: types.Array, matrix: Any) -> Any:
    """Items from a row of a C-contiguous matrix to the next."""
    return builder.extract_value(context.make_array(kind)(context, builder, matrix).shape, 1)


def load(builder: ir.IRBuilder, address: Any, lanes: Lanes) -> Any:
    """The vector at an address."""
    return builder.load(builder.bitcast(address, lanes.llvm.as_pointer()), typ=lanes.llvm, align=lanes.bits // 8)


def store(builder: ir.IRBuilder, address: Any, value: Any) -> Any:
    """Write a vector to an address; the instruction that does it."""
    place = builder.bitcast(address, value.type.as_pointer())
    return builder.store(value, place, align=value.type.element.width // 8)


def call(builder: ir.IRBuilder, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call one of LLVM's own functions."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def splat(builder: ir.IRBuilder, lanes: Lanes, value: Any) -> Any:
    """A vector that holds the integer ``value``, cut to the width of a lane, in every lane."""
    narrow = builder.trunc(value, lanes.llvm.element) if lanes.bits < value.type.width else value
    undefined = ir.Constant(lanes.llvm, ir.Undefined)
    single = builder.insert_element(undefined, narrow, INT32(0))
    return shuffle(builder, single, undefined, [0] * lanes.count)


def first_lanes(builder: ir.IRBuilder, lanes: Lanes, width: Any) -> Any:
    """A mask of the first ``width`` lanes."""
    wide = Lanes(64, lanes.count)
    order = ir.Constant(wide.llvm, list(range(lanes.count)))
    return builder.icmp_signed("<", order, splat(builder, wide, width))


def masked(builder: ir.IRBuilder, verb: str, vector: ir.VectorType, result: Any, arguments: list[Any]) -> Any:
    """Call LLVM's masked load or store, which touches no memory outside the mask."""
    return call(builder, f"llvm.masked.{verb}.v{vector.count}i{vector.element.width}.p0", result, arguments)


def prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Ask for a line of the cache, wherever it may lie: there need not be memory."""
    place = builder.bitcast(address, ir.IntType(8).as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, INT32(0), INT32(2), INT32(1)])


def keys_of(builder: ir.IRBuilder, lanes: Lanes, bits: Any, infinity: Any, nan_key: ir.Constant) -> Any:
    """The order of hpv/base/floats.py: magnitude, negated for negative numbers; ``nan_key`` for NaN."""
    magnitude = builder.and_(bits, lanes.highest)
    negative = builder.icmp_signed("<", bits, lanes.constant(0))
    key = builder.select(negative, builder.sub(lanes.constant(0), magnitude), magnitude)
    return builder.select(builder.icmp_signed("<=", magnitude, infinity), key, nan_key)


def shuffle(builder: ir.IRBuilder, one: Any, other: Any, order: list[int]) -> Any:
    """Lanes of two vectors, numbered one after the other, in another order."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(INT32, len(order)), order))


def interleave(builder: ir.IRBuilder, rows: list[Any], block: int) -> list[Any]:
    """Transpose within blocks of as many lanes as there are rows: row q, lane c of a block becomes row c, lane q.

    log2(rows) rounds of the perfect shuffle: each interleaves the first half of the rows with the second.
    """
    count, half = rows[0].type.count, block // 2
    low = [x for start in range(0, count, block) for t in range(start, start + half) for x in (t, count + t)]
    high = [x + half for x in low]
    for _ in range(len(rows).bit_length() - 1):
        pairs = zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)
        rows = [shuffle(builder, a, b, order) for a, b in pairs for order in (low, high)]
    return rows


def transpose(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Transpose a square: within blocks of BLOCK_BYTES first, then the blocks; processors shuffle both in one step."""
    count = len(rows)
    block = count * BLOCK_BYTES // LANE_BYTES
    inside = [interleave(builder, rows[a : a + block], block) for a in range(0, count, block)]
    even = [x for start in range(0, 2 * count, 2 * block) for x in range(start, start + block)]
    odd = [x + block for x in even]
    columns = []
    for q in range(block):
        parts = [group[q] for group in inside]
        for _ in range(len(parts).bit_length() - 1):
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            parts = [shuffle(builder, a, b, order) for order in (even, odd) for a, b in pairs]
        columns.append(parts)
    return [columns[q][c] for c in range(count // block) for q in range(block)]


@intrinsic
def load_lanes(typing: Any, array: Any, offset: Any) -> Any:
    """The lanes that start at item ``offset`` of a C-contiguous array."""
    lanes = lanes_of(array)
    signature = lanes(array, offset)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return load(builder, address_of(context, builder, signature.args[0], *arguments), lanes)

    return signature, generate


@intrinsic
def store_lanes(typing: Any, array: Any, offset: Any, lanes: Any) -> Any:
    """Write lanes from item ``offset`` of a C-contiguous array on."""
    signature = types.void(array, offset, lanes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        store(builder, address_of(context, builder, signature.args[0], *arguments[:2]), arguments[2])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def stream_line(typing: Any, target: Any, to: Any, items: Any, at: Any) -> Any:
    """Write a vector of ``items``, from item ``at`` on, to item ``to`` of ``target``, where a line must start.

    Past the caches: what is written once and not read again soon need not push out what is at work.
    """
    lanes = lanes_of(items)
    signature = types.void(target, to, items, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, to, items, at = arguments
        value = load(builder, address_of(context, builder, signature.args[2], items, at), lanes)
        written = store(builder, address_of(context, builder, signature.args[0], target, to), value)
        written.align = LANE_BYTES
        written.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fence(typing: Any) -> Any:
    """Whatever was written before is seen by other threads."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@kernel
def stream(items, at, count, target, to, start):  # (a,), (b,)
    """``target[to : to + count] = items[at : at + count]``; ``start`` is an item of ``target`` where a line starts."""
    line = LANE_BYTES // target.itemsize
    head = min((start - to) % line, count)
    tail = head + (count - head) // line * line
    for c in range(head):
        target[to + c] = items[at + c]
    for c in range(head, tail, line):
        stream_line(target, to + c, items, at + c)
    for c in range(tail, count):
        target[to + c] = items[at + c]
