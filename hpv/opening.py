"""Backgrounds on disk, and opening whatever hpv wrote."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpv import streaming
from hpv.addresses import absolute_path, is_address
from hpv.background import STATE_ARRAYS, Background, CountedAt, LayerState, add, digest, refuse_others
from hpv.errors import DataError, InputError, StoreError, warn
from hpv.fitting import Fit, LayerTotals, Place, run_fit, saving
from hpv.floats import FORMATS, FloatFormat, from_keys, to_keys
from hpv.pilot import LayerEdges, Rule
from hpv.proposing import stack
from hpv.store import ACTIVATIONS, BACKGROUND, SCORES, SCRATCH, Output, Store, escape, open_store

if TYPE_CHECKING:
    from hpv.scores import Scores
    from hpv.sources import Activations

CHUNK_BYTES = 4 * 2**20
KEYS = ("edges", "lowest", "highest")
"""State arrays that hold values of the layer's format; the others hold counts."""


def open(path: str | Path) -> Background | Scores | Activations:
    """Open a complete store that hpv wrote: a background, scores, or activations.

    Raises `hpv.StoreError`, which says what the path is instead.

    >>> import numpy as np, hpv, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> hpv.fit(np.zeros((10, 2), np.float32)).save(folder + "/background")
    >>> hpv.open(folder + "/background")
    <hpv.Background of 10 samples; activations: 2 nodes>
    """
    store = open_store(path)
    if store.kind == BACKGROUND:
        return load_background(store)
    if store.kind == SCORES:
        from hpv.scores import Scores

        return Scores(store)
    assert store.kind == ACTIVATIONS
    from hpv.sources import open_activations

    return open_activations(path)


def open_background(path: str | Path) -> Background:
    """Open a path that must be a background."""
    return load_background(open_store(path, BACKGROUND))


# --- writing ---


