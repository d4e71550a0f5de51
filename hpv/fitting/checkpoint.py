"""How a fit on its way lies in its store."""

from __future__ import annotations

import time
from typing import Any

from hpv.base.floats import FORMATS, to_keys
from hpv.fitting.counting import LayerTotals, Position
from hpv.fitting.stored import unused_for_nan, write_arrays
from hpv.histograms.edges import LayerEdges, stack
from hpv.places.names import escape
from hpv.store.exchanging import SCRATCH
from hpv.store.output import Output
from hpv.walking import keeping


class FitCheckpoint:
    """Keeps edges as they are found, and the counts of a layer in one of two places in turn."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.saved = time.monotonic()
        self.waiting_edges: dict[str, list[tuple[int, LayerEdges]]] = {}
        self.waiting_states: dict[str, tuple[str, Position, LayerTotals]] = {}

    def edges(self, layer: str) -> LayerEdges | None:
        """See `hpv.fitting.Checkpoint`."""
        kept = self.output.progress.get("edges", {}).get(layer)
        if kept is None:
            return None
        float_format = FORMATS[kept["form"]]
        parts = [to_keys(self.output.take(_edges_from(layer, first)), float_format) for first in kept["parts"]]
        return LayerEdges(unused_for_nan(stack(parts, float_format), float_format), float_format)

    def keep_edges(self, layer: str, first: int, edges: LayerEdges) -> None:
        """See `hpv.fitting.Checkpoint`."""
        self.waiting_edges.setdefault(layer, []).append((first, edges))
        self._save_in_time()

    def state(self, layer: str, walk: str) -> tuple[Position, LayerTotals] | None:
        """See `hpv.fitting.Checkpoint`."""
        kept = self.output.progress.get("states", {}).get(layer)
        if kept is None or kept["walk"] != walk:
            return None
        folder = _state_in(layer, kept["place"])
        totals = LayerTotals(*(self.output.take(f"{folder}/{name}") for name in LayerTotals._fields))
        return (kept["tile"], kept["samples"]), totals

    def keep_state(self, layer: str, walk: str, done: Position, totals: LayerTotals) -> None:
        """See `hpv.fitting.Checkpoint`."""
        self.waiting_states[layer] = (walk, done, totals)
        self._save_in_time()

    def save(self) -> None:
        """See `hpv.fitting.Checkpoint`."""
        progress = self.output.progress
        edges, states = dict(progress.get("edges", {})), dict(progress.get("states", {}))
        for layer, found in self.waiting_edges.items():
            edges[layer] = self._write_edges(layer, found, edges.get(layer, {}).get("parts", []))
        for layer, (walk, (tile, samples), totals) in self.waiting_states.items():
            place = 1 - states.get(layer, {"place": 1})["place"]
            folder = _state_in(layer, place)
            write_arrays(self.output, {f"{folder}/{name}": values for name, values in totals._asdict().items()})
            states[layer] = {"walk": walk, "tile": tile, "samples": samples, "place": place}
        self.output.checkpoint({**progress, "edges": edges, "states": states})
        self.waiting_edges, self.waiting_states, self.saved = {}, {}, time.monotonic()

    def _save_in_time(self) -> None:
        if time.monotonic() - self.saved >= keeping.CHECKPOINT_SECONDS:
            self.save()

    def _write_edges(self, layer: str, found: list[tuple[int, LayerEdges]], parts: list[int]) -> dict[str, Any]:
        """Put the edges of further nodes beside those of the ``parts`` that are kept; what is to be noted of them."""
        first, float_format = found[0][0], found[0][1].float_format
        edges = LayerEdges(stack([edges.keys for _, edges in found], float_format), float_format)
        name = _edges_from(layer, first)
        self.output.discard(name)  # of a run that was killed before it noted them
        write_arrays(self.output, {name: edges.values})
        parts = [part for part in parts if part < first]  # a save that is interrupted is done again
        return {"form": float_format.name, "parts": [*parts, first], "nodes": first + len(edges.keys)}


def _edges_from(layer: str, first: int) -> str:
    """Where edges of the nodes from ``first`` on are kept."""
    return f"{SCRATCH}/{escape(layer)}/edges/{first}"


def _state_in(layer: str, place: int) -> str:
    """Where counts on the way are kept."""
    return f"{SCRATCH}/{escape(layer)}/{place}"
