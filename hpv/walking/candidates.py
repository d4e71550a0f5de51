"""Candidates for a walk: tiles of one width, read in blocks of each thread or in windows that threads share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hpv.activations.layers import Layer
from hpv.activations.stored import activation_chunks
from hpv.activations.windows import windows_held
from hpv.base.errors import InputError
from hpv.base.words import GIB, MIB, human

LARGEST_BLOCK = 4 * MIB
"""More does not read faster, and stays less in the processor's cache."""
LARGEST_IN_MEMORY, LEAST_IN_MEMORY = 64 * MIB, MIB
"""Blocks of values that lie in memory need no buffer: they begin large, and are small where threads would wait."""
KEPT_CHUNK = 4 * MIB
"""Bytes of a chunk of codes or ranges: for smaller ones, making a file costs as much as filling it."""
DONE_AT_ONCE = 64 * MIB
"""Values of all layers that a thread goes through in one go, and again after a kill: few samples of wide layers."""
SEGMENT = GIB
"""Bytes read, or held of a pilot, between two times that a state may be saved."""
USEFUL_WINDOW = 32 * MIB
"""Larger windows than this have no use but for chunks that are taller."""


class Needs(NamedTuple):
    """What a walk needs per node, per block and in all, in bytes; input of `plan_layer`."""

    per_node: float
    """Bytes that are held for every node of a tile."""
    workers: int
    usable: int
    """Bytes for that, for blocks and for windows."""
    pilot: Sequence[slice] = ()
    proposing: float = 0
    """Bytes per node while the pilot is ordered."""
    bytes_per_value_written: int = 0
    """Bytes that are made, and written, beside every value."""
    all_nodes: int = 0
    """Nodes of all layers whose samples are gone through together; 0: they are not."""
    most_samples: int | None = None
    """Samples that a thread works on at most before it adds them up."""
    tile_by_tile: bool = False
    """Whether the threads finish one tile for a run of samples before they begin with the next tile."""
    windows: int = 1
    """Layers that may hold windows at the same time."""
    blocks_under_way: int = 1
    """Blocks that a thread has under way."""

    def at_once(self, samples: int) -> int:
        """Samples that a thread goes through in one go, at most; a narrow layer beside wide ones could have more."""
        return most_at_once(self.all_nodes) if self.all_nodes else samples


class Candidate(NamedTuple):
    """Tiles of one width, and how they are read."""

    width: int
    block: int
    part: int
    window: int
    readers: int
    buffers: int
    """Bytes of the threads' blocks, and of reading them."""
    window_bytes: int
    """Bytes of the windows."""
    fetched: int
    """Bytes of chunks read."""
    rewritten: int = 0
    """Bytes of chunks of codes that are read and written again to add to them."""

    @property
    def cost(self) -> tuple[int, int]:
        """Least is best: bytes, then the number of tiles."""
        return self.fetched + self.rewritten, -self.width


def block_samples(row: int, in_memory: bool) -> tuple[int, int]:
    """Samples of the largest and of the least block of rows of so many bytes."""
    if in_memory:
        return LARGEST_IN_MEMORY // row, max(LEAST_IN_MEMORY // row // 64 * 64, 64)
    return LARGEST_BLOCK // row, LARGEST_BLOCK // row


