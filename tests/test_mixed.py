"""Stores of every layout and codec: the bits of memory, chunks read as often as planned, damage and changes named."""

from __future__ import annotations

import json
import math
import shutil
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Delta, Shuffle, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

import hpv
from hpv.activations.arrays import ArrayLayer
from hpv.activations.layers import PartLayer
from hpv.activations.opening import open_activations
from hpv.activations.windows import WindowLayer
from hpv.base.floats import BFLOAT16, FLOAT32, FORMATS
from hpv.fitting.counting import fit_by_threads
from hpv.fitting.job import prepare_fit
from hpv.scoring.job import prepare_score
from hpv.scoring.running import score_to_store
from hpv.store import accelerating, arrays, chunks
from hpv.walking.progress import Quiet
from hpv.walking.threads import run_in_threads
from strategies import as_input, from_floats

SAMPLES, NODES = 230, 21
LAYOUTS = {"rows": (64, 21), "tiles": (50, 8), "columns": (230, 4), "one chunk": (230, 21), "larger": (300, 40),
           "a node": (70, 1), "few rows": (9, 21)}  # fmt: skip
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
SHARDS = {"shards": (2, 3), "a shard": (9, 9), "shards of rows": (1, 9)}
"""Chunks in a shard along each dimension."""


@pytest.fixture(params=["on", "off"])
def zarrs(request, monkeypatch) -> Iterator[str]:
    """With and without zarrs."""
    monkeypatch.setenv(accelerating.SWITCH, request.param)
    accelerating.wanted.cache_clear()
    yield request.param
    monkeypatch.undo()
    accelerating.wanted.cache_clear()


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


# --- the same bits ---


@pytest.mark.parametrize("form", [FORMATS["float16"], BFLOAT16, FLOAT32], ids=str)
def test_fit_and_score_of_every_store_give_the_bits_of_memory(form, zarrs, tmp_path):
    """Layouts in codecs and shards, a third of the pairs for each format: each a layer, so one call reads them all."""
    values, sources = values_of(form), {}
    for number, (layout, chunk) in enumerate(LAYOUTS.items()):
        shards = {
            name: {"shards": tuple(one * size for one, size in zip(times, chunk, strict=True))}
            for name, times in SHARDS.items()
        }
        for name, options in list((CODECS | shards).items())[(number + len(str(form))) % 3 :: 3]:
            sources[f"{layout}, {name}"] = store(tmp_path / layout / name, values, form, chunk, **options)
    memory = dict.fromkeys(sources, as_input(values, form))
    stored, expected = hpv.fit(sources, threads=2), hpv.fit(memory, threads=2)
    assert stored.fingerprint == expected.fingerprint
    options = {"tails": "two-sided", "statistics": "berk_jones", "forms": "subset"}
    found, same = (hpv.score(expected, one, tmp_path / str(n), **options) for n, one in enumerate((sources, memory)))
    for part in ("score", "alpha", "size"):
        scores = [getattr(one.get("two-sided", "subset", "berk_jones"), part) for one in (found, same)]
        np.testing.assert_array_equal(*scores)
    codes = expected.encode(memory)
    for name in sources:
        np.testing.assert_array_equal(found.codes(name).read(), codes[name])


def test_values_in_the_other_byte_order(zarrs, tmp_path):
    values = values_of(FLOAT32)
    expected = hpv.fit(values).fingerprint
    for name, options in CODECS.items():
        array = zarr.create_array(tmp_path / name, shape=values.shape, dtype=">f4", chunks=(50, 8), **options)
        array[...] = values
        assert hpv.fit(array).fingerprint == expected


@given(st.data())
@settings(max_examples=30)
def test_any_layout_of_any_shape(data):
    """Also of more dimensions, and of some samples only."""
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4)))
    shape = shape[: data.draw(st.sampled_from([2, 3]))]
    chunk = tuple(data.draw(st.integers(1, size + 3)) for size in shape)
    options = dict(CODECS[data.draw(st.sampled_from(sorted(CODECS)))])
    if data.draw(st.booleans()) and "zarr_format" not in options:
        options["shards"] = tuple(size * data.draw(st.integers(1, 3)) for size in chunk)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, dtype="f4", chunks=chunk, **options)
    array[...] = values
    source = open_activations(array)
    assert hpv.fit(source).fingerprint == hpv.fit(values).fingerprint
    first = data.draw(st.integers(0, shape[0] - 1))
    part = source.part(slice(first, data.draw(st.integers(first + 1, shape[0]))))
    (layer,) = part.layers.values()
    rows = values.reshape(shape[0], -1)[first : first + part.samples]
    np.testing.assert_array_equal(layer.read(slice(None)), rows)
    window = WindowLayer(layer, data.draw(st.integers(1, 70)), 1, 1)
    low, high = sorted(data.draw(st.tuples(st.integers(0, part.samples), st.integers(0, part.samples))))
    np.testing.assert_array_equal(window.read(slice(low, high), slice(0, 1)), rows[low:high, :1])


