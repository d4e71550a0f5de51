"""What a store holds: as facts for programs, and in words. ``hpv info``, and what fit, merge and score end with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpv.activations.layers import Activations
from hpv.api.background import Background
from hpv.api.scores import Scores
from hpv.base.errors import InputError, StoreError
from hpv.base.words import human, quantity
from hpv.cli.terminal import grid, table
from hpv.places.place import place_of
from hpv.store.headers import header_of
from hpv.store.reading import check_header

if TYPE_CHECKING:
    from rich.console import RenderableType

TILE_VALUES = 2**24
"""Survivor counts that are looked at together when modal values are counted."""
KINDS = {"hpv-activations": "activations", "hpv-background": "background", "hpv-scores": "scores"}
MOST_CLASSES = 12
"""Listed in words; all are among the facts."""


def background_facts(background: Background) -> dict[str, Any]:
    """What is known of a background without looking at its edges."""
    small = (
        []
        if background.classes is None
        else sorted(set(range(len(background.classes))) - set(background.large_classes))
    )
    layers = [
        {
            "name": name,
            "nodes": state.nodes,
            "dtype": state.float_format.name,
            "nan": int(state.missing.sum()),
            "nodes_without_values": int(np.count_nonzero(state.missing.sum(axis=0) == background.samples.sum())),
            "bytes_per_node": round(_state_bytes(state) / state.nodes, 1),
        }
        for name, state in background.layers.items()
    ]
    classes = None if background.classes is None else dict(zip(background.classes, background.samples, strict=True))
    return {
        "kind": "background",
        "samples": int(background.samples.sum()),
        "nodes": background.nodes,
        "layers": layers,
        "classes": classes,
        "min_class_size": background.min_class_size,
        "pooled_classes": [] if background.classes is None else background.classes[small],
        "rule": None if background.rule is None else background.rule.as_json(),
        "state_bytes": background.state_bytes,
        "fingerprint": background.fingerprint,
        "origin": dict(background.attributes),
    }


def background_summary(facts: Mapping[str, Any]) -> list[RenderableType]:
    """The same in words."""
    rule, classes = facts["rule"], facts["classes"]
    state = f"{human(facts['state_bytes'])}, {facts['state_bytes'] / facts['nodes']:,.0f} bytes per node"
    rows = [
        ("samples", f"{facts['samples']:,}"),
        ("nodes", f"{facts['nodes']:,} in {quantity(len(facts['layers']), 'layer')}"),
        ("kept", state),
        ("edges", "given" if rule is None else f"{rule['bins']} {rule['binning']} bins, pilot {rule['pilot']}, modal "
         f"above {rule['modal_fraction']}"),
    ]  # fmt: skip
    if classes is not None:
        rows.append(("classes", _classes(classes)))
    if len(facts["pooled_classes"]):
        names = ", ".join(str(name) for name in facts["pooled_classes"][:MOST_CLASSES])
        least = quantity(facts["min_class_size"], "sample")
        rows.append(("pooled", f"classes {names}: fewer than {least}, the counts of all answer for them"))
    for layer in facts["layers"]:
        if layer["nan"]:
            rows.append(("NaN", f"{layer['nan']:,} in {layer['name']}, not counted"))
        if layer["nodes_without_values"]:
            rows.append(("no values", f"{quantity(layer['nodes_without_values'], 'node')} of {layer['name']}, which "
                         "get no p-values"))  # fmt: skip
    rows += [("from", value) for value in _origin(facts["origin"])]
    return [grid([*rows, ("fingerprint", facts["fingerprint"])])]


def modal_counts(background: Background) -> dict[str, Any]:
    """Facts of the layers with the nodes that have modal values, and the most edges that a node has."""
    layers = background_facts(background)["layers"]
    for layer in layers:
        name, modal, edges = layer["name"], 0, 0
        state = background.layers[name]
        step = max(1, TILE_VALUES // max(state.survivors[:, :1].size, 1))
        for start in range(0, state.nodes, step):
            part = replace(background, layers={name: state.part(slice(start, start + step))})
            modal += int(np.count_nonzero(part.modal(name).any(axis=1)))
            used = np.count_nonzero(part.histograms(name).edges != state.float_format.no_edge, axis=1)
            edges = max(edges, int(used.max(initial=0)))
        layer |= {"modal_nodes": modal, "most_edges": edges}
    return {"layers": layers}


def background_layers(facts: Mapping[str, Any]) -> RenderableType:
    """A table with a row for every layer of a background."""
    heads = ("layer", "nodes", "dtype", "bytes/node", "edges at most", "nodes with modal values", "NaN")
    names = ("name", "nodes", "dtype", "bytes_per_node", "most_edges", "modal_nodes", "nan")
    return table(heads, [[layer[name] for name in names] for layer in facts["layers"]], ("layer", "dtype"))


def _state_bytes(state: Any) -> int:
    return sum(getattr(state, name).nbytes for name in ("edges", "survivors", "missing", "lowest", "highest"))


def scores_facts(scores: Scores) -> dict[str, Any]:
    """What a score store says of itself."""
    attributes = {name: value for name, value in scores.attributes.items() if name != "thresholds"}
    names = ("tail", "form", "statistic")
    return {
        **attributes,
        "kind": "scores",
        "samples": scores.samples,
        "kinds": [dict(zip(names, kind, strict=True)) for kind in scores.kinds],
        "layers": scores.layers,
        "ids": scores.ids is not None,
    }


def scores_summary(facts: Mapping[str, Any]) -> list[RenderableType]:
    """The same in words."""
    kinds = facts["kinds"]
    several = {name: list(dict.fromkeys(kind[name] for kind in kinds)) for name in ("tail", "form", "statistic")}
    rows = [
        ("samples", f"{facts['samples']:,}{' with ids' if facts['ids'] else ''}"),
        ("layers", ", ".join(facts["layers"])),
        *((name, ", ".join(values)) for name, values in several.items()),
        ("alphas", f"{facts['alphas']} up to {facts['alpha_max']}"),
        ("against", facts["against"]),
        ("background", f"{facts.get('background_path') or 'not a store'} ({facts['background'][:12]})"),
    ]
    if facts.get("missing"):
        rows.append(("NaN", f"{quantity(facts['missing'], 'value')}, never significant"))
    return [grid([*rows, *(("from", value) for value in _origin(facts.get("origin", {})))])]


def activation_facts(source: Activations) -> dict[str, Any]:
    """What activations are, for programs; opens them and reads their labels."""
    notes = {entry["name"]: entry for entry in source.attributes.get("layers", [])}
    layers = [
        {
            "name": name,
            "nodes": layer.shape[1],
            "dtype": layer.float_format.name,
            "bytes": layer.shape[0] * layer.shape[1] * layer.float_format.storage.itemsize,
            "chunks": layer.chunks,
            "missing_chunks": layer.missing_chunks,
            **{key: value for key, value in notes.get(name, {}).items() if key in ("shape", "reduce")},
        }
        for name, layer in source.layers.items()
    ]
    classes = None
    if source.labels is not None:
        classes = dict(zip(*np.unique(source.labels, return_counts=True), strict=True))
    origin = {name: value for name, value in source.attributes.items() if name in ("model", "weights", "labels")}
    return {"kind": "activations", "samples": source.samples, "nodes": sum(layer["nodes"] for layer in layers),
            "layers": layers, "classes": classes, "ids": source.ids is not None, "origin": origin}  # fmt: skip


def activation_summary(facts: Mapping[str, Any]) -> list[RenderableType]:
    """The same in words."""
    rows = [("samples", f"{facts['samples']:,}{' with ids' if facts['ids'] else ''}")]
    if facts["classes"] is not None:
        rows.append(("labels", f"{facts['origin'].get('labels') or 'given'}; {_classes(facts['classes'])}"))
    rows += [("from", value) for value in _origin(facts["origin"])]
    for layer in facts["layers"]:
        if layer["missing_chunks"]:
            chunks = quantity(layer["missing_chunks"], "chunk")
            rows.append(("fill value", f"{chunks} of {layer['name']} without a file"))
    layers = [
        [layer["name"], layer["nodes"], layer["dtype"], human(layer["bytes"]), _shape(layer["chunks"]),
         _shape(layer.get("shape")), layer.get("reduce", "-")]
        for layer in facts["layers"]
    ]  # fmt: skip
    heads = ("layer", "nodes", "dtype", "bytes", "chunks", "shape", "reduced by")
    return [grid(rows), table(heads, layers, ("layer", "dtype", "reduced by"))]


def summary_header(store: str) -> dict[str, Any] | None:
    """Attributes of a store of hpv, complete or not; None for anything else."""
    try:
        header = header_of(store)
    except StoreError:
        return None  # what it is instead is found, and said, when it is opened
    if header is not None:
        check_header({**header, "complete": True}, store)
    elif os.path.isdir(store):
        raise InputError(f"{store} is empty: nothing was stored in it yet.")
    return header


def request_text(header: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a store was asked to hold; empty where it says nothing."""
    return dict((header or {}).get("request", {}))


