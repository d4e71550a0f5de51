"""Shapes and a memory budget become blocks: pure arithmetic, decided and printable before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpv.errors import InputError
from hpv.pilot import Rule, pilot_runs
from hpv.resources import GIB, MIB, bytes_of, human, thread_count

if TYPE_CHECKING:
    from hpv.background import Background
    from hpv.sources import Activations, Layer

COMPILING = 128 * MIB
"""Measured: what compiling all kernels of one command leaves in the process."""
LARGEST_BLOCK = 4 * MIB
"""More does not read faster, and stays less in the processor's cache."""
LARGEST_IN_MEMORY, LEAST_IN_MEMORY = 64 * MIB, MIB
"""Blocks of values that lie in memory need no buffer: they begin large, and are small where threads would wait."""
SCORE_CHUNK = 65_536
"""Samples of a chunk of scores."""
KEPT_CHUNK = 4 * MIB
"""Bytes of a chunk of codes or ranges: for smaller ones, making a file costs as much as filling it."""
TALLY_SHARE = 8
"""One part in so many of the budget is for tallies."""
SEGMENT = GIB
"""Bytes read, or held of a pilot, between two times that a state may be saved."""
SPARE_EDGES = 8
"""Room for outer edges and modal values that plans allow for beyond `bins`."""


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


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

    @property
    def pilot_bytes(self) -> int:
        """Bytes of the pilot's values."""
        return sum(run.stop - run.start for run in self.pilot) * self.nodes * self.itemsize

    @property
    def bytes_read(self) -> int:
        """Bytes of all values that are read, the pilot's twice."""
        return self.samples * self.nodes * self.itemsize + self.pilot_bytes


