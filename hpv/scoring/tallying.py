"""The walk of a score: blocks become tallies, tallies scores, by threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np

from hpv.activations.blocks import read_block
from hpv.activations.layers import Layer
from hpv.activations.windows import windowed
from hpv.base import keeping
from hpv.base.cache import Cache
from hpv.base.errors import DataError
from hpv.base.slices import relative_to
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import ScanKind
from hpv.scanning.scanner import NodeTables
from hpv.scanning.scored import Scored
from hpv.scoring.job import ScoreJob
from hpv.scoring.plan import SCORE_CHUNK, TALLY_SHARE
from hpv.walking import candidates
from hpv.walking.progress import Progress
from hpv.walking.threads import Queue, in_steps, run_in_threads

KEPT_NODES = 65_536
"""Tables of layers with up to so many nodes are kept for the next scan."""
Results = Mapping[ScanKind, Scored]
WriteScores = Callable[[slice, Results, int], None]


class WriteCodes(Protocol):
    """Keeps what was made of a block."""

    def __call__(self, layer: str, samples: slice, nodes: slice, codes: np.ndarray, reference: np.ndarray, /) -> None:
        """Codes (s, n) of samples and nodes of a layer, and the references (s,): which counts answer."""

    @property
    def is_portable(self) -> bool:
        """Whether another process can do it, too."""

    def chunk_rows(self, nodes: int) -> int:
        """Ranges of samples that start at multiples of this, of a layer with so many nodes, may be kept at once."""

    def at(self, first: int, background: BackgroundState | None) -> WriteCodes:
        """The same for blocks whose samples are counted from ``first`` on; without a background it is light to send."""


def score_by_threads(
    job: ScoreJob,
    progress: Progress,
    write: WriteScores,
    write_codes: WriteCodes | None = None,
    start: int = 0,
) -> None:
    """Score all samples from ``start`` on, a range after the other.

    ``write`` is given samples, results and the number of NaN among their values, in order of the samples.

    ``write_codes`` is given layer, samples, nodes, codes and references of every block, from the threads that made it.
    """
    walk = ScoreWalk(job, progress, write_codes)
    row = sum(plan.nodes * plan.itemsize for plan in job.plan.layers)
    progress.start(f"score from sample {start:,} on" if start else "score", job.source.samples * row)
    progress.skip(start * row)
    while start < job.source.samples:
        segment = slice(start, min(start + segment_length(job), job.source.samples))
        start, results, missing = walk.score(segment)
        write(slice(segment.start, start), results, missing)
        progress.advance(0)  # it may have been told to end


def segment_length(job: ScoreJob) -> int:
    """Most samples that are scored before anything is written, blocks doubled again and again.

    Where their tallies wait for other tiles: as many as there is room for.
    """
    if job.plan.together:
        row = sum(plan.nodes * plan.itemsize for plan in job.plan.layers)
        room = min(SCORE_CHUNK, candidates.SEGMENT // max(row, 1))
    else:
        row = sum(len(t) + 2 for t in job.scanner.thresholds.values()) * 4 * len(job.scanner.references)
        room = job.plan.memory // TALLY_SHARE // max(row, 1)
    samples = max(plan.part for plan in job.plan.layers) * job.plan.threads
    while 2 * samples <= room:
        samples *= 2
    return samples


class ScoreWalk:
    """One run over the samples: what its threads share."""

    def __init__(self, job: ScoreJob, progress: Progress, write_codes: WriteCodes | None) -> None:
        self.job = job
        self.progress = progress
        self.write_codes = write_codes
        self.plans = dict(zip(job.source_layers, job.plan.layers, strict=True))
        self.tables = self._cache()
        self.buffers = job.scanner.backend.make_buffers()
        self.layers = self._windowed()
        tiles = [(name, tile) for name, plan in self.plans.items() for tile in plan.tiles]
        self.passes = [tiles] if job.plan.together else [[tile] for tile in tiles]
        """Tiles whose tables are held at the same time."""

    def _windowed(self) -> dict[str, Layer]:
        """The layers as they are read, without the samples that were held until now."""
        layers, threads = self.job.source.layers, self.job.plan.threads
        return {
            name: windowed(layers[self.job.source_layers[name]], plan.window, plan.readers, threads)
            for name, plan in self.plans.items()
        }

    def _cache(self) -> Cache:
        """Where tables are kept: with the background where they are small, for this run where there is room for all."""
        if all(plan.nodes <= KEPT_NODES for plan in self.plans.values()):
            return self.job.background.tables
        return Cache(math.inf if self.job.plan.together else 0)

    def _tables(self, name: str, tile: slice) -> NodeTables:
        """Tables of a tile of a layer."""
        options, scanner = self.job.options, self.job.scanner
        float_format = self.job.source.layers[self.job.source_layers[name]].float_format
        key = (
            "scan", scanner.backend.name, name, tile.start, tile.stop, float_format.name, options.alphas,
            float(options.alpha_max), options.against, options.tails,
        )  # fmt: skip
        tables: NodeTables = self.tables.get(key, partial(scanner.tables, name, tile, float_format))
        return tables

    def score(self, segment: slice) -> tuple[int, Results, int]:
        """Score as much of a range of samples as can be done until the next checkpoint.

        Returns the sample where it ended, the results, and the number of NaN among the values.
        """
        samples, missing = segment.stop - segment.start, 0
        seen = np.zeros(samples, np.int64)
        results = {kind: Scored.empty(samples) for kind in self.job.options.kinds}
        waiting = self.job.scanner.empty_tallies(samples) if len(self.passes) > 1 else None
        for number, tiles in enumerate(self.passes):
            # The first pass over them says how many samples it will be.
            seconds = math.inf if number else keeping.CHECKPOINT_SECONDS / len(self.passes)
            made = [(name, tile, self._tables(name, tile)) for name, tile in tiles]
            last = tiles is self.passes[-1]
            if waiting is not None:
                self.layers = self._windowed()
            stop, found = self._run(segment, made, waiting, results if last else {}, seen, seconds)
            segment, missing = slice(segment.start, stop), missing + found
        done = slice(0, segment.stop - segment.start)
        self._check_seen(seen[done], segment.start)
        return segment.stop, {kind: every.part(done) for kind, every in results.items()}, missing

    def _check_seen(self, seen: np.ndarray, start: int) -> None:
        """Every node of every sample was tallied once."""
        nodes = sum(plan.nodes for plan in self.plans.values())
        gaps = np.flatnonzero(seen != nodes)
        if len(gaps):
            raise DataError(
                f"sample {start + int(gaps[0])}: {int(seen[gaps[0]])} of {nodes} nodes went into its scores; part of "
                "the work was lost, score again."
            )

    def _run(
        self,
        segment: slice,
        tiles: list[tuple[str, slice, NodeTables]],
        waiting: Mapping[str, np.ndarray] | None,
        results: Results,
        seen: np.ndarray,
        seconds: float,
    ) -> tuple[int, int]:
        """Tally some tiles of a range of samples and fill in the results that are then known.

        The nodes of every sample are added to what was ``seen`` of it. Returns the sample where it ended, and the
        number of NaN among the values.
        """
        scanner, threads = self.job.scanner, self.job.plan.threads
        largest, least = (max(getattr(self.plans[name], size) for name, _, _ in tiles) for size in ("part", "least"))
        threads = min(threads, -(-(segment.stop - segment.start) // least))
        parts = Queue(segment, largest, least, threads, seconds)
        tell = partial(parts.advance, self.progress)

        def task(_: int) -> int:
            missing = 0
            for rows in parts:
                inside = relative_to(rows, segment)
                if waiting is None:
                    tallies = scanner.empty_tallies(rows.stop - rows.start, self.buffers)
                else:
                    tallies = {tail: tally[:, inside] for tail, tally in waiting.items()}
                for name, tile, made in tiles:
                    missing += self._tally(name, tile, made, rows, tallies, seen[inside], tell)
                own = {kind: every.part(inside) for kind, every in results.items()}
                scanner.scores(tallies, self.job.reference.of(rows), own)
            return missing

        missing = sum(run_in_threads(task, range(threads), threads))
        return parts.taken_to, missing

    def _tally(
        self,
        name: str,
        tile: slice,
        tables: NodeTables,
        samples: slice,
        tallies: Mapping[str, np.ndarray],
        seen: np.ndarray,
        tell: Callable[[int], None],
    ) -> int:
        """Add one tile of nodes to the tallies of a range of samples; the number of NaN among the values."""
        plan, missing = self.plans[name], 0
        layer, nodes = self.layers[name], tile.stop - tile.start
        for part in in_steps(samples, plan.part):
            codes = None
            if self.write_codes is not None:
                codes = self.buffers.get("codes", (part.stop - part.start, nodes), np.uint8)
            for rows in in_steps(part, plan.block):
                block = read_block(layer, rows, tile, self.buffers)
                own = {tail: tally[:, relative_to(rows, samples)] for tail, tally in tallies.items()}
                left = None if codes is None else codes[relative_to(rows, part)]
                missing += self.job.scanner.tally_block(
                    tables, block.bits, block.first, self.job.reference.of(rows), own, left, self.buffers
                )
                seen[relative_to(rows, samples)] += nodes
                tell(block.bits.shape[0] * nodes * plan.itemsize)
            if self.write_codes is not None and codes is not None:
                self.write_codes(name, part, tile, codes, self.job.reference.of(part))
        return missing
