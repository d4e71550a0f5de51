"""The same integers and scores, bit for bit, however the same activations are stored, cut, budgeted and shared out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from checks import NAME
from hpv.backends import protocol
from hpv.base.floats import BFLOAT16, FLOAT32, FloatFormat
from hpv.fitting import plan as fitting_plan
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.scanning.scored import scan_pvalues
from hpv.scoring import plan as scoring_plan
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.tallying import score_by_threads
from hpv.store import arrays
from hpv.walking import candidates
from hpv.walking.progress import Quiet
from strategies import as_input, binnings, labels, matrices, pairs

FIELDS = ("score", "alpha", "size", "label")
ALL_KINDS = {"statistic": naive.STATISTICS, "form": naive.FORMS, "tail": naive.TAILS}


def as_zarr(values: np.ndarray, form: FloatFormat, chunks: tuple[int, int]) -> zarr.Array:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=values.shape, dtype=values.dtype, chunks=chunks)
    array[:] = values
    if form is BFLOAT16:
        array.attrs["float_format"] = "bfloat16"
    return array


def all_scores(
    background: hpv.Background, source: Any, **options: Any
) -> tuple[np.ndarray, dict[Any, list[np.ndarray]]]:
    """Codes and every kind of score, by the walk that `hpv.score` does."""
    job = prepare_score(background, source, ScoreOptions(keep=("codes",), **ALL_KINDS, **options))
    codes = np.zeros((job.source.samples, background.nodes), np.uint8)
    parts: list[Any] = []

    def keep_codes(name: str, rows: slice, nodes: slice, block: np.ndarray, group: np.ndarray) -> None:
        codes[rows, nodes] = block

    score_by_threads(job, Quiet(), lambda *part: parts.append(part), keep_codes)
    assert [rows.start for rows, *_ in parts] == [0, *(rows.stop for rows, *_ in parts[:-1])]
    scores = {
        kind: [np.concatenate([getattr(results[kind], field) for _, results, _ in parts]) for field in FIELDS]
        for kind in parts[0][1]
    }
    assert sum(missing for *_, missing in parts) == np.count_nonzero(codes == naive.NAN_CODE)
    return codes, scores


def check_same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for kind, fields in expected[1].items():
        for one, other in zip(found[1][kind], fields, strict=True):
            np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


# --- chunks, budgets, threads ---


@st.composite
def budgets(draw: st.DrawFn) -> Callable[[pytest.MonkeyPatch], None]:
    """Limits so small that a few values need many tiles, blocks and segments."""
    usable, block = draw(st.sampled_from([40_000, 90_000, 400_000])), draw(st.sampled_from([1, 100, 1000]))
    segment, codes = draw(st.sampled_from([1, 500, 5000])), draw(st.sampled_from([1, 700]))

    def shrink(patch: pytest.MonkeyPatch) -> None:
        for module in (fitting_plan, scoring_plan):
            patch.setattr(module, "usable_bytes", lambda *_: usable)
        for limit in ("LARGEST_BLOCK", "LARGEST_IN_MEMORY", "LEAST_IN_MEMORY"):
            patch.setattr(candidates, limit, block)
        patch.setattr(candidates, "SEGMENT", segment)
        patch.setattr(arrays, "LARGEST_REQUEST", 1)
        patch.setattr(protocol, "CACHED_CODES", codes)
        patch.setattr(protocol, "CODED_SAMPLES", 64)

    return shrink


@st.composite
def chunk_shapes(draw: st.DrawFn, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows, tiles, column blocks, one chunk, ragged ends."""
    return draw(st.tuples(*(st.one_of(st.just(size), st.integers(1, size)) for size in shape)))


READ_AGAIN = pytest.mark.filterwarnings("ignore:layer activations. every chunk:hpv.HpvWarning")
"""Where the memory is made so small, chunks are read again and again."""