def save_background(background: Background, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a background; a path that holds another one is refused unless ``overwrite``."""
    request = {"command": "save", "fingerprint": background.fingerprint}
    with Output.begin(path, BACKGROUND, request, overwrite=overwrite) as output:
        if not output.already_complete:
            write_background(output, background)


def fit_to_store(
    ready: Fit, out: str | Path, overwrite: bool = False, progress: streaming.Progress | None = None
) -> tuple[Background, bool]:
    """Fit into a store; the background, and whether it was there already.

    A run that was interrupted is continued by the same call.
    """
    with Output.begin(out, BACKGROUND, fit_request(ready), overwrite=overwrite) as output:
        if output.already_complete:
            return load_background(open_store(out, BACKGROUND)), True
        background = run_fit(ready, progress or streaming.Quiet(), FitCheckpoint(output))
        write_background(output, background)
    return background, False


def merge_to_store(
    paths: Sequence[str | Path], out: str | Path, overwrite: bool = False, progress: streaming.Progress | None = None
) -> tuple[Background, bool]:
    """Merge backgrounds into a store; the background, and whether it was there already."""
    places = [absolute_path(path) for path in paths]
    if len(set(places)) < len(places):
        twice = next(str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1)
        raise InputError(f"merge: {twice} is given twice; its samples would count double. Give every part once.")
    if absolute_path(out) in places:
        raise InputError(f"merge: {out} is one of the parts; write the result to another path.")
    stores = [open_store(path, BACKGROUND) for path in paths]
    refuse_others({store.path: counted_at(store) for store in stores})
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
        merged = add_stores(output, stores, progress or streaming.Quiet())
        write_background(output, merged)
    return merged, False


def add_stores(output: Output, stores: Sequence[Store], progress: streaming.Progress) -> Background:
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


def counted_at(store: Store) -> CountedAt:
    """What the counts of a background mean, from what is noted beside them."""
    layers = {
        entry["name"]: (entry["nodes"], entry["float_format"], entry["edges"]) for entry in store.attributes["layers"]
    }
    return CountedAt(layers, "classes" in store, int(store.attributes["min_class_size"]))


def _fingerprint(store: Store) -> str:
    return str(store.attributes["fingerprint"])


def fit_request(ready: Fit) -> dict[str, Any]:
    """What a fit is asked for; two requests that are equal give equal backgrounds."""
    request: dict[str, Any] = {"command": "fit", "activations": ready.source.identity}
    if ready.given is None:
        assert ready.rule is not None
        request |= ready.rule.as_json()
    else:
        request["edges"] = digest(*(edges.keys for edges in ready.given.values()))
    if ready.classes is not None:
        request |= {"labels": digest(ready.classes, ready.group), "min_class_size": ready.min_class_size}
    return request


def write_background(output: Output, background: Background) -> None:
    """The mergeable state of every layer, and what describes it."""
    arrays = {"samples": background.samples}
    if background.classes is not None:
        arrays["classes"] = background.classes
    for name, state in background.layers.items():
        for array in (field.name for field in fields(LayerState)[1:]):
            values = getattr(state, array)
            arrays[f"layers/{escape(name)}/{array}"] = from_keys(values, state.form) if array in KEYS else values
    _write_arrays(output, arrays)
    output.finish(
        {
            "layers": [
                {"name": name, "nodes": nodes, "float_format": form, "edges": edges}
                for name, (nodes, form, edges) in background.counted_at.layers.items()
            ],
            "rule": None if background.rule is None else background.rule.as_json(),
            "min_class_size": background.min_class_size,
            "fingerprint": background.fingerprint,
            "origin": dict(background.attributes),
        }
    )


def _write_arrays(output: Output, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays in chunks of about 4 MiB along their nodes."""
    for name, values in arrays.items():
        axis = 1 if values.ndim == 3 else 0
        width = max(1, CHUNK_BYTES // max(values.nbytes // max(values.shape[axis], 1), 1))
        chunks = [max(size, 1) for size in values.shape]
        chunks[axis] = min(chunks[axis], width)
        output.create(name, values.shape, values.dtype, chunks)

    def write(name: str) -> None:
        output.write(name, None, arrays[name])

    streaming.run(write, [name for name, values in arrays.items() if values.size], _at_once(output.path))


def _at_once(path: str | Path) -> int:
    """Arrays that are on their way at the same time: elsewhere the answer takes longer than the work."""
    return 16 if is_address(str(path)) else 1


class FitCheckpoint:
    """Keeps edges as they are found, and the counts of a layer in one of two places in turn."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.saved = time.monotonic()
        self.waiting_edges: dict[str, list[tuple[int, LayerEdges]]] = {}
        self.waiting_states: dict[str, tuple[str, Place, LayerTotals]] = {}

    def edges(self, layer: str) -> LayerEdges | None:
        """See `hpv.fitting.Checkpoint`."""
        kept = self.output.progress.get("edges", {}).get(layer)
        if kept is None:
            return None
        form = FORMATS[kept["form"]]
        parts = [to_keys(self.output.take(_edges_from(layer, first)), form) for first in kept["parts"]]
        return LayerEdges(_unused_for_nan(stack(parts, form), form), form)

    def keep_edges(self, layer: str, first: int, edges: LayerEdges) -> None:
        """See `hpv.fitting.Checkpoint`."""
        self.waiting_edges.setdefault(layer, []).append((first, edges))
        self._save_in_time()

    def state(self, layer: str, walk: str) -> tuple[Place, LayerTotals] | None:
        """See `hpv.fitting.Checkpoint`."""
        kept = self.output.progress.get("states", {}).get(layer)
        if kept is None or kept["walk"] != walk:
            return None
        folder = _state_in(layer, kept["place"])
        totals = LayerTotals(*(self.output.take(f"{folder}/{name}") for name in LayerTotals._fields))
        return (kept["tile"], kept["samples"]), totals

    def keep_state(self, layer: str, walk: str, done: Place, totals: LayerTotals) -> None:
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
            _write_arrays(self.output, {f"{folder}/{name}": values for name, values in totals._asdict().items()})
            states[layer] = {"walk": walk, "tile": tile, "samples": samples, "place": place}
        self.output.checkpoint({**progress, "edges": edges, "states": states})
        self.waiting_edges, self.waiting_states, self.saved = {}, {}, time.monotonic()

    def _save_in_time(self) -> None:
        if time.monotonic() - self.saved >= streaming.CHECKPOINT_SECONDS:
            self.save()

    def _write_edges(self, layer: str, found: list[tuple[int, LayerEdges]], parts: list[int]) -> dict[str, Any]:
        """Put the edges of further nodes beside those of the ``parts`` that are kept; what is to be noted of them."""
        first, form = found[0][0], found[0][1].form
        edges = LayerEdges(stack([edges.keys for _, edges in found], form), form)
        name = _edges_from(layer, first)
        self.output.discard(name)  # of a run that was killed before it noted them
        _write_arrays(self.output, {name: edges.values})
        parts = [part for part in parts if part < first]  # a save that is interrupted is done again
        return {"form": form.name, "parts": [*parts, first], "nodes": first + len(edges.keys)}


class SumCheckpoint:
    """Keeps the sum of the first of several backgrounds with the same edges, in one of two places in turn.

    A merger reads some 0.2 GB of states in a second: 64 parts of a million nodes take more than a minute.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.saved = time.monotonic()
        self.waiting: tuple[int, Background] | None = None

    def take(self, first: Background) -> tuple[int, Background]:
        """How many were added up by an earlier run, and their sum; ``first`` is the first of them."""
        kept = self.output.progress
        if not kept:
            return 1, first

        def state(layer: str, ours: LayerState) -> LayerState:
            arrays = (self.output.take(_sum_in(kept["place"], layer, name)) for name in STATE_ARRAYS[1:])
            return LayerState(ours.form, ours.edges, *arrays)

        layers = {name: state(name, ours) for name, ours in first.layers.items()}
        samples = self.output.take(f"{SCRATCH}/{kept['place']}/samples")
        classes = None if first.classes is None else self.output.take(f"{SCRATCH}/{kept['place']}/classes")
        return kept["parts"], replace(first, layers=layers, samples=samples, classes=classes, path=None)

    def keep(self, parts: int, total: Background) -> None:
        """Keep the sum of so many, now or, if something was kept a moment ago, with a later call."""
        self.waiting = parts, total
        if time.monotonic() - self.saved >= streaming.CHECKPOINT_SECONDS:
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
        _write_arrays(self.output, arrays)
        self.output.checkpoint({"parts": parts, "place": place})
        self.waiting, self.saved = None, time.monotonic()


def _sum_in(place: int, layer: str, array: str) -> str:
    """Where an array of a sum on the way is kept."""
    return f"{SCRATCH}/{place}/layers/{escape(layer)}/{array}"


def _edges_from(layer: str, first: int) -> str:
    """Where edges of the nodes from ``first`` on are kept."""
    return f"{SCRATCH}/{escape(layer)}/edges/{first}"


def _state_in(layer: str, place: int) -> str:
    """Where counts on the way are kept."""
    return f"{SCRATCH}/{escape(layer)}/{place}"


# --- reading ---


def load_background(store: Store) -> Background:
    """The background in an opened store."""
    attributes = store.attributes
    classes = _int64(store, "classes") if "classes" in store else None
    samples = _int64(store, "samples")
    entries = attributes["layers"]
    states = streaming.run(lambda entry: _read_state(store, entry, len(samples)), entries, _at_once(store.path))
    layers = {entry["name"]: state for entry, state in zip(entries, states, strict=True)}
    rule = None if attributes.get("rule") is None else _rule(attributes["rule"])
    smallest, origin = int(attributes["min_class_size"]), attributes.get("origin", {})
    background = Background(layers, samples, classes, rule, smallest, origin, store.path)
    if background.fingerprint != attributes["fingerprint"]:
        raise DataError(
            f"{store.path}: its contents have the fingerprint {background.fingerprint[:12]}, it was written with "
            f"{attributes['fingerprint'][:12]}; it was changed since. Fit it again, or restore a copy."
        )
    return background


def _read_state(store: Store, entry: Mapping[str, Any], classes: int) -> LayerState:
    form = FORMATS.get(entry["float_format"])
    if form is None:
        raise StoreError(f"{store.path}: layer {entry['name']} has the float format {entry['float_format']}, which "
                         "this version of hpv does not know; read it with the version that wrote it.")  # fmt: skip
    names = [field.name for field in fields(LayerState)[1:]]
    arrays = {name: store.array(f"layers/{escape(entry['name'])}/{name}").read() for name in names}
    for name in KEYS:
        arrays[name] = to_keys(arrays[name], form)
    nodes, edges = entry["nodes"], arrays["edges"].shape[1]
    shapes = {"edges": (nodes, edges), "survivors": (classes, nodes, edges), "missing": (classes, nodes),
              "lowest": (nodes,), "highest": (nodes,)}  # fmt: skip
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise DataError(f"{store.path}: {name} of layer {entry['name']} has the shape {arrays[name].shape}, not "
                            f"{shape}; fit it again, or restore a copy.")  # fmt: skip
    for name in ("edges", "lowest"):
        arrays[name] = _unused_for_nan(arrays[name], form)
    return LayerState(form, **arrays)


def _unused_for_nan(keys: np.ndarray, form: FloatFormat) -> np.ndarray:
    """Stored NaN stand for edges that are not there, and for the minimum of nothing."""
    return np.where(keys == form.missing, form.key.type(form.unused), keys)


def _int64(store: Store, name: str) -> np.ndarray:
    return store.array(name).read().astype(np.int64)


def _rule(noted: Mapping[str, Any]) -> Rule:
    pilot = noted["pilot"]
    return Rule(noted["bins"], noted["binning"], noted["modal_fraction"], None if pilot == "all" else pilot)


def check_fingerprint(background: Background, wanted: str, what: str) -> None:
    """Refuse codes or scores of another background."""
    if background.fingerprint != wanted:
        raise InputError(
            f"{what} was made with another background ({wanted[:12]}, this one is {background.fingerprint[:12]}): "
            "score again, or open the background it names."
        )
