"""zarrs reads what it can, where it is wanted."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import zarr
from numcodecs import Delta

import hpv
from hpv.base.floats import FLOAT32
from hpv.store import accelerating, arrays
from stores import CODECS, store, values_of


def test_zarrs_reads_what_it_can(zarrs, tmp_path):
    values = values_of(FLOAT32)
    for name, fast in (("zstd", True), ("v2 blosc", True), ("plain", False)):
        array = store(tmp_path / name, values, FLOAT32, (50, 8), **CODECS[name])
        stored = arrays.StoredArray(array, "x", strict=False)
        assert (stored._fast is not None) == (fast and zarrs == "on")
    for name, options in (("delta", {"filters": [Delta("f4")]}), ("big", {"dtype": ">f4"})):
        kind = {"shape": values.shape, "dtype": "f4", "chunks": (50, 8), "zarr_format": 2, **options}
        array = zarr.create_array(tmp_path / name, **kind)
        array[...] = values
        stored = arrays.StoredArray(array, "x", strict=False)
        assert stored._fast is None
        np.testing.assert_array_equal(stored.read(), array[...])


def test_the_switch(monkeypatch):
    for setting, wanted in (("auto", True), ("on", True), ("off", False)):
        monkeypatch.setenv(accelerating.SWITCH, setting)
        assert accelerating.wanted.__wrapped__() is wanted
    monkeypatch.setenv(accelerating.SWITCH, "yes")
    with pytest.raises(hpv.InputError, match="HPV_ZARRS=yes: give auto, on or off"):
        accelerating.wanted.__wrapped__()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv(accelerating.SWITCH, "on")
    with pytest.raises(hpv.InputError, match=r"zarrs is not installed: pip install 'hpv\[zarrs\]'"):
        accelerating.wanted.__wrapped__()
    monkeypatch.delenv(accelerating.SWITCH)
    assert accelerating.wanted.__wrapped__() is False
