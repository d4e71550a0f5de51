"""Whatever is given as activations becomes layers, without being read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpv.activations.arrays import ArrayLayer, bits_of_bfloat16, map_file
from hpv.activations.dask_arrays import DaskLayer
from hpv.activations.device_arrays import TensorLayer, from_device, numpy_of
from hpv.activations.layers import BARE, Activations, Layer
from hpv.activations.stored import ActivationStore, from_activation_store, stored_layer
from hpv.base.addresses import is_address, without_scheme
from hpv.base.errors import InputError
from hpv.base.floats import BFLOAT16, format_of
from hpv.base.words import quantity


def open_activations(source: Any) -> Activations:
    """Open what is given as activations, without reading it.

    ``source``: a numpy array, a torch tensor, a Dask array, a Zarr array or group (version 2 or 3), a path to an
    ``.npy`` file or a Zarr store, an activation store of hpv, or a mapping from layer name to any of these. Arrays
    have the samples along the first dimension; dimensions after the second are laid out in a row per sample (C
    order), as flattening does. An array alone is the one layer ``activations``.

    ``InputError`` names the layer that has no samples, no nodes, fewer than two dimensions, another number of samples
    than the rest, or a dtype that is not a float; ``StoreError`` says what is wrong with a path.
    """
    if isinstance(source, Activations):
        return source
    if isinstance(source, Mapping):
        return _checked(Activations(_from_mapping(source), None, None, {}, True))
    opened = _open_store(source)
    if opened is None:
        return _checked(Activations({BARE: _open_array(BARE, source, BARE)}, None, None, {}, False))
    return _checked(opened)


def _from_mapping(source: Mapping[Any, Any]) -> dict[str, Layer]:
    if not source:
        raise InputError("activations: the mapping holds no layer; give at least one.")
    layers = {}
    for name, item in source.items():
        if not isinstance(name, str):
            raise InputError(f"activations: layer names are strings, not {name!r}.")
        opened = _open_store(item)
        if opened is None:
            layers[name] = _open_array(name, item, f"layer {name}")
            continue
        if len(opened.layers) != 1:
            raise InputError(
                f"layer {name}: {os.fspath(item) if isinstance(item, (str, os.PathLike)) else 'the group'} holds "
                f"{quantity(len(opened.layers), 'layer')} ({_some(opened.layers)}); give the path of one of them."
            )
        (layers[name],) = opened.layers.values()
        layers[name].name = name
    return layers


def _open_store(source: Any) -> Activations | None:
    """Layers of a path or Zarr object; None for all other sources."""
    is_path = isinstance(source, (str, os.PathLike))
    if is_path and _is_npy(os.fspath(source)):
        return Activations({BARE: map_file(without_scheme(os.fspath(source)))}, None, None, {}, False)
    if not is_path and not type(source).__module__.startswith("zarr."):
        return None
    from hpv.store import foreign

    found = foreign.zarr_layers(source)
    if isinstance(found, foreign.Store):
        return from_activation_store(ActivationStore(found))
    if isinstance(found, foreign.StoredArray):
        return Activations({BARE: stored_layer(BARE, found)}, None, None, {}, False)
    return Activations({name: stored_layer(name, array) for name, array in found.items()}, None, None, {}, True)


def _is_npy(path: str) -> bool:
    return path.endswith(".npy") and not is_address(path) and not os.path.isdir(without_scheme(path))


def _open_array(name: str, source: Any, origin: str) -> Layer:
    """An array that is an object of this process."""
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(f"{origin}: a masked array; fill it first, with NaN for what is masked: x.filled(np.nan).")
    if isinstance(source, np.ndarray):
        float_format = format_of(source.dtype, origin)
        return ArrayLayer(name, origin, bits_of_bfloat16(source) if float_format is BFLOAT16 else source, float_format)
    if module == "torch" or hasattr(source, "is_cuda"):
        float_format = format_of(source.dtype, origin)
        if str(source.layout) != "torch.strided":
            raise InputError(f"{origin}: a tensor of layout {source.layout}; give a dense one (tensor.to_dense()).")
        tensor = source.detach()
        if tensor.device.type == "cpu":
            return ArrayLayer(name, origin, numpy_of(tensor), float_format)
        return TensorLayer(name, origin, tensor, float_format)
    if hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack_device__"):
        return from_device(name, source, origin)
    if module == "dask" and hasattr(source, "dask") and hasattr(source, "chunks"):
        return DaskLayer(name, origin, source, format_of(source.dtype, origin))
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
    for what, values in (("labels", activations.labels), ("ids", activations.ids)):
        if values is not None and len(values) != activations.samples:
            samples = quantity(activations.samples, "sample")
            raise InputError(f"{first.origin}: there are {len(values):,} {what} for {samples}; give one for each.")
    return activations


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
