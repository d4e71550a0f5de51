"""Shapes and a memory budget become blocks: pure arithmetic, decided and printable before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpv.backends import OWN_MEMORY, Room
from hpv.errors import InputError, warn
from hpv.pilot import Rule, pilot_runs
from hpv.resources import MIB, bytes_of, human, quantity, thread_count
from hpv.tiling import LayerPlan, Walk, Walked, layout_warning, walk

if TYPE_CHECKING:
    from hpv.background import Background
    from hpv.sources import Activations, Layer

COMPILING = 128 * MIB
"""Measured: what compiling all kernels of one command leaves in the process."""
SCORE_CHUNK = 65_536
"""Samples of a chunk of scores."""
LEAST_ROOM = 64 * MIB
"""Of a GPU's memory."""
TALLY_SHARE = 8
"""One part in so many of the budget is for tallies."""
SPARE_EDGES = 8
"""Room for outer edges and modal values that plans allow for beyond `bins`."""


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
    def bytes_fetched(self) -> int:
        """Bytes of the chunks that are read for ``bytes_read``."""
        return sum(layer.bytes_fetched for layer in self.layers)

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
            "bytes_fetched": self.bytes_fetched,
            "bytes_written": self.bytes_written,
            "blocks": self.blocks,
            "layers": [
                {
                    "name": layer.name,
                    "samples": layer.samples,
                    "nodes": layer.nodes,
                    "tiles": len(layer.tiles),
                    "block_samples": layer.block,
                    "pilot_samples": layer.pilot_samples,
                    "bytes_read": layer.bytes_read,
                    "bytes_fetched": layer.bytes_fetched,
                    "rereads": round(layer.rereads, 3),
                    "window_samples": layer.window,
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.kind}: {quantity(self.blocks, 'block')}, {quantity(self.threads, 'thread')}, reads "
            f"{human(self.bytes_read)}, writes {human(self.bytes_written)}, needs at most {human(self.peak)} "
            f"of {human(self.memory)}"
        ]
        return "\n".join([*lines, *map(_line, self.layers)])


def _line(layer: LayerPlan) -> str:
    """What is planned for a layer."""
    parts = [
        f"{layer.samples} x {layer.nodes}",
        f"{quantity(len(layer.tiles), 'tile')} of nodes",
        f"blocks of {quantity(layer.block, 'sample')}",
    ]
    if layer.pilot:
        parts.append(f"pilot of {layer.pilot_samples:,}")
    if layer.rereads >= 1.2:
        parts.append(f"chunks read {layer.rereads:.3g} times: {human(layer.bytes_fetched)}")
    return f"  {layer.name}: {', '.join(parts)}"


