"""Scoring: walk activations block by block, encode, tally, score; for `Background.scan` and `hpv.score` alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpv import streaming
from hpv.backends import coded_samples
from hpv.background import Background, check_layers
from hpv.blocks import Block, read_block
from hpv.buffers import Buffers
from hpv.errors import DataError, InputError, warn
from hpv.fitting import check_labels, choose_backend
from hpv.kernels.rules import NAN_CODE
from hpv.planning import SCORE_CHUNK, TALLY_SHARE, LayerPlan, Plan, plan_score
from hpv.resources import quantity
from hpv.scanning import Kind, Scanner, ScanOptions, Scored, Tables
from hpv.sources import Activations, Layer, open_activations
from hpv.tiling import SEGMENT
from hpv.windows import windowed

if TYPE_CHECKING:
    from hpv.scores import Scores

KEPT_NODES = 65_536
"""Tables of layers with up to so many nodes are kept for the next scan."""
KEEP = ("codes", "ranges")

Results = Mapping[Kind, Scored]
WriteScores = Callable[[slice, Results, int], None]


class WriteCodes(Protocol):
    """Keeps what was made of a block."""

    def __call__(self, layer: str, samples: slice, nodes: slice, codes: np.ndarray, group: np.ndarray, /) -> None:
        """Codes (s, n) of samples and nodes of a layer, and the groups (s,) that answer for the samples."""

    @property
    def is_portable(self) -> bool:
        """Whether another process can do it, too."""

    def chunk_rows(self, nodes: int) -> int:
        """Ranges of samples that start at multiples of this, of a layer with so many nodes, may be kept at once."""

    def at(self, first: int, background: Background | None) -> WriteCodes:
        """The same for blocks whose samples are counted from ``first`` on; without a background it is light to send."""


@dataclass(frozen=True)
class Score:
    """A score that is ready to run; nothing has been read."""

    full: Background
    """As it was given."""
    background: Background
    """Its layers that are scanned."""
    source: Activations
    pairs: dict[str, str]
    """Layer of the activations for each layer of the background."""
    options: ScanOptions
    keep: tuple[str, ...]
    """``codes`` and ``ranges``, or one, or none of them."""
    group: np.ndarray
    """Group of every sample that its own class answers for."""
    plan: Plan
    scanner: Scanner
    asked: str
    """Name of the backend, which workers of a cluster look for at their own place."""


def prepare_score(
    background: Background,
    activations: Any,
    *,
    statistics: str | Sequence[str] = ("berk_jones", "higher_criticism"),
    tails: str | Sequence[str] = ("right", "left", "two-sided"),
    forms: str | Sequence[str] = ("subset", "whole"),
    alphas: str = "grid",
    alpha_max: float = 0.5,
    layers: str | Sequence[str] | None = None,
    labels: Any = None,
    against: str | None = None,
    keep: str | Sequence[str] = ("codes",),
    memory: int | str | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> Score:
    """Check every argument of `score` and plan it."""
    options = scan_options(background, statistics, tails, forms, alphas, alpha_max, against)
    keep = several(keep)
    wrong = [what for what in keep if what not in KEEP]
    if wrong:
        raise InputError(f"keep={wrong[0]!r}: give a list with codes, ranges, both of them, or none.")
    full = background
    if layers is not None:
        background = background.select(several(layers))
    source = open_activations(activations)
    pairs = check_layers(background, source)
    check_weights(background, source.attributes.get("weights"))
    group = group_samples(background, source, labels, options.against)
    scanner = Scanner(background, options, choose_backend(backend, source))
    plan = _plan(scanner, source, pairs, keep, memory, threads)
    return Score(full, background, source, pairs, options, keep, group, plan, scanner, backend)


def scan_options(
    background: Background, statistics: str | Sequence[str], tails: str | Sequence[str], forms: str | Sequence[str],
    alphas: str, alpha_max: float, against: str | None,
) -> ScanOptions:  # fmt: skip
    """What is asked of this background, checked."""
    if not isinstance(background, Background):
        raise InputError(f"background: {type(background).__name__}; give what hpv.fit or hpv.open returned.")
    if against is None:
        against = "pooled" if background.classes is None else "own"
    options = ScanOptions(several(statistics), several(tails), several(forms), alphas, alpha_max, against)
    if background.classes is None and against != "pooled":
        raise InputError(f"against={against!r}: the background has no classes; fit it with by_class=True, or give "
                         "against='pooled'.")  # fmt: skip
    return options


def _plan(
    scanner: Scanner, source: Activations, pairs: dict[str, str], keep: Sequence[str], memory: int | str | None,
    threads: int | None,
) -> Plan:  # fmt: skip
    levels, options = max(len(thresholds) for thresholds in scanner.thresholds.values()) + 2, scanner.options
    return plan_score(
        scanner.background, source, pairs, tails=len(options.tails), scores=len(options.kinds),
        kept=("codes" in keep) + ("ranges" in keep) * 8 * len(options.tails),
        memory=memory, threads=threads, levels=levels, groups=len(scanner.targets), room=scanner.backend.room(),
    )  # fmt: skip


def part_of_score(
    background: Background, source: Activations, pairs: dict[str, str], options: ScanOptions, keep: tuple[str, ...],
    group: np.ndarray, memory: int, backend: str,
) -> Score:  # fmt: skip
    """The score of some of the samples by one thread; whatever could be refused was so when the whole was prepared."""
    scanner = Scanner(background, options, choose_backend(backend, source))
    plan = _plan(scanner, source, pairs, keep, memory, 1)
    return Score(background, background, source, pairs, options, keep, group, plan, scanner, backend)


def several(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name is a list of one."""
    return (given,) if isinstance(given, str) else tuple(given)