@READ_AGAIN
@given(pairs(samples=st.integers(1, 90), max_nodes=8), binnings, st.booleans(), st.data())
@settings(max_examples=30)
def test_sources_chunks_budgets_and_threads(both, binning, by_class, data):
    (values, form), (test, other) = both
    names = data.draw(labels(len(values))) if by_class else None
    asked = {"binning": binning, "labels": names, "min_class_size": 10}
    whole = hpv.fit(as_input(values, form), threads=1, **asked)
    against = data.draw(st.sampled_from(["pooled", "lowest"] if by_class else ["pooled"]))
    alphas = data.draw(st.sampled_from(["grid", "all"]))
    expected = all_scores(whole, as_input(test, other), alphas=alphas, against=against, threads=1)
    np.testing.assert_array_equal(expected[0], whole.encode(as_input(test, other)))
    ranges = whole.pvalues(as_input(test, other))
    shrink, threads = data.draw(budgets()), data.draw(st.integers(1, 3))

    def stored(array: np.ndarray, kind: FloatFormat) -> Any:
        chunks = data.draw(chunk_shapes(array.shape))
        way = data.draw(st.sampled_from(["zarr", "dask", "given"]))
        if way == "zarr" or (way == "dask" and kind is BFLOAT16):
            return as_zarr(array, kind, chunks)
        return da.from_array(array, chunks) if way == "dask" else as_input(array, kind)

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        background = hpv.fit(stored(values, form), threads=threads, **asked)
        assert background.fingerprint == whole.fingerprint
        again = stored(test, other)
        check_same(all_scores(background, again, alphas=alphas, against=against, threads=threads), expected)
        np.testing.assert_array_equal(background.encode(again), expected[0])
        np.testing.assert_array_equal(background.pvalues(again), ranges)


@READ_AGAIN
@pytest.mark.parametrize("chunks", [None, (7, 200), (64, 64), (300, 20), (300, 200), (100, 70)])
def test_many_tiles_blocks_and_segments(chunks, monkeypatch):
    """As above, larger, with the plan looked at: it really has several of each."""
    rng = np.random.default_rng(0)
    values = np.where(np.arange(200) % 2, rng.normal(size=(300, 200)), np.maximum(rng.normal(size=(300, 200)), 0))
    values = values.astype(np.float32)
    names = rng.integers(0, 3, 300)
    whole = hpv.fit(values, labels=names, min_class_size=99, pilot=100, threads=1)
    expected = all_scores(whole, values, labels=names, threads=1)
    stored = values if chunks is None else as_zarr(values, FLOAT32, chunks)
    for module in (fitting_plan, scoring_plan):
        monkeypatch.setattr(module, "usable_bytes", lambda *_: 700_000)
    for limit in ("LARGEST_BLOCK", "LARGEST_IN_MEMORY", "LEAST_IN_MEMORY"):
        monkeypatch.setattr(candidates, limit, 15_000)
    monkeypatch.setattr(candidates, "SEGMENT", 30_000)
    monkeypatch.setattr(arrays, "LARGEST_REQUEST", 1)
    for threads in (1, 2, 3):
        layer = prepare_fit(stored, FitOptions(labels=names, pilot=100, threads=threads)).plan.layers[0]
        assert len(layer.tiles) > 1
        whole_chunks = chunks is not None and chunks[0] * threads >= 300  # chunks are read whole where they fit
        assert len(layer.segments) > 1 or whole_chunks
        assert layer.block < 300 or whole_chunks
        background = hpv.fit(stored, labels=names, min_class_size=99, pilot=100, threads=threads)
        assert background.fingerprint == whole.fingerprint
        check_same(all_scores(background, stored, labels=names, threads=threads), expected)


@pytest.mark.filterwarnings("ignore:.* have the same counts")  # parts may be equal
@given(matrices(samples=st.integers(2, 60)), binnings, st.data())
@settings(max_examples=15)
def test_parts_of_a_stored_array(activations, binning, data):
    """Each part of a Zarr array is counted at the edges of the whole, on its own; then all are added up."""
    values, form = activations
    stored = as_zarr(values, form, data.draw(chunk_shapes(values.shape)))
    proposal = hpv.edges(stored, binning=binning)
    middle = data.draw(st.integers(1, len(values) - 1))
    first, second = (hpv.fit(as_input(part, form), edges=proposal) for part in (values[:middle], values[middle:]))
    assert hpv.merge([second, first]).fingerprint == hpv.fit(stored, binning=binning).fingerprint


