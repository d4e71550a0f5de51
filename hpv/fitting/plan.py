"""What a fit reads, writes and needs."""

from __future__ import annotations

from hpv.activations.layers import Activations, Layer
from hpv.backends.protocol import OWN_MEMORY, Room
from hpv.base.machine import bytes_of, thread_count
from hpv.histograms.edges import Rule, pilot_runs
from hpv.walking.candidates import Needs
from hpv.walking.plan import Plan, reserve, staged_bytes, usable_bytes, warn_of_layouts, within_room
from hpv.walking.tiling import plan_layer

SPARE_EDGES = 8
"""Room for outer edges and modal values that plans allow for beyond `bins`."""


def plan_fit(
    source: Activations,
    rule: Rule | None,
    *,
    classes: int = 1,
    memory: int | str | None = None,
    threads: int | None = None,
    edges: int | None = None,
    room: Room = OWN_MEMORY,
    beside: int = 0,
) -> Plan:
    """The plan of a fit: ``rule`` proposes the edges, or ``edges`` of each node are given.

    ``room``: what the backend has for blocks. ``beside``: bytes that are held of the samples, as the class of each.
    """
    budget, workers = bytes_of(memory), thread_count(threads)
    count = edges if edges is not None else (rule.bins if rule else 32) + SPARE_EDGES
    count = min(count, 254)
    state = sum(_state_bytes(layer, count, classes) for layer in source.layers.values())
    staged = staged_bytes(source.layers.values(), workers, room)
    usable = within_room(usable_bytes(budget, state, "the state of all layers", staged + beside), room)
    layers, peak = [], 0
    for layer in source.layers.values():
        itemsize = layer.float_format.key.itemsize
        pilot = tuple(pilot_runs(layer.shape[0], rule.pilot)) if rule is not None else ()
        pilot_samples = sum(run.stop - run.start for run in pilot)
        # Per node: the pilot keys, up to a power of two, and room for 252 edges; or packed edges and, in every thread,
        # counters.
        proposing = ((1 << max(pilot_samples - 1, 0).bit_length()) + 2 * 254) * itemsize
        counting = (count + 1) * (itemsize + workers * classes * (2 * itemsize + 8))
        found = plan_layer(
            layer,
            Needs(counting, workers, usable, pilot, proposing if pilot else 0, blocks_under_way=room.blocks_under_way),
        )
        layers.append(found.plan)
        peak = max(peak, found.need)
    warn_of_layouts(source.layers.values(), layers)
    read = sum(layer.bytes_read for layer in layers)
    return Plan("fit", tuple(layers), workers, budget, reserve(budget) + state + beside + peak, read, state)


def _state_bytes(layer: Layer, edges: int, classes: int) -> int:
    count = 4 if layer.shape[0] < 2**31 else 8
    return layer.shape[1] * (edges * (layer.float_format.key.itemsize + classes * count) + 16)