def score_chunks(nodes: int, samples: int, all_nodes: int, itemsize: int = 1) -> tuple[int, int]:
    """Samples and nodes of a chunk of codes or ranges: whole rows up to 16,384 nodes, a power of two of samples.

    ``all_nodes``: of all layers together. Beside wide layers the chunks of a narrow one are flat.
    """
    columns = min(nodes, 16_384)
    rows = max(64, _power(min(max(KEPT_CHUNK // (columns * itemsize), 1), most_at_once(all_nodes))))
    return min(samples, rows), columns


def most_at_once(all_nodes: int) -> int:
    """Samples with DONE_AT_ONCE values, or a few more."""
    return max(64, DONE_AT_ONCE // all_nodes)


def candidates_of(layer: Layer, needs: Needs, width: int) -> Iterator[Candidate]:
    """Blocks of whole chunks where every thread has room for its own, else windows that threads share."""
    direct = _direct(layer, needs, width)
    if direct is not None:
        yield direct
    else:
        shared = _shared(layer, needs, width)
        if shared is not None:
            yield shared


def _direct(layer: Layer, needs: Needs, width: int) -> Candidate | None:
    """Every thread reads blocks of its own; None if one of whole chunks is too large."""
    samples, nodes = layer.shape
    itemsize, share = layer.float_format.key.itemsize, needs.usable // 2
    chunk_rows, _ = chunk_shape(layer)
    row = width * (itemsize + needs.bytes_per_value_written) * needs.blocks_under_way
    scratch = layer.scratch(chunk_rows) if layer.reads_whole else 0
    fitting = max(1, min(samples, needs.most_samples or samples, (share // needs.workers - scratch) // max(row, 1)))
    unit = chunk_rows
    if layer.reads_whole and unit > min(fitting, samples):
        return None
    while unit > fitting:  # any part of a chunk can be read by itself
        unit = -(-unit // 2)
    if layer.on_device and not needs.bytes_per_value_written:
        return Candidate(width, samples, samples, 0, needs.workers, 0, 0, samples * nodes * itemsize)
    in_place = layer.in_memory and not needs.bytes_per_value_written
    largest = min(fitting, block_samples(width * itemsize, in_place)[0], needs.at_once(samples))
    rows = max(unit, largest // unit * unit)
    if needs.bytes_per_value_written and unit == 1:  # any block is as good: one that fits into chunks of codes
        rows = _power(rows)
    while rows > unit and needs.workers * (rows * row + layer.scratch(rows)) > share:  # more is asked for ahead
        rows = max(unit, rows // 2 // unit * unit)
    beside = layer.scratch(rows)
    blocks = 0 if in_place else needs.workers * (rows * row + beside)
    part = rows
    if needs.bytes_per_value_written:
        # Whole chunks of codes are written once, where there is room to collect them.
        whole = min(math.lcm(rows, score_chunks(nodes, samples, needs.all_nodes)[0]), samples)
        if whole <= (needs.most_samples or samples) and needs.workers * whole * width <= share - blocks:
            part, blocks = whole, blocks + needs.workers * (whole - rows) * width
    fetched = samples * _columns(layer, width) * itemsize
    return Candidate(width, rows, part, 0, needs.workers, blocks, 0, fetched, _rewritten(layer, needs, width, part))


def _shared(layer: Layer, needs: Needs, width: int) -> Candidate | None:
    """Threads share windows, and no more of them read at once than there is room for chunks."""
    samples, _ = layer.shape
    itemsize, (chunk_rows, _) = layer.float_format.key.itemsize, chunk_shape(layer)
    row, scratch = (
        width * (itemsize + needs.bytes_per_value_written) * needs.blocks_under_way,
        layer.scratch(chunk_rows),
    )
    room = needs.usable - max(int(width * needs.per_node), needs.usable // 4)
    if needs.windows > 1:
        room = needs.usable // 2 // needs.windows
    readers = max(1, min(needs.workers, room // 2 // max(scratch, 1)))
    left = room - readers * scratch
    most = min(needs.most_samples or samples, needs.at_once(samples))
    blocks = max(1, min(samples, most, LARGEST_BLOCK // row, left // 4 // needs.workers // row))
    left -= needs.workers * blocks * row
    window = min(_window(layer, width, left, needs.workers), samples)
    if needs.tile_by_tile and needs.most_samples:
        window = min(window, needs.most_samples * needs.workers)
    if window < 1 or left < 0:
        return None
    # All threads are in one window, or in the next one.
    blocks = max(1, min(blocks, window // needs.workers))
    part = blocks = blocks // chunk_rows * chunk_rows or blocks
    if needs.bytes_per_value_written:  # codes are collected for chunks of them, a power of two
        blocks = _power(blocks)
        part = _power(max(1, min(window // needs.workers, most)))
        while part > blocks and needs.workers * (part - blocks) * width > left // 4:
            part //= 2
        left -= needs.workers * (part - blocks) * width
        window = min(window, _window(layer, width, left, needs.workers))
        part = min(part, _power(max(1, window // needs.workers)))
        blocks = min(blocks, part)
    step = min(window, needs.most_samples * needs.workers) if needs.tile_by_tile and needs.most_samples else window
    fetched = _fetched(samples, step, chunk_rows) * _columns(layer, width) * itemsize
    held = windows_held(window, samples, needs.workers) * window * width * itemsize
    buffers = readers * scratch + needs.workers * (blocks * row + (part - blocks) * width)
    return Candidate(
        width, blocks, part, window, readers, buffers, held, fetched, _rewritten(layer, needs, width, part)
    )  # fmt: skip


def _window(layer: Layer, width: int, room: int, threads: int) -> int:
    """Samples of a window: whole chunks, or equal parts of them."""
    samples, chunk_rows = layer.shape[0], chunk_shape(layer)[0]
    row = width * layer.float_format.key.itemsize
    if chunk_rows == samples and samples * row <= room:
        return samples
    rows = max(room, 0) // windows_held(1, 2, threads) // row
    if rows < chunk_rows:
        return -(-chunk_rows // -(-chunk_rows // rows)) if rows else 0
    return max(min(rows, USEFUL_WINDOW // row) // chunk_rows, 1) * chunk_rows


def pilot_candidate(layer: Layer, needs: Needs, candidate: Candidate) -> Candidate:
    """Tiles that the pilot is read in: its keys are held, and what reading them needs."""
    samples, nodes = layer.shape
    itemsize, (chunk_rows, chunk_nodes) = layer.float_format.key.itemsize, chunk_shape(layer)
    leave = needs.usable // 2 if candidate.window else candidate.buffers
    # No more than whole chunks for a while: edges are saved tile by tile.
    room = min(needs.usable - leave, max(SEGMENT, int(needs.proposing * chunk_nodes)))
    widest = tile_width(nodes, room, needs.proposing, chunk_nodes)
    packed = int(widest * needs.proposing)
    if not layer.reads_whole or not needs.pilot:
        fetched = sum(run.stop - run.start for run in needs.pilot) * _columns(layer, widest) * itemsize
        return Candidate(
            widest, candidate.block, candidate.block, 0, candidate.readers, packed + candidate.buffers, 0, fetched
        )
    scratch, found = layer.scratch(max(chunk_rows, candidate.block)), list[Candidate]()
    for width in (*widths(widest, layer), *halves(widest)):
        if found and width < chunk_nodes:
            break
        columns = _columns(layer, width) * itemsize
        packed = int(width * needs.proposing)
        blocks = needs.workers * candidate.block * width * itemsize
        if packed + blocks + needs.workers * scratch <= needs.usable:
            pieces = [piece for run in needs.pilot for piece in _pieces(run, candidate.block)]
            rows = sum(_touched(piece, chunk_rows, samples) for piece in pieces)
            buffers, block = packed + blocks + needs.workers * scratch, candidate.block
            found.append(Candidate(width, block, block, 0, needs.workers, buffers, 0, rows * columns))
        left = needs.usable - packed - blocks
        readers = max(1, min(needs.workers, left // 2 // max(scratch, 1)))
        window = _window(layer, width, left - readers * scratch, needs.workers)
        if window:
            windows = {number for run in needs.pilot for number in _numbers(run, window)}
            rows = sum(_touched(slice(at * window, (at + 1) * window), chunk_rows, samples) for at in windows)
            held = windows_held(window, samples, needs.workers) * window * width * itemsize
            buffers = packed + blocks + readers * scratch
            found.append(
                Candidate(width, candidate.block, candidate.block, window, readers, buffers, held, rows * columns)
            )
    if not found:
        raise too_large(layer, needs)
    return min(found, key=lambda one: (one.cost, one.window))


def _power(number: int) -> int:
    """The largest power of two up to a number."""
    return 1 << (number.bit_length() - 1)


def _fetched(length: int, step: int, chunk: int) -> int:
    """Places of chunks that are read along a dimension for ranges of ``step``: a chunk that is cut is read again."""
    cuts = (length - 1) // step - (length - 1) // math.lcm(step, chunk)
    return length + cuts * min(chunk, length)


def _columns(layer: Layer, width: int) -> int:
    """Nodes that are read for tiles of a width."""
    nodes = layer.shape[1]
    return nodes if layer.chunks is None else _fetched(nodes, width, chunk_shape(layer)[1])


def _touched(rows: slice, chunk: int, length: int) -> int:
    """Samples of the chunks that a range touches."""
    return min(-(-rows.stop // chunk) * chunk, length) - rows.start // chunk * chunk


def _numbers(rows: slice, step: int) -> range:
    return range(rows.start // step, -(-rows.stop // step))


def _pieces(rows: slice, step: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(rows.stop, start + step))


def _rewritten(layer: Layer, needs: Needs, width: int, part: int) -> int:
    """Bytes of chunks of codes that are read and written again, as a tile or a part fills only some of them."""
    if not needs.bytes_per_value_written:
        return 0
    samples, nodes = layer.shape
    rows, columns = score_chunks(nodes, samples, needs.all_nodes)
    times = _fetched(samples, part, rows) * _fetched(nodes, width, columns) - samples * nodes
    return 2 * needs.bytes_per_value_written * times


def least_part(layer: Layer, needs: Needs, candidate: Candidate) -> int:
    """Samples of the smallest part that a thread takes."""
    if layer.in_memory and not needs.bytes_per_value_written:
        return min(candidate.block, block_samples(candidate.width * layer.float_format.key.itemsize, True)[1])
    return candidate.part


def widths(widest: int, layer: Layer) -> Iterator[int]:
    """Widths of tiles that are worth a look: narrower ones of whole chunks too, where parts of them cannot be read."""
    yield widest
    _, chunk = chunk_shape(layer)
    width = widest // 2
    while layer.reads_whole and width >= chunk:
        yield width // chunk * chunk
        width //= 2


def halves(width: int) -> Iterator[int]:
    """A width's half, its quarter and so on."""
    while width := width // 2:
        yield width


def chunk_shape(layer: Layer) -> tuple[int, int]:
    """Shape of the layer's chunks, no larger than the layer."""
    samples, nodes = layer.shape
    rows, columns = layer.chunks or (1, nodes)
    return min(rows, samples), min(columns, nodes)


def better_chunks(layer: Layer) -> str:
    """A chunk shape to recommend for a layer, in words."""
    return str(activation_chunks(layer.shape[1], layer.float_format.storage.itemsize))


def too_large(layer: Layer, needs: Needs) -> InputError:
    """What is to be said of a layer of which not one chunk fits."""
    rows, nodes = chunk_shape(layer)
    return InputError(
        f"layer {layer.name}: {human(layer.scratch(rows) + MIB)} are needed beside the state to read one of its chunks "
        f"of {rows} x {nodes}, and {human(needs.usable)} are left; give more memory, or store it in smaller chunks, "
        f"such as {better_chunks(layer)}."
    )


def tile_width(nodes: int, share: int, per_node: float, chunk_nodes: int) -> int:
    """Nodes that a share of the memory holds at so many bytes each."""
    width = nodes if per_node == 0 else min(nodes, max(1, int(share // per_node)))
    if width < nodes:
        if chunk_nodes <= width:  # whole chunks are read once
            width = width // chunk_nodes * chunk_nodes
        elif width >= 64:  # tiles of equal width
            width = -(-nodes // -(-nodes // (width // 64 * 64)))
            width = -(-width // 64) * 64
    return width
