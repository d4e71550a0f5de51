"""Vectors in Numba: as many nodes as fit in 64 bytes ("lanes"), of eight samples at once ("a stack").

LLVM's loop vectoriser gives up on loops that hold several samples of keys in registers while edges stream past
them, and that is what makes coding fast: an edge is loaded once for eight samples. So these few operations emit
LLVM's own portable vector instructions, which it fits to whatever the processor has. Integers only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

LANE_BYTES = 64
ROWS = 8


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


def _lanes_of(array: types.Array) -> Lanes:
    return Lanes(array.dtype.bitwidth, LANE_BYTES * 8 // array.dtype.bitwidth)


def _stack_of(lanes: Lanes) -> types.UniTuple:
    return types.UniTuple(lanes, ROWS)


def _address(context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any, offset: Any) -> Any:
    """Where item ``offset`` of a C-contiguous array lies, whatever its shape; other layouts are not compiled."""
    if kind.layout != "C":
        raise TypingError(f"an array of layout {kind.layout} where items must lie side by side")
    return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])


def _call(builder: ir.IRBuilder, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call one of LLVM's own functions."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def _splat(builder: ir.IRBuilder, lanes: Lanes, value: Any) -> Any:
    """A vector that holds the integer ``value``, cut to the width of a lane, in every lane."""
    narrow = builder.trunc(value, lanes.llvm.element) if lanes.bits < value.type.width else value
    undefined = ir.Constant(lanes.llvm, ir.Undefined)
    single = builder.insert_element(undefined, narrow, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
    return builder.shuffle_vector(single, undefined, zeros)


def _first_lanes(builder: ir.IRBuilder, lanes: Lanes, width: Any) -> Any:
    """A mask of the first ``width`` lanes."""
    wide = Lanes(64, lanes.count)
    order = ir.Constant(wide.llvm, list(range(lanes.count)))
    return builder.icmp_signed("<", order, _splat(builder, wide, width))


def _masked(builder: ir.IRBuilder, verb: str, vector: ir.VectorType, result: Any, arguments: list[Any]) -> Any:
    """Call LLVM's masked load or store, which touches no memory outside the mask."""
    return _call(builder, f"llvm.masked.{verb}.v{vector.count}i{vector.element.width}.p0", result, arguments)


def _keys(builder: ir.IRBuilder, lanes: Lanes, bits: Any, infinity: Any, missing: ir.Constant) -> Any:
    """The order of hpv/floats.py: magnitude, negated for negative numbers; ``missing`` for NaN."""
    magnitude = builder.and_(bits, lanes.constant((1 << (lanes.bits - 1)) - 1))
    negative = builder.icmp_signed("<", bits, lanes.constant(0))
    key = builder.select(negative, builder.sub(lanes.constant(0), magnitude), magnitude)
    return builder.select(builder.icmp_signed("<=", magnitude, infinity), key, missing)