def check_weights(background: Background, theirs: str | None) -> None:
    """Warn where activations come from other weights, by their hash, than the background's."""
    ours = background.attributes.get("weights")
    if ours and theirs and ours != theirs:
        warn(
            f"the activations come from a network with the weights {theirs[:12]}, the background from {ours[:12]}: "
            "their p-values compare two networks. Capture both with the same weights."
        )


def group_samples(background: Background, source: Activations, labels: Any, against: str) -> np.ndarray:
    """The group whose counts answer for every sample; zeros where the pooled ones do."""
    if against != "own":
        if labels is not None:
            check_labels(labels, source.samples)
        return np.zeros(source.samples, np.int64)
    labels = source.labels if labels is None else labels
    if labels is None:
        raise InputError("against='own': the activations carry no labels; give labels=, or against='lowest', or "
                         "against='pooled'.")  # fmt: skip
    return groups_of(background, check_labels(labels, source.samples))


def groups_of(background: Background, labels: np.ndarray) -> np.ndarray:
    """The group of every sample's own class; the pooled one, with a warning, where the background does not know it."""
    assert background.classes is not None
    unknown = int(np.count_nonzero(~np.isin(labels, background.classes)))
    if unknown:
        warn(
            f"{unknown:,} of {quantity(len(labels), 'sample')} {'has' if unknown == 1 else 'have'} a label that the "
            "background was not fitted with: the pooled counts answer instead."
        )
    return background.group_of(labels)


def run_score(
    ready: Score,
    progress: streaming.Progress,
    write: WriteScores,
    write_codes: WriteCodes | None = None,
    start: int = 0,
) -> None:
    """Score all samples from ``start`` on, a range after the other.

    ``write`` is given samples, results and the number of NaN among their values, in order of the samples.

    ``write_codes`` is given layer, samples, nodes, codes and groups of every block, from the threads that made it.
    Where a Dask cluster is active and can read the data, its workers do this, with copies of ``write_codes``.
    """
    client = streaming.active_client()
    if client is not None and ready.source.is_portable and (write_codes is None or write_codes.is_portable):
        from hpv.cluster import score_on_cluster

        score_on_cluster(client, ready, progress, write, write_codes, start)
        return
    walk = _Walk(ready, progress, write_codes)
    row = sum(plan.nodes * plan.itemsize for plan in ready.plan.layers)
    progress.start(f"score from sample {start:,} on" if start else "score", ready.source.samples * row)
    progress.skip(start * row)
    while start < ready.source.samples:
        segment = slice(start, min(start + segment_length(ready), ready.source.samples))
        start, results, missing = walk.score(segment)
        write(slice(segment.start, start), results, missing)


