"""Bytes for codes, looked up in registers, and leaving out those that do not count: GROUP of them at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.vectors.lanes import INT64, address_of, load, splat, store
from hpv.kernels.cpu.vectors.registers import compress, pick_entry
from hpv.kernels.cpu.vectors.tiles import BYTES, GROUP
from hpv.kernels.rules import NAN_CODE


@intrinsic
def look_up_codes(
    typing: Any, codes: Any, at: Any, tables: Any, start: Any, levels: Any, answers: Any, place: Any
) -> Any:
    """Bytes for GROUP codes of one node; its table of 2**len(levels) bytes starts at item ``start`` of ``tables``."""
    entries = 1 << len(levels)
    signature = types.void(codes, at, tables, start, levels, answers, place)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, tables, start, _, answers, place = arguments
        code = load(builder, address_of(context, builder, signature.args[0], codes, at), BYTES)
        first = address_of(context, builder, signature.args[2], tables, start)
        table = [load(builder, builder.gep(first, [start.type(v)]), BYTES) for v in range(0, entries, GROUP)]
        found = pick_entry(builder, BYTES, table, code)
        store(builder, address_of(context, builder, signature.args[5], answers, place), found)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def nan_among(typing: Any, codes: Any) -> Any:
    """A bit for each of GROUP codes: whether it is NAN_CODE."""
    signature = types.uint64(codes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        nan = builder.icmp_unsigned("==", arguments[0], BYTES.constant(NAN_CODE))
        return builder.bitcast(nan, INT64)

    return signature, generate


@intrinsic
def keep_below(typing: Any, items: Any, at: Any, most: Any, kept: Any, to: Any) -> Any:
    """Write those of GROUP bytes that are not ``most`` to ``kept``, side by side from item ``to`` on; their number."""
    signature = types.int64(items, at, most, kept, to)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        items, at, most, kept, to = arguments
        item = load(builder, address_of(context, builder, signature.args[0], items, at), BYTES)
        wanted = builder.icmp_unsigned("!=", item, splat(builder, BYTES, most))
        left = compress(builder, BYTES, item, wanted)
        store(builder, address_of(context, builder, signature.args[3], kept, to), left)
        return builder.ctpop(builder.bitcast(wanted, INT64))

    return signature, generate
