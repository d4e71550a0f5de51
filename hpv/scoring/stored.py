"""How scores, codes and ranges lie in a store, and how they get there."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from hpv.backends.choosing import get_backend
from hpv.backends.tables import look_up_of
from hpv.base.addresses import absolute_path
from hpv.base.errors import DataError
from hpv.base.keeping import Every
from hpv.base.slices import steps
from hpv.histograms.state import BackgroundState
from hpv.places.names import escape
from hpv.scanning.scored import join
from hpv.scoring.job import ScoreJob, nodes_in_all
from hpv.scoring.plan import SCORE_CHUNK
from hpv.scoring.tallying import Results
from hpv.store.creating import STRINGS
from hpv.store.output import Output, OutputWriter
from hpv.walking.candidates import score_chunks
from hpv.walking.threads import in_steps, run_in_threads

COLUMNS = {"score": "f8", "alpha": "f8", "size": "i8", "label": "i4"}


def create_array(output: Output, name: str, shape: tuple[int, ...], dtype: Any, all_nodes: int) -> tuple[int, ...]:
    """An array with a value for each sample, or for each sample and node; the shape of its chunks."""
    chunks: tuple[int, ...] = (min(shape[0], SCORE_CHUNK),)
    if len(shape) == 2:
        chunks = score_chunks(shape[1], shape[0], all_nodes, np.dtype(dtype).itemsize)
    output.create(name, shape, dtype, chunks, ["sample", "node"][: len(shape)])
    return chunks


def score_attributes(job: ScoreJob) -> dict[str, Any]:
    """What is noted beside the scores."""
    path = job.full.path
    return {
        "samples": job.source.samples,
        "kinds": [list(kind) for kind in job.options.kinds],
        "layers": list(job.source_layers),
        "nodes": nodes_in_all(job),
        "background": job.full.fingerprint,
        "background_path": None if path is None else absolute_path(path),
        "against": job.options.against,
        "alphas": job.options.alphas,
        "alpha_max": float(job.options.alpha_max),
        "thresholds": {
            tail: thresholds.tolist() for tail, thresholds in job.scanner.thresholds.items()
            if job.options.alphas == "grid"
        },
        "origin": {key: job.source.attributes[key] for key in ("model", "weights") if key in job.source.attributes},
    }  # fmt: skip


class ScoreWriter:
    """Creates the arrays of a score store and fills them range by range."""

    def __init__(self, output: Output, job: ScoreJob, keep: Sequence[str]) -> None:
        self.output = output
        self.job = job
        self.keep = set(keep)
        self.waiting: list[tuple[slice, Results, int]] = []
        self.every = Every()
        samples, create = job.source.samples, partial(create_array, output, all_nodes=nodes_in_all(job))
        for kind in job.options.kinds:
            for name, dtype in COLUMNS.items():
                create(folder_of(*kind) + name, (samples,), dtype)
        for name, dtype, values in (("own", "i8", self._own_labels), ("ids", STRINGS, self._ids)):
            if values(slice(0, 0)) is not None:
                create(name, (samples,), dtype)
                for rows in steps(samples, SCORE_CHUNK):
                    output.write(name, (rows,), values(rows))
        for plan, name in zip(job.plan.layers, job.source_layers, strict=True):
            shape = (samples, plan.nodes)
            if "codes" in self.keep:
                create(f"codes/{escape(name)}", shape, "u1")
            if "ranges" in self.keep:
                for tail in job.options.tails:
                    for end in ("pmin", "pmax"):
                        create(f"ranges/{tail}/{escape(name)}/{end}", shape, "f4")

    def _own_labels(self, rows: slice) -> np.ndarray | None:
        """The class that answers for some of the samples, where that is their own; else None."""
        if self.job.reference.numbers is None:
            return None
        return self.job.scanner.labels_of(self.job.reference.of(rows)).astype(np.int64)

    def _ids(self, rows: slice) -> Any:
        return None if self.job.source.id_array is None else self.job.source.id_array[rows]

    @property
    def start(self) -> int:
        """The first sample that is not scored yet."""
        return int(self.output.progress.get("samples", 0))

    def write_codes(self) -> KeptBlocks | None:
        """What keeps codes and ranges of blocks; None where neither is kept."""
        return KeptBlocks(self.output.writer(), self.job).at(0, self.job.background) if self.keep else None

    def finish(self) -> int:
        """Write what still waits; the number of NaN among all values."""
        self.save()
        done = self.output.progress
        if done["samples"] != self.job.source.samples:
            raise self.lost(done["samples"])
        return int(done["missing"])

    def take_scores(self, samples: slice, results: Results, missing: int) -> None:
        """Keep the scores of a finished range, and write them when a chunk is full or some time has passed."""
        self.waiting.append((samples, results, missing))
        if self.every.due() or samples.stop - self.waiting[0][0].start >= SCORE_CHUNK:
            self.save()

    def save(self) -> None:
        """Write what was kept; it is then safe."""
        if not self.waiting:
            return
        parts, (first, _, _), (last, _, _) = self.waiting, self.waiting[0], self.waiting[-1]
        samples = slice(first.start, last.stop)
        done = int(self.output.progress.get("samples", 0))
        if samples.start != done or any(a.stop != b.start for (a, *_), (b, *_) in pairwise(parts)):
            raise self.lost(done)

        def write(kind: tuple[str, str, str]) -> None:
            scored = join([results[kind] for _, results, _ in parts])
            for name in COLUMNS:
                self.output.write(folder_of(*kind) + name, (samples,), getattr(scored, name))

        run_in_threads(write, self.job.options.kinds, self.job.plan.threads)
        missing = sum(count for _, _, count in parts) + int(self.output.progress.get("missing", 0))
        self.output.checkpoint({"samples": samples.stop, "missing": missing})
        self.waiting = []
        self.every.done()

    def lost(self, done: int) -> DataError:
        """What is to be said where samples were left out."""
        return DataError(
            f"{self.output.path}: not every sample from {done} to {self.job.source.samples - 1} was scored once; "
            "part of the work was lost, run the same command again."
        )


class KeptBlocks:
    """Keeps the codes of blocks, and the ranges that follow from them. Without a background it is light to send."""

    def __init__(self, writer: OutputWriter, job: ScoreJob) -> None:
        self.writer, self.keep, self.tails, self.samples = writer, job.keep, job.options.tails, job.source.samples
        self.all_nodes = nodes_in_all(job)
        self.first = 0
        """Sample of the store that the samples of blocks are counted from."""
        self.background: BackgroundState | None = None

    @property
    def is_portable(self) -> bool:
        """Whether another process can keep blocks there, too."""
        return self.writer.is_portable

    def chunk_rows(self, nodes: int) -> int:
        """Samples of the tallest chunk of a layer with so many nodes: ranges from its multiples on share no chunk.

        Chunks have a power of two of samples, or all of them.
        """
        sizes = [size for size, kind in ((1, "codes"), (4, "ranges")) if kind in self.keep]
        return max(score_chunks(nodes, self.samples, self.all_nodes, size)[0] for size in sizes)

    def at(self, first: int, background: BackgroundState | None) -> KeptBlocks:
        """The same for blocks whose samples are counted from ``first`` on."""
        other = copy(self)
        other.first, other.background = first, background
        return other

    def __call__(self, layer: str, samples: slice, nodes: slice, codes: np.ndarray, reference: np.ndarray) -> None:
        """Keep what was made of a block."""
        samples = slice(self.first + samples.start, self.first + samples.stop)
        if "codes" in self.keep:
            self.writer.write(f"codes/{escape(layer)}", (samples, nodes), codes)
        if "ranges" in self.keep:
            for tail in self.tails:
                self._write_ranges(layer, tail, samples, nodes, codes, reference)

    def _write_ranges(
        self, layer: str, tail: str, samples: slice, nodes: slice, codes: np.ndarray, reference: np.ndarray
    ) -> None:
        """Keep the ranges of one tail, a chunk's samples at a time."""
        assert self.background is not None
        backend = get_backend("cpu")
        low, high = look_up_of(self.background, layer, tail, np.dtype(np.float32), backend)
        tables = low[:, nodes], high[:, nodes]
        width = codes.shape[1]
        step = score_chunks(width, self.samples, self.all_nodes, 4)[0]
        for rows in in_steps(samples, step):
            inside = slice(rows.start - samples.start, rows.stop - samples.start)
            shape = (rows.stop - rows.start, width)
            out = (np.empty(shape, np.float32), np.empty(shape, np.float32))
            backend.look_up_ranges(codes[inside], reference[inside], tables, out)
            for end, values in zip(("pmin", "pmax"), out, strict=True):
                self.writer.write(f"ranges/{tail}/{escape(layer)}/{end}", (rows, nodes), values)


def folder_of(tail: str, form: str, statistic: str) -> str:
    """Where the columns of one kind of scores lie."""
    return f"scores/{tail}/{form}/{statistic}/"
