"""How one layer is walked: tiles of nodes and blocks of samples that fit, and as little as possible read twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpv.errors import InputError
from hpv.layers import Layer
from hpv.resources import GIB, MIB, human
from hpv.windows import windows_held

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
HOSTILE = 2.0
"""Reading so many times what the values take is worth a warning."""


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is walked."""

    name: str
    samples: int
    nodes: int
    itemsize: int
    """Bytes of a value."""
    tiles: tuple[slice, ...]
    """Ranges of nodes that are worked on one after the other."""
    pilot: tuple[slice, ...]
    """Runs of samples that edges are proposed from; empty where they are given."""
    pilot_tiles: tuple[slice, ...]
    """Ranges of nodes whose pilot is read and ordered at once; narrower, as all of the pilot is held."""
    block: int
    """Samples that a thread reads at once."""
    part: int
    """Samples that a thread works on before it writes: blocks until chunks of codes are full."""
    least: int
    """Samples of the smallest part that a thread takes, so that none waits for long at the end."""
    segments: tuple[slice, ...]
    """Ranges of samples between which a state may be saved."""
    window: int = 0
    """Samples that all threads hold together, where chunks are too tall for the blocks of each; 0: none."""
    pilot_window: int = 0
    """The same while the pilot is read."""
    readers: int = 1
    """Threads that may read into a window at the same time: each needs room for a chunk."""
    bytes_fetched: int = 0
    """Bytes of the chunks that are read for ``bytes_read``: more where only a part of a chunk is wanted at a time."""

    @property
    def pilot_samples(self) -> int:
        """Samples that edges are found by; 0 where they are given, or not needed."""
        return sum(run.stop - run.start for run in self.pilot)

    @property
    def pilot_bytes(self) -> int:
        """Bytes of the pilot's values."""
        return self.pilot_samples * self.nodes * self.itemsize

    @property
    def bytes_read(self) -> int:
        """Bytes of all values that are read, the pilot's twice."""
        return self.samples * self.nodes * self.itemsize + self.pilot_bytes

    @property
    def rereads(self) -> float:
        """How many times as much as the values is read; 1 where every chunk is read once."""
        return self.bytes_fetched / self.bytes_read


class Walk(NamedTuple):
    """What a layer is walked for."""

    per_node: float
    """Bytes that are held for every node of a tile."""
    workers: int
    usable: int
    """Bytes for that, for blocks and for windows."""
    pilot: Sequence[slice] = ()
    proposing: float = 0
    """Bytes per node while the pilot is ordered."""
    kept: int = 0
    """Bytes that are made, and written, beside every value."""
    all_nodes: int = 0
    """Nodes of all layers whose samples are gone through together; 0: they are not."""
    most: int | None = None
    """Samples that a thread works on at most before it adds them up."""
    apart: bool = False
    """Whether the samples that all threads work on are gone through tile after tile."""
    windows: int = 1
    """Layers that may hold windows at the same time."""
    places: int = 1
    """Blocks that a thread has under way."""

    def at_once(self, samples: int) -> int:
        """Samples that a thread goes through in one go, at most; a narrow layer beside wide ones could have more."""
        return most_at_once(self.all_nodes) if self.all_nodes else samples


class Way(NamedTuple):
    """Tiles of one width, and how they are read."""

    width: int
    block: int
    part: int
    window: int
    readers: int
    buffers: int
    """Bytes of the threads' blocks, and of reading them."""
    held: int
    """Bytes of the windows."""
    fetched: int
    """Bytes of chunks read."""
    rewritten: int = 0
    """Bytes of chunks of codes that are read and written again to add to them."""

    @property
    def cost(self) -> tuple[int, int]:
        """Least is best: bytes, then the number of tiles."""
        return self.fetched + self.rewritten, -self.width


class Walked(NamedTuple):
    """How a layer is walked, and what that needs."""

    plan: LayerPlan
    need: int
    """Bytes while it is walked."""
    held: int
    """Bytes of windows beside them, where other layers are walked at the same time."""
    cost: int
    """Bytes read, and read and written again."""


