"""The sum of stored backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hpv.base.addresses import absolute_path
from hpv.base.errors import InputError, warn
from hpv.base.keeping import Every, saving
from hpv.fitting.stored import load_background, open_background, write_arrays, write_background
from hpv.histograms.merging import add, check_mergeable
from hpv.histograms.state import STATE_ARRAYS, BackgroundState, LayerState, MergeKey
from hpv.places.names import escape
from hpv.store.exchanging import SCRATCH
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.store.reading import Store, open_store
from hpv.walking.progress import Progress, Quiet


def merge_to_store(
    paths: Sequence[str | Path], out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> tuple[BackgroundState, bool]:
    """Merge backgrounds into a store; the background, and whether it was there already."""
    places = [absolute_path(path) for path in paths]
    if len(set(places)) < len(places):
        twice = next(str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1)
        raise InputError(f"merge: {twice} is given twice; its samples would count double. Give every part once.")
    if absolute_path(out) in places:
        raise InputError(f"merge: {out} is one of the parts; write the result to another path.")
    stores = [open_store(path, BACKGROUND) for path in paths]
    check_mergeable({store.path: merge_key(store) for store in stores})
    # Whatever order they are given in, they are added in the same one, so that a run that was killed can be continued.
    stores.sort(key=_fingerprint)
    for one, other in pairwise(stores):
        if _fingerprint(one) == _fingerprint(other):
            warn(f"merge: {one.path} and {other.path} have the same counts everywhere; if they are of the same "
                 "samples, these now count double.")  # fmt: skip
    request = {"command": "merge", "parts": [_fingerprint(store) for store in stores]}
    with Output.begin(out, BACKGROUND, request, overwrite=overwrite) as output:
        if output.already_complete:
            return open_background(out), True
        merged = add_stores(output, stores, progress or Quiet())
        write_background(output, merged)
    return merged, False


def add_stores(output: Output, stores: Sequence[Store], progress: Progress) -> BackgroundState:
    """The sum of backgrounds that mean the same; two at a time are in memory, and none is added again after a kill."""
    first, checkpoint = load_background(stores[0]), SumCheckpoint(output)
    progress.start("merge", first.state_bytes * len(stores))
    done, total = checkpoint.take(first)
    progress.skip(first.state_bytes * done)
    for number, store in enumerate(stores[done:], done + 1):
        with saving(checkpoint):
            total = add([total, load_background(store)])
            if number < len(stores):
                checkpoint.keep(number, total)
            progress.advance(first.state_bytes)
    return total


def merge_key(store: Store) -> MergeKey:
    """The `MergeKey` of a stored background, from its attributes alone."""
    layers = {
        entry["name"]: (entry["nodes"], entry["float_format"], entry["edges"]) for entry in store.attributes["layers"]
    }
    return MergeKey(layers, "classes" in store, int(store.attributes["min_class_size"]))


def _fingerprint(store: Store) -> str:
    return str(store.attributes["fingerprint"])


class SumCheckpoint:
    """Keeps the sum of the first of several backgrounds with the same edges, in one of two places in turn.

    A merger reads some 0.2 GB of states in a second: 64 parts of a million nodes take more than a minute.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.every = Every()
        self.waiting: tuple[int, BackgroundState] | None = None

    def take(self, first: BackgroundState) -> tuple[int, BackgroundState]:
        """How many were added up by an earlier run, and their sum; ``first`` is the first of them."""
        kept = self.output.progress
        if not kept:
            return 1, first

        def summed(layer: str, first: LayerState) -> LayerState:
            arrays = (self.output.take(_sum_in(kept["place"], layer, name)) for name in STATE_ARRAYS[1:])
            return LayerState(first.float_format, first.edges, *arrays)

        layers = {name: summed(name, state) for name, state in first.layers.items()}
        samples = self.output.take(f"{SCRATCH}/{kept['place']}/samples")
        classes = None if first.classes is None else self.output.take(f"{SCRATCH}/{kept['place']}/classes")
        return kept["parts"], replace(first, layers=layers, samples=samples, classes=classes, path=None)

    def keep(self, parts: int, total: BackgroundState) -> None:
        """Keep the sum of so many, now or, if something was kept a moment ago, with a later call."""
        self.waiting = parts, total
        if self.every.due():
            self.save()

    def save(self) -> None:
        """Keep now what waits for a later call."""
        if self.waiting is None:
            return
        parts, total = self.waiting
        place = 1 - self.output.progress.get("place", 1)
        self.output.discard(f"{SCRATCH}/{place}")  # counts may have been of a smaller type, or of fewer classes
        arrays = {f"{SCRATCH}/{place}/samples": total.samples}
        if total.classes is not None:
            arrays[f"{SCRATCH}/{place}/classes"] = total.classes
        for layer, state in total.layers.items():
            arrays |= {_sum_in(place, layer, name): getattr(state, name) for name in STATE_ARRAYS[1:]}
        write_arrays(self.output, arrays)
        self.output.checkpoint({"parts": parts, "place": place})
        self.waiting = None
        self.every.done()


def _sum_in(place: int, layer: str, array: str) -> str:
    """Where an array of a sum on the way is kept."""
    return f"{SCRATCH}/{place}/layers/{escape(layer)}/{array}"
