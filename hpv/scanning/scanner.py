"""Thresholds, levels and tables of nodes: blocks of values become tallies of their samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.backends.protocol import coded_samples
from hpv.base.buffers import Buffers
from hpv.histograms.ranges import range_tables
from hpv.histograms.state import BackgroundState
from hpv.kernels.rules import NAN_CODE
from hpv.scanning.options import ScanKind, ScanOptions
from hpv.scanning.scored import POOLED, Scored, score_tallies
from hpv.scanning.thresholds import GRID, alpha_grid, level_table


@dataclass(frozen=True)
class NodeTables:
    """What turns blocks of some nodes into codes and tallies."""

    nodes: int
    coder: Any
    levels: dict[str, Any]
    """Levels by tail, laid out by the backend."""
    tallier: Any | None
    """What tallies values without a detour by codes, where the backend has such a thing."""


class Scanner:
    """Scans against one background: holds thresholds, makes tables, adds tallies, turns them into scores."""

    def __init__(self, background: BackgroundState, options: ScanOptions, backend: Any) -> None:
        self.background = background
        self.options = options
        self.backend = backend
        self.thresholds = self._thresholds()

    def _thresholds(self) -> dict[str, np.ndarray]:
        tails, alpha_max = self.options.tails, float(self.options.alpha_max)
        if self.options.alphas == "grid":
            # Pooled counts are the largest there are.
            largest = max(
                int((self.background.samples.sum() - state.missing.sum(axis=0)).max())
                for state in self.background.layers.values()
            )
            return dict.fromkeys(tails, alpha_grid(largest, alpha_max))
        found = {}
        for tail in tails:
            parts = [np.array([])]
            for layer in self.background.layers:
                for _, histograms in self.background.histograms_by_piece(layer):
                    pmax = range_tables(histograms.survivors, histograms.counted, tail)[1]
                    parts = [np.unique(np.concatenate([*parts, np.unique(pmax[pmax <= alpha_max])]))]
            found[tail] = parts[0]
        return found

    @property
    def references(self) -> list[int]:
        """Groups that every sample is scored against; a sample's own one stands at place 0 unless ``lowest``."""
        if self.options.against != "lowest":
            return [0]
        classes = self.background.classes
        assert classes is not None
        small = len(self.background.large_classes) < len(classes)
        return ([0] if small else []) + [number + 1 for number in range(len(self.background.large_classes))]

    def tables(self, layer: str, nodes: slice, float_format: Any, *, by_codes: bool = False) -> NodeTables:
        """Tables of some nodes for values of a float format; ``by_codes``: nothing is tallied without its codes."""
        edges: list[np.ndarray] = []
        levels: dict[str, list[np.ndarray]] = {tail: [] for tail in self.options.tails}
        for _, histograms in self.background.histograms_by_piece(layer, nodes):
            edges.append(histograms.edges_for(float_format))
            for tail, parts in levels.items():
                pmax = range_tables(histograms.survivors, histograms.counted, tail)[1]
                parts.append(level_table(pmax, histograms.counted, self.thresholds[tail]))
        keys = np.concatenate(edges)
        joined = {tail: np.concatenate(parts, axis=1) for tail, parts in levels.items()}
        made = {tail: self.backend.make_levels(table, len(self.thresholds[tail])) for tail, table in joined.items()}
        tallier = None
        several = len(self.references) > 1 and not self.backend.codes_again
        if self.options.alphas == "grid" and not several and not by_codes:
            tallier = self.backend.make_tallier(keys, float_format, list(joined.values()), GRID)
        return NodeTables(len(keys), self.backend.make_coder(keys, float_format), made, tallier)

    def empty_tallies(self, samples: int, buffers: Buffers | None = None) -> dict[str, np.ndarray]:
        """Tallies (targets, samples, thresholds + 2) by tail; in the memory of ``buffers`` if there are any."""
        tallies = {}
        for tail, thresholds in self.thresholds.items():
            shape = (len(self.references), samples, len(thresholds) + 2)
            if buffers is None:
                tallies[tail] = np.zeros(shape, np.int32)
            else:
                tallies[tail] = buffers.get(f"tallies, {tail}", shape, np.int32)
                tallies[tail].fill(0)
        return tallies

    def tally(
        self, codes: np.ndarray, reference: np.ndarray, tables: NodeTables, tallies: Mapping[str, np.ndarray]
    ) -> None:
        """Add a block of codes; ``reference`` (s,) is used unless every sample is scored against all classes."""
        rows = np.arange(len(codes))
        for tail, levels in tables.levels.items():
            for place, target in enumerate(self.references):
                chosen = np.full(len(codes), target) if self.options.against == "lowest" else reference
                self.backend.tally(codes, rows, chosen, levels, tallies[tail][place])

    def tally_values(
        self,
        bits: np.ndarray,
        first: int,
        reference: np.ndarray,
        tables: NodeTables,
        tallies: Mapping[str, np.ndarray],
        codes: np.ndarray | None,
    ) -> int | None:
        """Add a block of values, nodes from ``first`` on; the number of NaN, or None where it goes by codes.

        Codes are left behind where they are asked for.
        """
        if tables.tallier is None:
            return None
        found: int | None = None
        for place, target in enumerate(self.references):
            chosen = np.full(len(reference), target) if self.options.against == "lowest" else reference
            views = [tallies[tail][place] for tail in tables.levels]
            found = self.backend.tally_values(tables.tallier, bits, first, chosen, views, codes)
            codes = None  # they are the same for every class
        return found

    def tally_block(
        self,
        tables: NodeTables,
        bits: Any,
        first: int,
        reference: np.ndarray,
        tallies: Mapping[str, np.ndarray],
        codes: np.ndarray | None,
        buffers: Buffers,
    ) -> int:
        """Add a block of values, nodes from ``first`` on, to the tallies of its samples; the number of NaN.

        Straight from the values where the backend can, else by way of codes, which are left behind where they are
        asked for.
        """
        found = self.tally_values(bits, first, reference, tables, tallies, codes)
        if found is not None:
            return found
        samples, nodes = len(reference), tables.nodes
        if codes is None:
            codes = buffers.get("codes", (samples, nodes), np.uint8)
        step = coded_samples(nodes)
        for start in range(0, samples, step):
            piece = slice(start, start + step)
            self.backend.encode(tables.coder, bits[piece], first, codes[piece])
            own = {tail: tally[:, piece] for tail, tally in tallies.items()}
            self.tally(codes[piece], reference[piece], tables, own)
        return count_missing(codes)

    def scores(self, tallies: Mapping[str, np.ndarray], reference: np.ndarray, out: Mapping[ScanKind, Scored]) -> None:
        """Fill in the answers of the samples of some tallies."""
        own = self.labels_of(reference)
        for (tail, form, statistic), answers in out.items():
            each: list[Scored] = []
            for part in tallies[tail]:
                found = answers if not each else Scored.empty(len(own))
                score_tallies(part, self.thresholds[tail], statistic, form, found)
                each.append(found)
            if self.options.against != "lowest":
                answers.label[:] = own
                continue
            best = np.argmin([found.score for found in each], axis=0)
            answers.label[:] = self.labels_of(np.array(self.references)[best])
            every = np.arange(len(best))
            for name in ("score", "alpha", "size"):
                getattr(answers, name)[:] = np.stack([getattr(found, name) for found in each])[best, every]

    def labels_of(self, reference: np.ndarray) -> np.ndarray:
        """The class label of every reference."""
        labels = [POOLED]
        if self.background.classes is not None:
            labels += [int(self.background.classes[c]) for c in self.background.large_classes]
        return np.array(labels, np.int64)[reference].astype(np.int32)


def count_missing(codes: Any) -> int:
    """NaN among the values that these are the codes of: an array, or a tensor wherever it is."""
    nan = codes == NAN_CODE
    return int(np.count_nonzero(nan)) if isinstance(nan, np.ndarray) else int(nan.sum())