def request_words(request: Mapping[str, Any]) -> str:
    """The command that a store answers, on one line."""
    rest = dict(request)
    # What the library saves and captures is not always asked for by a command.
    command = rest.pop("command", "capture")
    text = "Background.save" if command == "save" else f"hpv {command}"
    layers = rest.pop("activations", {}).get("layers", {})
    paths = list(dict.fromkeys(layer["path"] for layer in layers.values() if "path" in layer))
    text += f" of {', '.join(paths)}" if paths else ""
    shown = [f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in rest.items()]
    return ": ".join(
        [text, *(["; ".join(one if len(one) <= 90 else f"{one[:87]}..." for one in shown)] if shown else [])]
    )


def _origin(origin: Mapping[str, Any]) -> list[str]:
    """Model and weights in one line, if they are known."""
    weights = f"weights {str(origin['weights'])[:12]}" if origin.get("weights") else ""
    return [", ".join(part for part in (origin.get("model", ""), weights) if part)] if origin.get("model") else []


def _classes(counts: Mapping[Any, Any]) -> str:
    shown = ", ".join(f"{name}: {count:,}" for name, count in list(counts.items())[:MOST_CLASSES])
    return f"{len(counts)} ({shown}{', ...' if len(counts) > MOST_CLASSES else ''})"


def _shape(sizes: Any) -> str:
    return "-" if sizes is None else " x ".join(str(size) for size in sizes)


def bytes_on_disk(store: str) -> int | None:
    """Bytes of a file, or of all files of a store; None where that is not known."""
    return os.path.getsize(store) if os.path.isfile(store) else place_of(store, read_only=True).size()
