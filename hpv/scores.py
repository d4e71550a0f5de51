"""The score store: scores of every sample, and on request codes and ranges."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hpv import streaming
from hpv.addresses import absolute_path
from hpv.backends import get_backend
from hpv.background import Background, digest
from hpv.errors import DataError, HpvError, InputError, StoreError, warn
from hpv.opening import check_fingerprint, open_background
from hpv.planning import SCORE_CHUNK
from hpv.pvalues import outward, range_tables
from hpv.resources import quantity
from hpv.scanning import Scored, join, subset_nodes
from hpv.scoring import Results, Score, run_score
from hpv.store import SCORES, STRINGS, Output, OutputWriter, Store, StoredArray, escape, open_store
from hpv.tiling import kept_chunks

COLUMNS = {"score": "f8", "alpha": "f8", "size": "i8", "label": "i4"}


class Scores:
    """Scores of every sample, opened with `hpv.open` or returned by `hpv.score`.

    >>> import numpy as np, hpv, tempfile
    >>> x = np.random.default_rng(0).normal(size=(100, 5))
    >>> background = hpv.fit(x)
    >>> scores = hpv.score(background, x[:3], tempfile.mkdtemp() + "/scores.zarr", tails="left", forms="subset")
    >>> scores.kinds
    [('left', 'subset', 'berk_jones'), ('left', 'subset', 'higher_criticism')]
    >>> scores.get("left", "subset", "berk_jones").score.shape
    (3,)
    >>> scores.column("left", "subset", "berk_jones", "size").read((slice(0, 2),)).shape
    (2,)
    >>> codes, (pmin, pmax) = scores.codes("activations").read(), scores.pvalues("activations", background, "left")
    >>> codes.shape, codes.dtype, pmax.shape
    ((3, 5), dtype('uint8'), (3, 5))
    >>> list(scores.nodes(0, background, "left", "subset", "berk_jones"))
    ['activations']
    """

    def __init__(self, store: Store, already_complete: bool = False) -> None:
        self._store = store
        self.already_complete = already_complete
        """`hpv.score` found them complete and did nothing."""

    @property
    def path(self) -> str:
        """Of the store."""
        return self._store.path

    @property
    def attributes(self) -> dict[str, Any]:
        """Background fingerprint, grid, settings and so on."""
        return self._store.attributes

    @property
    def samples(self) -> int:
        """That were scored."""
        return int(self.attributes["samples"])

    @property
    def kinds(self) -> list[tuple[str, str, str]]:
        """Every (tail, form, statistic) that was scored."""
        return [(kind[0], kind[1], kind[2]) for kind in self.attributes["kinds"]]

    @property
    def missing(self) -> int:
        """NaN among the values that were scored; they are never significant."""
        return int(self.attributes["missing"])

    @property
    def layers(self) -> list[str]:
        """Layers that were scanned, as one set of nodes."""
        return list(self.attributes["layers"])

    @property
    def ids(self) -> list[str] | None:
        """One string per sample, where the activations had them."""
        return [str(one) for one in self._store.array("ids").read()] if "ids" in self._store else None

    def get(self, tail: str, form: str, statistic: str) -> Scored:
        """Score, alpha, size and label of every sample."""
        self._check(tail, form, statistic)
        return Scored(*(self.column(tail, form, statistic, name).read() for name in COLUMNS))

    def column(self, tail: str, form: str, statistic: str, name: str) -> StoredArray:
        """One of the arrays ``score``, ``alpha``, ``size`` and ``label``, to be read in parts."""
        self._check(tail, form, statistic)
        return self._store.array(_folder(tail, form, statistic) + name)

    def codes(self, layer: str) -> StoredArray:
        """Codes (samples, nodes) of a layer, to be read in parts; kept unless ``keep`` left them out."""
        if layer not in self.layers:
            raise InputError(f"{self.path}: no layer {layer}; it has {', '.join(self.layers)}.")
        if f"codes/{escape(layer)}" not in self._store:
            raise InputError(f"{self.path}: codes were not kept; score again with keep='codes'.")
        return self._store.array(f"codes/{escape(layer)}")

    def pvalues(self, layer: str, background: Background, tail: str, samples: slice = slice(None)) -> Any:
        """P-value ranges (pmin, pmax) float64 of some samples from their codes: no activations are needed."""
        self.check_background(background)
        rows = range(*samples.indices(self.samples))
        codes = self.codes(layer).read((slice(rows.start, rows.stop), slice(None)))
        closed = background.closed(layer)
        group = self.group(background)[rows.start : rows.stop]
        entry = np.minimum(codes.astype(np.intp), closed.edges.shape[1] + 1)
        nodes = np.arange(closed.nodes)
        return tuple(
            table[group[:, None], nodes, entry] for table in range_tables(closed.survivors, closed.counted, tail)
        )

    def nodes(self, i: int, background: Background, tail: str, form: str, statistic: str) -> dict[str, np.ndarray]:
        """The subset of sample ``i``: for every layer the indices of the nodes with pmax <= alpha, ascending."""
        self.check_background(background)
        i = range(self.samples)[i]
        alpha, label = (
            self.column(tail, form, statistic, name).read((slice(i, i + 1),))[0] for name in ("alpha", "label")
        )
        group = int(background.group_of(np.array([label], np.int64))[0]) if label >= 0 else 0
        row = (slice(i, i + 1), slice(None))
        return {
            name: subset_nodes(background.closed(name), self.codes(name).read(row)[0], group, tail, float(alpha))
            for name in self.layers
        }

    def group(self, background: Background) -> np.ndarray:
        """The group of the background that answered for every sample."""
        if background.classes is None or self.attributes["against"] != "own":
            return np.zeros(self.samples, np.int64)
        return background.group_of(self._store.array("own").read().astype(np.int64))

    def background(self, path: str | Path | None = None) -> Background:
        """The background that the scores were made with, from where it was then or from ``path``."""
        where = path or self.attributes.get("background_path")
        if where is None:
            raise InputError(f"{self.path}: its background was not a store; give the path of one.")
        try:
            found = open_background(where)
        except StoreError as error:
            if path is not None:
                raise
            raise StoreError(
                f"{self.path}: its background is not where it was when it was used: {error} If it was moved, give its "
                "path: hpv top --background PATH, or scores.background(path) in Python."
            ) from None
        self.check_background(found)
        return found

    def check_background(self, background: Background) -> None:
        """Refuse another background than the one these scores were made with."""
        check_fingerprint(background, self.attributes["background"], self.path)

    def _check(self, tail: str, form: str, statistic: str) -> None:
        if (tail, form, statistic) not in self.kinds:
            known = "; ".join(" ".join(kind) for kind in self.kinds)
            raise InputError(f"{self.path}: no scores of {tail} {form} {statistic}; it has {known}.")

    def __repr__(self) -> str:
        kinds = quantity(len(self.kinds), "kind")
        return f"<hpv.Scores of {quantity(self.samples, 'sample')}, {kinds}, in {self.path}>"


def write_scores(
    ready: Score,
    out: str | Path,
    keep: Sequence[str],
    overwrite: bool,
    progress: streaming.Progress,
    request: Mapping[str, Any] | None = None,
) -> Scores:
    """Score into a store; an interrupted run is continued by the same call.

    ``request``: what the store is asked to hold (default: all that is scored).
    """
    with Output.begin(out, SCORES, request or score_request(ready, keep), overwrite=overwrite) as output:
        if not output.already_complete:
            missing = _Writer(output, ready, keep).run(progress)
            if missing:
                found = quantity(missing, "NaN value")
                warn(f"{out}: {found}; NaN has the range [0, 1] and is never significant.")
            output.finish({**_attributes(ready), "missing": missing})
        done = output.already_complete
    return Scores(open_store(out, SCORES), done)


def score_request(ready: Score, keep: Sequence[str]) -> dict[str, Any]:
    """What a score is asked for; two requests that are equal give equal scores."""
    options = ready.options
    request = {
        "command": "score",
        "background": ready.full.fingerprint,
        "activations": ready.source.identity,
        "layers": list(ready.pairs),
        "statistics": list(options.statistics),
        "tails": list(options.tails),
        "forms": list(options.forms),
        "alphas": options.alphas,
        "alpha_max": float(options.alpha_max),
        "against": options.against,
        "keep": sorted(keep),
    }
    if options.against == "own":
        request["labels"] = digest(ready.group)
    return request


def _all_nodes(ready: Score) -> int:
    """Nodes of all layers that are scored."""
    return sum(plan.nodes for plan in ready.plan.layers)


def _attributes(ready: Score) -> dict[str, Any]:
    path = ready.full.path
    return {
        "samples": ready.source.samples,
        "kinds": [list(kind) for kind in ready.options.kinds],
        "layers": list(ready.pairs),
        "nodes": _all_nodes(ready),
        "background": ready.full.fingerprint,
        "background_path": None if path is None else absolute_path(path),
        "against": ready.options.against,
        "alphas": ready.options.alphas,
        "alpha_max": float(ready.options.alpha_max),
        "thresholds": {
            tail: thresholds.tolist() for tail, thresholds in ready.scanner.thresholds.items()
            if ready.options.alphas == "grid"
        },
        "origin": {key: ready.source.attributes[key] for key in ("model", "weights") if key in ready.source.attributes},
    }  # fmt: skip


def create_array(output: Output, name: str, shape: tuple[int, ...], dtype: Any, all_nodes: int) -> tuple[int, ...]:
    """An array with a value for each sample, or for each sample and node; the shape of its chunks."""
    chunks: tuple[int, ...] = (min(shape[0], SCORE_CHUNK),)
    if len(shape) == 2:
        chunks = kept_chunks(shape[1], shape[0], all_nodes, np.dtype(dtype).itemsize)
    output.create(name, shape, dtype, chunks, ["sample", "node"][: len(shape)])
    return chunks


class _Writer:
    """Creates the arrays of a score store and fills them range by range."""

    def __init__(self, output: Output, ready: Score, keep: Sequence[str]) -> None:
        self.output = output
        self.ready = ready
        self.keep = set(keep)
        self.waiting: list[tuple[slice, Results, int]] = []
        self.written = time.monotonic()
        samples, create = ready.source.samples, partial(create_array, output, all_nodes=_all_nodes(ready))
        for kind in ready.options.kinds:
            for name, dtype in COLUMNS.items():
                create(_folder(*kind) + name, (samples,), dtype)
        if ready.options.against == "own":
            create("own", (samples,), "i8")
            output.write("own", None, _own_labels(ready))
        if ready.source.ids is not None:
            create("ids", (samples,), STRINGS)
            output.write("ids", None, ready.source.ids)
        for plan, name in zip(ready.plan.layers, ready.pairs, strict=True):
            shape = (samples, plan.nodes)
            if "codes" in self.keep:
                create(f"codes/{escape(name)}", shape, "u1")
            if "ranges" in self.keep:
                for tail in ready.options.tails:
                    for end in ("pmin", "pmax"):
                        create(f"ranges/{tail}/{escape(name)}/{end}", shape, "f4")

    def run(self, progress: streaming.Progress) -> int:
        """Score what is not scored yet; the number of NaN among all values."""
        start = int(self.output.progress.get("samples", 0))
        blocks = None
        if self.keep:
            blocks = KeptBlocks(self.output.writer(), self.ready).at(0, self.ready.background)
        try:
            run_score(self.ready, progress, self.take_scores, blocks, start)
        except BaseException:
            with suppress(HpvError):  # the first error is the one to tell of
                self.write_scores()
            raise
        self.write_scores()
        done = self.output.progress
        if done["samples"] != self.ready.source.samples:
            raise self.lost(done["samples"])
        return int(done["missing"])

    def take_scores(self, samples: slice, results: Results, missing: int) -> None:
        """Keep the scores of a finished range, and write them when a chunk is full or some time has passed."""
        self.waiting.append((samples, results, missing))
        late = time.monotonic() > self.written + streaming.CHECKPOINT_SECONDS
        if late or samples.stop - self.waiting[0][0].start >= SCORE_CHUNK:
            self.write_scores()

    def write_scores(self) -> None:
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
                self.output.write(_folder(*kind) + name, (samples,), getattr(scored, name))

        streaming.run(write, self.ready.options.kinds, self.ready.plan.threads)
        missing = sum(count for _, _, count in parts) + int(self.output.progress.get("missing", 0))
        self.output.checkpoint({"samples": samples.stop, "missing": missing})
        self.waiting, self.written = [], time.monotonic()

    def lost(self, done: int) -> DataError:
        """What is to be said where samples were left out."""
        return DataError(
            f"{self.output.path}: not every sample from {done} to {self.ready.source.samples - 1} was scored once; "
            "part of the work was lost, run the same command again."
        )


class KeptBlocks:
    """Keeps the codes of blocks, and the ranges that follow from them. Without a background it is light to send."""

    def __init__(self, writer: OutputWriter, ready: Score) -> None:
        self.writer, self.keep, self.tails, self.samples = writer, ready.keep, ready.options.tails, ready.source.samples
        self.all_nodes = _all_nodes(ready)
        self.first = 0
        """Sample of the store that the samples of blocks are counted from."""
        self.background: Background | None = None
        self.tables: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def is_portable(self) -> bool:
        """Whether another process can keep blocks there, too."""
        return self.writer.is_portable

    def chunk_rows(self, nodes: int) -> int:
        """Samples of the tallest chunk of a layer with so many nodes: ranges from its multiples on share no chunk.

        Chunks have a power of two of samples, or all of them.
        """
        sizes = [size for size, kind in ((1, "codes"), (4, "ranges")) if kind in self.keep]
        return max(kept_chunks(nodes, self.samples, self.all_nodes, size)[0] for size in sizes)

    def at(self, first: int, background: Background | None) -> KeptBlocks:
        """The same for blocks whose samples are counted from ``first`` on."""
        other = copy(self)
        other.first, other.background, other.tables = first, background, {}
        return other

    def __call__(self, layer: str, samples: slice, nodes: slice, codes: np.ndarray, group: np.ndarray) -> None:
        """Keep what was made of a block."""
        samples = slice(self.first + samples.start, self.first + samples.stop)
        if "codes" in self.keep:
            self.writer.write(f"codes/{escape(layer)}", (samples, nodes), codes)
        if "ranges" in self.keep:
            for tail in self.tails:
                self._write_ranges(layer, tail, samples, nodes, codes, group)

    def _write_ranges(
        self, layer: str, tail: str, samples: slice, nodes: slice, codes: np.ndarray, group: np.ndarray
    ) -> None:
        """Keep the ranges of one tail, a chunk's samples at a time."""
        low, high = (np.ascontiguousarray(table[:, nodes]) for table in self._range_tables(layer, tail))
        width = codes.shape[1]
        step = kept_chunks(width, self.samples, self.all_nodes, 4)[0]
        for rows in streaming.blocks(samples, step):
            inside = slice(rows.start - samples.start, rows.stop - samples.start)
            shape = (rows.stop - rows.start, width)
            out = (np.empty(shape, np.float32), np.empty(shape, np.float32))
            get_backend("cpu").look_up_ranges(codes[inside], group[inside], (low, high), out)
            for end, values in zip(("pmin", "pmax"), out, strict=True):
                self.writer.write(f"ranges/{tail}/{escape(layer)}/{end}", (rows, nodes), values)

    def _range_tables(self, layer: str, tail: str) -> tuple[np.ndarray, np.ndarray]:
        assert self.background is not None
        if (tail, layer) not in self.tables:
            closed = self.background.closed(layer)
            self.tables[tail, layer] = outward(*range_tables(closed.survivors, closed.counted, tail))
        return self.tables[tail, layer]


def _own_labels(ready: Score) -> np.ndarray:
    return ready.scanner.labels_of(ready.group).astype(np.int64)


def _folder(tail: str, form: str, statistic: str) -> str:
    return f"scores/{tail}/{form}/{statistic}/"