def plan_fit(
    source: Activations,
    rule: Rule | None,
    *,
    classes: int = 1,
    memory: int | str | None = None,
    threads: int | None = None,
    edges: int | None = None,
    room: Room = OWN_MEMORY,
) -> Plan:
    """The plan of a fit: ``rule`` proposes the edges, or ``edges`` of each node are given.

    ``room``: what the backend has for blocks.
    """
    budget, workers = bytes_of(memory), thread_count(threads)
    count = edges if edges is not None else (rule.bins if rule else 32) + SPARE_EDGES
    count = min(count, 254)
    state = sum(_state_bytes(layer, count, classes) for layer in source.layers.values())
    staged = _staged(source.layers.values(), workers, room)
    usable = _within(_usable(budget, state, "the state of all layers", staged), room)
    layers, peak = [], 0
    for layer in source.layers.values():
        itemsize = layer.form.key.itemsize
        pilot = tuple(pilot_runs(layer.shape[0], rule.pilot)) if rule is not None else ()
        pilot_samples = sum(run.stop - run.start for run in pilot)
        # Per node: the pilot keys, up to a power of two, and room for 252 edges; or packed edges and, in every thread,
        # counters.
        proposing = ((1 << max(pilot_samples - 1, 0).bit_length()) + 2 * 254) * itemsize
        counting = (count + 1) * (itemsize + workers * classes * (2 * itemsize + 8))
        found = walk(layer, Walk(counting, workers, usable, pilot, proposing if pilot else 0, places=room.places))
        layers.append(found.plan)
        peak = max(peak, found.need)
    _warn_of_layouts(source.layers.values(), layers)
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
    room: Room = OWN_MEMORY,
) -> Plan:
    """The plan of a score: ``kept`` bytes are written per value, ``scores`` results per sample; see `plan_fit`."""
    budget, workers = bytes_of(memory), thread_count(threads)
    of_sample = tails * groups * levels * 4
    largest = max(budget // TALLY_SHARE // of_sample, 1)
    tallies = min(largest, source.samples) * of_sample
    tallies += _staged(source.layers.values(), workers, room)
    held = background.state_bytes + tallies
    usable = _within(_usable(budget, background.state_bytes, "the background", tallies), room)
    per_node = {}
    for name, theirs in pairs.items():
        entries = background.layers[name].edges.shape[1] + 4
        itemsize = source.layers[theirs].form.key.itemsize
        per_node[name] = (1 + len(background.groups)) * entries * (8 * 4 + tails * 4) + entries * itemsize * 2
    tables = sum(each * background.layers[name].nodes for name, each in per_node.items())
    layers = [source.layers[theirs] for theirs in pairs.values()]
    most, nodes = max(largest // workers, 1), sum(one.shape[1] for one in layers)
    every = Walk(0, workers, usable, kept=kept, all_nodes=nodes, most=most, places=room.places)
    apart = [every._replace(per_node=each, apart=True) for each in per_node.values()]
    at_once = every._replace(usable=usable - tables, windows=sum(one.reads_whole for one in layers))
    together, found = _together_or_apart(layers, at_once if tables <= usable // 2 else None, apart)
    plans = [one.plan for one in found]
    _warn_of_layouts(layers, plans)
    peak = max(one.need for one in found) + sum(one.held for one in found) + (tables if together else 0)
    written = sum(one.shape[0] * one.shape[1] for one in layers) * kept + source.samples * scores * 24
    read = sum(one.bytes_read for one in plans)
    needed = _reserve(budget) + held + peak
    return Plan("score", tuple(plans), workers, budget, needed, read, written, together)


def _together_or_apart(
    layers: Sequence[Layer], at_once: Walk | None, apart: Sequence[Walk]
) -> tuple[bool, list[Walked]]:
    """Walks of all layers: at once where there is room for their tables, unless one by one reads much less."""
    together: list[Walked] = []
    if at_once is not None:
        together = [walk(layer, at_once) for layer in layers]
        # All threads are in the same window of every layer.
        while len({one.plan.part for one in together}) > 1 and any(one.plan.window for one in together):
            part = min(one.plan.part for one in together)
            if part == at_once.most:
                break
            at_once = at_once._replace(most=part)
            together = [walk(layer, at_once) for layer in layers]
        if all(one.plan.bytes_fetched == one.plan.bytes_read for one in together):
            return True, together
    try:
        alone = [walk(*each) for each in zip(layers, apart, strict=True)]
    except InputError:
        if not together:
            raise
        return True, together
    if together and sum(one.cost for one in together) <= sum(one.cost for one in alone):
        return True, together
    return False, alone


def _warn_of_layouts(layers: Iterable[Layer], plans: Iterable[LayerPlan]) -> None:
    for layer, plan in zip(layers, plans, strict=True):
        text = layout_warning(layer, plan)
        if text is not None:
            warn(text)


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


def _staged(layers: Iterable[Layer], workers: int, room: Room) -> int:
    """Bytes of copies of blocks that lie in memory, and of results on their way back."""
    copies = 1 + any(layer.in_memory for layer in layers)
    return workers * room.places * room.staged * copies


def _within(usable: int, room: Room) -> int:
    """What both memories have room for."""
    if room.free is None:
        return usable
    if room.free < LEAST_ROOM:
        raise InputError(
            f"the GPU has {human(room.free)} left, blocks and tables need at least {human(LEAST_ROOM)}; end what else "
            "uses it, or give backend='cpu'."
        )
    return min(usable, room.free)


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
