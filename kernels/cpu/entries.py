"""Entries of tables by comparison alone: whatever reaches a code takes that code's entry instead.

As in ``lanes``, the lanes of a vector are nodes and a stack holds eight samples, so an entry is loaded once for eight.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hpv.kernels.cpu.lanes import ROWS, Lanes, _address, _first_lanes, _lanes_of, _masked, _splat, _stack_of
from hpv.kernels.rules import MISSING_CODE

INT64 = ir.IntType(64)


def _row_places(context: Any, builder: ir.IRBuilder, kinds: Any, values: Any, pointer: Any) -> list[tuple[Any, Any]]:
    """Number and address of ``array[rows[i + q], first]`` for every sample of a stack."""
    array, rows, i, first = values
    columns = builder.extract_value(context.make_array(kinds[0])(context, builder, array).shape, 1)
    places = []
    for q in range(ROWS):
        row = builder.load(_address(context, builder, kinds[1], rows, builder.add(i, i.type(q))), typ=INT64)
        place = _address(context, builder, kinds[0], array, builder.add(builder.mul(row, columns), first))
        places.append((row, builder.bitcast(place, pointer)))
    return places


def _all_inside(builder: ir.IRBuilder, last_row: Any, width: Any, count: int) -> Any:
    return builder.and_(
        builder.icmp_signed(">=", width, width.type(count)), builder.icmp_signed(">=", last_row, INT64(0))
    )


def _inside(builder: ir.IRBuilder, lanes: Lanes, row: Any, width: Any) -> Any:
    absent = builder.icmp_signed("<", row, INT64(0))
    return _first_lanes(builder, lanes, builder.select(absent, width.type(0), width))


@intrinsic
def load_codes(typing: Any, codes: Any, rows: Any, i: Any, first: Any, width: Any) -> Any:
    """Codes of ``rows[i : i + ROWS]`` from node ``first`` on; MISSING_CODE beyond ``width`` and where a row is -1.

    ``codes`` is a C-contiguous matrix; -1 stands only at the end of ``rows``.
    """
    lanes = _lanes_of(codes)
    signature = _stack_of(lanes)(codes, rows, i, first, width)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        width = arguments[4]
        places = _row_places(context, builder, signature.args, arguments[:4], lanes.llvm.as_pointer())
        whole = _all_inside(builder, places[-1][0], width, lanes.count)
        loaded: list[list[Any]] = []
        ends = []
        with builder.if_else(whole) as branches:
            for plain, branch in zip((True, False), branches, strict=True):
                with branch:
                    if plain:
                        loaded.append([builder.load(place, typ=lanes.llvm, align=1) for _, place in places])
                    else:
                        filled = lanes.constant(MISSING_CODE)
                        loaded.append([
                            _masked(
                                builder, "load", lanes.llvm, lanes.llvm,
                                [place, ir.IntType(32)(1), _inside(builder, lanes, row, width), filled],
                            )
                            for row, place in places
                        ])  # fmt: skip
                    ends.append(builder.block)
        stack = []
        for values in zip(*loaded, strict=True):
            phi = builder.phi(lanes.llvm)
            for value, end in zip(values, ends, strict=True):
                phi.add_incoming(value, end)
            stack.append(phi)
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def load_entries(typing: Any, table: Any, offset: Any, keys: Any) -> Any:
    """As many entries as a vector of the stack ``keys`` has lanes, from item ``offset`` of a contiguous array on."""
    lanes = Lanes(table.dtype.bitwidth, keys.dtype.count)
    signature = lanes(table, offset, keys)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, signature.args[0], *arguments[:2])
        return builder.load(builder.bitcast(place, lanes.llvm.as_pointer()), typ=lanes.llvm, align=lanes.bits // 8)

    return signature, generate


@intrinsic
def repeat(typing: Any, entries: Any) -> Any:
    """The same entries for every sample of a stack."""
    signature = _stack_of(entries)(entries)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, list(arguments) * ROWS)

    return signature, generate


@intrinsic
def take_from(typing: Any, chosen: Any, codes: Any, code: Any, entries: Any) -> Any:
    """``entries`` where the unsigned code is ``code`` or more, else what was chosen before."""
    signature = chosen(chosen, codes, code, entries)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        chosen, codes, code, entries = arguments
        least = _splat(builder, signature.args[1].dtype, code)
        stack = []
        for q in range(ROWS):
            reached = builder.icmp_unsigned(">=", builder.extract_value(codes, q), least)
            stack.append(builder.select(reached, entries, builder.extract_value(chosen, q)))
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def join_codes(typing: Any, codes: Any, marks: Any) -> Any:
    """Codes of a stack with the bits of ``marks`` set in each: 255 turns a code into MISSING_CODE."""
    signature = codes(codes, marks)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, marks = arguments
        stack = [builder.or_(builder.extract_value(codes, q), marks) for q in range(ROWS)]
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


@intrinsic
def count_missing(typing: Any, codes: Any, counts: Any, at: Any) -> Any:
    """Add to ``counts[at + q]`` how many codes of sample q are MISSING_CODE."""
    signature = types.void(codes, counts, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, counts, at = arguments
        lanes = signature.args[0].dtype
        for q in range(ROWS):
            missing = builder.icmp_unsigned("==", builder.extract_value(codes, q), lanes.constant(MISSING_CODE))
            number = builder.ctpop(builder.bitcast(missing, ir.IntType(lanes.count)))
            place = _address(context, builder, signature.args[1], counts, builder.add(at, at.type(q)))
            builder.store(builder.add(builder.load(place, typ=INT64), number), place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def mark_missing_level(typing: Any, levels: Any, codes: Any, level: Any) -> Any:
    """``level`` where the code is MISSING_CODE, else the levels."""
    signature = levels(levels, codes, level)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        levels, codes, level = arguments
        lanes = signature.args[1].dtype
        filled = _splat(builder, lanes, level)
        stack = []
        for q in range(ROWS):
            missing = builder.icmp_unsigned("==", builder.extract_value(codes, q), lanes.constant(MISSING_CODE))
            stack.append(builder.select(missing, filled, builder.extract_value(levels, q)))
        return context.make_tuple(builder, signature.return_type, stack)

    return signature, generate


def _compresses_bytes(context: Any) -> bool:
    return "+avx512vbmi2" in str(context.codegen().magic_tuple()[2]).split(",")


@intrinsic
def append_below(typing: Any, buffer: Any, step: Any, sizes: Any, levels: Any, most: Any) -> Any:
    """Append to the piece of every sample in a buffer, ``step`` apart, its levels that are not ``most``.

    Where the processor cannot leave bytes out, all are appended.
    """
    signature = types.void(buffer, step, sizes, levels, most)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        buffer, step, sizes, levels, most = arguments
        lanes = signature.args[3].dtype
        limit = _splat(builder, lanes, most)
        for q in range(ROWS):
            level = builder.extract_value(levels, q)
            count = INT64(lanes.count)
            if _compresses_bytes(context):
                mask = builder.icmp_unsigned("!=", level, limit)
                count = builder.ctpop(builder.bitcast(mask, INT64))
                name = f"llvm.x86.avx512.mask.compress.v{lanes.count}i8"
                function = builder.module.globals.get(name)
                if function is None:
                    kind = ir.FunctionType(lanes.llvm, [lanes.llvm, lanes.llvm, mask.type])
                    function = ir.Function(builder.module, kind, name)
                level = builder.call(function, [level, lanes.constant(0), mask])
            place = _address(context, builder, signature.args[2], sizes, INT64(q))
            size = builder.load(place, typ=INT64)
            offset = builder.add(size, builder.mul(step, step.type(q)))
            target = _address(context, builder, signature.args[0], buffer, offset)
            builder.store(level, builder.bitcast(target, lanes.llvm.as_pointer()), align=1)
            builder.store(builder.add(size, count), place)
        return context.get_dummy_value()

    return signature, generate
