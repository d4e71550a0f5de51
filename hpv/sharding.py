"""Shards: parts of a fit or a score that know nothing of each other, and their merger into the one output.

Shard I of N does a contiguous range of the samples. All are given the same output; each writes a store of its own
beneath it. A shard of a fit finds the edges by the pilot of all samples, so that all count at the same ones.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpv import streaming
from hpv.background import Background, refuse_others
from hpv.errors import InputError, StoreError
from hpv.fitting import Fit, edges_of, run_fit
from hpv.opening import (
    FitCheckpoint,
    add_stores,
    counted_at,
    fit_request,
    load_background,
    merge_to_store,
    open_background,
    write_background,
)
from hpv.planning import Plan, plan_fit
from hpv.resources import quantity, thread_count
from hpv.scores import Scores, create_array, score_request, write_scores
from hpv.scoring import Score
from hpv.sources import Activations
from hpv.store import (
    BACKGROUND,
    SCORES,
    STRINGS,
    Output,
    Store,
    complete_exchange,
    join_shards,
    open_store,
    place_of,
    ranges,
    read_header,
    request_difference,
    shard_path,
    shard_state,
    shards_of,
)

MOST_CHUNKS = 16
"""That a thread copies before it asks for more."""


@dataclass(frozen=True)
class Shard:
    """One part of the samples."""

    number: int
    """From 1 on."""
    of: int
    rows: slice
    total: int
    """Samples of all shards."""

    def path(self, out: str | Path) -> str:
        """Where it is written beneath the output of all."""
        return shard_path(out, self.number, self.of)

    def request(self, whole: dict[str, Any]) -> dict[str, Any]:
        """What its store is asked to hold, from what all are asked for."""
        samples = [self.rows.start, self.rows.stop]
        return {**whole, "shard": {"number": self.number, "of": self.of, "samples": samples, "total": self.total}}

    def bytes_read(self, plan: Plan) -> int:
        """Its part of what a plan reads; every shard reads the whole pilot."""
        rows = self.rows.stop - self.rows.start
        return sum(layer.pilot_bytes + rows * layer.nodes * layer.itemsize for layer in plan.layers)


def cut(source: Activations, text: str, overwrite: bool = False) -> Shard:
    """The shard that is asked for as ``I/N``; no two of them share a chunk, where there are enough chunks."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})", text) if isinstance(text, str) else None
    number, of = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise InputError(f"shard={text!r}: give I/N, such as 2/5 for the second of five.")
    if of > source.samples:
        raise InputError(f"shard={text!r}: more shards than samples ({source.samples:,}); use as many or fewer.")
    if overwrite:
        raise InputError(
            "overwrite: no shard may replace what the others are writing; leave it out, or remove the output first."
        )
    step = source.chunk_rows
    while -(-source.samples // step) < of:
        step = -(-step // 2)
    rows = streaming.split(slice(0, source.samples), of, step)[number - 1]
    return Shard(number, of, rows, source.samples)


def fit_shard(
    ready: Fit, shard: Shard, out: str | Path, progress: streaming.Progress | None = None
) -> tuple[Background, bool]:
    """Do one part of a fit; its background, and whether it was there already.

    Where the shards are merged already: the background of all.
    """
    whole, progress = fit_request(ready), progress or streaming.Quiet()
    if join_shards(out, BACKGROUND, whole, shard.of):
        return open_background(out), True
    path = shard.path(out)
    with Output.begin(path, BACKGROUND, shard.request(whole)) as output:
        if output.already_complete:
            return open_background(path), True
        checkpoint = FitCheckpoint(output)
        background = run_fit(_part_of_fit(ready, shard, progress, checkpoint), progress, checkpoint)
        write_background(output, background)
    return background, False


def _part_of_fit(ready: Fit, shard: Shard, progress: streaming.Progress, checkpoint: FitCheckpoint) -> Fit:
    """The fit of some of the samples at the edges of all."""
    edges = {}
    for walk, layer in zip(ready.plan.layers, ready.source.layers.values(), strict=True):
        progress.start(f"edges of {layer.name}", walk.pilot_bytes)
        edges[layer.name] = edges_of(layer, walk, ready, progress, checkpoint)
    source, classes = ready.source.part(shard.rows), 1 if ready.classes is None else len(ready.classes)
    widest = max(layer.keys.shape[1] for layer in edges.values()) + 2
    memory, threads = ready.plan.memory, ready.plan.threads
    room = ready.backend.room()
    plan = plan_fit(source, None, classes=classes, memory=memory, threads=threads, edges=widest, room=room)
    return replace(ready, source=source, given=edges, group=ready.group[shard.rows], plan=plan)


def score_shard(
    ready: Score, shard: Shard, out: str | Path, keep: Sequence[str], progress: streaming.Progress
) -> Scores:
    """Do one part of a score; its scores, or those of all where the shards are merged already."""
    whole = score_request(ready, keep)
    if join_shards(out, SCORES, whole, shard.of):
        return Scores(open_store(out, SCORES), already_complete=True)
    part = replace(ready, source=ready.source.part(shard.rows), group=ready.group[shard.rows])
    return write_scores(part, shard.path(out), keep, False, progress, shard.request(whole))


# --- merging ---


def merge_shards(out: str | Path, progress: streaming.Progress | None = None) -> tuple[Background | Scores, bool]:
    """Make one output of its shards and remove them; what it holds, and whether it was merged already.

    The output equals that of one run over all samples. ``StoreError`` names shards that are missing or unfinished,
    ``InputError`` those that belong elsewhere. A run that was killed is continued by the same call.
    """
    try:
        read_header(place_of(out))
    except StoreError:
        raise InputError(f"{out} is not a store of hpv: give what hpv fit or score --shard wrote to.") from None
    complete_exchange(out)
    header = read_header(place_of(out))
    of = None if header is None else shards_of(header)
    if header is None or of is None:
        store = open_store(out)
        if store.kind not in (BACKGROUND, SCORES) or "shard" in store.request:
            raise InputError(f"{out} is no output of shards: give what hpv fit or hpv score --shard wrote to with -o.")
        return _open(store), True
    state = shard_state(out, of)
    if state.missing or state.unfinished:
        raise StoreError(f"{out} is incomplete: {state} {out}.")
    stores = [open_store(shard_path(out, number, of)) for number in range(1, of + 1)]
    _refuse_strangers(out, stores)
    return _merge(stores, _without(header["request"], "shards"), out, True, progress)


def merge_parts(
    paths: Sequence[str | Path], out: str | Path, overwrite: bool = False, progress: streaming.Progress | None = None
) -> tuple[Background | Scores, bool]:
    """Make one output of backgrounds, or of all shards of a score; they stay where they are."""
    stores = [open_store(path) for path in paths]
    if stores[0].kind != SCORES:
        _by_number(store for store in stores if "shard" in store.request)
        return merge_to_store(paths, out, overwrite=overwrite, progress=progress)
    return _merge(stores, _without(stores[0].request, "shard"), out, overwrite, progress)


def _merge(
    stores: Sequence[Store],
    request: dict[str, Any],
    out: str | Path,
    overwrite: bool,
    progress: streaming.Progress | None,
) -> tuple[Background | Scores, bool]:
    """Write what the shards hold; a kill leaves the shards as they are, or a complete output."""
    stores, progress = _in_order(stores, request), progress or streaming.Quiet()
    kind = stores[0].kind
    if kind == BACKGROUND:
        refuse_others({store.path: counted_at(store) for store in stores})
    # The shards lie in the place of the output, which the new store takes when it is complete.
    with Output.begin(out, kind, request, overwrite=overwrite) as output:
        already = output.already_complete
        if not already and kind == BACKGROUND:
            write_background(output, add_stores(output, stores, progress))
        elif not already:
            _Copy(output, stores).run(progress)
            missing = sum(int(store.attributes["missing"]) for store in stores)
            output.finish({**stores[0].attributes, "samples": _total(stores), "missing": missing})
    return _open(open_store(out, kind)), already


def _open(store: Store) -> Background | Scores:
    return load_background(store) if store.kind == BACKGROUND else Scores(store)


def _without(request: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in request.items() if key != name}


def _refuse_strangers(out: str | Path, stores: Sequence[Store]) -> None:
    """What lies beside the shards and looks like one."""
    expected = {store.path.rpartition("/")[2] for store in stores}
    for name in sorted(place_of(out).names() or ()):
        if name.startswith("shard-") and name not in expected:
            raise InputError(
                f"{out}/{name} is none of the shards 1 to {len(stores)} of {out}; move it away, then merge again."
            )


def _in_order(stores: Sequence[Store], request: dict[str, Any]) -> list[Store]:
    """The stores of all shards in the order of their samples, each there once; ``InputError`` names what is wrong."""
    of = stores[0].request.get("shard", {}).get("of")
    for store in stores:
        shard = store.request.get("shard")
        if shard is None:
            raise InputError(f"merge: {store.path} is no shard; give the shards of one fit or score.")
        other = request_difference(_without(store.request, "shard"), request)
        if shard["of"] != of or store.kind != stores[0].kind:
            other = f"it is shard {shard['number']} of {shard['of']}, {stores[0].path} is one of {of}"
        if other is not None:
            raise InputError(f"merge: {store.path} belongs to something else: {other}; leave it out.")
    found = _by_number(stores)
    absent = sorted(set(range(1, of + 1)) - set(found))
    if absent:
        raise InputError(f"merge: shards {ranges(absent)} of {of} are missing; give all of them.")
    ordered = [found[number] for number in sorted(found)]
    _check_samples(ordered)
    return ordered


def _by_number(shards: Iterable[Store]) -> dict[int, Store]:
    """Shards that are given once."""
    found: dict[str, Store] = {}
    for store in shards:
        name = json.dumps(store.request, sort_keys=True)
        if name in found:
            shard = store.request["shard"]
            raise InputError(f"merge: {found[name].path} and {store.path} are both shard {shard['number']} of "
                             f"{shard['of']}; its samples would count double. Give it once.")  # fmt: skip
        found[name] = store
    return {store.request["shard"]["number"]: store for store in found.values()}


def _check_samples(stores: Sequence[Store]) -> None:
    """All samples, each once."""
    at = 0
    for store in stores:
        (start, stop), total = store.request["shard"]["samples"], store.request["shard"]["total"]
        if start != at or stop <= start:
            raise InputError(
                f"merge: {store.path} begins at sample {start}, the shards before it end at {at}; the activations were "
                "changed between them. Remove the shards and run them again."
            )
        at = stop
    if at != total:
        raise InputError(
            f"merge: the shards hold {at:,} of {quantity(total, 'sample')}; remove them and run them again."
        )


def _total(stores: Sequence[Store]) -> int:
    return int(stores[-1].request["shard"]["total"])


class _Copy:
    """Writes the arrays of all shards one after the other, chunk by chunk, so that memory does not grow with them."""

    def __init__(self, output: Output, stores: Sequence[Store]) -> None:
        self.output = output
        self.stores = stores
        self.starts = [store.request["shard"]["samples"][0] for store in stores] + [_total(stores)]
        self.threads = thread_count(None)
        self.written = time.monotonic()

    def run(self, progress: streaming.Progress) -> None:
        """Copy what an earlier run did not."""
        kept = self.output.progress
        names = self.stores[0].names()
        for number, name in enumerate(names):
            done = kept.get("chunks", 0) if number == kept.get("arrays", 0) else 0
            if number >= kept.get("arrays", 0):
                self._copy(number, name, done, progress)

    def _copy(self, number: int, name: str, done: int, progress: streaming.Progress) -> None:
        """One array from chunk number ``done`` on."""
        arrays = streaming.run(lambda store: store.array(name), self.stores, self.threads)
        shape, dtype = (_total(self.stores), *arrays[0].shape[1:]), arrays[0].dtype
        kind = STRINGS if dtype.kind not in "fiub" else dtype
        chunks = create_array(self.output, name, shape, kind, self.stores[0].attributes["nodes"])
        grid = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
        count = int(np.prod(grid))
        progress.start(f"merge {name}", int(np.prod(shape)) * dtype.itemsize)
        self.output.shape(name)  # made before threads want it

        def copy(queue: streaming.Queue) -> None:
            for some in queue:
                for chunk in range(some.start, some.stop):
                    corner = [int(at) * size for at, size in zip(np.unravel_index(chunk, grid), chunks, strict=True)]
                    place = tuple(slice(start, min(start + size, length))
                                  for start, size, length in zip(corner, chunks, shape, strict=True))  # fmt: skip
                    values = self._read(arrays, place, dtype)
                    self.output.write(name, place, values)
                    progress.advance(values.nbytes)

        while done < count:
            queue = streaming.Queue(slice(done, count), MOST_CHUNKS, 1, self.threads, streaming.CHECKPOINT_SECONDS)
            streaming.run(copy, [queue] * self.threads, self.threads)
            done = queue.start
            if time.monotonic() - self.written >= streaming.CHECKPOINT_SECONDS:
                self.output.checkpoint({"arrays": number, "chunks": done})
                self.written = time.monotonic()

    def _read(self, arrays: Sequence[Any], place: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """A rectangle of all samples, from the shards that hold it."""
        rows, *rest = place
        out = np.empty([side.stop - side.start for side in place], dtype)
        for array, start, stop in zip(arrays, self.starts, self.starts[1:], strict=False):
            low, high = max(rows.start, start), min(rows.stop, stop)
            if low < high:
                inside = out[low - rows.start : high - rows.start]
                array.read((slice(low - start, high - start), *rest), inside)
        return out