@intrinsic
def load_keys(typing: Any, bits: Any, rows: Any, i: Any, first: Any, width: Any, infinity: Any) -> Any:
    """Keys of ``bits[rows[i : i + ROWS], first : first + lanes]``; NaN beyond ``width`` and where a row is -1.

    ``bits`` is a C-contiguous matrix; -1 stands only at the end of ``rows``.
    """
    lanes = _lanes_of(bits)
    signature = _stack_of(lanes)(bits, rows, i, first, width, infinity)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        bits, rows, i, first, width, infinity = arguments
        columns = builder.extract_value(context.make_array(signature.args[0])(context, builder, bits).shape, 1)
        at_most = _splat(builder, lanes, infinity)
        chosen = []
        for q in range(ROWS):
            row = _address(context, builder, signature.args[1], rows, builder.add(i, i.type(q)))
            chosen.append(builder.load(row, typ=ir.IntType(64)))
        whole = builder.and_(
            builder.icmp_signed(">=", width, width.type(lanes.count)),
            builder.icmp_signed(">=", chosen[-1], ir.IntType(64)(0)),
        )
        start = builder.block
        plain, careful = builder.append_basic_block("plain"), builder.append_basic_block("careful")
        done = builder.append_basic_block("loaded")
        builder.cbranch(whole, plain, careful)
        loaded: dict[str, list[Any]] = {"plain": [], "careful": []}
        for name, block in (("plain", plain), ("careful", careful)):
            builder.position_at_end(block)
            for row in chosen:
                offset = builder.add(builder.mul(row, columns), first)
                address = _address(context, builder, signature.args[0], bits, offset)
                address = builder.bitcast(address, lanes.llvm.as_pointer())
                if name == "plain":
                    value = builder.load(address, typ=lanes.llvm, align=lanes.bits // 8)
                else:
                    absent = builder.icmp_signed("<", row, ir.IntType(64)(0))
                    mask = _first_lanes(builder, lanes, builder.select(absent, width.type(0), width))
                    nan = lanes.constant((1 << (lanes.bits - 1)) - 1)
                    parts = [address, ir.IntType(32)(lanes.bits // 8), mask, nan]
                    value = _masked(builder, "load", lanes.llvm, lanes.llvm, parts)
                loaded[name].append(_keys(builder, lanes, value, at_most, lanes.lowest))
            builder.branch(done)
        builder.position_at_end(done)
        assert start is not done
        stack = []
        for one, other in zip(loaded["plain"], loaded["careful"], strict=True):
            phi = builder.phi(lanes.llvm)
            phi.add_incoming(one, plain)
            phi.add_incoming(other, careful)
            stack.append(phi)
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def fetch_keys(typing: Any, bits: Any, rows: Any, i: Any, first: Any) -> Any:
    """Ask for what ``load_keys`` will load there before it is needed; no row may be -1."""
    signature = types.void(bits, rows, i, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        bits, rows, i, first = arguments
        columns = builder.extract_value(context.make_array(signature.args[0])(context, builder, bits).shape, 1)
        for q in range(ROWS):
            row = _address(context, builder, signature.args[1], rows, builder.add(i, i.type(q)))
            offset = builder.add(builder.mul(builder.load(row, typ=ir.IntType(64)), columns), first)
            _prefetch(builder, _address(context, builder, signature.args[0], bits, offset))
        return context.get_dummy_value()

    return signature, generate


def _prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Ask for a line of the cache, wherever it may lie: there need not be memory."""
    number, place = ir.IntType(32), builder.bitcast(address, ir.IntType(8).as_pointer())
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, number(0), number(2), number(1)])


@intrinsic
def load_lanes(typing: Any, array: Any, offset: Any) -> Any:
    """The lanes that start at item ``offset`` of a C-contiguous array."""
    lanes = _lanes_of(array)
    signature = lanes(array, offset)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments)
        address = builder.bitcast(address, lanes.llvm.as_pointer())
        return builder.load(address, typ=lanes.llvm, align=lanes.bits // 8)

    return signature, generate


@intrinsic
def store_lanes(typing: Any, array: Any, offset: Any, lanes: Any) -> Any:
    """Write lanes from item ``offset`` of a C-contiguous array on."""
    signature = types.void(array, offset, lanes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments[:2])
        address = builder.bitcast(address, lanes.llvm.as_pointer())
        builder.store(arguments[2], address, align=lanes.bits // 8)
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
        codes, keys, edge = arguments
        stack = []
        for q in range(ROWS):
            reached = builder.icmp_signed(">=", builder.extract_value(keys, q), edge)
            stack.append(builder.add(builder.extract_value(codes, q), builder.zext(reached, edge.type)))
        return context.make_tuple(builder, signature.return_type, stack)

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
    columns = builder.extract_value(context.make_array(kind)(context, builder, matrix).shape, 1)
    whole = builder.and_(
        builder.icmp_signed(">=", width, width.type(lanes.count)),
        builder.icmp_signed(">=", height, height.type(ROWS)),
    )
    with builder.if_else(whole) as (plain, careful):
        for block in (plain, careful):
            with block:
                for q, value in enumerate(rows):
                    offset = builder.add(builder.mul(builder.add(i, i.type(q)), columns), first)
                    address = _address(context, builder, kind, matrix, offset)
                    address = builder.bitcast(address, lanes.llvm.as_pointer())
                    if block is plain:
                        builder.store(value, address, align=1)
                        continue
                    present = builder.icmp_signed("<", height.type(q), height)
                    mask = _first_lanes(builder, lanes, builder.select(present, width, width.type(0)))
                    parts = [value, address, ir.IntType(32)(1), mask]
                    _masked(builder, "store", lanes.llvm, ir.VoidType(), parts)


@intrinsic
def store_codes(typing: Any, codes: Any, i: Any, first: Any, width: Any, height: Any, stack: Any, keys: Any) -> Any:
    """Write a stack to ``codes[i : i + height, first : first + width]``; MISSING_CODE where the key is NaN's."""
    signature = types.void(codes, i, first, width, height, stack, keys)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *place, stack, keys = arguments
        lanes = signature.args[5].dtype
        narrow = []
        for q in range(ROWS):
            missing = builder.icmp_signed("==", builder.extract_value(keys, q), lanes.lowest)
            filled = builder.select(missing, lanes.constant(255), builder.extract_value(stack, q))
            narrow.append(builder.trunc(filled, Lanes(8, lanes.count).llvm))
        write_bytes(context, builder, signature.args[0], tuple(place), narrow)
        return context.get_dummy_value()

    return signature, generate
