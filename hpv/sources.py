"""What may be given as activations, all read the same way: blocks of samples and nodes of each layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpv.addresses import absolute_path, is_address, without_scheme
from hpv.errors import InputError, StoreError
from hpv.floats import BFLOAT16, float_format
from hpv.layers import ArrayLayer, DaskLayer, DeviceLayer, Layer, StoredLayer, TensorLayer, numpy_of
from hpv.resources import quantity

if TYPE_CHECKING:
    from hpv.store import ActivationStore, StoredArray

_DLPACK_CPU = 1
BARE = "activations"
"""The layer name of an array that comes without one."""


@dataclass(frozen=True)
class Activations:
    """Layers with the same samples."""

    layers: dict[str, Layer]
    labels: np.ndarray | None
    """One int64 per sample, where the source has them."""
    ids: list[str] | None
    """One string per sample, where the source has them."""
    attributes: dict[str, Any]
    """What an activation store says of its origin: ``model``, ``weights`` and so on."""
    is_mapping: bool
    """Several named layers were given, so answers per layer are mappings too."""

    def __repr__(self) -> str:
        given = [name for name, values in (("labels", self.labels), ("ids", self.ids)) if values is not None]
        layers = (f"{name}: {quantity(layer.shape[1], 'node')} {layer.form}" for name, layer in self.layers.items())
        return f"<hpv.Activations of {', '.join([quantity(self.samples, 'sample'), *given])}; {', '.join(layers)}>"

    @property
    def samples(self) -> int:
        """Rows of every layer."""
        return next(iter(self.layers.values())).shape[0]

    @property
    def values(self) -> int:
        """Of all layers together."""
        return sum(layer.shape[0] * layer.shape[1] for layer in self.layers.values())

    @property
    def on_device(self) -> bool:
        """Whether they are on a GPU."""
        return any(layer.on_device for layer in self.layers.values())

    @property
    def is_portable(self) -> bool:
        """Whether other processes can read it from a small description."""
        return all(layer.is_portable for layer in self.layers.values())

    @property
    def chunk_rows(self) -> int:
        """Samples of the tallest chunk of a layer: ranges of samples that start at its multiples share no chunk."""
        return max(1 if layer.chunks is None else layer.chunks[0] for layer in self.layers.values())

    def part(self, rows: slice) -> Activations:
        """Consecutive samples of all layers."""
        return Activations(
            {name: layer.part(rows) for name, layer in self.layers.items()},
            None if self.labels is None else self.labels[rows],
            None if self.ids is None else self.ids[rows],
            self.attributes,
            self.is_mapping,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Names the data in the request of an output: paths where there are any, shapes, dtypes."""
        return {"layers": {name: layer.identity for name, layer in self.layers.items()}}


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
        return Activations({BARE: _map_file(without_scheme(os.fspath(source)))}, None, None, {}, False)
    if not is_path and not type(source).__module__.startswith("zarr."):
        return None
    from hpv.store import ActivationStore, StoredArray, zarr_layers

    found = zarr_layers(source)
    if isinstance(found, ActivationStore):
        return _from_activation_store(found)
    if isinstance(found, StoredArray):
        return Activations({BARE: _stored(BARE, found)}, None, None, {}, False)
    return Activations({name: _stored(name, array) for name, array in found.items()}, None, None, {}, True)


def _is_npy(path: str) -> bool:
    return path.endswith(".npy") and not is_address(path) and not os.path.isdir(without_scheme(path))


def _from_activation_store(store: ActivationStore) -> Activations:
    path = store.store.path
    layers: dict[str, Layer] = {}
    for entry in store.entries:
        origin = f"{path}: layer {entry.name}"
        note = {"path": absolute_path(path), "store": store.store.id}
        layers[entry.name] = StoredLayer(entry.name, origin, store.layer(entry), entry.form, note)
    return Activations(layers, store.labels(), store.ids(), store.store.attributes, True)


def _stored(name: str, array: StoredArray) -> Layer:
    marked = array.attributes.get("float_format")
    form = BFLOAT16 if marked == BFLOAT16.name and array.dtype == BFLOAT16.storage else None
    return StoredLayer(name, array.origin, array, form or float_format(array.dtype, _what(name, array.origin)))


def _open_array(name: str, source: Any, origin: str) -> Layer:
    """An array that is an object of this process."""
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(f"{origin}: a masked array; fill it first, with NaN for what is masked: x.filled(np.nan).")
    if isinstance(source, np.ndarray):
        form = float_format(source.dtype, origin)
        return ArrayLayer(name, origin, _bits(source) if form is BFLOAT16 else source, form)
    if module == "torch" or hasattr(source, "is_cuda"):
        form = float_format(source.dtype, origin)
        if str(source.layout) != "torch.strided":
            raise InputError(f"{origin}: a tensor of layout {source.layout}; give a dense one (tensor.to_dense()).")
        tensor = source.detach()
        if tensor.device.type == "cpu":
            return ArrayLayer(name, origin, numpy_of(tensor), form)
        return TensorLayer(name, origin, tensor, form)
    if hasattr(source, "__cuda_array_interface__") or hasattr(source, "__dlpack_device__"):
        return _from_device(name, source, origin)
    if module == "dask" and hasattr(source, "dask") and hasattr(source, "chunks"):
        return DaskLayer(name, origin, source, float_format(source.dtype, origin))
    raise InputError(
        f"{origin}: a {type(source).__name__} cannot be read as activations; give a numpy, torch, Zarr or Dask array, "
        f"the path of an .npy file or a Zarr store, or a mapping from layer name to any of these."
    )


def _from_device(name: str, source: Any, origin: str) -> Layer:
    """An array of any library that says where its memory is."""
    if not hasattr(source, "__cuda_array_interface__") and source.__dlpack_device__()[0] == _DLPACK_CPU:
        array = np.from_dlpack(source)
        return ArrayLayer(name, origin, array, float_format(array.dtype, origin))
    from hpv.backends.cuda import check
    from hpv.backends.moving import adopt

    check()
    array = adopt(source, origin)
    return DeviceLayer(name, origin, array, float_format(array.dtype, origin))


def _map_file(path: str) -> Layer:
    if not os.path.exists(path):
        raise StoreError(f"{path} does not exist; check the path.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise StoreError(f"{path} is not an .npy file that can be read: {error}") from error
    entry = os.stat(path)
    file = {"path": absolute_path(path), "bytes": entry.st_size, "modified": entry.st_mtime_ns}
    return ArrayLayer(BARE, path, array, float_format(array.dtype, path), file)


def _bits(array: np.ndarray) -> np.ndarray:
    """The bits of a bfloat16 array of the package ml_dtypes."""
    return array.view(np.uint16)


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


def _what(name: str, origin: str) -> str:
    return origin if name == BARE else f"{origin}: layer {name}"


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