# --- chunks that are too tall for blocks ---


class Reads:
    """Counts the chunks of the array at ``path`` that are decoded, and what they hold."""

    def __init__(self, monkeypatch: Any, path: Path) -> None:
        self.times: Counter[tuple[int, ...]] = Counter()
        self.bytes, lock, get = 0, threading.Lock(), arrays.StoredArray._get

        def counted(array: Any, starts: Any, stops: Any, into: np.ndarray) -> None:
            if array.origin == str(path):
                for part in chunks.overlaps(starts, stops, array.chunks):
                    sides = zip(part.index, array.chunks, array.shape, strict=True)
                    sizes = [min(size, length - place * size) for place, size, length in sides]
                    with lock:
                        self.times[part.index] += 1
                        self.bytes += math.prod(sizes) * array.dtype.itemsize
            get(array, starts, stops, into)

        monkeypatch.setattr(arrays.StoredArray, "_get", counted)


TALL = {
    "columns": (65_536, 8),
    "one chunk": (65_536, 48),
    "tall": (40_000, 24),
}


@pytest.mark.parametrize("layout", TALL)
@pytest.mark.parametrize("threads", [1, 2])
def test_tall_chunks_are_read_as_often_as_planned(layout, threads, tmp_path, monkeypatch):
    values = values_of(FLOAT32, 65_536, 48)
    store(tmp_path / "x", values, FLOAT32, TALL[layout])
    memory = {"one chunk": "128MiB"}.get(layout, "64MiB")
    expected = hpv.fit(values)
    reads = Reads(monkeypatch, tmp_path / "x")
    job = prepare_fit(tmp_path / "x", memory=memory, threads=threads)
    (plan,) = job.plan.layers
    assert plan.window > 0 or threads == 1
    tracemalloc.start()
    background = fit_by_threads(job, Quiet())
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert background.fingerprint == expected.fingerprint
    assert used <= job.plan.peak
    assert values.nbytes <= reads.bytes <= plan.bytes_fetched
    assert plan.rereads < 2  # every chunk once for the pilot and once for the counts
    assert max(reads.times.values()) <= 2


@pytest.mark.parametrize("layout", ["columns", "tall"])
def test_scores_of_tall_chunks(layout, tmp_path, monkeypatch):
    values = values_of(FLOAT32, 65_536, 48)
    store(tmp_path / "x", values, FLOAT32, TALL[layout])
    head = values_of(FLOAT32, 65_536, 3, 1)
    expected = hpv.fit({"tall": values, "head": head})
    options = {"tails": "left", "statistics": "berk_jones", "forms": "subset", "threads": 2}
    whole = hpv.score(expected, {"tall": values, "head": head}, tmp_path / "whole", **options)
    reads = Reads(monkeypatch, tmp_path / "x")
    job = prepare_score(expected, {"tall": tmp_path / "x", "head": head}, memory="128MiB", **options)
    assert job.plan.layers[0].window > 0
    assert job.plan.peak <= job.plan.memory
    found = hpv.Scores(*score_to_store(job, tmp_path / "s", ("codes",), False, Quiet()))
    assert values.nbytes <= reads.bytes <= job.plan.layers[0].bytes_fetched
    np.testing.assert_array_equal(found.codes("tall").read(), whole.codes("tall").read())
    kind = ("left", "subset", "berk_jones")
    np.testing.assert_array_equal(found.get(*kind).score, whole.get(*kind).score)


def hostile(samples: int = 1_000_000) -> zarr.Array:
    """Nothing of it is ever stored."""
    memory = zarr.storage.MemoryStore()
    return zarr.create_array(memory, shape=(samples, 1000), dtype="f4", chunks=(100_000, 1000))


