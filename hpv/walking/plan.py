"""Shapes and a memory budget become blocks: pure arithmetic, decided and printable before anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hpv.activations.layers import Layer
from hpv.backends.protocol import Room
from hpv.base.errors import InputError, warn
from hpv.base.words import MIB, human, quantity
from hpv.walking.tiling import LayerPlan, layout_warning

COMPILING = 128 * MIB
"""Measured: what compiling all kernels of one command leaves in the process."""
LEAST_ROOM = 64 * MIB
"""Of a GPU's memory."""


@dataclass(frozen=True)
class Plan:
    """What a run will read, write and need, as `hpv.plan` says it; nothing has been read yet.

    Printed it has a line for the run and one for every layer; ``as_json()`` gives the same as numbers.

    >>> import numpy as np, hpv
    >>> plan = hpv.plan("fit", {"head": np.zeros((1000, 20), np.float32)}, memory="1GiB", threads=1)
    >>> print(plan)  # doctest: +ELLIPSIS
    fit: 1 block, 1 thread, reads 156 KiB, writes 6.56 KiB, needs at most ... of 1 GiB
      head: 1000 x 20, 1 tile of nodes, blocks of 1,000 samples, pilot of 1,000
    >>> plan.bytes_read, plan.peak < plan.memory
    (160000, True)
    """

    kind: str
    """``fit`` or ``score``."""
    layers: tuple[LayerPlan, ...]
    """How each layer is read."""
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


def warn_of_layouts(layers: Iterable[Layer], plans: Iterable[LayerPlan]) -> None:
    """Warn of every layer whose chunks are read again and again."""
    for layer, plan in zip(layers, plans, strict=True):
        text = layout_warning(layer, plan)
        if text is not None:
            warn(text)


def reserve(budget: int) -> int:
    """Bytes of a budget that compiling takes."""
    return min(COMPILING, budget // 2)


def usable_bytes(budget: int, state: int, what: str, aside: int = 0) -> int:
    """Bytes of a budget that are left for blocks and tables beside the ``state``, which errors call ``what``."""
    usable = budget - reserve(budget) - state - aside
    if usable < 16 * MIB:
        needed = state + aside + 64 * MIB
        enough = min(2 * needed, COMPILING + needed)
        raise InputError(
            f"memory {human(budget)} is too little: {what} takes {human(state)}, compiling and buffers about "
            f"{human(enough - state)}; give at least {human(enough)}."
        )
    return usable


def staged_bytes(layers: Iterable[Layer], workers: int, room: Room) -> int:
    """Bytes of copies of blocks that lie in memory, and of results on their way back."""
    copies = 1 + any(layer.in_memory for layer in layers)
    return workers * room.blocks_under_way * room.staged * copies


def within_room(usable: int, room: Room) -> int:
    """What both memories have room for."""
    if room.free is None:
        return usable
    if room.free < LEAST_ROOM:
        raise InputError(
            f"the GPU has {human(room.free)} left, blocks and tables need at least {human(LEAST_ROOM)}; end what else "
            "uses it, or give backend='cpu'."
        )
    return min(usable, room.free)
