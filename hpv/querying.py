"""Answers in memory: what the methods of `hpv.Background` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from hpv import streaming
from hpv.backends import Backend, coded_samples, get_backend
from hpv.background import Background, check_layers
from hpv.blocks import Block, each_part, read_block, threads_in_place
from hpv.buffers import Buffers
from hpv.errors import InputError
from hpv.fitting import check_labels
from hpv.floats import FloatFormat, keys_as_float64
from hpv.pvalues import check_tail, outward, range_tables
from hpv.resources import GIB
from hpv.scanning import ScanResult, join, subset_nodes
from hpv.scoring import prepare_score, run_score
from hpv.sources import Activations, Layer, open_activations

TILE_NODES = 65_536
"""Nodes whose tables are made at once."""


def encode(background: Background, x: Any, out: Any, backend: str = "auto") -> Any:
    """See `Background.encode`."""
    source = open_activations(x)
    chosen, results = get_backend(backend, source.values, source.on_device), {}
    for name, theirs in check_layers(background, source).items():
        layer = source.layers[theirs]
        codes = _result(_given(out, source, theirs), layer, chosen, np.dtype(np.uint8), f"out of layer {theirs}")
        for tile in _tiles(layer):
            _encode_tile(background, name, layer, tile, codes, chosen)
        results[theirs] = codes
    return _answer(results, source)


def _encode_tile(background: Background, name: str, layer: Layer, tile: slice, codes: Any, backend: Backend) -> None:
    buffers = backend.make_buffers()
    coder = _coder(background, name, tile, layer.form, backend)
    width = tile.stop - tile.start

    def work(block: Block, rows: slice, threads: int) -> None:
        if width == layer.shape[1]:
            backend.encode(coder, block.bits, block.first, codes[rows], threads)
        else:
            shape = rows.stop - rows.start, width
            part = _space(block, layer, buffers, "codes", shape, codes.dtype)
            backend.encode(coder, block.bits, block.first, part, threads)
            _put(part, codes, rows, tile)

    _walk(layer, tile, buffers, backend, work)


def pvalues(background: Background, x: Any, tail: str, dtype: str, labels: Any, out: Any, backend: str = "auto") -> Any:
    """See `Background.pvalues`."""
    check_tail(tail)
    kind = _result_dtype(dtype)
    source = open_activations(x)
    group = np.zeros(source.samples, np.int64)
    if labels is not None:
        if background.classes is None:
            raise InputError("labels: the background has no classes; fit it with by_class=True, or leave labels out.")
        group = background.group_of(check_labels(labels, source.samples))
    chosen, results = get_backend(backend, source.values, source.on_device), {}
    for name, theirs in check_layers(background, source).items():
        layer = source.layers[theirs]
        given, what = _given(out, source, theirs), f"out of layer {theirs}"
        if given is None:
            given = None, None
        elif not isinstance(given, Sequence | np.ndarray) or len(given) != 2:
            raise InputError(f"{what}: give a pair of arrays, for pmin and pmax.")
        pair = tuple(_result(one, layer, chosen, kind, what) for one in given)
        for tile in _tiles(layer):
            _fill_ranges(background, name, layer, tile, tail, group, pair, kind, chosen)
        results[theirs] = pair
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
    background: Background, name: str, layer: Layer, tile: slice, tail: str, group: np.ndarray, pair: Any,
    kind: np.dtype, backend: Backend,
) -> None:  # fmt: skip
    buffers, width = backend.make_buffers(), tile.stop - tile.start
    coder = _coder(background, name, tile, layer.form, backend)
    ranges = _ranges(background, name, tile, tail, kind, layer.form, backend)

    def codes(shape: tuple[int, int]) -> np.ndarray:
        return buffers.get("codes", shape, np.uint8)

    def work(block: Block, rows: slice, threads: int) -> None:
        if width == layer.shape[1]:
            out = pair[0][rows], pair[1][rows]
            backend.ranges(coder, ranges, block.bits, block.first, group[rows], codes, out, threads)
            return
        for piece in streaming.blocks(slice(0, rows.stop - rows.start), coded_samples(width)):
            at = slice(rows.start + piece.start, rows.start + piece.stop)
            shape = (piece.stop - piece.start, width)
            parts = tuple(_space(block, layer, buffers, end, shape, kind) for end in ("pmin", "pmax"))
            backend.ranges(coder, ranges, block.bits[piece], block.first, group[at], codes, parts, threads)
            for part, whole in zip(parts, pair, strict=True):
                _put(part, whole, at, tile)

    _walk(layer, tile, buffers, backend, work)


def _space(block: Block, layer: Layer, buffers: Buffers, purpose: str, shape: tuple[int, int], dtype: np.dtype) -> Any:
    """An array for the results of a block, beside it."""
    return buffers.get(purpose, shape, dtype) if isinstance(block.bits, np.ndarray) else layer.empty(shape, dtype)


def _put(part: Any, whole: Any, rows: slice, nodes: slice) -> None:
    """Results of some nodes into those of all."""
    if isinstance(whole, np.ndarray):
        whole[rows, nodes] = part
        return
    from hpv.backends.moving import put

    put(part, whole, rows, nodes)


def _tiles(layer: Layer) -> list[slice]:
    """All nodes, in parts whose tables are of moderate size."""
    return list(streaming.blocks(slice(0, layer.shape[1]), TILE_NODES))


def _coder(background: Background, name: str, tile: slice, form: FloatFormat, backend: Backend) -> Any:
    """The coder of some nodes; kept with the background where it is small, for the next call."""

    def make() -> Any:
        return backend.make_coder(background.closed(name, tile).edges_for(form), form)

    return _kept(background, name, ("coder", backend.name, name, form.name), make)


def _ranges(
    background: Background, name: str, tile: slice, tail: str, kind: np.dtype, form: FloatFormat, backend: Backend
) -> Any:
    """pmin and pmax by group, node and code, as float64 or as float32 rounded outward; kept like coders."""

    def make() -> Any:
        closed = background.closed(name, tile)
        tables = range_tables(closed.survivors, closed.counted, tail)
        tables = outward(*tables) if kind == np.float32 else tables
        return backend.make_ranges(tables, closed.edges_for(form), form)

    return _kept(background, name, ("ranges", backend.name, name, tail, kind.name, form.name), make)


def _kept(background: Background, name: str, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
    if background.layers[name].nodes > TILE_NODES:
        return make()
    if key not in background.kept:
        background.kept[key] = make()
    return background.kept[key]


def scan(
    background: Background, x: Any, *, layers: Any, labels: Any, against: Any, statistic: str, tail: str, form: str,
    alphas: str, alpha_max: float, backend: str = "auto",
) -> ScanResult:  # fmt: skip
    """See `Background.scan`."""
    ready = prepare_score(
        background, x, statistics=(statistic,), tails=(tail,), forms=(form,), alphas=alphas, alpha_max=alpha_max,
        layers=layers, labels=labels, against=against, keep=(), memory=max(GIB, 4 * background.state_bytes),
        backend=backend,
    )  # fmt: skip
    parts: list[Any] = []
    run_score(ready, streaming.Quiet(), lambda _, results, __: parts.append(results[tail, form, statistic]))
    whole = join(parts)
    score, label, alpha = whole.score, whole.label, whole.alpha
    groups = ready.background.group_of(label.astype(np.int64)) if background.classes is not None else None

    def nodes(i: int) -> dict[str, np.ndarray]:
        try:
            i = range(len(score))[i]
        except IndexError:
            raise IndexError(f"sample {i}: there are {len(score)}, from 0 on") from None
        group = 0 if groups is None or label[i] < 0 else int(groups[i])
        found = {}
        for name, theirs in ready.pairs.items():
            layer, parts = ready.source.layers[theirs], []
            block, backend = read_block(layer, slice(i, i + 1), slice(0, layer.shape[1]), Buffers()), get_backend("cpu")
            for piece, closed in ready.background.pieces(name):
                codes = np.empty((1, closed.nodes), np.uint8)
                coder = backend.make_coder(closed.edges_for(layer.form), layer.form)
                backend.encode(coder, block.bits, block.first + piece.start, codes)
                parts.append(piece.start + subset_nodes(closed, codes[0], group, tail, alpha[i]))
            found[name] = np.concatenate(parts)
        return found

    return ScanResult(score, alpha, whole.size, label, nodes)


def quantile(background: Background, q: float | Sequence[float]) -> Any:
    """See `Background.quantile`."""
    try:
        asked = np.atleast_1d(np.asarray(q, dtype=np.float64))
    except (TypeError, ValueError):
        asked = np.array([np.nan])
    if asked.ndim != 1 or not np.all((asked >= 0) & (asked <= 1)):
        raise InputError(f"q={q!r}: give a number from 0 to 1, or a list of them.")
    results = {}
    for name in background.layers:
        closed = background.closed(name)
        bounds = [_quantile(closed, Fraction(float(one)).limit_denominator(10**9)) for one in asked]
        low, high = (np.stack([bound[end] for bound in bounds]) for end in (0, 1))
        results[name] = (low, high) if np.ndim(q) else (low[0], high[0])
    return next(iter(results.values())) if len(results) == 1 else results


def _quantile(closed: Any, q: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the value with rank ceil(q M): the bin that holds it."""
    counted = closed.counted[0]
    rank = np.maximum(-(-q.numerator * counted // q.denominator), 1)
    # The value reaches an edge exactly when at least M - rank + 1 values do.
    k = np.count_nonzero(closed.survivors[0] >= (counted - rank + 1)[:, None], axis=1) - 1
    nodes = np.arange(closed.nodes)
    used = np.count_nonzero(closed.edges != closed.form.unused, axis=1)
    low = closed.edges[nodes, np.maximum(k, 0)]
    following = closed.edges[nodes, np.minimum(k + 1, closed.edges.shape[1] - 1)]
    high = np.where(k + 1 < used, following - closed.form.key.type(1), closed.form.key.type(closed.form.infinity))
    values = [keys_as_float64(keys, closed.form) for keys in (low, high)]
    for value in values:
        value[counted == 0] = np.nan
    return values[0], values[1]


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
    each_part(part, samples, nodes, layer.form.key.itemsize, layer.in_memory, None)


def _given(out: Any, source: Activations, layer: str) -> Any:
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
