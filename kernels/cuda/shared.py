"""Addresses in shared memory, for searches and tallies: what an index would cost at every step is paid once.

On a device an address is 32 bits wide and counts bytes; it moves on, and counters grow, under a predicate, without a
branch. In the simulator an address is an index.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types, uint32

from hpv.kernels.cuda.device import SIMULATED, cuda, intrinsic

WORD = ir.IntType(32)
# The assembler finds the predicate in the number that it is passed as; compilers would choose between two sums instead.
MOVE = "{ .reg .pred on; setp.ne.u32 on, $2, 0; @on add.u32 $0, $0, $3; }"
GROW = "{ .reg .pred on; setp.ne.u32 on, $1, 0; @on red.shared.add.u32 [$0], $2; }"


def _start(context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any) -> Any:
    """Where an array in shared memory begins."""
    start = context.make_array(kind)(context, builder, array).data
    there = builder.addrspacecast(start, ir.PointerType(context.get_data_type(kind.dtype), 3))
    return builder.ptrtoint(there, WORD)


def _size(kind: types.Array) -> ir.Constant:
    return WORD(int(kind.dtype.bitwidth) // 8)


def _number(builder: ir.IRBuilder, condition: Any) -> Any:
    return condition if condition.type == WORD else builder.zext(condition, WORD)


@intrinsic
def _address_of(typing: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind, (array, index) = signature.args[0], arguments
        return builder.add(_start(context, builder, kind, array), builder.mul(index, _size(kind)))

    return types.uint32(array, types.uint32), generate


@intrinsic
def _item_at(typing: Any, array: Any, address: Any, further: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, address, further = arguments
        item = context.get_data_type(signature.args[0].dtype)
        return builder.load(builder.gep(builder.inttoptr(address, ir.PointerType(item, 3)), [further]))

    return array.dtype(array, types.uint32, types.int64), generate


@intrinsic
def _moved_where(typing: Any, array: Any, address: Any, condition: Any, items: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, address, condition, items = arguments
        step = builder.mul(builder.trunc(items, WORD), _size(signature.args[0]))
        move = ir.InlineAsm(ir.FunctionType(WORD, [WORD] * 3), MOVE, "=r,0,r,r", side_effect=False)
        return builder.call(move, [address, _number(builder, condition), step])

    return types.uint32(array, types.uint32, types.boolean, types.int64), generate


@intrinsic
def _index_of(typing: Any, array: Any, address: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind, (array, address) = signature.args[0], arguments
        beyond = builder.sub(address, _start(context, builder, kind, array))
        return builder.lshr(beyond, WORD(_size(kind).constant.bit_length() - 1), flags=["exact"])

    return types.uint32(array, types.uint32), generate


@intrinsic
def _add_where(typing: Any, array: Any, address: Any, condition: Any, amount: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, address, condition, amount = arguments
        grow = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [WORD] * 3), GROW, "r,r,r", side_effect=True)
        builder.call(grow, [address, _number(builder, condition), amount])
        return context.get_dummy_value()

    return types.void(array, types.uint32, types.boolean, types.int32), generate


def _index_itself(array: Any, index: Any) -> Any:
    return uint32(index)


def _item_there(array: Any, index: Any, further: Any) -> Any:
    return array[index + further]


def _index_moved(array: Any, index: Any, condition: Any, items: Any) -> Any:
    return uint32(index + items) if condition else index


def _added(array: Any, index: Any, condition: Any, amount: Any) -> None:
    if condition:
        cuda.atomic.add(array, index, amount)


# The address of an item of an array: (array, index).
address_of = _index_itself if SIMULATED else _address_of
# The item so many items beyond an address: (array, address, items).
item_at = _item_there if SIMULATED else _item_at
# The address, so many items further on where the condition holds: (array, address, condition, items).
moved_where = _index_moved if SIMULATED else _moved_where
# The reverse of address_of: (array, address).
index_of = _index_itself if SIMULATED else _index_of
# Adds to a counter, int32, where the condition holds: (array, address, condition, amount).
add_where = cuda.jit(_added, device=True) if SIMULATED else _add_where