def test_every_way_to_give_the_same_activations(tmp_path):
    values = np.random.default_rng(1).normal(size=(80, 12)).astype(np.float32)
    expected = hpv.fit(values)
    codes, scan = expected.encode(values), expected.scan(values)
    np.save(tmp_path / "x.npy", values)
    zarr.save_array(tmp_path / "x.zarr", values, zarr_format=2)
    read_only = values.copy()
    read_only.flags.writeable = False
    wider = np.zeros((80, 30), np.float32)
    wider[:, 5:17] = values
    ways = [
        torch.from_numpy(values), torch.from_numpy(values).requires_grad_(),
        tmp_path / "x.npy", str(tmp_path / "x.npy"),
        tmp_path / "x.zarr", zarr.open_array(tmp_path / "x.zarr", mode="r"), da.from_array(values, (33, 5)),
        np.asfortranarray(values), values.astype(">f4"), read_only, wider[:, 5:17], np.repeat(values, 2, axis=0)[::2],
        values.reshape(80, 3, 4), torch.from_numpy(values.reshape(80, 2, 3, 2)),
        da.from_array(values.reshape(80, 4, 3)),
    ]  # fmt: skip
    for way in ways:
        assert hpv.fit(way).fingerprint == expected.fingerprint
        np.testing.assert_array_equal(expected.encode(way), codes)
        np.testing.assert_array_equal(expected.scan(way).score, scan.score)
        assert expected.scan(way).nodes(4)[NAME].tolist() == scan.nodes(4)[NAME].tolist()
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("one", data=values[:, :5], chunks=(9, 9))
    group.create_array("deep/two", data=values[:, 5:])
    mapping = {"one": values[:, :5], "deep/two": values[:, 5:]}
    together = hpv.fit(mapping)
    for way in (tmp_path / "g.zarr", group, {"one": tmp_path / "g.zarr" / "one", "deep/two": group["deep/two"]}):
        assert hpv.fit(way).fingerprint == together.fingerprint
        assert list(together.encode(way)) == list(together.layers)


def test_files_are_left_alone(tmp_path):
    """Reading maps files read-only; nothing is written beside them."""
    values = np.random.default_rng(3).normal(size=(20, 3))
    path = Path(tmp_path) / "x.npy"
    np.save(path, values)
    before = path.read_bytes()
    background = hpv.fit(path)
    background.encode(path)
    background.scan(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npy"]


# --- a layer as wide as they get ---


@pytest.mark.slow
def test_a_million_nodes_in_one_layer():
    """In tiles, under 10 s; the answers are those of the nodes alone."""
    rng = np.random.default_rng(2)
    block = rng.normal(size=(40, 10_000)).astype(np.float16)
    values = np.tile(block, 100)
    values[:, -10_000:] += 1
    assert values.shape == (40, 1_000_000)
    hpv.fit(block[:, :8]).scan(block[:, :8])  # compiled now
    plan = hpv.plan("fit", values, memory="512MiB", bins=10)
    assert len(plan.layers[0].tiles) > 1
    start = time.process_time()
    background = hpv.fit(values, memory="512MiB", bins=10)
    result = background.scan(values[:3], tail="right")
    took = time.process_time() - start
    some = rng.choice(1_000_000, 20, replace=False)
    alone = hpv.fit(values[:, some], bins=10)
    np.testing.assert_array_equal(background.encode(values[:3])[:, some], alone.encode(values[:3, some]))
    repeated = hpv.fit(block, bins=10).pvalues(block[:3], dtype="float64")[1]
    shifted = hpv.fit(values[:, -10_000:], bins=10).pvalues(values[:3, -10_000:], dtype="float64")[1]
    pmax = np.concatenate([repeated] * 99 + [shifted], axis=1)
    exact = background.scan(values[:3], tail="right", alphas="all")
    score, alpha, size = scan_pvalues(pmax)
    np.testing.assert_allclose(exact.score, score, rtol=1e-12)
    np.testing.assert_array_equal((exact.alpha, exact.size), (alpha, size))
    assert (result.score <= exact.score).all()
    assert len(result.nodes(1)[NAME]) == result.size[1]
    assert took < 10
