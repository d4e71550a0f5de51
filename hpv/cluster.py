"""Fits and scores on a Dask cluster: its workers fit and score ranges of samples, and add up the states where they are.

A task is a small fit or score of its own, by one thread, of at least TASK_BYTES of activations; so a worker that dies
costs a task, and the scheduler never holds many. Tasks go out in waves: a state is kept after each.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

import hpv
from hpv.background import Background, LayerState
from hpv.errors import DataError, InputError, StoppedError
from hpv.fitting import (
    Checkpoint,
    Fit,
    LayerTotals,
    choose_backend,
    class_sizes,
    empty_totals,
    finish_fit,
    finish_layer,
    run_fit,
    saving,
)
from hpv.pilot import LayerEdges, Rule
from hpv.planning import LayerPlan, plan_fit
from hpv.proposing import propose_tile, stack
from hpv.resources import MIB, human
from hpv.scanning import ScanOptions, Scored, join
from hpv.scoring import Results, Score, WriteCodes, WriteScores, part_of_score, run_score
from hpv.sources import Activations, Layer
from hpv.streaming import Progress, Quiet

if TYPE_CHECKING:
    from distributed import Client, Future

TASK_BYTES = 2**28
"""Activations of a task, at least: some 0.2 seconds of work."""
MOST_IN_WAVE = 500
"""Tasks that the scheduler holds, by twos; how many the whole is divided into it never learns."""
WAVE_SECONDS = 5.0
"""Waves grow until they take so long: what two of them hold is lost when this process is killed."""
FAN_IN = 8
"""States that are added up in one task."""
WAIT_SECONDS = 60
"""For the first worker."""


def fit_on_cluster(client: Client, ready: Fit, progress: Progress, checkpoint: Checkpoint | None) -> Background:
    """`hpv.fitting.run_fit` by the workers of a cluster."""
    cluster = _Cluster(client, ready.source, ready.plan.memory, ready.asked, progress)
    edges = _propose(cluster, ready, progress, checkpoint)
    layers = {}
    for plan, layer in zip(ready.plan.layers, ready.source.layers.values(), strict=True):
        progress.start(f"fit {layer.name}", plan.samples * plan.nodes * plan.itemsize)
        layers[layer.name] = _count(cluster, layer, edges[layer.name], ready, progress, checkpoint)
    return finish_fit(ready, layers)


def score_on_cluster(
    client: Client, ready: Score, progress: Progress, write: WriteScores, write_codes: WriteCodes | None, start: int
) -> None:
    """`hpv.scoring.run_score` by the workers of a cluster; ``write`` is called here, in order of the samples."""
    cluster = _Cluster(client, ready.source, ready.plan.memory, ready.asked, progress)
    samples, row = ready.source.samples, sum(plan.nodes * plan.itemsize for plan in ready.plan.layers)
    progress.start(f"score from sample {start:,} on" if start else "score", samples * row)
    progress.skip(start * row)
    height = ready.source.chunk_rows
    if write_codes is not None:  # two tasks must not write to the same chunk
        height = max(write_codes.chunk_rows(plan.nodes) for plan in ready.plan.layers)
        write_codes = write_codes.at(0, None)
    with cluster.work() as work:
        background = work.hold(ready.background)

        def send(rows: slice) -> Future:
            what = _ScoreTask(
                _bare(ready.source.part(rows)), rows.start, ready.pairs, ready.options, ready.keep, ready.group[rows],
                cluster.memory, write_codes, ready.asked,
            )  # fmt: skip
            return work.submit("score", what, background)

        for wave in work.waves(_ranges(start, samples, row, height), send, lambda sent: sent):
            for rows, results, missing in wave.gather(progress, row):
                write(rows, results, missing)


@dataclass(frozen=True)
class _ScoreTask:
    """Scores of a range of samples."""

    source: Activations
    first: int
    pairs: dict[str, str]
    options: ScanOptions
    keep: tuple[str, ...]
    group: np.ndarray
    memory: int
    write_codes: WriteCodes | None
    backend: str

    def __call__(self, background: Background) -> tuple[slice, Results, int]:
        ready = part_of_score(
            background, self.source, self.pairs, self.options, self.keep, self.group, self.memory, self.backend
        )
        parts: list[tuple[slice, Results, int]] = []
        keep = None if self.write_codes is None else self.write_codes.at(self.first, background)
        run_score(ready, Quiet(), lambda *part: parts.append(part), keep)
        results: Mapping[tuple[str, str, str], Scored] = {
            kind: join([results[kind] for _, results, _ in parts]) for kind in self.options.kinds
        }
        rows = slice(self.first, self.first + self.source.samples)
        return rows, results, sum(missing for _, _, missing in parts)


def _propose(
    cluster: _Cluster, ready: Fit, progress: Progress, checkpoint: Checkpoint | None
) -> Mapping[str, LayerEdges]:
    """The given edges, those that an earlier run kept, or new ones: a task for each tile of each layer's nodes."""
    if ready.given is not None:
        return ready.given
    rule, edges = ready.rule, {}
    assert rule is not None
    with cluster.work() as work:
        sent: list[tuple[Layer, LayerPlan, list[np.ndarray], list[tuple[slice, Future]]]] = []
        for layer in ready.source.layers.values():
            known = checkpoint.edges(layer.name) if checkpoint is not None else None
            parts = [] if known is None else [known.keys]
            done = sum(map(len, parts))
            (plan,) = plan_fit(_bare(ready.source, layer), rule, memory=cluster.memory, threads=1).layers
            tiles = [slice(max(tile.start, done), tile.stop) for tile in plan.pilot_tiles if tile.stop > done]
            name = f"edges of {layer.name}"
            futures = [(tile, work.submit(name, _ProposeTask(layer, plan, rule, tile))) for tile in tiles]
            sent.append((layer, plan, parts, futures))
        for layer, plan, parts, futures in sent:
            progress.start(f"edges of {layer.name}", plan.pilot_bytes)
            node = plan.pilot_bytes // plan.nodes
            progress.skip(sum(map(len, parts)) * node)
            for tile, future in futures:
                with saving(checkpoint):
                    parts.append(work.result(future))
                    progress.advance((tile.stop - tile.start) * node)
                if checkpoint is not None:
                    checkpoint.keep_edges(layer.name, tile.start, LayerEdges(parts[-1], layer.form))
            edges[layer.name] = LayerEdges(stack(parts, layer.form), layer.form)
    return edges


