"""Whatever is given as activations becomes layers, without being read: every kind is asked in turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hpv.activations import arrays, dask_arrays, device_arrays, stored
from hpv.activations.layers import BARE, Activations, Layer
from hpv.base.errors import InputError
from hpv.base.words import quantity

SOURCES = (arrays, stored)
"""Kinds of paths and objects that may hold several layers: ``activations_of(source)`` is None for all others."""
ARRAYS = (arrays, device_arrays, dask_arrays)
"""Kinds of arrays: ``layer_of(name, source, origin)`` is None for all others."""


def open_activations(source: Any) -> Activations:
    """Open what is given as activations, without reading it.

    ``source``: a numpy array, a torch tensor, a Dask array, a Zarr array or group (version 2 or 3), a path to an
    ``.npy`` file or a Zarr store, an activation store of hpv, or a mapping from layer name to any of these. Arrays
    have the samples along the first dimension; dimensions after the second are laid out in a row per sample (C
    order), as flattening does. An array alone is the one layer ``activations``. What has a method
    ``as_activations()`` gives its activations itself.

    ``InputError`` names the layer that has no samples, no nodes, fewer than two dimensions, another number of samples
    than the rest, or a dtype that is not a float; ``StoreError`` says what is wrong with a path.
    """
    if isinstance(source, Activations):
        return source
    if hasattr(source, "as_activations"):
        return _checked(source.as_activations())
    if isinstance(source, Mapping):
        return _checked(Activations(_from_mapping(source), None, None, {}, True))
    opened = _several(source)
    if opened is None:
        opened = Activations({BARE: _single(BARE, source, BARE)}, None, None, {}, False)
    return _checked(opened)


def _from_mapping(source: Mapping[Any, Any]) -> dict[str, Layer]:
    if not source:
        raise InputError("activations: the mapping holds no layer; give at least one.")
    layers = {}
    for name, item in source.items():
        if not isinstance(name, str):
            raise InputError(f"activations: layer names are strings, not {name!r}.")
        opened = _several(item)
        if opened is None:
            layers[name] = _single(name, item, f"layer {name}")
            continue
        if len(opened.layers) != 1:
            raise InputError(
                f"layer {name}: {os.fspath(item) if isinstance(item, (str, os.PathLike)) else 'the group'} holds "
                f"{quantity(len(opened.layers), 'layer')} ({_some(opened.layers)}); give the path of one of them."
            )
        (layers[name],) = opened.layers.values()
        layers[name].name = name
    return layers


def _several(source: Any) -> Activations | None:
    """Layers of a path, or of an object that may hold several; None for all other sources."""
    return next((found for kind in SOURCES if (found := kind.activations_of(source)) is not None), None)


def _single(name: str, source: Any, origin: str) -> Layer:
    """An array that is an object of this process."""
    for kind in ARRAYS:
        layer = kind.layer_of(name, source, origin)
        if layer is not None:
            return layer
    raise InputError(
        f"{origin}: a {type(source).__name__} cannot be read as activations; give a numpy, torch, Zarr or Dask array, "
        f"the path of an .npy file or a Zarr store, or a mapping from layer name to any of these."
    )


def _checked(activations: Activations) -> Activations:
    first, *others = activations.layers.values()
    for layer in others:
        if layer.shape[0] != first.shape[0]:
            raise InputError(
                f"layer {layer.name} has {quantity(layer.shape[0], 'sample')}, layer {first.name} has "
                f"{first.shape[0]:,}; give the same samples of every layer."
            )
    placed = [layer for layer in activations.layers.values() if layer.device is not None]
    for layer in placed:
        if layer.device != placed[0].device:
            raise InputError(f"layer {placed[0].name} is on {placed[0].device}, layer {layer.name} on {layer.device}; "
                             "bring them to one device.")  # fmt: skip
    for what, values in (("labels", activations.label_array), ("ids", activations.id_array)):
        if values is not None and len(values) != activations.samples:
            samples = quantity(activations.samples, "sample")
            raise InputError(f"{first.origin}: there are {len(values):,} {what} for {samples}; give one for each.")
    return activations


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
