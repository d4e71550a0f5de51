"""Edges of nodes: the rule that asks for them, the samples that they are found by, edges that a caller gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from hpv.base.errors import InputError
from hpv.base.floats import FLOAT64, FORMATS, FloatFormat, convert_keys, from_keys, to_keys
from hpv.base.words import quantity

RUN = 64
"""Consecutive samples of the pilot that are read together."""
MOST_INNER_EDGES = 252
"""Two outer edges more make 254, the highest code; 255 is the code of a missing value."""
BINNINGS = ("balanced", "uniform", "quantile")


@dataclass(frozen=True)
class Rule:
    """How edges are placed; see `hpv.fit`."""

    bins: int = 32
    """Ordinary bins of a node, 1 to 254; modal values and outer edges come on top, and bins give way to them."""
    binning: str = "balanced"
    modal_fraction: Fraction = Fraction(1, 10)
    """A value that makes up more than this share of its node gets a bin of its own; 1/50 to 1."""
    pilot: int | Literal["auto"] | None = "auto"
    """Samples that the edges are found by: a number, ``None`` for all, or what `pilot_size` says."""

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int | np.integer) or not 1 <= self.bins <= 254:
            raise InputError(f"bins={self.bins!r}: give a whole number from 1 to 254.")
        if self.binning not in BINNINGS:
            raise InputError(f"binning={self.binning!r}: give one of {', '.join(BINNINGS)}.")
        try:
            fraction = Fraction(self.modal_fraction).limit_denominator(10_000)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError):
            fraction = Fraction(0)
        if not Fraction(1, 50) <= fraction <= 1:
            raise InputError(f"modal_fraction={self.modal_fraction!r}: give a fraction from 1/50 to 1, as '1/10'.")
        object.__setattr__(self, "modal_fraction", fraction)
        if self.pilot is not None and self.pilot != "auto":
            whole = isinstance(self.pilot, int | np.integer) and not isinstance(self.pilot, bool)
            if not whole or self.pilot < 1:
                raise InputError(f"pilot={self.pilot!r}: give a number of samples, 'auto', or None for all samples.")

    @property
    def most_edges(self) -> int:
        """Inner edges that a node can get."""
        modal = int(2 / self.modal_fraction)
        return min(MOST_INNER_EDGES, self.bins + 1 + 2 * modal)

    def as_json(self) -> dict[str, Any]:
        """For attributes and requests."""
        return {
            "bins": int(self.bins),
            "binning": self.binning,
            "modal_fraction": str(self.modal_fraction),
            "pilot": "all" if self.pilot is None else self.pilot,
        }


@dataclass(frozen=True)
class LayerEdges:
    """Inner edges of the nodes of one layer."""

    keys: np.ndarray
    """Ascending keys (nodes, edges), filled up with the format's ``unused``."""
    float_format: FloatFormat

    @property
    def values(self) -> np.ndarray:
        """The edges (nodes, edges) in the format's storage, filled up with NaN."""
        return from_keys(self.keys, self.float_format)


@dataclass(frozen=True)
class Edges(Mapping[str, np.ndarray]):
    """Proposed inner edges of every layer: a mapping from layer to values (nodes, edges), filled up with NaN.

    The two outer edges of a node are not among them: they follow from the exact extremes that `hpv.fit` finds.
    """

    layers: Mapping[str, LayerEdges]
    rule: Rule | None = field(default=None)

    def __getitem__(self, layer: str) -> np.ndarray:
        return self.layers[layer].values

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        shapes = ((name, *edges.keys.shape) for name, edges in self.layers.items())
        layers = (f"{name}: {quantity(nodes, 'node')} x {quantity(edges, 'edge')}" for name, nodes, edges in shapes)
        return f"<hpv.Edges of {', '.join(layers)}>"


def pilot_size(samples: int, pilot: int | Literal["auto"] | None) -> int:
    """Samples that the pilot asks for: all up to 4,096, then a sixteenth, at least 4,096 and at most 16,384."""
    if pilot is None:
        return samples
    if pilot == "auto":
        return min(samples, max(4096, min(16_384, samples // 16)))
    return min(samples, int(pilot))


def pilot_runs(samples: int, pilot: int | Literal["auto"] | None) -> list[slice]:
    """Runs of 64 consecutive samples, their starts spread evenly from the first sample to the last run."""
    runs = -(-pilot_size(samples, pilot) // RUN)
    if runs * RUN >= samples:
        return [slice(0, samples)]
    last = samples - RUN
    starts = [i * last // (runs - 1) for i in range(runs)] if runs > 1 else [0]
    return [slice(start, start + RUN) for start in starts]


def trim(edges: np.ndarray, float_format: FloatFormat) -> np.ndarray:
    """The same edges without the columns that no node uses."""
    used = int(np.count_nonzero(edges != float_format.no_edge, axis=1).max(initial=0))
    return np.ascontiguousarray(edges[:, :used])


def stack(parts: Sequence[np.ndarray], float_format: FloatFormat) -> np.ndarray:
    """Inner edge keys (nodes, edges) of all parts, filled up to the most edges that any of them has."""
    keys = np.full((sum(map(len, parts)), max(part.shape[1] for part in parts)), float_format.no_edge, float_format.key)
    at = 0
    for part in parts:
        keys[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return keys


def check_edges(values: Any, float_format: FloatFormat, nodes: int, layer: str) -> np.ndarray:
    """Keys of edges that a caller gave as numbers: one list for all nodes, or one list or row per node (NaN = none).

    An edge between two numbers of the format moves up to the next one, which changes no comparison.
    """
    given, source = _numbers(values, layer)
    if given.ndim == 1:
        given = np.broadcast_to(given, (nodes, len(given)))
    if given.ndim != 2 or len(given) != nodes:
        raise InputError(
            f"edges of layer {layer}: shape {given.shape}; give one list for all, or one for each of {nodes} nodes."
        )
    keys = convert_keys(to_keys(given, source), source, float_format)
    keys = np.where(keys == float_format.nan_key, float_format.key.type(float_format.no_edge), keys)
    keys.sort(axis=1)
    keys[:, 1:][keys[:, 1:] == keys[:, :-1]] = float_format.no_edge
    keys.sort(axis=1)
    keys = trim(keys, float_format)
    if keys.shape[1] > MOST_INNER_EDGES:
        raise InputError(f"edges of layer {layer}: {keys.shape[1]} per node; give at most {MOST_INNER_EDGES}.")
    return keys


def _numbers(values: Any, layer: str) -> tuple[np.ndarray, FloatFormat]:
    """Numbers as an array of one of the formats; lists of different lengths are filled up with NaN."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        rows = [np.asarray(row) for row in values]
        if any(row.ndim != 1 for row in rows):
            raise InputError(f"edges of layer {layer}: give one list of numbers for each node.") from None
        kind = np.result_type(*rows, np.float16)
        array = np.full((len(rows), max(len(row) for row in rows)), np.nan, kind)
        for place, row in zip(array, rows, strict=True):
            place[: len(row)] = row
    if array.dtype.kind not in "fiu":
        raise InputError(f"edges of layer {layer}: dtype {array.dtype}; give numbers.")
    # Floats of the formats stay as they are: a conversion by the processor may lose subnormals.
    float_format = FORMATS.get(array.dtype.name, FLOAT64)
    return array.astype(float_format.storage, copy=False), float_format
