"""Answers in memory: what the methods of `hpv.Background` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from hpv import streaming
from hpv.background import Background, check_layers
from hpv.backends import get_backend
from hpv.errors import InputError
from hpv.fitting import Block, check_labels, read_block
from hpv.floats import keys_as_float64
from hpv.planning import LARGEST_BLOCK, thread_count
from hpv.pvalues import check_tail, outward, range_tables
from hpv.scanning import ScanResult, subset_nodes
from hpv.scoring import CACHED_CODES, prepare_score, run_score
from hpv.sources import Activations, Layer, open_activations


def encode(background: Background, x: Any, out: Any) -> Any:
    """See `Background.encode`."""
    source = open_activations(x)
    results = {}
    for name, theirs in check_layers(background, source).items():
        layer = source.layers[theirs]
        given = _given(out, source, theirs)
        codes = _result(given, layer.shape, np.uint8, f"out of layer {theirs}")
        closed = background.closed(name)
        backend = get_backend()
        coder = backend.make_coder(closed.edges_for(layer.form), layer.form)

        def work(block: Any, rows: slice, codes: np.ndarray = codes, coder: Any = coder) -> None:
            backend.encode(coder, block.bits, block.first, codes[rows])

        _walk(layer, work)
        results[theirs] = codes
    return _answer(results, source)


def pvalues(background: Background, x: Any, tail: str, dtype: str, labels: Any, out: Any) -> Any:
    """See `Background.pvalues`."""
    check_tail(tail)
    kind = np.dtype(dtype) if str(dtype) in ("float32", "float64") else None
    if kind is None:
        raise InputError(f"dtype={dtype!r}: give float32 (rounded outward) or float64 (exact).")
    source = open_activations(x)
    group = np.zeros(source.samples, np.int64)
    if labels is not None:
        if background.classes is None:
            raise InputError("labels: the background has no classes; fit it with by_class=True, or leave labels out.")
        group = background.group_of(check_labels(labels, source.samples))
    results = {}
    for name, theirs in check_layers(background, source).items():
        layer = source.layers[theirs]
        given = _given(out, source, theirs)
        pair = tuple(
            _result(None if given is None else given[end], layer.shape, kind, f"out of layer {theirs}")
            for end in (0, 1)
        )
        _fill_ranges(background, name, layer, tail, kind, group, pair)
        results[theirs] = pair
    return _answer(results, source)


def _fill_ranges(
    background: Background, name: str, layer: Layer, tail: str, kind: np.dtype, group: np.ndarray, pair: Any
) -> None:
    closed = background.closed(name)
    tables = range_tables(closed.survivors, closed.counted, tail)
    if kind == np.float32:
        tables = outward(*tables)
    backend, buffers = get_backend(), streaming.Buffers()
    coder = backend.make_coder(closed.edges_for(layer.form), layer.form)
    step = max(64, CACHED_CODES // layer.shape[1])

    def work(block: Any, rows: slice) -> None:
        for piece in streaming.blocks(slice(0, rows.stop - rows.start), step):
            at = slice(rows.start + piece.start, rows.start + piece.stop)
            codes = buffers.get("codes", (piece.stop - piece.start, layer.shape[1]), np.uint8)
            backend.encode(coder, block.bits[piece], block.first, codes)
            backend.look_up_ranges(codes, group[at], tables, (pair[0][at], pair[1][at]))

    _walk(layer, work)


def scan(
    background: Background, x: Any, *, layers: Any, labels: Any, against: Any, statistic: str, tail: str, form: str,
    alphas: str, alpha_max: float,
) -> ScanResult:  # fmt: skip
    """See `Background.scan`."""
    ready = prepare_score(
        background, x, statistics=(statistic,), tails=(tail,), forms=(form,), alphas=alphas, alpha_max=alpha_max,
        layers=layers, labels=labels, against=against, keep=(),
    )  # fmt: skip
    parts: list[Any] = []
    run_score(ready, streaming.Quiet(), lambda _, results: parts.append(results[tail, form, statistic]))
    names = ("score", "alpha", "size", "label")
    score, alpha, size, label = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    groups = ready.background.group_of(label.astype(np.int64)) if background.classes is not None else None

    def nodes(i: int) -> dict[str, np.ndarray]:
        i = range(len(score))[i]
        group = 0 if groups is None or label[i] < 0 else int(groups[i])
        found: dict[str, list[np.ndarray]] = {name: [] for name in ready.pairs}
        blocks = {name: _row(ready.source.layers[theirs], i) for name, theirs in ready.pairs.items()}
        for name, piece in ready.scanner.pieces():
            value_form = ready.source.layers[ready.pairs[name]].form
            closed = ready.background.closed(name, piece)
            codes = np.empty((1, closed.nodes), np.uint8)
            coder = ready.scanner.backend.make_coder(closed.edges_for(value_form), value_form)
            ready.scanner.backend.encode(coder, blocks[name].bits, blocks[name].first + piece.start, codes)
            found[name].append(piece.start + subset_nodes(closed, codes[0], group, tail, alpha[i]))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    return ScanResult(score, alpha, size, label, nodes)


def _row(layer: Layer, i: int) -> Block:
    """All nodes of one sample."""
    return read_block(layer, slice(i, i + 1), slice(0, layer.shape[1]), streaming.Buffers())


def quantile(background: Background, q: float | Sequence[float]) -> Any:
    """See `Background.quantile`."""
    asked = np.atleast_1d(np.asarray(q, dtype=np.float64))
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


def _walk(layer: Layer, work: Any) -> None:
    """``work(block, rows)`` over a layer, in the threads of this process."""
    nodes = layer.shape[1]
    threads = thread_count(None)
    step = max(64, LARGEST_BLOCK // (nodes * layer.form.key.itemsize))
    buffers = streaming.Buffers()

    def task(rows: slice) -> None:
        for part in streaming.blocks(rows, step):
            work(read_block(layer, part, slice(0, nodes), buffers), part)

    small = layer.shape[0] * nodes < 2**18
    streaming.run(task, streaming.split(slice(0, layer.shape[0]), 1 if small else threads, 64), 1 if small else threads)


def _given(out: Any, source: Activations, layer: str) -> Any:
    """What of ``out`` is for this layer."""
    if out is None:
        return None
    if isinstance(out, Mapping):
        return out[layer]
    if len(source.layers) > 1:
        raise InputError(f"out: give a mapping with the layers {', '.join(source.layers)}.")
    return out


def _result(given: Any, shape: tuple[int, int], dtype: Any, what: str) -> np.ndarray:
    """The array to write to: the caller's, if it fits."""
    if given is None:
        return np.empty(shape, dtype)
    fits = isinstance(given, np.ndarray) and given.shape == tuple(shape) and given.dtype == dtype
    if not fits or not given.flags.c_contiguous or not given.flags.writeable:
        raise InputError(f"{what}: give a C-contiguous, writable {np.dtype(dtype)} array of shape {tuple(shape)}.")
    return given


def _answer(results: dict[str, Any], source: Activations) -> Any:
    """A mapping where the activations were one."""
    return results if source.is_mapping or len(results) > 1 else next(iter(results.values()))

