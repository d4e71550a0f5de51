"""What a backend looks codes and ranges up in, for a layer of a background: made once, and kept with the background."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpv.backends.protocol import Backend
from hpv.base.floats import FloatFormat
from hpv.histograms.ranges import outward, range_tables
from hpv.histograms.state import BackgroundState, LayerHistograms


def coder_of(background: BackgroundState, layer: str, nodes: slice, float_format: FloatFormat, backend: Backend) -> Any:
    """Codes values of a float format of some nodes."""

    def make() -> Any:
        return backend.make_coder(background.histograms(layer, nodes).edges_for(float_format), float_format)

    return background.tables.get(("coder", backend.name, layer, nodes.start, nodes.stop, float_format.name), make)


def ranges_of(
    background: BackgroundState,
    layer: str,
    nodes: slice,
    tail: str,
    dtype: np.dtype,
    float_format: FloatFormat,
    backend: Backend,
) -> Any:
    """Gives pmin and pmax of values of a float format, by node, code and which counts answer."""

    def make() -> Any:
        histograms = background.histograms(layer, nodes)
        tables = _range_tables(histograms, tail, dtype)
        return backend.make_ranges(tables, histograms.edges_for(float_format), float_format)

    key = ("ranges", backend.name, layer, nodes.start, nodes.stop, tail, dtype.name, float_format.name)
    return background.tables.get(key, make)


def look_up_of(background: BackgroundState, layer: str, tail: str, dtype: np.dtype, backend: Backend) -> Any:
    """Gives pmin and pmax of codes, by node, code and which counts answer."""

    def make() -> Any:
        return backend.make_look_up(_range_tables(background.histograms(layer), tail, dtype))

    return background.tables.get(("look-up", backend.name, layer, tail, dtype.name), make)


def _range_tables(histograms: LayerHistograms, tail: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """pmin and pmax as float64, or as float32 rounded outward."""
    tables = range_tables(histograms.survivors, histograms.counted, tail)
    return outward(*tables) if dtype == np.float32 else tables
