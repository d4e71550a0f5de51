"""What hpv stores: Zarr v3 with a format, a version and checksums. The only part of hpv that knows Zarr."""

from hpv.store.activations import ActivationStore, ActivationWriter, LayerEntry, activation_chunks, save_activations
from hpv.store.arrays import STRINGS, Selection, StoredArray
from hpv.store.foreign import is_zarr, zarr_layers
from hpv.store.names import escape, unescape
from hpv.store.output import SCRATCH, Output, OutputWriter, complete_exchange, save
from hpv.store.places import place_of
from hpv.store.reading import ACTIVATIONS, BACKGROUND, SCORES, VERSION, Store, check_header, open_store, read_header
from hpv.store.requests import request_difference
from hpv.store.shards import ShardState, join_shards, ranges, shard_path, shard_state, shards_of

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
    "OutputWriter",
    "Selection",
    "ShardState",
    "Store",
    "StoredArray",
    "activation_chunks",
    "check_header",
    "complete_exchange",
    "escape",
    "is_zarr",
    "join_shards",
    "open_store",
    "place_of",
    "ranges",
    "read_header",
    "request_difference",
    "save",
    "save_activations",
    "shard_path",
    "shard_state",
    "shards_of",
    "unescape",
    "zarr_layers",
]
