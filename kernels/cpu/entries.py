"""Bytes for codes, and leaving out those that do not count.

Looked up in registers: GROUP samples of a node at once. By comparison alone, where whatever reaches a code takes that
code's entry instead: as many nodes as lanes of a stack of samples, so that an entry is loaded once for eight.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.vectors.lanes import INT64, Lanes, address_of, lanes_of, load, splat, store
from hpv.kernels.cpu.vectors.registers import compress, pick_entry
from hpv.kernels.cpu.vectors.stacks import ROWS, each, load_rows, stack_of
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


@intrinsic
def load_codes(typing: Any, codes: Any, rows: Any, i: Any, first: Any, width: Any) -> Any:
    """Codes of ``rows[i : i + ROWS]`` from node ``first`` on; NAN_CODE beyond ``width`` and where a row is -1.

    ``codes`` is a C-contiguous matrix; -1 stands only at the end of ``rows``.
    """
    lanes = lanes_of(codes)
    signature = stack_of(lanes)(codes, rows, i, first, width)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *place, width = arguments
        stack = load_rows(context, builder, signature.args, place, width, lanes.constant(NAN_CODE), lambda code: code)
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def load_entries(typing: Any, table: Any, offset: Any, keys: Any) -> Any:
    """As many entries as a vector of the stack ``keys`` has lanes, from item ``offset`` of a contiguous array on."""
    lanes = Lanes(table.dtype.bitwidth, keys.dtype.count)
    signature = lanes(table, offset, keys)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return load(builder, address_of(context, builder, signature.args[0], *arguments[:2]), lanes)

    return signature, generate


@intrinsic
def repeat(typing: Any, entries: Any) -> Any:
    """The same entries for every sample of a stack."""
    signature = stack_of(entries)(entries)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, list(arguments) * ROWS)

    return signature, generate


@intrinsic
def take_from(typing: Any, chosen: Any, codes: Any, code: Any, entries: Any) -> Any:
    """``entries`` where the unsigned code is ``code`` or more, else what was chosen before."""
    signature = chosen(chosen, codes, code, entries)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        chosen, codes, code, entries = arguments
        least = splat(builder, signature.args[1].dtype, code)

        def take(code: Any, before: Any) -> Any:
            return builder.select(builder.icmp_unsigned(">=", code, least), entries, before)

        return context.make_tuple(builder, signature.return_type, each(builder, [codes, chosen], take))

    return signature, generate


@intrinsic
def join_codes(typing: Any, codes: Any, marks: Any) -> Any:
    """Codes of a stack with the bits of ``marks`` set in each: 255 turns a code into NAN_CODE."""
    signature = codes(codes, marks)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, marks = arguments
        stack = each(builder, [codes], lambda code: builder.or_(code, marks))
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def count_nan(typing: Any, codes: Any, counts: Any, at: Any) -> Any:
    """Add to ``counts[at + q]`` how many codes of sample q are NAN_CODE."""
    signature = types.void(codes, counts, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, counts, at = arguments
        lanes = signature.args[0].dtype
        for q in range(ROWS):
            nan = builder.icmp_unsigned("==", builder.extract_value(codes, q), lanes.constant(NAN_CODE))
            number = builder.ctpop(builder.bitcast(nan, ir.IntType(lanes.count)))
            place = address_of(context, builder, signature.args[1], counts, builder.add(at, at.type(q)))
            builder.store(builder.add(builder.load(place, typ=INT64), number), place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def mark_nan_level(typing: Any, levels: Any, codes: Any, level: Any) -> Any:
    """``level`` where the code is NAN_CODE, else the levels."""
    signature = levels(levels, codes, level)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        levels, codes, level = arguments
        lanes = signature.args[1].dtype
        filled = splat(builder, lanes, level)

        def mark(code: Any, level: Any) -> Any:
            nan = builder.icmp_unsigned("==", code, lanes.constant(NAN_CODE))
            return builder.select(nan, filled, level)

        return context.make_tuple(builder, signature.return_type, each(builder, [codes, levels], mark))

    return signature, generate


@intrinsic
def append_below(typing: Any, buffer: Any, step: Any, sizes: Any, levels: Any, most: Any) -> Any:
    """Append to the piece of every sample in a buffer, ``step`` apart, its levels that are not ``most``."""
    signature = types.void(buffer, step, sizes, levels, most)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        buffer, step, sizes, levels, most = arguments
        lanes = signature.args[3].dtype
        limit = splat(builder, lanes, most)
        for q in range(ROWS):
            level = builder.extract_value(levels, q)
            mask = builder.icmp_unsigned("!=", level, limit)
            count = builder.ctpop(builder.bitcast(mask, INT64))
            level = compress(builder, lanes, level, mask)
            place = address_of(context, builder, signature.args[2], sizes, INT64(q))
            size = builder.load(place, typ=INT64)
            offset = builder.add(size, builder.mul(step, step.type(q)))
            store(builder, address_of(context, builder, signature.args[0], buffer, offset), level)
            builder.store(builder.add(size, count), place)
        return context.get_dummy_value()

    return signature, generate
