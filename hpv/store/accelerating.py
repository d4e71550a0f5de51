"""zarrs, compiled codecs for compressed and sharded chunks: used where it is installed; the bits are the same."""

from __future__ import annotations

import importlib.util
import os
import threading
from functools import cache

import numpy as np
import zarr
from zarr.storage import LocalStore

from hpv.base.errors import InputError

SWITCH = "HPV_ZARRS"
"""The environment variable that says whether: ``auto`` (the default), ``on`` or ``off``."""
_opening = threading.Lock()
_SETTINGS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    "codec_pipeline.strict": True,
    # Threads of hpv read different chunks at the same time: within a read there is one.
    "codec_pipeline.chunk_concurrent_minimum": 1,
    "codec_pipeline.chunk_concurrent_maximum": 1,
    "threading.max_workers": 1,
}


@cache
def wanted() -> bool:
    """Whether zarrs reads what it can read; ``InputError`` for a switch that is neither auto, on nor off."""
    setting = os.environ.get(SWITCH, "auto")
    if setting not in ("auto", "on", "off"):
        raise InputError(f"{SWITCH}={setting}: give auto, on or off.")
    installed = importlib.util.find_spec("zarrs") is not None
    if setting == "on" and not installed:
        raise InputError(f"{SWITCH}=on, but zarrs is not installed: pip install 'hpv[zarrs]', or leave {SWITCH} out.")
    return installed and setting != "off"


def accelerated(array: zarr.Array) -> zarr.Array | None:
    """The same array read by zarrs; None where that is switched off, not installed, or cannot read it."""
    dtype = np.dtype(array.dtype)
    if not isinstance(array.store, LocalStore) or dtype.kind not in "fiu" or not dtype.isnative or not wanted():
        return None
    from zarrs.pipeline import UnsupportedMetadataError

    version = array.metadata.zarr_format
    try:
        with _opening, zarr.config.set(_SETTINGS):  # an array takes its codecs from the settings when it is opened
            return zarr.open_array(array.store, path=array.path, mode="r", zarr_format=version)
    except UnsupportedMetadataError:
        return None
