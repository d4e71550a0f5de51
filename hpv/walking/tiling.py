"""How one layer is walked: tiles of nodes and blocks of samples that fit, and as little as possible read twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hpv.activations.layers import Layer
from hpv.base.errors import InputError
from hpv.base.slices import steps
from hpv.base.words import human
from hpv.walking import candidates
from hpv.walking.candidates import (
    Needs,
    better_chunks,
    candidates_of,
    chunk_shape,
    halves,
    least_part,
    pilot_candidate,
    tile_width,
    too_large,
    widths,
)

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


class Choice(NamedTuple):
    """How a layer is walked, and what that needs."""

    plan: LayerPlan
    need: int
    """Bytes while it is walked."""
    window_bytes: int
    """Bytes of windows beside them, where other layers are walked at the same time."""
    cost: int
    """Bytes read, and read and written again."""


def plan_layer(layer: Layer, needs: Needs) -> Choice:
    """Tiles and blocks of a layer that fit, and cost the least."""
    samples, nodes = layer.shape
    itemsize = layer.float_format.key.itemsize
    widest = tile_width(nodes, needs.usable // 2, needs.per_node, chunk_shape(layer)[1])
    # Where the tables of all nodes are there at once, blocks go through all of them.
    tried = widths(widest, layer) if needs.per_node else [layer.shape[1]]
    ways = [candidate for width in tried for candidate in candidates_of(layer, needs, width)]
    if not ways and needs.per_node:  # narrower tiles leave more room for chunks, at the price of reading them again
        ways = next(filter(None, (list(candidates_of(layer, needs, width)) for width in halves(widest))), [])
    if not ways:
        raise too_large(layer, needs)
    candidate = min(ways, key=lambda one: one.cost)
    # The pilot is read again for each of its tiles, so it gets all that blocks leave.
    pilot = pilot_candidate(layer, needs, candidate)
    need = max(
        int(candidate.width * needs.per_node) + candidate.buffers + candidate.window_bytes,
        pilot.buffers + pilot.window_bytes,
    )
    if need > needs.usable:
        raise InputError(
            f"layer {layer.name}: {human(need)} are needed beside the state and {human(needs.usable)} are left; "
            "give more memory or fewer threads."
        )
    per_segment = max(
        candidate.block * needs.workers,
        int(candidates.SEGMENT // max(candidate.width * itemsize, 1)) // candidate.block * candidate.block,
    )
    plan = LayerPlan(
        layer.name, samples, nodes, itemsize, tuple(steps(nodes, candidate.width)), tuple(needs.pilot),
        tuple(steps(nodes, pilot.width)),
        candidate.block, candidate.part, least_part(layer, needs, candidate), tuple(steps(samples, per_segment)),
        candidate.window, pilot.window, min(candidate.readers, pilot.readers), candidate.fetched + pilot.fetched,
    )  # fmt: skip
    held = candidate.window_bytes if needs.windows > 1 else 0
    return Choice(plan, need - held, held, candidate.cost[0])


def layout_warning(layer: Layer, plan: LayerPlan) -> str | None:
    """What to say of a layer whose chunks are read again and again."""
    if plan.rereads <= HOSTILE:
        return None
    rows, nodes = chunk_shape(layer)
    return (
        f"layer {layer.name}: every chunk of {rows} x {nodes} is read {plan.rereads:.3g} times: "
        f"{human(plan.bytes_fetched)} instead of {human(plan.bytes_read)}. Give more memory, or store it in chunks "
        f"such as {better_chunks(layer)}."
    )