def segment_length(ready: Score) -> int:
    """Most samples that are scored before anything is written, blocks doubled again and again.

    Where their tallies wait for other tiles: as many as there is room for.
    """
    if ready.plan.together:
        row = sum(plan.nodes * plan.itemsize for plan in ready.plan.layers)
        room = min(SCORE_CHUNK, SEGMENT // max(row, 1))
    else:
        row = sum(len(t) + 2 for t in ready.scanner.thresholds.values()) * 4 * len(ready.scanner.targets)
        room = ready.plan.memory // TALLY_SHARE // max(row, 1)
    samples = max(plan.part for plan in ready.plan.layers) * ready.plan.threads
    while 2 * samples <= room:
        samples *= 2
    return samples


class _Tables:
    """Tables of tiles: kept with the background where they are small, for this run where there is room for all."""

    def __init__(self, ready: Score, plans: Mapping[str, LayerPlan]) -> None:
        self.ready = ready
        small = all(plan.nodes <= KEPT_NODES for plan in plans.values())
        self.kept: dict[tuple[str, ...], Any] = ready.background.kept if small else {}

    def get(self, name: str, tile: slice) -> Tables:
        form, options = self.ready.source.layers[self.ready.pairs[name]].form, self.ready.options
        asked = (options.alphas, repr(float(options.alpha_max)), *options.tails)
        key = ("scan", self.ready.scanner.backend.name, name, f"{tile.start}:{tile.stop}", form.name, *asked)
        if key in self.kept:
            found: Tables = self.kept[key]
            return found
        made = self.ready.scanner.tables(name, tile, form)
        if self.ready.plan.together:
            self.kept[key] = made
        return made


class _Walk:
    """One run over the samples: what its threads share."""

    def __init__(self, ready: Score, progress: streaming.Progress, write_codes: WriteCodes | None) -> None:
        self.ready = ready
        self.progress = progress
        self.write_codes = write_codes
        self.plans = dict(zip(ready.pairs, ready.plan.layers, strict=True))
        self.tables = _Tables(ready, self.plans)
        self.buffers = ready.scanner.backend.make_buffers()
        self.layers = self._windowed()
        tiles = [(name, tile) for name, plan in self.plans.items() for tile in plan.tiles]
        self.passes = [tiles] if ready.plan.together else [[tile] for tile in tiles]
        """Tiles whose tables are held at the same time."""

    def _windowed(self) -> dict[str, Layer]:
        """The layers as they are read, without the samples that were held until now."""
        layers, threads = self.ready.source.layers, self.ready.plan.threads
        return {
            name: windowed(layers[self.ready.pairs[name]], plan.window, plan.readers, threads)
            for name, plan in self.plans.items()
        }

    def score(self, segment: slice) -> tuple[int, Results, int]:
        """Score as much of a range of samples as can be done until the next checkpoint.

        Returns the sample where it ended, the results, and the number of NaN among the values.
        """
        samples, missing = segment.stop - segment.start, 0
        seen = np.zeros(samples, np.int64)
        results = {kind: Scored.empty(samples) for kind in self.ready.options.kinds}
        waiting = self.ready.scanner.empty_tallies(samples) if len(self.passes) > 1 else None
        for number, tiles in enumerate(self.passes):
            # The first pass over them says how many samples it will be.
            seconds = math.inf if number else streaming.CHECKPOINT_SECONDS / len(self.passes)
            made = [(name, tile, self.tables.get(name, tile)) for name, tile in tiles]
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
        tiles: list[tuple[str, slice, Tables]],
        waiting: Mapping[str, np.ndarray] | None,
        results: Results,
        seen: np.ndarray,
        seconds: float,
    ) -> tuple[int, int]:
        """Tally some tiles of a range of samples and fill in the results that are then known.

        The nodes of every sample are added to what was ``seen`` of it. Returns the sample where it ended, and the
        number of NaN among the values.
        """
        scanner, threads = self.ready.scanner, self.ready.plan.threads
        largest, least = (max(getattr(self.plans[name], size) for name, _, _ in tiles) for size in ("part", "least"))
        threads = min(threads, -(-(segment.stop - segment.start) // least))
        parts = streaming.Queue(segment, largest, least, threads, seconds)

        def task(_: int) -> int:
            missing = 0
            for rows in parts:
                inside = within(rows, segment)
                if waiting is None:
                    tallies = scanner.empty_tallies(rows.stop - rows.start, self.buffers)
                else:
                    tallies = {tail: tally[:, inside] for tail, tally in waiting.items()}
                missing += sum(self._tally(name, tile, made, rows, tallies, seen[inside]) for name, tile, made in tiles)
                own = {kind: every.part(inside) for kind, every in results.items()}
                scanner.scores(tallies, self.ready.group[rows], own)
            return missing

        missing = sum(streaming.run(task, range(threads), threads))
        return parts.start, missing

    def _tally(
        self,
        name: str,
        tile: slice,
        tables: Tables,
        samples: slice,
        tallies: Mapping[str, np.ndarray],
        seen: np.ndarray,
    ) -> int:
        """Add one tile of nodes to the tallies of a range of samples; the number of NaN among the values."""
        plan, missing = self.plans[name], 0
        layer, nodes = self.layers[name], tile.stop - tile.start
        for part in streaming.blocks(samples, plan.part):
            codes = None
            if self.write_codes is not None:
                codes = self.buffers.get("codes", (part.stop - part.start, nodes), np.uint8)
            for rows in streaming.blocks(part, plan.block):
                block = read_block(layer, rows, tile, self.buffers)
                own = {tail: tally[:, within(rows, samples)] for tail, tally in tallies.items()}
                left = None if codes is None else codes[within(rows, part)]
                missing += tally_block(
                    self.ready.scanner, tables, block, self.ready.group[rows], own, left, self.buffers
                )
                seen[within(rows, samples)] += nodes
                self.progress.advance(block.bits.shape[0] * nodes * plan.itemsize)
            if self.write_codes is not None and codes is not None:
                self.write_codes(name, part, tile, codes, self.ready.group[part])
        return missing


def tally_block(
    scanner: Scanner,
    tables: Tables,
    block: Block,
    group: np.ndarray,
    tallies: Mapping[str, np.ndarray],
    codes: np.ndarray | None,
    buffers: Buffers,
) -> int:
    """Add a block to the tallies of its samples, straight from its values or by way of codes; the number of NaN.

    Codes are left behind where they are asked for.
    """
    found = scanner.tally_values(block.bits, block.first, group, tables, tallies, codes)
    if found is not None:
        return found
    samples, nodes = len(group), tables.nodes
    if codes is None:
        codes = buffers.get("codes", (samples, nodes), np.uint8)
    for piece in streaming.blocks(slice(0, samples), coded_samples(nodes)):
        scanner.backend.encode(tables.coder, block.bits[piece], block.first, codes[piece])
        own = {tail: tally[:, piece] for tail, tally in tallies.items()}
        scanner.tally(codes[piece], group[piece], tables, own)
    return count_missing(codes)


def count_missing(codes: Any) -> int:
    """NaN among the values that these are the codes of: an array, or a tensor wherever it is."""
    nan = codes == NAN_CODE
    return int(np.count_nonzero(nan)) if isinstance(nan, np.ndarray) else int(nan.sum())


def within(inner: slice, outer: slice) -> slice:
    """A range of samples, counted from the start of the range that it is part of."""
    return slice(inner.start - outer.start, inner.stop - outer.start)


def score(
    background: Background,
    activations: Any,
    out: str | Path,
    *,
    statistics: str | Sequence[str] = ("berk_jones", "higher_criticism"),
    tails: str | Sequence[str] = ("right", "left", "two-sided"),
    forms: str | Sequence[str] = ("subset", "whole"),
    alphas: str = "grid",
    alpha_max: float = 0.5,
    layers: str | Sequence[str] | None = None,
    labels: Any = None,
    against: str | None = None,
    keep: str | Sequence[str] = ("codes",),
    memory: int | str | None = None,
    threads: int | None = None,
    backend: str = "auto",
    overwrite: bool = False,
    shard: str | None = None,
    progress: streaming.Progress | None = None,
) -> Scores:
    """Score every sample of the activations against a background and write a score store.

    ``activations``, ``memory``, ``threads``: as for `hpv.fit`. ``statistics``, ``tails``, ``forms``: every combination
    is scored; see `Background.scan`, also for ``alphas``, ``alpha_max``, ``layers``, ``labels`` and ``against``.
    ``keep``: ``codes`` (a byte per value, from which ranges, other scans and subsets of nodes follow without the
    activations), ``ranges`` (pmin and pmax, eight bytes per value and tail), or nothing.

    An ``out`` that is complete and was made by the same call is opened as it is, an incomplete one is continued, any
    other is refused unless ``overwrite``.

    ``shard="2/5"``: do the second of five parts, each in a process of its own, all with the same ``out``; returns the
    scores of that part. ``hpv.merge(out)`` then makes one store of them.

    >>> import numpy as np, hpv, tempfile
    >>> rng = np.random.default_rng(0)
    >>> background = hpv.fit(rng.normal(size=(1000, 50)))
    >>> scores = hpv.score(background, rng.normal(size=(20, 50)), tempfile.mkdtemp() + "/scores")
    >>> scores.get("two-sided", "whole", "higher_criticism").score.shape
    (20,)
    """
    from hpv.scores import write_scores

    ready = prepare_score(
        background, activations, statistics=statistics, tails=tails, forms=forms, alphas=alphas, alpha_max=alpha_max,
        layers=layers, labels=labels, against=against, keep=keep, memory=memory, threads=threads, backend=backend,
    )  # fmt: skip
    progress = progress or streaming.Quiet()
    if shard is not None:
        from hpv.sharding import cut, score_shard

        return score_shard(ready, cut(ready.source, shard, overwrite), out, several(keep), progress)
    return write_scores(ready, out, several(keep), overwrite, progress)
