"""A fit that is checked and planned; no activation is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpv.activations.labels import PerSample, class_indices
from hpv.activations.layers import Activations
from hpv.activations.opening import open_activations
from hpv.backends.protocol import Backend
from hpv.base.digests import digest
from hpv.base.errors import InputError
from hpv.base.patterns import select_names
from hpv.base.words import quantity
from hpv.fitting.options import FitOptions
from hpv.fitting.plan import plan_fit
from hpv.histograms.edges import Edges, LayerEdges, Rule, check_edges
from hpv.histograms.state import BackgroundState, LayerState, layer_edges
from hpv.walking.cluster import backend_for
from hpv.walking.plan import Plan

DEFAULTS = FitOptions()


@dataclass(frozen=True)
class FitJob:
    """A fit that is ready to run; no activation has been read."""

    source: Activations
    rule: Rule | None
    """How the edges are proposed, or were where they were given with their rule; ``None`` where that is unknown."""
    given: Mapping[str, LayerEdges] | None
    """Edges to count at; ``None``: they are proposed."""
    classes: np.ndarray | None
    class_index: PerSample
    """Index of every sample's class; 0 without classes."""
    min_class_size: int
    plan: Plan
    backend: Backend
    backend_name: str
    """Name of the backend, which workers of a cluster look for at their own place."""

    @property
    def class_sizes(self) -> np.ndarray:
        """Samples of every class (c,), int64; of all where there are no classes."""
        if self.class_index.numbers is None or self.classes is None:
            return np.array([self.source.samples], np.int64)
        return np.bincount(self.class_index.numbers, minlength=len(self.classes)).astype(np.int64)


def prepare_fit(activations: Any, options: FitOptions = DEFAULTS) -> FitJob:
    """Check everything that a fit is asked for, and plan it."""
    rule = Rule(options.bins, options.binning, options.modal_fraction, options.pilot)  # type: ignore[arg-type]
    min_class_size, edges = options.min_class_size, options.edges
    whole = isinstance(min_class_size, int | np.integer) and not isinstance(min_class_size, bool)
    if not whole or min_class_size < 1:
        raise InputError(f"min_class_size={min_class_size!r}: give a whole number from 1 on.")
    source = select_layers(open_activations(activations), options.layers)
    classes, class_index = _classes(source, options.by_class or options.labels is not None, options.labels)
    given = None if edges is None else _given_edges(source, edges, options.layers is not None)
    widest = None if given is None else max(layer.keys.shape[1] for layer in given.values()) + 2
    chosen = backend_for(options.backend, source)
    plan = plan_fit(
        source, None if given else rule, classes=1 if classes is None else len(classes),
        memory=options.memory, threads=options.threads, edges=widest, room=chosen.room(),
        beside=class_index.nbytes,
    )  # fmt: skip
    placed: Rule | None = rule if given is None else getattr(edges, "rule", None)
    return FitJob(source, placed, given, classes, class_index, int(min_class_size), plan, chosen, options.backend)


def _classes(source: Activations, by_class: bool, labels: Any) -> tuple[np.ndarray | None, PerSample]:
    if not by_class:
        return None, PerSample(None)
    labels = source.label_array if labels is None else labels
    if labels is None:
        raise InputError("by_class: the activations carry no labels; give labels=, one integer per sample.")
    classes, index = class_indices(labels, source.samples)
    return classes, PerSample(index)


def _given_edges(source: Activations, edges: Any, selected: bool) -> dict[str, LayerEdges]:
    """The given edges as inner edges of every layer of the source, where they were ``selected`` also of more layers."""
    if isinstance(edges, BackgroundState):
        edges = layer_edges(edges)
    elif isinstance(edges, Edges):
        edges = edges.layers
    elif not isinstance(edges, Mapping):
        edges = dict.fromkeys(source.layers, edges)
    absent = [name for name in source.layers if name not in edges]
    if absent and len(edges) == 1 and len(source.layers) == 1 and not source.is_mapping:
        edges, absent = {absent[0]: next(iter(edges.values()))}, []
    if absent or (len(edges) != len(source.layers) and not selected):
        raise InputError(
            f"edges: they are those of the layers {', '.join(edges)}, the activations have {', '.join(source.layers)}; "
            "give edges for every layer."
        )
    given = {}
    for name, layer in source.layers.items():
        value = edges[name]
        if not isinstance(value, LayerEdges):
            value = LayerEdges(check_edges(value, layer.float_format, layer.shape[1], name), layer.float_format)
        if len(value.keys) != layer.shape[1]:
            raise InputError(
                f"edges of layer {name}: for {quantity(len(value.keys), 'node')}, but it has {layer.shape[1]:,}."
            )
        given[name] = value
    return given


def finish_fit(job: FitJob, layers: Mapping[str, LayerState]) -> BackgroundState:
    """The background of the states of all layers."""
    known = job.source.attributes
    attributes: dict[str, Any] = {key: known[key] for key in ("model", "weights") if key in known}
    return BackgroundState(dict(layers), job.class_sizes, job.classes, job.rule, job.min_class_size, attributes)


def fit_request(job: FitJob) -> dict[str, Any]:
    """What a fit is asked for; two requests that are equal give equal backgrounds."""
    request: dict[str, Any] = {"command": "fit", "activations": job.source.identity}
    if job.given is None:
        assert job.rule is not None
        request |= job.rule.as_json()
    else:
        request["edges"] = digest(*(edges.keys for edges in job.given.values()))
    if job.classes is not None and job.class_index.numbers is not None:
        request["labels"] = digest(job.classes, job.class_index.numbers, dtype=np.int64)
        request["min_class_size"] = job.min_class_size
    return request


def select_layers(source: Activations, layers: str | Sequence[str] | None) -> Activations:
    """The activations of some of the layers, by their names or by patterns with ``*`` and ``?``; ``None``: of all."""
    if layers is None:
        return source
    chosen = select_names(layers, source.layers, "layer", "the activations")
    return replace(source, layers={name: source.layers[name] for name in chosen})
