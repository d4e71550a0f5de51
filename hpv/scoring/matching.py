"""Which layer, and which counts, answer for what is scored."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpv.activations.labels import PerSample, check_labels, label_pieces
from hpv.activations.layers import Activations
from hpv.base.errors import InputError, warn
from hpv.base.words import quantity
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import ScanOptions, as_names
from hpv.scoring.options import ScoreOptions


def check_layers(background: BackgroundState, source: Activations) -> dict[str, str]:
    """Which layer of the source answers for each layer of the background; widths checked.

    A bare array answers for a background of one layer, whatever its name.
    """
    names = list(background.layers)
    if len(names) == 1 and not source.is_mapping and len(source.layers) == 1:
        source_layers = {names[0]: next(iter(source.layers))}
    else:
        absent = [name for name in names if name not in source.layers]
        if absent:
            raise InputError(
                f"the activations have no layer {', '.join(absent)} of the background; they have "
                f"{', '.join(source.layers)}. Give these layers, or choose among the background's with layers=."
            )
        source_layers = {name: name for name in names}
    for name, source_name in source_layers.items():
        state, layer = background.layers[name], source.layers[source_name]
        if layer.shape[1] != state.nodes:
            raise InputError(
                f"layer {source_name}: {quantity(layer.shape[1], 'node')}, but the background has {state.nodes}; "
                "give activations of the same layer of the same network."
            )
    return source_layers


def scan_options(background: BackgroundState, options: ScoreOptions) -> ScanOptions:
    """What is asked of this background, checked."""
    if not isinstance(background, BackgroundState):
        raise InputError(f"background: {type(background).__name__}; give what hpv.fit or hpv.open returned.")
    against = options.against or ("pooled" if background.classes is None else "own")
    statistics, tails, forms = (as_names(given) for given in (options.statistic, options.tail, options.form))
    scan = ScanOptions(statistics, tails, forms, options.alphas, options.alpha_max, against)
    if background.classes is None and against != "pooled":
        raise InputError(f"against={against!r}: the background has no classes; fit it with by_class=True, or give "
                         "against='pooled'.")  # fmt: skip
    return scan


def check_weights(background: BackgroundState, theirs: str | None) -> None:
    """Warn where activations come from other weights, by their hash, than the background's."""
    ours = background.attributes.get("weights")
    if ours and theirs and ours != theirs:
        warn(
            f"the activations come from a network with the weights {theirs[:12]}, the background from {ours[:12]}: "
            "their p-values compare two networks. Capture both with the same weights."
        )


def references_of(background: BackgroundState, source: Activations, labels: Any, against: str) -> PerSample:
    """Which counts answer for every sample, where its own class does."""
    if against != "own":
        if labels is not None:
            check_labels(labels, source.samples)
        return PerSample(None)
    labels = source.label_array if labels is None else labels
    if labels is None:
        raise InputError("against='own': the activations carry no labels; give labels=, or against='lowest', or "
                         "against='pooled'.")  # fmt: skip
    return PerSample(references_of_labels(background, labels, source.samples))


def references_of_labels(background: BackgroundState, labels: Any, samples: int) -> np.ndarray:
    """Which counts answer for labels (s,), int32: the pooled ones, with a warning, for a label that was not fitted."""
    assert background.classes is not None
    references, unknown = np.empty(samples, np.int32), 0
    for rows, piece in label_pieces(labels, samples):
        references[rows] = background.reference_of(piece)
        unknown += int(np.count_nonzero(~np.isin(piece, background.classes)))
    if unknown:
        warn(
            f"{unknown:,} of {quantity(samples, 'sample')} {'has' if unknown == 1 else 'have'} a label that the "
            "background was not fitted with: the pooled counts answer instead."
        )
    return references
