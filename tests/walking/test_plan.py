"""Plans: arithmetic on shapes and budgets, made without reading, refused with numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
from data import plain_machine
from hpv.activations.opening import open_activations
from hpv.base.machine import bytes_of
from hpv.base.words import GIB, KIB, MIB, human
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.plan import TALLY_SHARE
from hpv.scoring.tallying import segment_length
from hpv.walking.candidates import DONE_AT_ONCE, score_chunks

SHAPES = st.tuples(st.integers(1, 10**9), st.one_of(st.integers(1, 300), st.integers(1, 2_000_000)))

BUDGETS = st.sampled_from([64 * MIB, 200 * MIB, 512 * MIB, GIB, 8 * GIB])


def virtual(shape: tuple[int, int], dtype: str = "float32", chunks: tuple[int, int] | None = None) -> Any:
    """Activations of any size that take no memory and fail when they are read."""
    if chunks is None:
        array = np.broadcast_to(np.zeros((), dtype), shape)
    else:
        array = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, dtype=dtype, chunks=chunks)
    source = open_activations(array)
    for layer in source.layers.values():
        layer.read = refuse  # type: ignore[method-assign]
    return source


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a plan reads no values")


def covers(parts: tuple[slice, ...], length: int) -> bool:
    """Consecutive, none empty, from 0 to the end."""
    ends = [0, *(part.stop for part in parts)]
    return [part.start for part in parts] == ends[:-1] and ends[-1] == length and all(p.start < p.stop for p in parts)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB available, no groups, no SLURM."""
    return plain_machine(tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:layer activations. every chunk:hpv.HpvWarning")
@given(
    SHAPES, st.sampled_from(["float16", "float32", "float64"]), BUDGETS, st.integers(1, 64), st.booleans(), st.data()
)
@settings(max_examples=150)
def test_plans_cover_everything_once_inside_the_budget(shape, dtype, memory, threads, chunked, data):
    chunks = None
    if chunked:
        chunks = tuple(data.draw(st.integers(1, min(size, 3000))) for size in shape)
    source = virtual(shape, dtype, chunks)
    pilot, bins = data.draw(st.sampled_from(["auto", 100])), data.draw(st.sampled_from([1, 32, 254]))
    try:
        plan = hpv.plan("fit", source, memory=memory, threads=threads, pilot=pilot, bins=bins)
    except hpv.InputError:  # what it says is looked at below
        assert memory < 8 * GIB or shape[1] > 50_000
        return
    (layer,) = plan.layers
    assert covers(layer.tiles, shape[1])
    assert covers(layer.segments, shape[0])
    assert 1 <= layer.block <= shape[0]
    assert all(part.start % layer.block == 0 for part in layer.segments)
    assert 0 < plan.peak <= plan.memory == memory
    pilot_samples = sum(run.stop - run.start for run in layer.pilot)
    assert plan.bytes_read == (shape[0] + pilot_samples) * shape[1] * np.dtype(dtype).itemsize
    if chunks and len(layer.tiles) > 1 and layer.tiles[0].stop >= chunks[1]:
        assert all(tile.start % chunks[1] == 0 for tile in layer.tiles)
    if chunks and layer.block >= chunks[0]:
        assert layer.block % chunks[0] == 0 or layer.block == shape[0]
    again = hpv.plan("fit", source, memory=memory, threads=threads, pilot=pilot, bins=bins)
    assert again == plan
    facts = json.loads(json.dumps(plan.as_json()))
    assert (facts["blocks"], facts["peak"], facts["bytes_read"]) == (plan.blocks, plan.peak, plan.bytes_read)
    assert facts["layers"][0]["tiles"] == len(layer.tiles)
    assert f"{plan.blocks:,} block" in str(plan)
    assert human(plan.peak) in str(plan)


@pytest.mark.filterwarnings("ignore:layer activations. every chunk:hpv.HpvWarning")
@given(
    st.tuples(st.integers(1, 10**8), st.integers(1, 3000)), BUDGETS, st.integers(1, 64), st.sampled_from(["", "codes"]),
    st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
@settings(max_examples=100)
def test_scores_are_planned_inside_the_budget(shape, memory, threads, kept, by_class, chunked, data):
    chunks = tuple(data.draw(st.integers(1, min(size, 3000))) for size in shape) if chunked else None
    values = np.random.default_rng(0).normal(size=(60, shape[1])).astype(np.float32)
    background = hpv.fit(values, labels=np.arange(60) % 3 if by_class else None, min_class_size=1)
    options = {"against": "lowest" if by_class else "pooled", "keep": (kept,) if kept else ()}
    source = virtual(shape, "float32", chunks)
    try:
        job = prepare_score(background, source, ScoreOptions(memory=memory, threads=threads, **options))
    except hpv.InputError:
        assert memory < 8 * GIB
        return
    plan, (layer,) = job.plan, job.plan.layers
    assert 0 < plan.peak <= plan.memory == memory
    assert 1 <= layer.block <= layer.part <= shape[0]
    assert covers(layer.tiles, shape[1])
    assert plan.together == (len(layer.tiles) == 1) or len(layer.tiles) == 1
    # What waits to be scored: of all threads, or of a segment where there are several tiles.
    of_sample = sum(len(one) + 2 for one in job.scanner.thresholds.values()) * 4 * len(job.scanner.references)
    waiting = layer.part * threads if plan.together else segment_length(job)
    assert waiting * of_sample <= max(memory // TALLY_SHARE, threads * of_sample)
    if layer.part > layer.block and not layer.window:
        whole = score_chunks(shape[1], shape[0], shape[1])[0]
        assert layer.part == shape[0] or layer.part % layer.block == layer.part % whole == 0


@pytest.mark.slow
@given(SHAPES, st.integers(1, 8))
@settings(max_examples=60)
def test_more_memory_never_means_more_tiles(shape, threads):
    source, tiles = virtual(shape), []
    for memory in (GIB, 4 * GIB, 16 * GIB, 64 * GIB):
        try:
            tiles.append(len(hpv.plan("fit", source, memory=memory, threads=threads).layers[0].tiles))
        except hpv.InputError:
            tiles.append(10**9)
    assert tiles == sorted(tiles, reverse=True)


def test_a_narrow_layer_does_not_make_the_parts_of_a_wide_one_long():
    """A chunk of codes of ten nodes could hold 2**18 samples: those of the wide layer are 100 GB."""
    layers = {"logits": 10, "features": 100_000}
    background = hpv.fit({name: np.eye(4, nodes, dtype=np.float32) for name, nodes in layers.items()})
    source = {name: np.broadcast_to(np.float32(0), (10**7, nodes)) for name, nodes in layers.items()}
    job = prepare_score(background, source, ScoreOptions(memory="4GiB", threads=2))
    assert job.plan.together
    assert all(plan.part * sum(layers.values()) <= DONE_AT_ONCE for plan in job.plan.layers)
    assert score_chunks(10, 10**7, 100_010) == (512, 10)
    assert score_chunks(10, 10**7, 10) == (2**18, 10)


def test_plan_of_a_score_reads_nothing():
    values = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    background = hpv.fit(values, labels=np.arange(200) % 2)
    source = virtual((10**7, 30))
    plan = hpv.plan("score", source, background, memory="512MiB", threads=3, keep=(), against="lowest")
    assert (plan.kind, plan.threads, plan.memory) == ("score", 3, 512 * MIB)
    assert plan.bytes_read == 10**7 * 30 * 4
    kinds = 3 * 2 * 2
    assert plan.bytes_written == 10**7 * kinds * 24
    with_codes = hpv.plan("score", source, background, against="pooled", tails=("right",))
    assert with_codes.bytes_written == 10**7 * (30 + 2 * 2 * 24)
    with pytest.raises(hpv.InputError, match="plan of 'merge': give 'fit' or 'score'"):
        hpv.plan("merge", source)


def test_too_little_memory_is_refused_with_numbers():
    message = r"memory 64 MiB is too little: the state of all layers takes [\d.]+ MiB, .* give at least \d+ MiB"
    with pytest.raises(hpv.InputError, match=message):
        hpv.plan("fit", virtual((1000, 300_000)), memory="64MiB")
    for nodes in (300_000, 3_000_000, 30_000_000):
        source = virtual((1000, nodes))
        enough = re.search(r"give at least ([\d.]+ \w+)", refusal(source))[1]
        plan = hpv.plan("fit", source, memory=enough, threads=2)
        assert plan.peak <= plan.memory == bytes_of(enough)
    background = hpv.fit(np.zeros((3, 20_000), np.float16), edges=np.arange(200.0))
    with pytest.raises(hpv.InputError, match="memory 64 MiB is too little: the background takes"):
        hpv.plan("score", virtual((5, 20_000), "float16"), background, memory="64MiB")
    message = (
        r"layer activations: 1.49 GiB are needed beside the state to read one of its chunks of 100000 x 2000, and "
        r".* are left; give more memory, or store it in smaller chunks, such as \(512, 2000\)"
    )
    with pytest.raises(hpv.InputError, match=message):
        hpv.plan("fit", virtual((10**8, 2000), chunks=(10**5, 2000)), memory="300MiB", threads=64, pilot=None)


def refusal(source: Any) -> str:
    with pytest.raises(hpv.InputError) as caught:
        hpv.plan("fit", source, memory="64MiB")
    return str(caught.value)


def test_the_default_budget_is_a_quarter(machine):
    assert hpv.plan("fit", virtual((1000, 10))).memory == 2 * GIB
    assert 4 * KIB == 4096
