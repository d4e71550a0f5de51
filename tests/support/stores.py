"""Zarr arrays of every codec, and values to put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc, Shuffle, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from hpv.base.floats import BFLOAT16
from strategies import from_floats

SAMPLES, NODES = 230, 21
CODECS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "crc32c": {"compressors": [Crc32cCodec()]},
    "zstd": {"compressors": [ZstdCodec()]},
    "zstd, crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "blosc": {"compressors": [BloscCodec()]},
    "gzip": {"compressors": [GzipCodec()]},
    "v2 plain": {"compressors": None, "zarr_format": 2},
    "v2 zstd": {"compressors": Zstd(), "zarr_format": 2},
    "v2 blosc": {"compressors": Blosc(), "zarr_format": 2},
    "v2 columns first": {"compressors": Zstd(), "zarr_format": 2, "order": "F"},
    "v2 filters": {"compressors": Zstd(), "filters": [Shuffle(2)], "zarr_format": 2},
}


def values_of(form: Any, samples: int = SAMPLES, nodes: int = NODES, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    floats = rng.normal(size=(samples, nodes))
    floats[:, ::3] = np.maximum(floats[:, ::3], 0)
    return from_floats(floats, form)


def store(path: Path, values: np.ndarray, form: Any, chunk: tuple[int, ...], **options: Any) -> zarr.Array:
    marks = {"float_format": "bfloat16"} if form is BFLOAT16 else {}
    array = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, chunks=chunk, attributes=marks, **options
    )  # fmt: skip
    array[...] = values
    return array
