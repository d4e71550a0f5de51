"""Coding by bisection, many samples of a node at once: one sample in each lane, the node's edges in registers.

What makes it fast is a look-up in registers, which has no portable form: processors without it load each edge from
memory instead.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from hpv.kernels.cpu.lanes import LANE_BYTES, Lanes, _address, _call, _keys, _lanes_of, _prefetch, _splat
from hpv.kernels.rules import MISSING_CODE

# Processors shuffle within blocks of this size, and such blocks, in one step.
BLOCK_BYTES = 16
# Samples whose codes fill one vector: so many are worked on at once.
GROUP = 64
BYTES = Lanes(8, GROUP)
# Nodes whose codes are transposed at once.
CODE_NODES = 16
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)


def _load(builder: ir.IRBuilder, address: Any, lanes: Lanes) -> Any:
    pointer = builder.bitcast(address, lanes.llvm.as_pointer())
    return builder.load(pointer, typ=lanes.llvm, align=lanes.bits // 8)


def _store(builder: ir.IRBuilder, address: Any, value: Any) -> None:
    pointer = builder.bitcast(address, value.type.as_pointer())
    builder.store(value, pointer, align=value.type.element.width // 8)


def _shuffle(builder: ir.IRBuilder, one: Any, other: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(INT32, len(order)), order))


def _interleave(builder: ir.IRBuilder, rows: list[Any], block: int) -> list[Any]:
    """Transpose within blocks of as many lanes as there are rows: row q, lane c of a block becomes row c, lane q.

    log2(rows) rounds of the perfect shuffle: each interleaves the first half of the rows with the second.
    """
    count, half = rows[0].type.count, block // 2
    low = [x for start in range(0, count, block) for t in range(start, start + half) for x in (t, count + t)]
    high = [x + half for x in low]
    for _ in range(len(rows).bit_length() - 1):
        pairs = zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)
        rows = [_shuffle(builder, a, b, order) for a, b in pairs for order in (low, high)]
    return rows


def _transpose(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Transpose a square: within blocks of BLOCK_BYTES first, then the blocks; processors shuffle both in one step."""
    count = len(rows)
    block = count * BLOCK_BYTES // LANE_BYTES
    inside = [_interleave(builder, rows[a : a + block], block) for a in range(0, count, block)]
    even = [x for start in range(0, 2 * count, 2 * block) for x in range(start, start + block)]
    odd = [x + block for x in even]
    columns = []
    for q in range(block):
        parts = [group[q] for group in inside]
        for _ in range(len(parts).bit_length() - 1):
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            parts = [_shuffle(builder, a, b, order) for order in (even, odd) for a, b in pairs]
        columns.append(parts)
    return [columns[q][c] for c in range(count // block) for q in range(block)]


def stride(lanes: int) -> int:
    """From a node's keys to the next one's: an odd number of lines, so that they do not all meet in the same lines of
    the nearest cache.
    """
    return GROUP + lanes


@intrinsic
def pack(typing: Any, bits: Any, rows: Any, r: Any, column: Any, infinity: Any, keys: Any, at: Any) -> Any:
    """Keys of a square: l nodes from ``column`` on of l samples, ``rows[r]``, ``rows[r + GROUP // l]``, ...

    The keys of a node go to ``keys`` side by side, from ``at`` on, ``stride(l)`` from node to node. The samples skip in
    this way because ``search`` joins the codes of several vectors byte by byte.
    """
    lanes = _lanes_of(bits)
    signature = types.void(bits, rows, r, column, infinity, keys, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        bits, rows, r, column, infinity, keys, at = arguments
        columns = builder.extract_value(context.make_array(signature.args[0])(context, builder, bits).shape, 1)
        at_most = _splat(builder, lanes, infinity)
        square = []
        for q in range(lanes.count):
            number = builder.add(r, r.type(q * (GROUP // lanes.count)))
            row = builder.load(_address(context, builder, signature.args[1], rows, number), typ=INT64)
            offset = builder.add(builder.mul(row, columns), column)
            value = _load(builder, _address(context, builder, signature.args[0], bits, offset), lanes)
            square.append(_keys(builder, lanes, value, at_most, lanes.highest))
        for q, samples in enumerate(_transpose(builder, square)):
            offset = builder.add(at, at.type(q * stride(lanes.count)))
            _store(builder, _address(context, builder, signature.args[5], keys, offset), samples)
        return context.get_dummy_value()

    return signature, generate


def tree_vectors(lanes: int, depth: int) -> list[int]:
    """Vectors that hold the edges of each level of a search tree."""
    return [max(1, (1 << level) // lanes) for level in range(depth)]


@intrinsic
def load_tree(typing: Any, trees: Any, at: Any, levels: Any) -> Any:
    """The search tree of one node, from item ``at`` of the trees."""
    lanes = _lanes_of(trees)
    vectors = sum(tree_vectors(lanes.count, len(levels)))
    signature = types.UniTuple(lanes, vectors)(trees, at, levels)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        trees, at, _ = arguments
        first = _address(context, builder, signature.args[0], trees, at)
        step = lanes.count
        parts = [_load(builder, builder.gep(first, [at.type(v * step)]), lanes) for v in range(vectors)]
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, generate


_SUFFIXES = {8: ("qi", "qi"), 16: ("hi", "hi"), 32: ("si", "d"), 64: ("di", "q")}


def _looks_up_in_registers(context: Any) -> bool:
    features = str(context.codegen().magic_tuple()[2]).split(",")
    return "+avx512bw" in features and "+avx512f" in features


def looks_up_in_registers() -> bool:
    """Whether this processor does."""
    return _looks_up_in_registers(cpu_target.target_context)


def looks_up_bytes_in_registers() -> bool:
    """Whether it also looks up single bytes, and leaves bytes out."""
    features = str(cpu_target.target_context.codegen().magic_tuple()[2]).split(",")
    return looks_up_in_registers() and "+avx512vbmi" in features and "+avx512vbmi2" in features


def _pick(builder: ir.IRBuilder, lanes: Lanes, table: list[Any], place: Any, reached: list[Any]) -> Any:
    """``table[place]``, the table spread over vectors: one permutation per two vectors, then a choice among them."""
    one, two = _SUFFIXES[lanes.bits]
    if len(table) == 1:
        return _call(builder, f"llvm.x86.avx512.permvar.{one}.512", lanes.llvm, [table[0], place])
    name = f"llvm.x86.avx512.vpermi2var.{two}.512"
    parts = [_call(builder, name, lanes.llvm, [a, place, b]) for a, b in zip(table[::2], table[1::2], strict=True)]
    level = (2 * lanes.count).bit_length() - 1
    while len(parts) > 1:
        parts = [builder.select(reached[level], b, a) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        level += 1
    return parts[0]


def _pick_from_memory(builder: ir.IRBuilder, lanes: Lanes, start: Any, place: Any) -> Any:
    result = ir.Constant(lanes.llvm, ir.Undefined)
    for c in range(lanes.count):
        index = builder.zext(builder.extract_element(place, INT32(c)), INT64)
        entry = builder.load(builder.gep(start, [index]), typ=lanes.llvm.element)
        result = builder.insert_element(result, entry, INT32(c))
    return result


@intrinsic
def search(typing: Any, tree: Any, trees: Any, at: Any, levels: Any, keys: Any, place: Any) -> Any:
    """Codes of the GROUP keys of one node from item ``place`` on, its tree being at ``at``; 255 for NaN.

    Bisection from the root down. The decision at level d becomes bit d of the place in the next level, which puts the
    edges of a level in bit-reversed order: so a place is always a plain index into that level's edges.
    """
    lanes = _lanes_of(keys)
    depth = len(levels)
    signature = BYTES(tree, trees, at, levels, keys, place)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        tree, trees, at, _, keys, place = arguments
        parts = [builder.extract_value(tree, v) for v in range(signature.args[0].count)]
        first = _address(context, builder, signature.args[1], trees, at)
        native = _looks_up_in_registers(context)
        joined = None
        for v in range(GROUP // lanes.count):
            offset = builder.add(place, place.type(v * lanes.count))
            key = _load(builder, _address(context, builder, signature.args[4], keys, offset), lanes)
            reached: list[Any] = []
            code, start = lanes.constant(0), 0
            for level, count in enumerate(tree_vectors(lanes.count, depth)):
                if level == 0:
                    edge = parts[0]
                elif native:
                    edge = _pick(builder, lanes, parts[start : start + count], code, reached)
                else:
                    begin = builder.gep(first, [at.type(start * lanes.count)])
                    edge = _pick_from_memory(builder, lanes, begin, code)
                reached.append(builder.icmp_signed(">=", key, edge))
                code = builder.select(reached[-1], builder.or_(code, lanes.constant(1 << level)), code)
                start += count
            shifted = builder.shl(code, lanes.constant(8 * v)) if v else code
            joined = builder.or_(joined, shifted) if v else code
        codes = builder.bitcast(joined, BYTES.llvm)
        codes = _call(builder, f"llvm.bitreverse.v{GROUP}i8", BYTES.llvm, [codes])
        return builder.lshr(codes, BYTES.constant(8 - depth)) if depth < 8 else codes

    return signature, generate


@intrinsic
def mark_missing(typing: Any, codes: Any, levels: Any) -> Any:
    """The highest code of a tree, NaN's, becomes MISSING_CODE."""
    signature = BYTES(codes, levels)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        missing = builder.icmp_unsigned("==", arguments[0], BYTES.constant((1 << len(levels)) - 1))
        return builder.select(missing, BYTES.constant(MISSING_CODE), arguments[0])

    return signature, generate


@intrinsic
def load_code_group(typing: Any, codes: Any, at: Any) -> Any:
    """GROUP codes from item ``at`` on."""
    signature = BYTES(codes, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return _load(builder, _address(context, builder, signature.args[0], *arguments), BYTES)

    return signature, generate


@intrinsic
def count_from(typing: Any, codes: Any, code: Any) -> Any:
    """How many of the codes are ``code`` or more."""
    signature = types.int64(codes, code)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        reached = builder.icmp_unsigned(">=", arguments[0], _splat(builder, BYTES, arguments[1]))
        return builder.ctpop(builder.bitcast(reached, INT64))

    return signature, generate


@intrinsic
def extremes(typing: Any, keys: Any, at: Any) -> Any:
    """The lowest of GROUP keys and the highest of the keys + 1, which wraps NaN around to the lowest integer."""
    lanes = _lanes_of(keys)
    signature = types.UniTuple(keys.dtype, 2)(keys, at)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        keys, at = arguments
        low, high = [], []
        for v in range(0, GROUP, lanes.count):
            place = _address(context, builder, signature.args[0], keys, builder.add(at, at.type(v)))
            low.append(_load(builder, place, lanes))
            high.append(builder.add(low[-1], lanes.constant(1)))
        results = []
        for values, order, name in ((low, "<", "smin"), (high, ">", "smax")):
            best = values[0]
            for value in values[1:]:
                best = builder.select(builder.icmp_signed(order, value, best), value, best)
            verb = f"llvm.vector.reduce.{name}.v{lanes.count}i{lanes.bits}"
            results.append(_call(builder, verb, lanes.llvm.element, [best]))
        return context.make_tuple(builder, signature.return_type, results)

    return signature, generate


@intrinsic
def store_codes(typing: Any, buffer: Any, at: Any, codes: Any) -> Any:
    """Write codes from item ``at`` of a buffer of bytes on."""
    signature = types.void(buffer, at, codes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _store(builder, _address(context, builder, signature.args[0], *arguments[:2]), arguments[2])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def look_up_codes(
    typing: Any, codes: Any, at: Any, tables: Any, start: Any, levels: Any, answers: Any, place: Any
) -> Any:
    """Bytes for GROUP codes of one node; its table of 2**len(levels) bytes starts at item ``start`` of ``tables``."""
    entries = 1 << len(levels)
    signature = types.void(codes, at, tables, start, levels, answers, place)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, tables, start, _, answers, place = arguments
        code = _load(builder, _address(context, builder, signature.args[0], codes, at), BYTES)
        first = _address(context, builder, signature.args[2], tables, start)
        table = [_load(builder, builder.gep(first, [start.type(v)]), BYTES) for v in range(0, entries, GROUP)]
        found = _pick_entry(builder, BYTES, table, code)
        _store(builder, _address(context, builder, signature.args[5], answers, place), found)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def missing_among(typing: Any, codes: Any) -> Any:
    """A bit for each of GROUP codes: whether it is MISSING_CODE."""
    signature = types.uint64(codes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        missing = builder.icmp_unsigned("==", arguments[0], BYTES.constant(MISSING_CODE))
        return builder.bitcast(missing, INT64)

    return signature, generate


@intrinsic
def keep_below(typing: Any, items: Any, at: Any, most: Any, kept: Any, to: Any) -> Any:
    """Write those of GROUP bytes that are not ``most`` to ``kept``, side by side from item ``to`` on; their number."""
    signature = types.int64(items, at, most, kept, to)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        items, at, most, kept, to = arguments
        item = _load(builder, _address(context, builder, signature.args[0], items, at), BYTES)
        wanted = builder.icmp_unsigned("!=", item, _splat(builder, BYTES, most))
        left = _call(
            builder, f"llvm.x86.avx512.mask.compress.v{GROUP}i8", BYTES.llvm, [item, BYTES.constant(0), wanted]
        )
        _store(builder, _address(context, builder, signature.args[3], kept, to), left)
        return builder.ctpop(builder.bitcast(wanted, INT64))

    return signature, generate


@intrinsic
def transpose_codes(typing: Any, codes: Any, at: Any, lines: Any, to: Any, width: Any) -> Any:
    """GROUP codes of CODE_NODES nodes, node after node, become lines of one sample each, ``width`` apart."""
    signature = types.void(codes, at, lines, to, width)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, lines, to, width = arguments
        rows = []
        for q in range(CODE_NODES):
            offset = builder.add(at, at.type(q * GROUP))
            rows.append(_load(builder, _address(context, builder, signature.args[0], codes, offset), BYTES))
        for q, row in enumerate(_interleave(builder, rows, CODE_NODES)):
            for c in range(GROUP // CODE_NODES):
                line = _shuffle(builder, row, row, list(range(c * CODE_NODES, (c + 1) * CODE_NODES)))
                offset = builder.add(to, builder.mul(width, width.type(c * CODE_NODES + q)))
                _store(builder, _address(context, builder, signature.args[2], lines, offset), line)
        return context.get_dummy_value()

    return signature, generate


def _pick_entry(builder: ir.IRBuilder, lanes: Lanes, table: list[Any], place: Any) -> Any:
    """``table[place]``, the table spread over vectors: one permutation per two, then halvings by the bits above."""
    bits = range((2 * lanes.count).bit_length() - 1, 8)
    upper = [
        builder.icmp_unsigned("!=", builder.and_(place, lanes.constant(1 << bit)), lanes.constant(0)) for bit in bits
    ]
    return _pick(builder, lanes, table, place, [None] * bits.start + upper)


@intrinsic
def look_up_square(
    typing: Any, codes: Any, at: Any, tables: Any, start: Any, levels: Any, lines: Any, to: Any, width: Any
) -> Any:
    """Entries of l nodes for l samples each, as many as a vector holds.

    The codes of a node lie side by side from item ``at`` of ``codes`` on, GROUP from node to node. Its table of
    2**len(levels) entries starts at item ``start`` of ``tables``, table after table. The entries become lines of one
    sample each, from item ``to`` of ``lines`` on, ``width`` apart.
    """
    lanes = _lanes_of(tables)
    entries = 1 << len(levels)
    signature = types.void(codes, at, tables, start, levels, lines, to, width)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        codes, at, tables, start, _, lines, to, width = arguments
        native, square = _looks_up_in_registers(context), []
        for q in range(lanes.count):
            offset = builder.add(at, at.type(q * GROUP))
            place = _load(builder, _address(context, builder, signature.args[0], codes, offset), Lanes(8, lanes.count))
            place = builder.and_(builder.zext(place, lanes.llvm), lanes.constant(entries - 1))
            first = _address(context, builder, signature.args[2], tables, builder.add(start, start.type(q * entries)))
            if native:
                vectors = range(0, entries, lanes.count)
                table = [_load(builder, builder.gep(first, [start.type(v)]), lanes) for v in vectors]
                square.append(_pick_entry(builder, lanes, table, place))
            else:
                square.append(_pick_from_memory(builder, lanes, first, place))
        for q, sample in enumerate(_transpose(builder, square)):
            offset = builder.add(to, builder.mul(width, width.type(q)))
            _store(builder, _address(context, builder, signature.args[5], lines, offset), sample)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fetch(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Ask for GROUP items of a C-contiguous matrix before they are needed."""
    signature = types.void(array, row, column)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        array, row, column = arguments
        columns = builder.extract_value(context.make_array(signature.args[0])(context, builder, array).shape, 1)
        start = builder.add(builder.mul(row, columns), column)
        for c in range(0, GROUP, LANE_BYTES * 8 // signature.args[0].dtype.bitwidth):
            _prefetch(builder, _address(context, builder, signature.args[0], array, builder.add(start, start.type(c))))
        return context.get_dummy_value()

    return signature, generate
