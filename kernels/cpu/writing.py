"""Writing past the caches: what is written once and not read again soon need not push out what is at work.

Memory takes whole lines of the cache in long pieces several times faster than in short ones far apart.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.lanes import LANE_BYTES, _address, _lanes_of


@intrinsic
def stream_line(typing: Any, target: Any, to: Any, items: Any, at: Any) -> Any:
    """Write a vector of ``items``, from item ``at`` on, to item ``to`` of ``target``, where a line must start."""
    lanes = _lanes_of(items)
    signature = types.void(target, to, items, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, to, items, at = arguments
        source = _address(context, builder, signature.args[2], items, at)
        place = _address(context, builder, signature.args[0], target, to)
        value = builder.load(builder.bitcast(source, lanes.llvm.as_pointer()), typ=lanes.llvm, align=lanes.bits // 8)
        store = builder.store(value, builder.bitcast(place, lanes.llvm.as_pointer()), align=LANE_BYTES)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
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
