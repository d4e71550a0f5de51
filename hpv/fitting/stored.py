"""How a background lies in a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hpv.base.addresses import is_address
from hpv.base.errors import DataError, StoreError
from hpv.base.floats import FORMATS, FloatFormat, from_keys, to_keys
from hpv.histograms.edges import Rule
from hpv.histograms.state import BackgroundState, LayerState
from hpv.places.names import escape
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.store.reading import Store, open_store
from hpv.walking.threads import run_in_threads

CHUNK_BYTES = 4 * 2**20
KEYS = ("edges", "lowest", "highest")
"""State arrays that hold values of the layer's format; the others hold counts."""


def open_background(path: str | Path) -> BackgroundState:
    """Open a path that must be a background."""
    return load_background(open_store(path, BACKGROUND))


def load_background(store: Store) -> BackgroundState:
    """The background in an opened store."""
    attributes = store.attributes
    classes = _int64(store, "classes") if "classes" in store else None
    samples = _int64(store, "samples")
    entries = attributes["layers"]
    states = run_in_threads(lambda entry: _read_state(store, entry, len(samples)), entries, _at_once(store.path))
    layers = {entry["name"]: state for entry, state in zip(entries, states, strict=True)}
    rule = None if attributes.get("rule") is None else _rule(attributes["rule"])
    smallest, origin = int(attributes["min_class_size"]), attributes.get("origin", {})
    background = BackgroundState(layers, samples, classes, rule, smallest, origin, store.path)
    if background.fingerprint != attributes["fingerprint"]:
        raise DataError(
            f"{store.path}: its contents have the fingerprint {background.fingerprint[:12]}, it was written with "
            f"{attributes['fingerprint'][:12]}; it was changed since. Fit it again, or restore a copy."
        )
    return background


def _read_state(store: Store, entry: Mapping[str, Any], classes: int) -> LayerState:
    float_format = FORMATS.get(entry["float_format"])
    if float_format is None:
        raise StoreError(f"{store.path}: layer {entry['name']} has the float format {entry['float_format']}, which "
                         "this version of hpv does not know; read it with the version that wrote it.")  # fmt: skip
    names = [field.name for field in fields(LayerState)[1:]]
    arrays = {name: store.array(f"layers/{escape(entry['name'])}/{name}").read() for name in names}
    for name in KEYS:
        arrays[name] = to_keys(arrays[name], float_format)
    nodes, edges = entry["nodes"], arrays["edges"].shape[1]
    shapes = {"edges": (nodes, edges), "survivors": (classes, nodes, edges), "missing": (classes, nodes),
              "lowest": (nodes,), "highest": (nodes,)}  # fmt: skip
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise DataError(f"{store.path}: {name} of layer {entry['name']} has the shape {arrays[name].shape}, not "
                            f"{shape}; fit it again, or restore a copy.")  # fmt: skip
    for name in ("edges", "lowest"):
        arrays[name] = nan_to_no_edge(arrays[name], float_format)
    return LayerState(float_format, **arrays)


def nan_to_no_edge(keys: np.ndarray, float_format: FloatFormat) -> np.ndarray:
    """Stored NaN stand for edges that are not there, and for the minimum of nothing."""
    return np.where(keys == float_format.nan_key, float_format.key.type(float_format.no_edge), keys)


def _int64(store: Store, name: str) -> np.ndarray:
    return store.array(name).read().astype(np.int64)


def _rule(noted: Mapping[str, Any]) -> Rule:
    pilot = noted["pilot"]
    return Rule(noted["bins"], noted["binning"], noted["modal_fraction"], None if pilot == "all" else pilot)


def save_background(background: BackgroundState, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a background; a path that holds another one is refused unless ``overwrite``."""
    request = {"command": "save", "fingerprint": background.fingerprint}
    with Output.begin(path, BACKGROUND, request, overwrite=overwrite) as output:
        if not output.already_complete:
            write_background(output, background)


def write_background(output: Output, background: BackgroundState) -> None:
    """The mergeable state of every layer, and what describes it."""
    arrays = {"samples": background.samples}
    if background.classes is not None:
        arrays["classes"] = background.classes
    for name, state in background.layers.items():
        for array in (field.name for field in fields(LayerState)[1:]):
            values = getattr(state, array)
            arrays[f"layers/{escape(name)}/{array}"] = (
                from_keys(values, state.float_format) if array in KEYS else values
            )
    write_arrays(output, arrays)
    output.finish(
        {
            "layers": [
                {"name": name, "nodes": nodes, "float_format": float_format, "edges": edges}
                for name, (nodes, float_format, edges) in background.merge_key.layers.items()
            ],
            "rule": None if background.rule is None else background.rule.as_json(),
            "min_class_size": background.min_class_size,
            "fingerprint": background.fingerprint,
            "origin": dict(background.attributes),
        }
    )


def write_arrays(output: Output, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays in chunks of about 4 MiB along their nodes."""
    for name, values in arrays.items():
        axis = 1 if values.ndim == 3 else 0
        width = max(1, CHUNK_BYTES // max(values.nbytes // max(values.shape[axis], 1), 1))
        chunks = [max(size, 1) for size in values.shape]
        chunks[axis] = min(chunks[axis], width)
        output.create(name, values.shape, values.dtype, chunks)

    def write(name: str) -> None:
        output.write(name, None, arrays[name])

    run_in_threads(write, [name for name, values in arrays.items() if values.size], _at_once(output.path))


def _at_once(path: str | Path) -> int:
    """Arrays that are on their way at the same time: elsewhere the answer takes longer than the work."""
    return 16 if is_address(str(path)) else 1
