"""Where an unfinished fit keeps its edges and counts in its store."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hpv.base.floats import FORMATS, to_keys
from hpv.base.keeping import Every
from hpv.fitting.counting import Position, Tiling
from hpv.fitting.stored import nan_to_no_edge, write_arrays
from hpv.histograms.counts import LayerCounts
from hpv.histograms.edges import LayerEdges, stack
from hpv.places.names import escape
from hpv.store.exchanging import SCRATCH
from hpv.store.output import Output


class FitCheckpoint:
    """A `Checkpoint` that keeps edges as they are found, and the counts of a layer in one of two places in turn."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.every = Every()
        self.waiting_edges: dict[str, list[tuple[int, LayerEdges]]] = {}
        self.waiting_counts: dict[str, tuple[Tiling, Position, LayerCounts]] = {}

    def edges(self, layer: str) -> LayerEdges | None:
        kept = self.output.progress.get("edges", {}).get(layer)
        if kept is None:
            return None
        float_format = FORMATS[kept["form"]]
        parts = [to_keys(self.output.take(_edges_from(layer, first)), float_format) for first in kept["parts"]]
        return LayerEdges(nan_to_no_edge(stack(parts, float_format), float_format), float_format)

    def keep_edges(self, layer: str, first: int, edges: LayerEdges) -> None:
        self.waiting_edges.setdefault(layer, []).append((first, edges))
        self._save_in_time()

    def counts(self, layer: str, tiling: Tiling) -> tuple[Position, LayerCounts] | None:
        kept = self.output.progress.get("states", {}).get(layer)
        if kept is None or kept["walk"] != str(tiling):
            return None
        folder = _counts_in(layer, kept["place"])
        counts = LayerCounts(*(self.output.take(f"{folder}/{array.name}") for array in fields(LayerCounts)))
        return Position(kept["tile"], kept["samples"]), counts

    def keep_counts(self, layer: str, tiling: Tiling, done: Position, counts: LayerCounts) -> None:
        self.waiting_counts[layer] = (tiling, done, counts)
        self._save_in_time()

    def save(self) -> None:
        progress = self.output.progress
        edges, states = dict(progress.get("edges", {})), dict(progress.get("states", {}))
        for layer, found in self.waiting_edges.items():
            edges[layer] = self._write_edges(layer, found, edges.get(layer, {}).get("parts", []))
        for layer, (tiling, done, counts) in self.waiting_counts.items():
            place = 1 - states.get(layer, {"place": 1})["place"]
            folder = _counts_in(layer, place)
            write_arrays(self.output, {f"{folder}/{name}": values for name, values in vars(counts).items()})
            states[layer] = {"walk": str(tiling), "tile": done.tile, "samples": done.sample, "place": place}
        self.output.checkpoint({**progress, "edges": edges, "states": states})
        self.waiting_edges, self.waiting_counts = {}, {}
        self.every.done()

    def _save_in_time(self) -> None:
        if self.every.due():
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


def _counts_in(layer: str, place: int) -> str:
    """Where counts on the way are kept."""
    return f"{SCRATCH}/{escape(layer)}/{place}"