def test_a_hostile_layout_is_warned_about_with_its_cost_once():
    message = (
        r"layer activations: every chunk of 100000 x 1000 is read [\d.]+ times: [\d.]+ GiB instead of 3.7\d GiB. Give "
        r"more memory, or store it in chunks such as \(1024, 1000\)\."
    )
    with pytest.warns(hpv.HpvWarning, match=message) as seen:
        plan = hpv.plan("fit", hostile(), memory="1500MiB", threads=2)
    assert len(seen) == 1
    assert plan.peak <= plan.memory
    assert plan.bytes_fetched > 2 * plan.bytes_read
    facts = json.loads(json.dumps(plan.as_json()))["layers"][0]
    assert facts["rereads"] == pytest.approx(plan.bytes_fetched / plan.bytes_read, abs=0.001)
    assert f"chunks read {plan.layers[0].rereads:.3g} times" in str(plan)
    enough = hpv.plan("fit", hostile(), memory="4GiB", threads=2)  # no warning
    assert enough.layers[0].rereads < 2
    background = hpv.fit(np.zeros((3, 1000), np.float32))
    with pytest.warns(hpv.HpvWarning, match="every chunk of 100000 x 1000 is read"):
        scored = hpv.plan("score", hostile(), background, memory="1500MiB", threads=2)
    assert scored.bytes_fetched > 2 * scored.bytes_read
    with pytest.raises(hpv.InputError, match="are needed beside the state to read one of its chunks of 100000 x 1000"):
        hpv.plan("fit", hostile(), memory="512MiB")


def test_usual_layouts_are_not_warned_about():
    for chunk, shards in (((64, 1000), None), ((1024, 100), None), ((100_000, 8), None), ((64, 1000), (6400, 1000))):
        memory = zarr.storage.MemoryStore()
        array = zarr.create_array(memory, shape=(300_000, 1000), dtype="f4", chunks=chunk, shards=shards)
        assert hpv.plan("fit", array, memory="512MiB", threads=4).layers[0].rereads < 2


def test_a_window_is_filled_by_all_who_want_it():
    """Also where one of them fails: all hear of it, and nobody waits for ever."""
    values = values_of(FLOAT32, 1000, 8)
    layer = ArrayLayer("x", "x", np.asfortranarray(values), FLOAT32)
    window = WindowLayer(layer, 300, 2, 2)
    found = run_in_threads(lambda i: window.read(slice(100 * i, 100 * i + 100)).copy(), range(10), 3)
    np.testing.assert_array_equal(np.concatenate(found), values)
    part = WindowLayer(PartLayer(layer, slice(170, 900)), 300, 2, 2)
    np.testing.assert_array_equal(part.read(slice(0, 730), slice(2, 5)), values[170:900, 2:5])

    def fail(*_: Any) -> Any:
        raise hpv.DataError("chunk 3 is corrupt")

    layer.read = fail  # type: ignore[method-assign]
    with pytest.raises(hpv.DataError, match="chunk 3 is corrupt"):
        run_in_threads(lambda _: WindowLayer(layer, 300, 2, 2).read(slice(0, 10)), range(4), 2)


# --- zarrs ---


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
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv(accelerating.SWITCH, "on")
    with pytest.raises(hpv.InputError, match=r"zarrs is not installed: pip install 'hpv\[zarrs\]'"):
        accelerating.wanted.__wrapped__()
    monkeypatch.delenv(accelerating.SWITCH)
    assert accelerating.wanted.__wrapped__() is False


# --- damage ---

DAMAGED = {
    "plain": CODECS["plain"],
    "zstd": {"compressors": [ZstdCodec(checksum=True)]},
    "blosc": CODECS["blosc"],
    "sharded": {"shards": (90, 42), "compressors": [ZstdCodec(), Crc32cCodec()]},
    "v2": CODECS["v2 zstd"],
    "v2 blosc": CODECS["v2 blosc"],
    "v2 plain": CODECS["v2 plain"],
}


def chunk_files(path: Path) -> list[Path]:
    return sorted(
        one for one in path.rglob("*") if one.is_file() and one.name not in ("zarr.json", ".zarray", ".zattrs")
    )


def cut_short(path: Path, _: Any) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_empty(path: Path, _: Any) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path, _: Any) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def put_a_smaller_one(path: Path, other: Path) -> None:
    path.write_bytes(chunk_files(other)[1].read_bytes())