@dataclass(frozen=True)
class _ProposeTask:
    """Edges of a tile of nodes."""

    layer: Layer
    plan: LayerPlan
    rule: Rule
    tile: slice

    def __call__(self) -> np.ndarray:
        return propose_tile(self.layer, self.plan, self.rule, self.tile)


def _count(
    cluster: _Cluster, layer: Layer, edges: LayerEdges, ready: Fit, progress: Progress, checkpoint: Checkpoint | None
) -> LayerState:
    """Exact survivors of every class at the edges."""
    sizes, source = class_sizes(ready), _bare(ready.source, layer)
    walk = f"1 tiles of {layer.shape[1]}"  # that of one process with room for all nodes, which may go on here
    kept = checkpoint.state(layer.name, walk) if checkpoint is not None else None
    (_, done), totals = kept or ((0, 0), empty_totals(len(sizes), edges, int(sizes.sum())))
    row = layer.shape[1] * layer.form.key.itemsize
    progress.skip(done * row)
    with cluster.work() as work:
        held = work.hold(edges)

        def send(rows: slice) -> Future:
            group = None if ready.classes is None else ready.group[rows]
            what = _CountTask(source.part(rows), ready.classes, group, cluster.memory, ready.asked)
            return work.submit(f"count {layer.name}", what, held)

        def add_up(sent: Sequence[Future]) -> Sequence[Future]:
            while len(sent) > 1:
                sent = [
                    work.submit(f"add up {layer.name}", _add_states, *sent[at : at + FAN_IN])
                    for at in range(0, len(sent), FAN_IN)
                ]
            return sent

        for wave in work.waves(_ranges(done, layer.shape[0], row, source.chunk_rows), send, add_up):
            with saving(checkpoint):
                (state,) = wave.gather(progress, row)
            _add(totals, state, wave.rows)
            if checkpoint is not None:
                checkpoint.keep_state(layer.name, walk, (0, wave.rows.stop), totals)
    return finish_layer(layer.name, edges, totals, sizes)


@dataclass(frozen=True)
class _CountTask:
    """Counts of a range of samples of one layer."""

    source: Activations
    classes: np.ndarray | None
    group: np.ndarray | None
    memory: int
    backend: str

    def __call__(self, edges: LayerEdges) -> tuple[np.ndarray, LayerState]:
        classes = 1 if self.classes is None else len(self.classes)
        backend, widest = choose_backend(self.backend, self.source), edges.keys.shape[1] + 2
        plan = plan_fit(
            self.source, None, classes=classes, memory=self.memory, threads=1, edges=widest, room=backend.room()
        )
        (name,) = self.source.layers
        group = np.zeros(self.source.samples, np.int64) if self.group is None else self.group
        ready = Fit(self.source, None, {name: edges}, self.classes, group, 1, plan, backend, self.backend)
        found = run_fit(ready, Quiet())
        return found.samples, found.layers[name]


