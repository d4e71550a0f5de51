"""Look-ups in registers, which have no portable form; processors without them load each entry from memory instead."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core.registry import cpu_target

from hpv.kernels.cpu.vectors.lanes import INT32, INT64, Lanes, call


def _features(context: Any) -> list[str]:
    """What the processor can do, as LLVM names it."""
    return str(context.codegen().magic_tuple()[2]).split(",")


def has_registers(context: Any) -> bool:
    """Whether the processor looks up in registers: there is no portable form of that."""
    return {"+avx512bw", "+avx512f"} <= set(_features(context))


def looks_up_in_registers() -> bool:
    """Whether this processor does."""
    return has_registers(cpu_target.target_context)


def looks_up_bytes_in_registers() -> bool:
    """Whether it also looks up single bytes, and leaves bytes out."""
    return looks_up_in_registers() and {"+avx512vbmi", "+avx512vbmi2"} <= set(_features(cpu_target.target_context))


def compress(builder: ir.IRBuilder, lanes: Lanes, value: Any, mask: Any) -> Any:
    """The bytes of a vector that a mask chooses, side by side from its start on."""
    name = f"llvm.x86.avx512.mask.compress.v{lanes.count}i8"
    return call(builder, name, lanes.llvm, [value, lanes.constant(0), mask])


_SUFFIXES = {8: ("qi", "qi"), 16: ("hi", "hi"), 32: ("si", "d"), 64: ("di", "q")}


def pick(builder: ir.IRBuilder, lanes: Lanes, table: list[Any], place: Any, reached: list[Any]) -> Any:
    """``table[place]``, the table spread over vectors: one permutation per two vectors, then a choice among them."""
    one, two = _SUFFIXES[lanes.bits]
    if len(table) == 1:
        return call(builder, f"llvm.x86.avx512.permvar.{one}.512", lanes.llvm, [table[0], place])
    name = f"llvm.x86.avx512.vpermi2var.{two}.512"
    parts = [call(builder, name, lanes.llvm, [a, place, b]) for a, b in zip(table[::2], table[1::2], strict=True)]
    level = (2 * lanes.count).bit_length() - 1
    while len(parts) > 1:
        parts = [builder.select(reached[level], b, a) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        level += 1
    return parts[0]


def pick_entry(builder: ir.IRBuilder, lanes: Lanes, table: list[Any], place: Any) -> Any:
    """``table[place]``, the table spread over vectors: one permutation per two, then halvings by the bits above."""
    bits = range((2 * lanes.count).bit_length() - 1, 8)
    upper = [
        builder.icmp_unsigned("!=", builder.and_(place, lanes.constant(1 << bit)), lanes.constant(0)) for bit in bits
    ]
    return pick(builder, lanes, table, place, [None] * bits.start + upper)


def pick_from_memory(builder: ir.IRBuilder, lanes: Lanes, start: Any, place: Any) -> Any:
    """``table[place]``, entry by entry, of a table in memory."""
    result = ir.Constant(lanes.llvm, ir.Undefined)
    for c in range(lanes.count):
        index = builder.zext(builder.extract_element(place, INT32(c)), INT64)
        entry = builder.load(builder.gep(start, [index]), typ=lanes.llvm.element)
        result = builder.insert_element(result, entry, INT32(c))
    return result