SEEN_BY_ALL = [(kind, damage) for kind in DAMAGED for damage in (cut_short, make_empty, put_a_smaller_one)]


# A flipped bit is seen by codecs that keep a checksum.
@pytest.mark.parametrize(("kind", "damage"), [*SEEN_BY_ALL, ("zstd", flip_a_bit), ("sharded", flip_a_bit)])
def test_damaged_chunks_are_named(kind, damage, zarrs, tmp_path):
    values = values_of(FLOAT32, 180, 42)
    store(tmp_path / "x", values, FLOAT32, (30, 21), **DAMAGED[kind])
    smaller = dict(DAMAGED[kind], **({"shards": (45, 42)} if kind == "sharded" else {}))
    store(tmp_path / "y", values, FLOAT32, (15, 21), **smaller)
    damage(chunk_files(tmp_path / "x")[1], tmp_path / "y")
    with pytest.raises(hpv.DataError) as caught:
        hpv.fit({"relu": tmp_path / "x"})
    text = str(caught.value)
    index = r"(3, 0)" if kind == "sharded" else r"(0, 1)"
    if kind == "sharded" and damage is make_empty:
        index = "(1, 0)"  # the file's place among the shards
    if kind == "sharded" and damage is flip_a_bit:
        index = "(3, 1)"  # where the bit is
    assert text.startswith(f"layer relu: {tmp_path / 'x'}: chunk {index} "), text
    assert text.endswith("Restore this file from a copy, or make the store again."), text


def test_a_flipped_bit_in_what_hpv_wrote(tmp_path):
    from hpv.activations.writing import save_activations

    save_activations(tmp_path / "own", {"relu": values_of(FLOAT32)})
    flip_a_bit(tmp_path / "own" / "layers" / "relu" / "c" / "0" / "0", None)
    with pytest.raises(hpv.DataError, match=r"layer relu: .*chunk \(0, 0\) is damaged: its checksum \(crc32c\)"):
        hpv.fit(tmp_path / "own")


def grow(path: Path) -> None:
    zarr.open_array(path, mode="r+").resize((200, 42))


def cut_off(path: Path) -> None:
    zarr.open_array(path, mode="r+").resize((100, 42))


def other_chunks(path: Path) -> None:
    version = zarr.open_array(path, mode="r").metadata.zarr_format
    store(path, values_of(FLOAT32, 180, 42), FLOAT32, (20, 42), zarr_format=version, overwrite=True)


def remove(path: Path) -> None:
    shutil.rmtree(path)


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (grow, r"changed while it was in use: shape was \[180, 42\], now it is \[200, 42\]"),
    (cut_off, r"changed while it was in use: shape was \[180, 42\], now it is \[100, 42\]"),
    (other_chunks, r"changed while it was in use: chunk.* was "),
    (remove, "it was there when it was opened and cannot be opened any more"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.parametrize("kind", DAMAGED)
def test_stores_that_change_between_plan_and_read(kind, change, message, zarrs, tmp_path):
    path = tmp_path / "x"
    store(path, values_of(FLOAT32, 180, 42), FLOAT32, (30, 21), **DAMAGED[kind])
    job = prepare_fit({"relu": path})
    change(path)
    with pytest.raises(hpv.DataError, match=f"layer relu: .*{message}"):
        fit_by_threads(job, Quiet())


def test_a_store_that_is_touched_is_read_on(tmp_path):
    """Other attributes are no other array."""
    values = values_of(FLOAT32, 180, 42)
    store(tmp_path / "x", values, FLOAT32, (30, 21))
    job = prepare_fit(tmp_path / "x")
    zarr.open_array(tmp_path / "x", mode="r+").attrs["note"] = "looked at"
    assert fit_by_threads(job, Quiet()).fingerprint == hpv.fit(values).fingerprint


def test_changes_of_stores_in_memory_are_seen_when_they_are_read(tmp_path):
    memory = zarr.storage.MemoryStore()
    array = zarr.create_array(memory, shape=(180, 42), dtype="f4", chunks=(30, 21))
    job = prepare_fit(zarr.open_array(memory, mode="r"))
    array.resize((100, 42))
    with pytest.raises(hpv.DataError, match="changed while it was in use: shape"):
        fit_by_threads(job, Quiet())