def walk(layer: Layer, job: Walk) -> Walked:
    """Tiles and blocks of a layer that fit, and cost the least."""
    samples, nodes = layer.shape
    itemsize = layer.form.key.itemsize
    widest = _tile_width(nodes, job.usable // 2, job.per_node, _chunk(layer)[1])
    # Where the tables of all nodes are there at once, blocks go through all of them.
    widths = _widths(widest, layer) if job.per_node else [layer.shape[1]]
    ways = [way for width in widths for way in _ways(layer, job, width)]
    if not ways and job.per_node:  # narrower tiles leave more room for chunks, at the price of reading them again
        ways = next(filter(None, (list(_ways(layer, job, width)) for width in _halves(widest))), [])
    if not ways:
        raise _too_large(layer, job)
    way = min(ways, key=lambda one: one.cost)
    # The pilot is read again for each of its tiles, so it gets all that blocks leave.
    pilot = _pilot_way(layer, job, way)
    need = max(int(way.width * job.per_node) + way.buffers + way.held, pilot.buffers + pilot.held)
    if need > job.usable:
        raise InputError(
            f"layer {layer.name}: {human(need)} are needed beside the state and {human(job.usable)} are left; "
            "give more memory or fewer threads."
        )
    per_segment = max(way.block * job.workers, int(SEGMENT // max(way.width * itemsize, 1)) // way.block * way.block)
    plan = LayerPlan(
        layer.name, samples, nodes, itemsize, _cut(nodes, way.width), tuple(job.pilot), _cut(nodes, pilot.width),
        way.block, way.part, _least(layer, job, way), _cut(samples, per_segment),
        way.window, pilot.window, min(way.readers, pilot.readers), way.fetched + pilot.fetched,
    )  # fmt: skip
    held = way.held if job.windows > 1 else 0
    return Walked(plan, need - held, held, way.cost[0])


def block_samples(row: int, in_memory: bool) -> tuple[int, int]:
    """Samples of the largest and of the least block of rows of so many bytes."""
    if in_memory:
        return LARGEST_IN_MEMORY // row, max(LEAST_IN_MEMORY // row // 64 * 64, 64)
    return LARGEST_BLOCK // row, LARGEST_BLOCK // row


def kept_chunks(nodes: int, samples: int, all_nodes: int, itemsize: int = 1) -> tuple[int, int]:
    """Samples and nodes of a chunk of codes or ranges: whole rows up to 16,384 nodes, a power of two of samples.

    ``all_nodes``: of all layers together. Beside wide layers the chunks of a narrow one are flat.
    """
    columns = min(nodes, 16_384)
    rows = max(64, _power(min(max(KEPT_CHUNK // (columns * itemsize), 1), most_at_once(all_nodes))))
    return min(samples, rows), columns


def most_at_once(all_nodes: int) -> int:
    """Samples with DONE_AT_ONCE values, or a few more."""
    return max(64, DONE_AT_ONCE // all_nodes)


def layout_warning(layer: Layer, plan: LayerPlan) -> str | None:
    """What to say of a layer whose chunks are read again and again."""
    if plan.rereads <= HOSTILE:
        return None
    rows, nodes = _chunk(layer)
    return (
        f"layer {layer.name}: every chunk of {rows} x {nodes} is read {plan.rereads:.3g} times: "
        f"{human(plan.bytes_fetched)} instead of {human(plan.bytes_read)}. Give more memory, or store it in chunks "
        f"such as {_better(layer)}."
    )


# --- ways ---


def _ways(layer: Layer, job: Walk, width: int) -> Iterator[Way]:
    """Blocks of whole chunks where every thread has room for its own, else windows that threads share."""
    direct = _direct(layer, job, width)
    if direct is not None:
        yield direct
    else:
        shared = _shared(layer, job, width)
        if shared is not None:
            yield shared


def _direct(layer: Layer, job: Walk, width: int) -> Way | None:
    """Every thread reads blocks of its own; None if one of whole chunks is too large."""
    samples, nodes = layer.shape
    itemsize, share = layer.form.key.itemsize, job.usable // 2
    chunk_rows, _ = _chunk(layer)
    row = width * (itemsize + job.kept) * job.places
    scratch = layer.scratch(chunk_rows) if layer.reads_whole else 0
    fitting = max(1, min(samples, job.most or samples, (share // job.workers - scratch) // max(row, 1)))
    unit = chunk_rows
    if layer.reads_whole and unit > min(fitting, samples):
        return None
    while unit > fitting:  # any part of a chunk can be read by itself
        unit = -(-unit // 2)
    if layer.on_device and not job.kept:
        return Way(width, samples, samples, 0, job.workers, 0, 0, samples * nodes * itemsize)
    in_place = layer.in_memory and not job.kept
    largest = min(fitting, block_samples(width * itemsize, in_place)[0], job.at_once(samples))
    rows = max(unit, largest // unit * unit)
    if job.kept and unit == 1:  # any block is as good: one that fits into chunks of codes
        rows = _power(rows)
    while rows > unit and job.workers * (rows * row + layer.scratch(rows)) > share:  # more is asked for ahead
        rows = max(unit, rows // 2 // unit * unit)
    beside = layer.scratch(rows)
    blocks = 0 if in_place else job.workers * (rows * row + beside)
    part = rows
    if job.kept:
        # Whole chunks of codes are written once, where there is room to collect them.
        whole = min(math.lcm(rows, kept_chunks(nodes, samples, job.all_nodes)[0]), samples)
        if whole <= (job.most or samples) and job.workers * whole * width <= share - blocks:
            part, blocks = whole, blocks + job.workers * (whole - rows) * width
    fetched = samples * _columns(layer, width) * itemsize
    return Way(width, rows, part, 0, job.workers, blocks, 0, fetched, _rewritten(layer, job, width, part))


def _shared(layer: Layer, job: Walk, width: int) -> Way | None:
    """Threads share windows, and no more of them read at once than there is room for chunks."""
    samples, _ = layer.shape
    itemsize, (chunk_rows, _) = layer.form.key.itemsize, _chunk(layer)
    row, scratch = width * (itemsize + job.kept) * job.places, layer.scratch(chunk_rows)
    room = job.usable - max(int(width * job.per_node), job.usable // 4)
    if job.windows > 1:
        room = job.usable // 2 // job.windows
    readers = max(1, min(job.workers, room // 2 // max(scratch, 1)))
    left = room - readers * scratch
    most = min(job.most or samples, job.at_once(samples))
    blocks = max(1, min(samples, most, LARGEST_BLOCK // row, left // 4 // job.workers // row))
    left -= job.workers * blocks * row
    window = min(_window(layer, width, left, job.workers), samples)
    if job.apart and job.most:
        window = min(window, job.most * job.workers)
    if window < 1 or left < 0:
        return None
    # All threads are in one window, or in the next one.
    blocks = max(1, min(blocks, window // job.workers))
    part = blocks = blocks // chunk_rows * chunk_rows or blocks
    if job.kept:  # codes are collected for chunks of them, a power of two
        blocks = _power(blocks)
        part = _power(max(1, min(window // job.workers, most)))
        while part > blocks and job.workers * (part - blocks) * width > left // 4:
            part //= 2
        left -= job.workers * (part - blocks) * width
        window = min(window, _window(layer, width, left, job.workers))
        part = min(part, _power(max(1, window // job.workers)))
        blocks = min(blocks, part)
    step = min(window, job.most * job.workers) if job.apart and job.most else window
    fetched = _fetched(samples, step, chunk_rows) * _columns(layer, width) * itemsize
    held = windows_held(window, samples, job.workers) * window * width * itemsize
    buffers = readers * scratch + job.workers * (blocks * row + (part - blocks) * width)
    return Way(
        width, blocks, part, window, readers, buffers, held, fetched, _rewritten(layer, job, width, part)
    )  # fmt: skip


def _window(layer: Layer, width: int, room: int, threads: int) -> int:
    """Samples of a window: whole chunks, or equal parts of them."""
    samples, chunk_rows = layer.shape[0], _chunk(layer)[0]
    row = width * layer.form.key.itemsize
    if chunk_rows == samples and samples * row <= room:
        return samples
    rows = max(room, 0) // windows_held(1, 2, threads) // row
    if rows < chunk_rows:
        return -(-chunk_rows // -(-chunk_rows // rows)) if rows else 0
    return max(min(rows, USEFUL_WINDOW // row) // chunk_rows, 1) * chunk_rows


def _pilot_way(layer: Layer, job: Walk, way: Way) -> Way:
    """Tiles that the pilot is read in: its keys are held, and what reading them needs."""
    samples, nodes = layer.shape
    itemsize, (chunk_rows, chunk_nodes) = layer.form.key.itemsize, _chunk(layer)
    leave = job.usable // 2 if way.window else way.buffers
    # No more than whole chunks for a while: edges are saved tile by tile.
    room = min(job.usable - leave, max(SEGMENT, int(job.proposing * chunk_nodes)))
    widest = _tile_width(nodes, room, job.proposing, chunk_nodes)
    packed = int(widest * job.proposing)
    if not layer.reads_whole or not job.pilot:
        fetched = sum(run.stop - run.start for run in job.pilot) * _columns(layer, widest) * itemsize
        return Way(widest, way.block, way.block, 0, way.readers, packed + way.buffers, 0, fetched)
    scratch, found = layer.scratch(max(chunk_rows, way.block)), list[Way]()
    for width in (*_widths(widest, layer), *_halves(widest)):
        if found and width < chunk_nodes:
            break
        columns = _columns(layer, width) * itemsize
        packed = int(width * job.proposing)
        blocks = job.workers * way.block * width * itemsize
        if packed + blocks + job.workers * scratch <= job.usable:
            pieces = [piece for run in job.pilot for piece in _pieces(run, way.block)]
            rows = sum(_touched(piece, chunk_rows, samples) for piece in pieces)
            found.append(Way(width, way.block, way.block, 0, job.workers, packed + blocks + job.workers * scratch, 0,
                             rows * columns))  # fmt: skip
        left = job.usable - packed - blocks
        readers = max(1, min(job.workers, left // 2 // max(scratch, 1)))
        window = _window(layer, width, left - readers * scratch, job.workers)
        if window:
            windows = {number for run in job.pilot for number in _numbers(run, window)}
            rows = sum(_touched(slice(at * window, (at + 1) * window), chunk_rows, samples) for at in windows)
            held = windows_held(window, samples, job.workers) * window * width * itemsize
            buffers = packed + blocks + readers * scratch
            found.append(Way(width, way.block, way.block, window, readers, buffers, held, rows * columns))
    if not found:
        raise _too_large(layer, job)
    return min(found, key=lambda one: (one.cost, one.window))


# --- arithmetic ---


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
    return nodes if layer.chunks is None else _fetched(nodes, width, _chunk(layer)[1])


def _touched(rows: slice, chunk: int, length: int) -> int:
    """Samples of the chunks that a range touches."""
    return min(-(-rows.stop // chunk) * chunk, length) - rows.start // chunk * chunk


def _numbers(rows: slice, step: int) -> range:
    return range(rows.start // step, -(-rows.stop // step))


def _pieces(rows: slice, step: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(rows.stop, start + step))


def _rewritten(layer: Layer, job: Walk, width: int, part: int) -> int:
    """Bytes of chunks of codes that are read and written again, as a tile or a part fills only some of them."""
    if not job.kept:
        return 0
    samples, nodes = layer.shape
    rows, columns = kept_chunks(nodes, samples, job.all_nodes)
    times = _fetched(samples, part, rows) * _fetched(nodes, width, columns) - samples * nodes
    return 2 * job.kept * times


def _least(layer: Layer, job: Walk, way: Way) -> int:
    if layer.in_memory and not job.kept:
        return min(way.block, block_samples(way.width * layer.form.key.itemsize, True)[1])
    return way.part


def _widths(widest: int, layer: Layer) -> Iterator[int]:
    """Widths of tiles that are worth a look: narrower ones of whole chunks too, where parts of them cannot be read."""
    yield widest
    _, chunk = _chunk(layer)
    width = widest // 2
    while layer.reads_whole and width >= chunk:
        yield width // chunk * chunk
        width //= 2


def _halves(width: int) -> Iterator[int]:
    while width := width // 2:
        yield width


def _cut(length: int, step: int) -> tuple[slice, ...]:
    return tuple(slice(at, min(length, at + step)) for at in range(0, length, step))


def _chunk(layer: Layer) -> tuple[int, int]:
    """Shape of the layer's chunks, no larger than the layer."""
    samples, nodes = layer.shape
    rows, columns = layer.chunks or (1, nodes)
    return min(rows, samples), min(columns, nodes)


def _better(layer: Layer) -> str:
    from hpv.store.activations import activation_chunks

    return str(activation_chunks(layer.shape[1], layer.form.storage.itemsize))


def _too_large(layer: Layer, job: Walk) -> InputError:
    rows, nodes = _chunk(layer)
    return InputError(
        f"layer {layer.name}: {human(layer.scratch(rows) + MIB)} are needed beside the state to read one of its chunks "
        f"of {rows} x {nodes}, and {human(job.usable)} are left; give more memory, or store it in smaller chunks, such "
        f"as {_better(layer)}."
    )


def _tile_width(nodes: int, share: int, per_node: float, chunk_nodes: int) -> int:
    """Nodes that a share of the memory holds at so many bytes each."""
    width = nodes if per_node == 0 else min(nodes, max(1, int(share // per_node)))
    if width < nodes:
        if chunk_nodes <= width:  # whole chunks are read once
            width = width // chunk_nodes * chunk_nodes
        elif width >= 64:  # tiles of equal width
            width = -(-nodes // -(-nodes // (width // 64 * 64)))
            width = -(-width // 64) * 64
    return width