def _add_states(*parts: tuple[np.ndarray, LayerState]) -> tuple[np.ndarray, LayerState]:
    """Samples of every class (c,) and counts, of several ranges."""
    (samples, first), *others = parts
    samples, survivors, missing = samples.copy(), first.survivors.astype(np.int64), first.missing.astype(np.int64)
    lowest, highest = first.lowest.copy(), first.highest.copy()
    for more, state in others:
        samples += more
        survivors += state.survivors
        missing += state.missing
        np.minimum(lowest, state.lowest, out=lowest)
        np.maximum(highest, state.highest, out=highest)
    return samples, replace(first, survivors=survivors, missing=missing, lowest=lowest, highest=highest)


def _add(totals: LayerTotals, part: tuple[np.ndarray, LayerState], rows: slice) -> None:
    """Take a wave's counts in; they carry how many samples they have seen."""
    samples, state = part
    if int(samples.sum()) != rows.stop - rows.start:
        raise DataError(f"samples {rows.start} to {rows.stop - 1}: the workers counted {int(samples.sum())} of "
                        f"{rows.stop - rows.start}; run it again.")  # fmt: skip
    totals.survivors[...] += state.survivors.astype(totals.survivors.dtype)
    totals.counted[...] += samples[:, None] - state.missing.astype(np.int64)
    totals.seen[...] += samples[:, None]
    np.minimum(totals.lowest, state.lowest, out=totals.lowest)
    np.maximum(totals.highest, state.highest, out=totals.highest)


def _bare(source: Activations, *layers: Layer) -> Activations:
    """All layers, or some, without what a task need not be sent."""
    return Activations({layer.name: layer for layer in layers} or source.layers, None, None, {}, True)


