"""What hpv stores: Zarr v3 with a format, a version and checksums. The only part of hpv that knows Zarr."""

from hpv.store.activations import ActivationStore, ActivationWriter, LayerEntry, activation_chunks, save_activations
from hpv.store.arrays import STRINGS, Selection, StoredArray
from hpv.store.foreign import is_zarr, zarr_layers
from hpv.store.names import escape, unescape
from hpv.store.output import SCRATCH, Output, save
from hpv.store.reading import ACTIVATIONS, BACKGROUND, SCORES, VERSION, Store, check_header, open_store

__all__ = [
    "ACTIVATIONS",
    "BACKGROUND",
    "SCORES",
    "SCRATCH",
    "STRINGS",
    "VERSION",
    "ActivationStore",
    "ActivationWriter",
    "LayerEntry",
    "Output",
    "Selection",
    "Store",
    "StoredArray",
    "activation_chunks",
    "check_header",
    "escape",
    "is_zarr",
    "open_store",
    "save",
    "save_activations",
    "unescape",
    "zarr_layers",
]
