"""Edges of whole layers: the pilot's samples are read, ordered node by node, and cut by the rules of `hpv.pilot`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np

from hpv import streaming
from hpv.blocks import Block, in_place, read_block
from hpv.buffers import Buffers
from hpv.floats import FloatFormat
from hpv.kernels.cpu.sorting import pack_keys, room_for
from hpv.kernels.cpu.stacks import ROWS, padded_rows
from hpv.pilot import Edges, LayerEdges, Rule, propose
from hpv.planning import LayerPlan, plan_fit
from hpv.resources import MIB
from hpv.sources import Layer, open_activations
from hpv.windows import windowed

CACHED_PILOT = 4 * MIB
"""Pilot values that a thread orders, and places edges by, before the next ones: they stay in the cache."""
LEAST_TILE = 128
"""Nodes that are worth the trouble of a tile of their own."""


def edges(
    activations: Any,
    *,
    bins: int = 32,
    binning: str = "balanced",
    modal_fraction: Fraction | str | float = Fraction(1, 10),
    pilot: int | Literal["auto"] | None = "auto",
    memory: int | str | None = None,
    threads: int | None = None,
) -> Edges:
    """Propose the inner edges of every node from a pilot of the samples, without counting.

    ``activations``, ``bins``, ``binning``, ``modal_fraction``, ``pilot``, ``memory`` and ``threads`` are those of
    `hpv.fit`, which proposes the same edges by itself. Rules: ``balanced`` (default), ``uniform`` (the rule of
    arXiv:2312.08143) and ``quantile``.

    >>> import numpy as np, hpv
    >>> hpv.edges(np.arange(100.0).reshape(100, 1), bins=4, binning="quantile")["activations"]
    array([[25., 50., 75.]])
    """
    rule = Rule(bins, binning, modal_fraction, pilot)  # type: ignore[arg-type]
    source = open_activations(activations)
    plan = plan_fit(source, rule, memory=memory, threads=threads)
    layers = zip(plan.layers, source.layers.values(), strict=True)
    found = {layer.name: propose_layer(layer, part, rule, plan.threads, streaming.Quiet()) for part, layer in layers}
    return Edges(found, rule)


def propose_layer(
    layer: Layer,
    plan: LayerPlan,
    rule: Rule,
    threads: int,
    progress: streaming.Progress,
    known: LayerEdges | None = None,
    keep: Callable[[int, LayerEdges], None] | None = None,
) -> LayerEdges:
    """Inner edges of a layer, tile of nodes after tile of nodes.

    ``known``: those of its first nodes. ``keep`` is given the number of a node and the edges from it on as they are
    found, where they are found in order: of layers that are read.
    """
    pilot = _Pilot(windowed(layer, plan.pilot_window, plan.readers, threads), plan, rule, progress)
    nodes = layer.shape[1]
    if layer.in_memory:  # small tiles of its own for every thread
        largest = pilot.cached_nodes
        tiles = streaming.Queue(slice(0, nodes), largest, min(largest, LEAST_TILE), threads)

        def task(_: int) -> list[tuple[int, np.ndarray]]:
            return [(tile.start, pilot.propose(tile)) for tile in tiles]

        threads = min(threads, -(-nodes // LEAST_TILE))
        found = [part for several in streaming.run(task, range(threads), threads) for part in several]
        parts = [part for _, part in sorted(found, key=lambda one: one[0])]
    else:  # what is read is read once: all threads at the same tile
        parts = [] if known is None else [known.keys]
        done = sum(map(len, parts))
        for tile in plan.pilot_tiles:
            first = max(tile.start, done)
            if first < tile.stop:
                parts.append(pilot.propose(slice(first, tile.stop), threads))
                if keep is not None:
                    keep(first, LayerEdges(parts[-1], layer.form))
    return LayerEdges(stack(parts, layer.form), layer.form)


def propose_tile(layer: Layer, plan: LayerPlan, rule: Rule, tile: slice) -> np.ndarray:
    """Inner edge keys (nodes, edges) of one tile of a layer's nodes."""
    return _Pilot(windowed(layer, plan.pilot_window, plan.readers, 1), plan, rule, streaming.Quiet()).propose(tile)


