"""Codes, ranges and scans of what is given in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from hpv.activations.blocks import Block, read_block
from hpv.activations.labels import check_labels
from hpv.activations.layers import Activations, Layer
from hpv.activations.opening import open_activations
from hpv.backends.choosing import get_backend
from hpv.backends.protocol import Backend, coded_samples
from hpv.backends.tables import coder_of, ranges_of
from hpv.base.buffers import Buffers
from hpv.base.errors import InputError
from hpv.base.words import GIB, Names
from hpv.histograms.ranges import check_tail
from hpv.histograms.state import BackgroundState
from hpv.scanning.scored import ScanResult, Scored, join, sample_number, subset
from hpv.scoring.job import prepare_score
from hpv.scoring.matching import check_layers
from hpv.scoring.options import ScoreOptions
from hpv.scoring.tallying import score_by_threads
from hpv.walking.parts import each_part, threads_in_place
from hpv.walking.progress import Quiet
from hpv.walking.threads import in_steps

TILE_NODES = 65_536
"""Nodes whose tables are made at once."""


def encode(background: BackgroundState, x: Any, out: Any, backend: str = "auto") -> Any:
    """Codes of all values, a mapping from layer to them where the activations are one; see `hpv.Background.encode`."""
    source = open_activations(x)
    chosen, results = get_backend(backend, source.values, source.on_device), {}
    for name, source_name in check_layers(background, source).items():
        layer = source.layers[source_name]
        codes = _result(
            _output_for(out, source, source_name), layer, chosen, np.dtype(np.uint8), f"out of layer {source_name}"
        )
        for tile in _tiles(layer):
            _encode_tile(background, name, layer, tile, codes, chosen)
        results[source_name] = codes
    return _answer(results, source)


def _encode_tile(
    background: BackgroundState, name: str, layer: Layer, tile: slice, codes: Any, backend: Backend
) -> None:
    buffers = backend.make_buffers()
    coder = coder_of(background, name, tile, layer.float_format, backend)
    width = tile.stop - tile.start

    def work(block: Block, rows: slice, threads: int) -> None:
        if width == layer.shape[1]:
            backend.encode(coder, block.bits, block.first, codes[rows], threads)
        else:
            shape = rows.stop - rows.start, width
            part = _scratch(block, layer, buffers, "codes", shape, codes.dtype)
            backend.encode(coder, block.bits, block.first, part, threads)
            _copy_into(part, codes, rows, tile)

    _walk(layer, tile, buffers, backend, work)


def pvalues(
    background: BackgroundState, x: Any, tail: str, dtype: str, labels: Any, out: Any, backend: str = "auto"
) -> Any:
    """P-value ranges (pmin, pmax) of all values; see `hpv.Background.pvalues`."""
    check_tail(tail)
    kind = _result_dtype(dtype)
    source = open_activations(x)
    reference = np.zeros(source.samples, np.int64)
    if labels is not None:
        if background.classes is None:
            raise InputError("labels: the background has no classes; fit it with by_class=True, or leave labels out.")
        reference = background.reference_of(check_labels(labels, source.samples))
    chosen, results = get_backend(backend, source.values, source.on_device), {}
    for name, source_name in check_layers(background, source).items():
        layer = source.layers[source_name]
        given, what = _output_for(out, source, source_name), f"out of layer {source_name}"
        if given is None:
            given = None, None
        elif not isinstance(given, Sequence | np.ndarray) or len(given) != 2:
            raise InputError(f"{what}: give a pair of arrays, for pmin and pmax.")
        pair = tuple(_result(one, layer, chosen, kind, what) for one in given)
        for tile in _tiles(layer):
            _fill_ranges(background, name, layer, tile, tail, reference, pair, kind, chosen)
        results[source_name] = pair
    return _answer(results, source)


def _result_dtype(dtype: Any) -> np.dtype:
    try:
        kind = None if dtype is None else np.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind not in (np.float32, np.float64):
        raise InputError(f"dtype={dtype!r}: give float32 (rounded outward) or float64 (exact).")
    return kind


def _fill_ranges(
    background: BackgroundState, name: str, layer: Layer, tile: slice, tail: str, reference: np.ndarray, pair: Any,
    kind: np.dtype, backend: Backend,
) -> None:  # fmt: skip
    buffers, width = backend.make_buffers(), tile.stop - tile.start
    coder = coder_of(background, name, tile, layer.float_format, backend)
    ranges = ranges_of(background, name, tile, tail, kind, layer.float_format, backend)

    def codes(shape: tuple[int, int]) -> np.ndarray:
        return buffers.get("codes", shape, np.uint8)

    def work(block: Block, rows: slice, threads: int) -> None:
        if width == layer.shape[1]:
            out = pair[0][rows], pair[1][rows]
            backend.ranges(coder, ranges, block.bits, block.first, reference[rows], codes, out, threads)
            return
        for piece in in_steps(slice(0, rows.stop - rows.start), coded_samples(width)):
            at = slice(rows.start + piece.start, rows.start + piece.stop)
            shape = (piece.stop - piece.start, width)
            parts = tuple(_scratch(block, layer, buffers, end, shape, kind) for end in ("pmin", "pmax"))
            backend.ranges(coder, ranges, block.bits[piece], block.first, reference[at], codes, parts, threads)
            for part, whole in zip(parts, pair, strict=True):
                _copy_into(part, whole, at, tile)

    _walk(layer, tile, buffers, backend, work)


def _scratch(
    block: Block, layer: Layer, buffers: Buffers, purpose: str, shape: tuple[int, int], dtype: np.dtype
) -> Any:
    """An array for the results of a block, beside it."""
    return buffers.get(purpose, shape, dtype) if isinstance(block.bits, np.ndarray) else layer.empty(shape, dtype)


def _copy_into(part: Any, whole: Any, rows: slice, nodes: slice) -> None:
    """Results of some nodes into those of all."""
    if isinstance(whole, np.ndarray):
        whole[rows, nodes] = part
        return
    from hpv.backends.moving import put

    put(part, whole, rows, nodes)


def _tiles(layer: Layer) -> list[slice]:
    """All nodes, in parts whose tables are of moderate size."""
    return list(in_steps(slice(0, layer.shape[1]), TILE_NODES))


def scan(
    background: BackgroundState, x: Any, *, layers: Any, labels: Any, against: Any, statistic: Names, tail: Names,
    form: Names, alphas: str, alpha_max: float, backend: str = "auto",
) -> ScanResult:  # fmt: skip
    """Scan scores of all samples, and the nodes behind them; see `hpv.Background.scan`."""
    job = prepare_score(
        background, x, ScoreOptions(statistic=statistic, tail=tail, form=form, alphas=alphas, alpha_max=alpha_max,
        layers=layers, labels=labels, against=against, keep=(), memory=max(GIB, 4 * background.state_bytes),
        backend=backend),
    )  # fmt: skip
    parts: list[Any] = []
    score_by_threads(job, Quiet(), lambda _, results, __: parts.append(results))

    def nodes(i: int, tail: str, scored: Scored) -> dict[str, np.ndarray]:
        i = sample_number(i, job.source.samples)
        codes, label = partial(_codes_of_sample, job.background, job.source, job.source_layers, i), int(scored.label[i])
        return subset(job.background, list(job.source_layers), codes, label, tail, float(scored.alpha[i]))

    return ScanResult.of({kind: join([part[kind] for part in parts]) for kind in job.options.kinds}, nodes)


def _codes_of_sample(
    background: BackgroundState, source: Activations, source_layers: Mapping[str, str], i: int, layer: str
) -> np.ndarray:
    """Codes (n,) of one sample, looked up in tables that are there, or are made for the next samples."""
    source_layer, backend = source.layers[source_layers[layer]], get_backend("cpu")
    codes = np.empty((1, source_layer.shape[1]), np.uint8)
    for tile in _tiles(source_layer):
        block = read_block(source_layer, slice(i, i + 1), tile, Buffers())
        coder, found = coder_of(background, layer, tile, source_layer.float_format, backend), codes[:, tile]
        backend.encode(coder, block.bits, block.first, found)
    return codes[0]


def _walk(
    layer: Layer, tile: slice, buffers: Buffers, backend: Backend, work: Callable[[Block, slice, int], None]
) -> None:
    """``work(block, rows, threads)`` over some nodes of a layer; all at once of what is on a GPU and stays there."""
    samples, nodes = layer.shape[0], tile.stop - tile.start

    def part(rows: slice, threads: int = 1) -> None:
        work(read_block(layer, rows, tile, buffers), rows, threads)

    if buffers.on_device and layer.on_device:
        part(slice(0, samples))
        return
    with backend.one_caller(threads_in_place(layer, samples * nodes)) as threads:
        if threads > 1:
            part(slice(0, samples), threads)
            return
    each_part(part, samples, nodes, layer.float_format.key.itemsize, layer.in_memory, None)


def _output_for(out: Any, source: Activations, layer: str) -> Any:
    """What of ``out`` is for this layer."""
    if out is None:
        return None
    if isinstance(out, Mapping) and layer in out:
        return out[layer]
    if isinstance(out, Mapping) or len(source.layers) > 1:
        raise InputError(f"out: give a mapping with the layers {', '.join(source.layers)}.")
    return out


def _result(given: Any, layer: Layer, backend: Backend, dtype: np.dtype, what: str) -> Any:
    """The array to write to: the caller's, if it fits; beside the values where they stay on a GPU."""
    shape, on_device = layer.shape, layer.on_device and backend.make_buffers().on_device
    if given is None:
        return layer.empty(shape, dtype) if on_device else np.empty(shape, dtype)
    if on_device:
        return _result_on_device(given, layer, dtype, what)
    fits = isinstance(given, np.ndarray) and given.shape == tuple(shape) and given.dtype == dtype
    if not fits or not given.flags.c_contiguous or not given.flags.writeable:
        raise InputError(f"{what}: give a C-contiguous, writable {np.dtype(dtype)} array of shape {tuple(shape)}.")
    return given


def _result_on_device(given: Any, layer: Layer, dtype: np.dtype, what: str) -> Any:
    """The caller's array on the GPU where the values are."""
    from hpv.backends.moving import device_of

    shape = layer.shape
    interface = getattr(given, "__cuda_array_interface__", {})
    fits = interface.get("shape") == tuple(shape) and interface.get("typestr") == dtype.str
    if not fits or interface.get("strides") is not None or interface["data"][1]:
        raise InputError(f"{what}: give a C-contiguous, writable {dtype} array of shape {tuple(shape)} on the GPU.")
    if device_of(given) != layer.device:
        raise InputError(f"{what}: it is on {device_of(given)}, the activations are on {layer.device}; bring them to "
                         "one device.")  # fmt: skip
    return given


def _answer(results: dict[str, Any], source: Activations) -> Any:
    """A mapping where the activations were one."""
    return results if source.is_mapping or len(results) > 1 else next(iter(results.values()))
