"""What a score reads, writes and needs."""

from __future__ import annotations

from collections.abc import Sequence

from hpv.activations.layers import Activations, Layer
from hpv.backends.protocol import OWN_MEMORY, Room
from hpv.base.errors import InputError
from hpv.base.machine import bytes_of, thread_count
from hpv.histograms.state import BackgroundState
from hpv.walking.candidates import Needs
from hpv.walking.plan import Plan, reserve, staged_bytes, usable_bytes, warn_of_layouts, within_room
from hpv.walking.tiling import Choice, plan_layer

SCORE_CHUNK = 65_536
"""Samples of a chunk of scores."""
TALLY_SHARE = 8
"""One part in so many of the budget is for tallies."""


def plan_score(
    background: BackgroundState,
    source: Activations,
    source_layers: dict[str, str],
    *,
    tails: int,
    bytes_per_value_written: int = 1,
    scores: int = 1,
    memory: int | str | None = None,
    threads: int | None = None,
    levels: int = 257,
    references: int = 1,
    room: Room = OWN_MEMORY,
    beside: int = 0,
) -> Plan:
    """The plan of a score that writes so many ``scores`` per sample; see `plan_fit`."""
    budget, workers = bytes_of(memory), thread_count(threads)
    of_sample = tails * references * levels * 4
    largest = max(budget // TALLY_SHARE // of_sample, 1)
    tallies = min(largest, source.samples) * of_sample
    tallies += staged_bytes(source.layers.values(), workers, room)
    tallies += beside
    held = background.state_bytes + tallies
    usable = within_room(usable_bytes(budget, background.state_bytes, "the background", tallies), room)
    per_node = {}
    for name, source_name in source_layers.items():
        entries = background.layers[name].edges.shape[1] + 4
        itemsize = source.layers[source_name].float_format.key.itemsize
        per_node[name] = (1 + len(background.large_classes)) * entries * (8 * 4 + tails * 4) + entries * itemsize * 2
    tables = sum(each * background.layers[name].nodes for name, each in per_node.items())
    layers = [source.layers[source_name] for source_name in source_layers.values()]
    most, nodes = max(largest // workers, 1), sum(one.shape[1] for one in layers)
    every = Needs(
        0,
        workers,
        usable,
        bytes_per_value_written=bytes_per_value_written,
        all_nodes=nodes,
        most_samples=most,
        blocks_under_way=room.blocks_under_way,
    )
    apart = [every._replace(per_node=each, tile_by_tile=True) for each in per_node.values()]
    at_once = every._replace(usable=usable - tables, windows=sum(one.reads_whole for one in layers))
    together, found = _together_or_apart(layers, at_once if tables <= usable // 2 else None, apart)
    plans = [one.plan for one in found]
    warn_of_layouts(layers, plans)
    peak = max(one.need for one in found) + sum(one.window_bytes for one in found) + (tables if together else 0)
    written = (
        sum(one.shape[0] * one.shape[1] for one in layers) * bytes_per_value_written + source.samples * scores * 24
    )
    read = sum(one.bytes_read for one in plans)
    needed = reserve(budget) + held + peak
    return Plan("score", tuple(plans), workers, budget, needed, read, written, together)


def _together_or_apart(
    layers: Sequence[Layer], at_once: Needs | None, apart: Sequence[Needs]
) -> tuple[bool, list[Choice]]:
    """Walks of all layers: at once where there is room for their tables, unless one by one reads much less."""
    together: list[Choice] = []
    if at_once is not None:
        together = [plan_layer(layer, at_once) for layer in layers]
        # All threads are in the same window of every layer.
        while len({one.plan.part for one in together}) > 1 and any(one.plan.window for one in together):
            part = min(one.plan.part for one in together)
            if part == at_once.most_samples:
                break
            at_once = at_once._replace(most_samples=part)
            together = [plan_layer(layer, at_once) for layer in layers]
        if all(one.plan.bytes_fetched == one.plan.bytes_read for one in together):
            return True, together
    try:
        alone = [plan_layer(*each) for each in zip(layers, apart, strict=True)]
    except InputError:
        if not together:
            raise
        return True, together
    if together and sum(one.cost for one in together) <= sum(one.cost for one in alone):
        return True, together
    return False, alone