@dataclass(frozen=True)
class Plan:
    """What a run will read, write and need; nothing has been read yet."""

    kind: str
    layers: tuple[LayerPlan, ...]
    threads: int
    memory: int
    """The budget, bytes above the imports."""
    peak: int
    """What the run needs at most, bytes above the imports."""
    bytes_read: int
    bytes_written: int
    together: bool = False
    """Whether samples are scored while they are read: there is room for the tables of all layers at once."""

    @property
    def blocks(self) -> int:
        """Rectangles that are read, one by one in a thread."""
        return sum(len(layer.tiles) * -(-layer.samples // layer.block) for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "kind": self.kind,
            "threads": self.threads,
            "memory": self.memory,
            "peak": self.peak,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "blocks": self.blocks,
            "layers": [
                {
                    "name": layer.name,
                    "samples": layer.samples,
                    "nodes": layer.nodes,
                    "tiles": len(layer.tiles),
                    "block_samples": layer.block,
                    "pilot_samples": sum(run.stop - run.start for run in layer.pilot),
                    "bytes_read": layer.bytes_read,
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.kind}: {_number(self.blocks, 'block')}, {_number(self.threads, 'thread')}, reads "
            f"{human(self.bytes_read)}, writes {human(self.bytes_written)}, needs at most {human(self.peak)} "
            f"of {human(self.memory)}"
        ]
        lines += [
            f"  {layer.name}: {layer.samples} x {layer.nodes}, {_number(len(layer.tiles), 'tile')} of nodes, "
            f"blocks of {layer.block} samples, pilot of {sum(r.stop - r.start for r in layer.pilot)}"
            for layer in self.layers
        ]
        return "\n".join(lines)


def plan_fit(
    source: Activations,
    rule: Rule | None,
    *,
    classes: int = 1,
    memory: int | str | None = None,
    threads: int | None = None,
    edges: int | None = None,
) -> Plan:
    """The plan of a fit: ``rule`` proposes the edges, or ``edges`` of each node are given."""
    budget, workers = bytes_of(memory), thread_count(threads)
    count = edges if edges is not None else (rule.bins if rule else 32) + SPARE_EDGES
    count = min(count, 254)
    state = sum(_state_bytes(layer, count, classes) for layer in source.layers.values())
    usable = _usable(budget, state, "the state of all layers")
    layers, peak = [], 0
    for layer in source.layers.values():
        itemsize = layer.form.key.itemsize
        pilot = tuple(pilot_runs(layer.shape[0], rule.pilot)) if rule is not None else ()
        pilot_samples = sum(run.stop - run.start for run in pilot)
        # Per node: the pilot keys, up to a power of two, and room for 252 edges; or packed edges and, in every thread,
        # counters.
        proposing = ((1 << max(pilot_samples - 1, 0).bit_length()) + 2 * 254) * itemsize
        counting = (count + 1) * (itemsize + workers * classes * (2 * itemsize + 8))
        plan, need = _walk(layer, pilot, counting, workers, usable, proposing=proposing if pilot else 0)
        layers.append(plan)
        peak = max(peak, need)
    read = sum(layer.bytes_read for layer in layers)
    return Plan("fit", tuple(layers), workers, budget, _reserve(budget) + state + peak, read, state)


def plan_score(
    background: Background,
    source: Activations,
    pairs: dict[str, str],
    *,
    tails: int,
    kept: int = 1,
    scores: int = 1,
    memory: int | str | None = None,
    threads: int | None = None,
    levels: int = 257,
    groups: int = 1,
) -> Plan:
    """The plan of a score: ``kept`` bytes are written per value, ``scores`` results per sample."""
    budget, workers = bytes_of(memory), thread_count(threads)
    of_sample = tails * groups * levels * 4
    room = max(budget // TALLY_SHARE // of_sample, 1)
    tallies = min(room, source.samples) * of_sample
    held = background.state_bytes + tallies
    usable = _usable(budget, background.state_bytes, "the background", tallies)
    per_node = {}
    for name, theirs in pairs.items():
        entries = background.layers[name].edges.shape[1] + 4
        itemsize = source.layers[theirs].form.key.itemsize
        per_node[name] = (1 + len(background.groups)) * entries * (8 * 4 + tails * 4) + entries * itemsize * 2
    tables = sum(each * background.layers[name].nodes for name, each in per_node.items())
    together = tables <= usable // 2
    if together:
        usable, held, per_node = usable - tables, held + tables, dict.fromkeys(pairs, 0)
    layers, peak, written = [], 0, 0
    for name, theirs in pairs.items():
        layer = source.layers[theirs]
        plan, need = _walk(layer, (), per_node[name], workers, usable, kept=kept, most=max(room // workers, 1))
        layers.append(plan)
        peak = max(peak, need)
        written += layer.shape[0] * layer.shape[1] * kept
    written += source.samples * scores * 24
    read = sum(layer.bytes_read for layer in layers)
    needed = _reserve(budget) + held + peak
    return Plan("score", tuple(layers), workers, budget, needed, read, written, together)


def kept_chunks(nodes: int, samples: int, itemsize: int = 1) -> tuple[int, int]:
    """Samples and nodes of a chunk of codes or ranges: whole rows up to 16,384 nodes, a power of two of samples."""
    columns = min(nodes, 16_384)
    rows = max(64, 2 ** ((KEPT_CHUNK // (columns * itemsize)).bit_length() - 1))
    return min(samples, rows), columns


def _state_bytes(layer: Layer, edges: int, classes: int) -> int:
    count = 4 if layer.shape[0] < 2**31 else 8
    return layer.shape[1] * (edges * (layer.form.key.itemsize + classes * count) + 16)


def _reserve(budget: int) -> int:
    return min(COMPILING, budget // 2)


def _usable(budget: int, state: int, what: str, aside: int = 0) -> int:
    usable = budget - _reserve(budget) - state - aside
    if usable < 16 * MIB:
        needed = state + aside + 64 * MIB
        enough = min(2 * needed, COMPILING + needed)
        raise InputError(
            f"memory {human(budget)} is too little: {what} takes {human(state)}, compiling and buffers about "
            f"{human(enough - state)}; give at least {human(enough)}."
        )
    return usable


def _walk(
    layer: Layer,
    pilot: Sequence[slice],
    per_node: float,
    workers: int,
    usable: int,
    *,
    kept: int = 0,
    most: int | None = None,
    proposing: float = 0,
) -> tuple[LayerPlan, int]:
    """Tiles of nodes and blocks of samples of one layer, and the bytes that they need.

    ``kept`` bytes per value are made beside the values; a thread works on ``most`` samples before it adds them up.
    """
    samples, nodes = layer.shape
    itemsize = layer.form.key.itemsize
    chunk_rows, chunk_nodes = layer.chunks or (1, nodes)
    share = usable // 2
    width = _tile_width(nodes, share, per_node, chunk_nodes)
    row = width * (itemsize + kept)
    fitting = max(1, min(samples, most or samples, share // workers // max(row, 1)))
    # Whole chunks are read once; only one that is too large for its share of memory is read in parts, each time whole.
    unit = chunk_rows
    while unit > fitting:
        unit = -(-unit // 2)
    in_place = layer.in_memory and not kept
    largest, least = block_samples(width * itemsize, in_place)
    rows = max(unit, min(fitting, largest) // unit * unit)
    if kept and unit == 1:  # any block is as good: one that fits into chunks of codes
        rows = 1 << (rows.bit_length() - 1)
    blocks = 0 if in_place else workers * rows * row
    part = rows
    if kept:
        # Whole chunks of codes are written once, where there is room to collect them.
        whole = min(math.lcm(rows, kept_chunks(nodes, samples)[0]), samples)
        if whole <= (most or samples) and workers * whole * width <= share - blocks:
            part, blocks = whole, blocks + workers * (whole - rows) * width
    # Chunks are read again for each tile of the pilot that they lie in, so it gets all that blocks leave; but no more
    # than whole chunks for a while: edges are saved tile by tile.
    pilot_room = min(usable - blocks, max(SEGMENT, int(proposing * chunk_nodes)))
    pilot_width = _tile_width(nodes, pilot_room, proposing, chunk_nodes)
    tiles, pilot_tiles = (
        tuple(slice(at, min(nodes, at + one)) for at in range(0, nodes, one)) for one in (width, pilot_width)
    )
    need = max(int(width * per_node), int(pilot_width * proposing)) + blocks
    if need > usable:
        raise InputError(
            f"layer {layer.name}: {human(need)} are needed beside the state and {human(usable)} are left; "
            "give more memory or fewer threads."
        )
    per_segment = max(rows * workers, int(SEGMENT // max(width * itemsize, 1)) // rows * rows)
    segments = tuple(slice(at, min(samples, at + per_segment)) for at in range(0, samples, per_segment))
    runs, least = tuple(pilot), min(rows, least) if in_place else part
    return LayerPlan(layer.name, samples, nodes, itemsize, tiles, runs, pilot_tiles, rows, part, least, segments), need


def block_samples(row: int, in_memory: bool) -> tuple[int, int]:
    """Samples of the largest and of the least block of rows of so many bytes."""
    if in_memory:
        return LARGEST_IN_MEMORY // row, max(LEAST_IN_MEMORY // row // 64 * 64, 64)
    return LARGEST_BLOCK // row, LARGEST_BLOCK // row


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


def plan(
    kind: str,
    activations: Any,
    background: Any = None,
    *,
    memory: int | str | None = None,
    threads: int | None = None,
    **options: Any,
) -> Plan:
    """What `hpv.fit` (``kind="fit"``) or `hpv.score` (``kind="score"``, with the background) would read and need.

    ``options`` are those of `hpv.fit` or `hpv.score`. Opens the activations, but reads none of their values.

    >>> import numpy as np, hpv
    >>> hpv.plan("fit", np.zeros((1000, 20), np.float32), memory="1GiB", threads=1).bytes_read
    160000
    """
    if kind == "fit":
        from hpv.fitting import prepare_fit

        return prepare_fit(activations, memory=memory, threads=threads, **options).plan
    if kind == "score":
        from hpv.scoring import prepare_score

        return prepare_score(background, activations, memory=memory, threads=threads, **options).plan
    raise InputError(f"plan of {kind!r}: give 'fit' or 'score'.")