def stack(parts: Sequence[np.ndarray], form: FloatFormat) -> np.ndarray:
    """Inner edge keys (nodes, edges) of all parts, filled up to the most edges that any of them has."""
    keys = np.full((sum(map(len, parts)), max(part.shape[1] for part in parts)), form.unused, form.key)
    at = 0
    for part in parts:
        keys[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return keys


class _Pilot:
    """The samples that edges are found by, for some nodes at a time."""

    def __init__(self, layer: Layer, plan: LayerPlan, rule: Rule, progress: streaming.Progress) -> None:
        self.layer, self.rule, self.progress = layer, rule, progress
        self.pieces = [part for run in plan.pilot for part in streaming.blocks(run, plan.block)]
        self.starts = np.cumsum([0, *(part.stop - part.start for part in self.pieces)])
        self.buffers = Buffers()  # edges are found by the processor

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.starts[-1])

    @property
    def cached_nodes(self) -> int:
        """Nodes whose values in the pilot stay in the caches until they are ordered."""
        width: int = CACHED_PILOT // (self.samples * self.layer.form.key.itemsize) // 64 * 64
        return max(64, width)

    def propose(self, tile: slice, threads: int = 1) -> np.ndarray:
        """Inner edge keys (nodes, edges) of a tile: all its pilot is read, then ordered block by block."""
        form = self.layer.form
        shape = room_for(tile.stop - tile.start, self.samples, form.key)
        packed = self.buffers.get("pilot", shape, form.key)
        packed[:, self.samples :] = form.missing
        read, place = partial(self._read, tile, packed), partial(self._place, tile, packed)
        numbers, blocks = slice(0, len(self.pieces)), slice(0, len(packed))
        if threads == 1:
            read(numbers)
            parts = place(blocks)
        else:
            # One after the other, so that threads read what lies close together: it may be of the same chunk.
            queue = streaming.Queue(numbers, 1, 1, threads)
            streaming.run(lambda _: [read(number) for number in queue], range(threads), threads)
            found = streaming.run(place, streaming.split(blocks, threads, 1), threads)
            parts = [part for several in found for part in several]
        return stack(parts, form)

    def _read(self, tile: slice, packed: np.ndarray, numbers: slice) -> None:
        pieces = self.pieces[numbers]
        whole = in_place(self.layer, slice(0, self.layer.shape[0]))
        if whole is not None:
            rows = np.concatenate([np.arange(piece.start, piece.stop) for piece in pieces])
            self._pack(Block(whole, tile.start), rows, tile, packed, int(self.starts[numbers.start]))
            return
        for piece, start in zip(pieces, self.starts[numbers], strict=True):
            block = read_block(self.layer, piece, tile, self.buffers)
            self._pack(block, np.arange(len(block.bits)), tile, packed, int(start))

    def _pack(self, block: Block, rows: np.ndarray, tile: slice, packed: np.ndarray, at: int) -> None:
        nodes, form = tile.stop - tile.start, self.layer.form
        pack_keys(block.bits, padded_rows(rows, ROWS), block.first, nodes, form.infinity, packed, at)
        self.progress.advance(len(rows) * nodes * form.key.itemsize)

    def _place(self, tile: slice, packed: np.ndarray, blocks: slice) -> list[np.ndarray]:
        nodes, lanes = tile.stop - tile.start, packed.shape[2]
        parts = []
        for some in streaming.blocks(blocks, max(1, CACHED_PILOT // packed[0].nbytes)):
            count = min(nodes, some.stop * lanes) - some.start * lanes
            covers_all = self.samples == self.layer.shape[0]
            parts.append(propose(packed[some], count, self.layer.form, self.rule, covers_all))
        return parts