def _ranges(start: int, stop: int, row: int, height: int) -> Iterator[slice]:
    """The samples of every task: whole chunks, TASK_BYTES at least."""
    step = -(-max(TASK_BYTES // max(row, 1), 1) // height) * height
    at = start
    while at < stop:
        end = min((at + step) // height * height, stop)
        yield slice(at, end)
        at = end


class _Cluster:
    """The workers, once it is known that they can do the work."""

    def __init__(self, client: Client, source: Activations, memory: int, backend: str, progress: Progress) -> None:
        self.client = client
        with _explained(client):
            _wait_for_a_worker(client, progress)
            threads = client.nthreads().values()
            of_scheduler = client.run_on_scheduler(_version())
            facts = client.run(_facts_of(_paths(source), backend, hpv.__version__))
        self.threads, most = sum(threads), max(threads)
        _check_version(f"scheduler {_address(client)}", of_scheduler)
        for address, (version, limit, absent, lacking) in facts.items():
            _check_version(f"worker {address}", version)
            if lacking:
                raise InputError(f"backend={backend!r} on the worker {address}: {lacking}. Start workers where there "
                                 "is a GPU for each, or give backend='auto' or 'cpu'.")  # fmt: skip
            if absent:
                raise InputError(f"the worker {address} does not see {absent}; give a path that all workers see.")
            memory = min(memory, limit // 2 or memory)
        if memory // most < 64 * MIB:
            raise InputError(f"memory {human(memory)} for {most} threads of a worker: give at least 64MiB for each, or "
                             "start workers with fewer threads.")  # fmt: skip
        self.memory = memory // most
        """Bytes that a task may use: a worker runs as many at once as it has threads."""

    def work(self) -> _Work:
        """Tasks that end with their ``with`` block."""
        return _Work(self.client, self.threads)


def _wait_for_a_worker(client: Client, progress: Progress) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return client.wait_for_workers(1, timeout=min(1.0, WAIT_SECONDS))
        except TimeoutError:
            progress.advance(0)  # it may have been told to end
            if time.monotonic() > end:
                raise InputError(f"the scheduler {_address(client)} has no workers; start some (dask worker "
                                 f"{_address(client)}), and run it again.") from None  # fmt: skip


def _check_version(who: str, version: str | None) -> None:
    if version != hpv.__version__:
        raise InputError(f"the {who} has {'hpv ' + version if version else 'no hpv'}, this is hpv {hpv.__version__}; "
                         "install the same version on both.")  # fmt: skip


def _paths(source: Activations) -> list[str]:
    """Files and folders of this machine that the activations are in."""
    found = (layer.identity.get("path") for layer in source.layers.values())
    return sorted({path for path in found if path is not None and "://" not in path})


def _version() -> Callable[[], str | None]:
    """Asks the scheduler, which takes tasks apart, for its version."""

    def version() -> str | None:  # sent as it is: the scheduler may have another hpv, or none
        try:
            import hpv
        except ImportError:
            return None
        return hpv.__version__

    return version


Facts = tuple[str | None, int, str | None, str | None]


def _facts_of(paths: Sequence[str], backend: str, wanted: str) -> Callable[..., Facts]:
    """Asks a worker for its version, its memory limit, the first path that it does not see, what the backend lacks."""

    def facts(dask_worker: Any) -> Facts:  # sent as it is: a worker may have another hpv, or none
        import os

        try:
            import hpv
        except ImportError:
            return None, 0, None, None
        if hpv.__version__ != wanted:
            return hpv.__version__, 0, None, None
        from hpv.backends import missing

        absent = next((path for path in paths if not os.path.exists(path)), None)
        return wanted, int(dask_worker.memory_manager.memory_limit or 0), absent, missing(backend)

    return facts


def _address(client: Client) -> str:
    return "of the cluster" if client.scheduler is None else str(client.scheduler.address)


@contextmanager
def _explained(client: Client) -> Iterator[None]:
    """Errors of the cluster in plain words; those of hpv come from its workers as they are."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise DataError(f"{error.last_worker and error.last_worker.address}: a worker that did the same part died "
                        "again and again, most often for want of memory; give it more, or less with --memory, and run "
                        "the same command again, it continues.") from error  # fmt: skip
    except (FutureCancelledError, CommClosedError, TimeoutError) as error:
        raise StoppedError(f"the scheduler {_address(client)} is gone; when it is there again, run the same "
                           "command again, it continues.") from error  # fmt: skip


class _Work:
    """Tasks of one kind of work, under names that Dask's dashboard shows."""

    def __init__(self, client: Client, threads: int) -> None:
        self.client = client
        self.threads = threads
        self.run = uuid.uuid4().hex
        self.numbers = itertools.count()
        self.sent: WeakSet[Future] = WeakSet()
        """Results that nobody holds any more leave the workers' memory."""

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            with suppress(Exception):  # the first error is the one to tell of
                self.client.cancel(list(self.sent), force=True)

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> Future:
        """Send a task."""
        with _explained(self.client):
            key = (f"hpv {name}-{self.run}", next(self.numbers))
            future = self.client.submit(function, *arguments, key=key, pure=False)
        self.sent.add(future)
        return future

    def hold(self, what: Any) -> Future:
        """Something that many tasks need: made again wherever a worker that held it is lost."""
        return self.submit("send", _Held(what))

    def result(self, future: Future) -> Any:
        """Wait for one."""
        with _explained(self.client):
            return future.result()

    def waves(
        self,
        ranges: Iterator[slice],
        send: Callable[[slice], Future],
        finish: Callable[[Sequence[Future]], Sequence[Future]],
    ) -> Iterator[_Wave]:
        """Send tasks in waves, the next one before the last one is waited for."""
        width, waiting = 4 * self.threads, deque[_Wave]()
        while True:
            while len(waiting) < 2 and (rows := list(itertools.islice(ranges, width))):
                waiting.append(_Wave(self, rows, send, finish))
            if not waiting:
                return
            wave = waiting.popleft()
            yield wave
            if wave.seconds < WAVE_SECONDS:
                width = min(2 * width, MOST_IN_WAVE)


class _Wave:
    """Tasks for consecutive ranges of samples, and what follows from them."""

    def __init__(
        self,
        work: _Work,
        ranges: Sequence[slice],
        send: Callable[[slice], Future],
        finish: Callable[[Sequence[Future]], Sequence[Future]],
    ) -> None:
        self.work = work
        self.rows = slice(ranges[0].start, ranges[-1].stop)
        self.tasks = {send(rows): rows for rows in ranges}
        self.ends = list(finish(list(self.tasks)))
        self.seconds = 0.0

    def gather(self, progress: Progress, row: int) -> Iterator[Any]:
        """The results, in order; ``row``: bytes of a sample."""
        from distributed import as_completed

        start = time.monotonic()
        for future in as_completed(list(self.tasks)):
            if future.status != "finished":
                break  # what comes before it in order is still taken
            rows = self.tasks[future]
            progress.advance((rows.stop - rows.start) * row)
        self.tasks = {}
        while self.ends:
            yield self.work.result(self.ends.pop(0))
        self.seconds = time.monotonic() - start


class _Held:
    """Gives what it holds."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __call__(self) -> Any:
        return self.what
