"""Which states may be added, and their sum."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from hpv.base.errors import InputError, warn
from hpv.base.words import quantity
from hpv.histograms.state import STATE_ARRAYS, BackgroundState, LayerState, MergeKey, count_dtype


def add(parts: Sequence[BackgroundState]) -> BackgroundState:
    """The background of the samples of all parts, which are known to be different ones counted at the same edges."""
    classes = None
    if parts[0].classes is not None:
        classes = np.unique(np.concatenate([part.classes for part in parts if part.classes is not None]))
    count = 1 if classes is None else len(classes)
    places = [
        slice(None) if classes is None else np.searchsorted(classes, part.classes)  # type: ignore[arg-type]
        for part in parts
    ]
    samples = np.zeros(count, np.int64)
    for part, place in zip(parts, places, strict=True):
        samples[place] += part.samples
    layers = {
        name: _merge_states([part.layers[name] for part in parts], places, count, int(samples.sum()))
        for name in parts[0].layers
    }
    rule = next((part.rule for part in parts if part.rule is not None), None)  # the others were given its edges
    return replace(parts[0], layers=layers, samples=samples, classes=classes, rule=rule, path=None)


def check_mergeable(parts: Mapping[str, MergeKey]) -> None:
    """Refuse to add, under their names, backgrounds whose counts mean something else than those of the first one."""
    (one, first), *others = parts.items()
    for other, part in others:
        if set(first.layers) != set(part.layers):
            raise InputError(f"merge: {other} has the layers {sorted(part.layers)}, {one} {sorted(first.layers)}; "
                             "give parts of the same layers.")  # fmt: skip
        if first.by_class != part.by_class:
            raise InputError(f"merge: only one of {one} and {other} was fitted by class; fit both alike.")
        if first.min_class_size != part.min_class_size:
            raise InputError(f"merge: min_class_size is {first.min_class_size} in {one} and {part.min_class_size} in "
                             f"{other}; fit both alike.")  # fmt: skip
        for name, edges in first.layers.items():
            if edges[0] != part.layers[name][0]:
                nodes = quantity(part.layers[name][0], "node")
                raise InputError(f"merge: layer {name} of {other} has {nodes}, that of {one} {edges[0]:,}; give parts "
                                 "of the same network.")  # fmt: skip
            if edges != part.layers[name]:
                raise InputError(f"merge: {other} has other edges in layer {name} than {one}; fit it again with edges= "
                                 f"{one}, so that it counts at the same ones.")  # fmt: skip


def refuse_twice(parts: Sequence[BackgroundState]) -> None:
    """Refuse what is given twice; equal counts may be those of other samples, and are only warned about."""
    for (first, one), (second, other) in combinations(enumerate(parts, start=1), 2):
        equal = one is other or _have_equal_states(one, other)
        if one is other or (equal and one.path is not None and one.path == other.path):
            raise InputError(f"merge: background {second} is background {first} again; its samples would count double. "
                             "Give every part once.")  # fmt: skip
        if equal:
            warn(f"merge: backgrounds {first} and {second} have the same counts everywhere; if they are of the same "
                 "samples, these now count double.")  # fmt: skip


def _have_equal_states(one: BackgroundState, other: BackgroundState) -> bool:
    """Whether nothing tells two backgrounds apart; most differ in the first array, a small one."""
    return (
        one.layers.keys() == other.layers.keys()
        and np.array_equal(one.samples, other.samples)
        and all(
            np.array_equal(getattr(one.layers[name], array), getattr(other.layers[name], array))
            for array in reversed(STATE_ARRAYS)
            for name in one.layers
        )
        and one.fingerprint == other.fingerprint
    )


def _merge_states(states: list[LayerState], places: list[Any], classes: int, samples: int) -> LayerState:
    dtype = count_dtype(samples)
    _, n, k = states[0].survivors.shape
    survivors, missing = np.zeros((classes, n, k), dtype), np.zeros((classes, n), dtype)
    for state, place in zip(states, places, strict=True):
        survivors[place] += state.survivors.astype(dtype, copy=False)
        missing[place] += state.missing.astype(dtype, copy=False)
    lowest = functools.reduce(np.minimum, [state.lowest for state in states])
    highest = functools.reduce(np.maximum, [state.highest for state in states])
    return LayerState(states[0].float_format, states[0].edges, survivors, missing, lowest, highest)
