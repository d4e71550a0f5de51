"""Edges of whole layers: the pilot's samples are read, ordered node by node, and cut by the rules of `placing`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from hpv.activations.blocks import Block, in_place, read_block
from hpv.activations.layers import Layer
from hpv.activations.windows import windowed
from hpv.base.buffers import Buffers
from hpv.base.slices import split
from hpv.base.words import MIB
from hpv.histograms.edges import LayerEdges, Rule, stack
from hpv.histograms.placing import pack_pilot, pilot_shape, propose
from hpv.walking.progress import Progress, Quiet
from hpv.walking.threads import Queue, in_steps, run_in_threads
from hpv.walking.tiling import LayerPlan

CACHED_PILOT = 4 * MIB
"""Pilot values that a thread orders, and places edges by, before the next ones: they stay in the cache."""
LEAST_TILE = 128
"""Nodes that are worth the trouble of a tile of their own."""


def propose_layer(
    layer: Layer,
    plan: LayerPlan,
    rule: Rule,
    threads: int,
    progress: Progress,
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
        tiles = Queue(slice(0, nodes), largest, min(largest, LEAST_TILE), threads)

        def task(_: int) -> list[tuple[int, np.ndarray]]:
            return [(tile.start, pilot.propose(tile)) for tile in tiles]

        threads = min(threads, -(-nodes // LEAST_TILE))
        found = [part for several in run_in_threads(task, range(threads), threads) for part in several]
        parts = [part for _, part in sorted(found, key=lambda one: one[0])]
    else:  # what is read is read once: all threads at the same tile
        parts = [] if known is None else [known.keys]
        done = sum(map(len, parts))
        for tile in plan.pilot_tiles:
            first = max(tile.start, done)
            if first < tile.stop:
                parts.append(pilot.propose(slice(first, tile.stop), threads))
                if keep is not None:
                    keep(first, LayerEdges(parts[-1], layer.float_format))
    return LayerEdges(stack(parts, layer.float_format), layer.float_format)


def propose_tile(layer: Layer, plan: LayerPlan, rule: Rule, tile: slice) -> np.ndarray:
    """Inner edge keys (nodes, edges) of one tile of a layer's nodes."""
    return _Pilot(windowed(layer, plan.pilot_window, plan.readers, 1), plan, rule, Quiet()).propose(tile)


class _Pilot:
    """The samples that edges are found by, for some nodes at a time."""

    def __init__(self, layer: Layer, plan: LayerPlan, rule: Rule, progress: Progress) -> None:
        self.layer, self.rule, self.progress = layer, rule, progress
        self.blocks = [part for run in plan.pilot for part in in_steps(run, plan.block)]
        self.starts = np.cumsum([0, *(part.stop - part.start for part in self.blocks)])
        self.buffers = Buffers()  # edges are found by the processor

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.starts[-1])

    @property
    def cached_nodes(self) -> int:
        """Nodes whose values in the pilot stay in the caches until they are ordered."""
        width: int = CACHED_PILOT // (self.samples * self.layer.float_format.key.itemsize) // 64 * 64
        return max(64, width)

    def propose(self, tile: slice, threads: int = 1) -> np.ndarray:
        """Inner edge keys (nodes, edges) of a tile: all its pilot is read, then ordered by groups of nodes."""
        float_format = self.layer.float_format
        shape = pilot_shape(tile.stop - tile.start, self.samples, float_format)
        packed = self.buffers.get("pilot", shape, float_format.key)
        packed[:, self.samples :] = float_format.nan_key
        read, place = partial(self._read, tile, packed), partial(self._place, tile, packed)
        numbers, groups = slice(0, len(self.blocks)), slice(0, len(packed))
        if threads == 1:
            read(numbers)
            parts = place(groups)
        else:
            # One after the other, so that threads read what lies close together: it may be of the same chunk.
            queue = Queue(numbers, 1, 1, threads)
            run_in_threads(lambda _: [read(number) for number in queue], range(threads), threads)
            found = run_in_threads(place, split(groups, threads, 1), threads)
            parts = [part for several in found for part in several]
        return stack(parts, float_format)

    def _read(self, tile: slice, packed: np.ndarray, numbers: slice) -> None:
        blocks = self.blocks[numbers]
        whole = in_place(self.layer, slice(0, self.layer.shape[0]))
        if whole is not None:
            rows = np.concatenate([np.arange(one.start, one.stop) for one in blocks])
            self._pack(Block(whole, tile.start), rows, tile, packed, int(self.starts[numbers.start]))
            return
        for place, start in zip(blocks, self.starts[numbers], strict=True):
            block = read_block(self.layer, place, tile, self.buffers)
            self._pack(block, np.arange(len(block.bits)), tile, packed, int(start))

    def _pack(self, block: Block, rows: np.ndarray, tile: slice, packed: np.ndarray, at: int) -> None:
        nodes, float_format = tile.stop - tile.start, self.layer.float_format
        pack_pilot(block.bits, rows, block.first, nodes, float_format, packed, at)
        self.progress.advance(len(rows) * nodes * float_format.key.itemsize)

    def _place(self, tile: slice, packed: np.ndarray, groups: slice) -> list[np.ndarray]:
        nodes, lanes = tile.stop - tile.start, packed.shape[2]
        parts = []
        for some in in_steps(groups, max(1, CACHED_PILOT // packed[0].nbytes)):
            count = min(nodes, some.stop * lanes) - some.start * lanes
            covers_all = self.samples == self.layer.shape[0]
            parts.append(propose(packed[some], count, self.layer.float_format, self.rule, covers_all))
        return parts
