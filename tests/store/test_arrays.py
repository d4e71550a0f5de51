"""Arrays: what is written is read back, in any regions, also those of others; misuse is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from data import REQUEST, WAYS, chunk, small
from hpv.activations.stored import ActivationStore
from hpv.base.errors import DataError
from hpv.store.foreign import zarr_layers
from hpv.store.headers import SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store


@st.composite
def regions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[slice, ...]]:
    """A shape, a chunk shape and slices."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, size + 2)) for size in shape)
    ends = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
    return shape, chunks, tuple(slice(*pair) for pair in ends)


@pytest.mark.parametrize("way", WAYS)
@given(region=regions(), dtype=st.sampled_from(["f2", "<f4", ">f4", "f8", "u1"]))
def test_every_region_of_foreign_arrays(
    way: str, region: tuple[tuple[int, ...], tuple[int, ...], tuple[slice, ...]], dtype: str, tmp_path_factory: Any
) -> None:
    shape, chunks, selection = region
    place = tmp_path_factory.mktemp("foreign") / "x.zarr"
    values = np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)
    foreign = zarr.create_array(place, shape=shape, chunks=chunks, dtype=dtype, **WAYS[way])
    foreign[...] = values
    stored = zarr_layers(place)
    assert not isinstance(stored, (dict, ActivationStore))
    assert stored.shape == shape
    assert stored.chunks == chunks
    np.testing.assert_array_equal(stored.read(selection), values[selection])
    native = np.full(values[selection].shape, 7, values.dtype.newbyteorder("="))
    assert stored.read(selection, native) is native
    np.testing.assert_array_equal(native, values[selection])
    wide = np.zeros((*native.shape[:-1], native.shape[-1] + 3), native.dtype)
    stored.read(selection, wide[..., 1:-2])
    np.testing.assert_array_equal(wide[..., 1:-2], native)


@given(region=regions(), dtype=st.sampled_from(["f2", "f4", "f8", "u1", "u2", "i8"]))
def test_written_regions_are_what_zarr_reads(
    region: tuple[tuple[int, ...], tuple[int, ...], tuple[slice, ...]], dtype: str, tmp_path_factory: Any
) -> None:
    shape, chunks, selection = region
    place = tmp_path_factory.mktemp("own") / "x.zarr"
    rng = np.random.default_rng(0)
    values = rng.integers(0, 200, shape).astype(dtype)
    patch = rng.integers(0, 200, values[selection].shape).astype(dtype)
    with Output.begin(place, SCORES, {}) as output:
        output.create("deep/a", shape, dtype, chunks)
        output.write("deep/a", None, values)
        output.write("deep/a", selection, patch)
        values[selection] = patch
        np.testing.assert_array_equal(output.read("deep/a"), values)
        output.finish()
    np.testing.assert_array_equal(open_store(place).array("deep/a").read(), values)
    np.testing.assert_array_equal(zarr.open_array(place, path="deep/a", mode="r")[...], values)
    codecs: Any = zarr.open_array(place, path="deep/a", mode="r").metadata.to_dict()["codecs"]
    assert [codec["name"] for codec in codecs] == ["bytes", "crc32c"]


def test_sharded_foreign_array(path: Path) -> None:
    foreign = zarr.create_array(path, shape=(10, 6), chunks=(2, 3), shards=(4, 6), dtype="f4")
    foreign[4:8] = 3
    stored = zarr_layers(path)
    assert not isinstance(stored, (dict, ActivationStore))
    assert stored.read((slice(3, 9), slice(1, 2))).ravel().tolist() == [0, 3, 3, 3, 3, 0]
    assert stored.missing_chunks == 2


def test_empty_chunks_are_written_and_zarr_sees_the_attributes(path: Path) -> None:
    with Output.begin(path, SCORES, REQUEST) as output:
        output.create("zeros", (8, 2), "f8", (4, 2), ("samples", "nodes"), {"unit": "none"})
        output.write("zeros", None, np.zeros((8, 2)))
        output.finish({"grid": [0.5, 0.25]})
    array = zarr.open_array(path, path="zeros", mode="r")
    assert array.nchunks_initialized == 2
    assert array.metadata.dimension_names == ("samples", "nodes")  # type: ignore[union-attr]
    store = open_store(path)
    assert store.attributes == {"grid": [0.5, 0.25]}
    assert store.array("zeros").attributes == {"unit": "none"}
    assert store.request == REQUEST
    assert store.names() == ["zeros"]
    assert zarr.open_group(path, mode="r").attrs["format"] == SCORES
    assert store.array("zeros").missing_chunks == 0


def test_what_a_killed_worker_was_just_writing_does_not_stay(path: Path) -> None:
    with Output.begin(path, SCORES, REQUEST) as output:
        output.create("x", (4, 2), "f4", (2, 2))
        output.writer().write("x", None, np.ones((4, 2), np.float32))
        left = chunk(path, "x", "1").with_name("0.17-4.partial")
        left.write_bytes(b"\0")
        output.finish()
    assert not left.exists()
    assert open_store(path).array("x").read().tolist() == [[1, 1]] * 4


def test_strings(path: Path) -> None:
    names = ["", "a", "é\N{SNOWMAN}", "x" * 300, "b/c"]
    with Output.begin(path, SCORES, {}) as output:
        output.create("ids", (5,), "string", (2,))
        output.write("ids", slice(0, 2), names[:2])
        output.write("ids", slice(2, 5), names[2:])
        output.finish()
    stored = open_store(path).array("ids")
    assert stored.read().tolist() == names
    assert stored.read(slice(1, 3)).tolist() == names[1:3]
    chunk(path, "ids", "2").unlink()
    with pytest.raises(DataError, match=r"out.zarr: array ids: chunk \(2,\) is missing"):
        stored.read()


def test_many_threads_write_and_read(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(257, 33)).astype("f4")
    with Output.begin(path, SCORES, {}) as output:
        output.create("a", values.shape, "f4", (16, 8))
        blocks = [(slice(i, i + 5), slice(j, j + 11)) for i in range(0, 257, 5) for j in range(0, 33, 11)]
        with ThreadPoolExecutor(8) as pool:
            # Blocks across chunk borders: parts of a chunk must not undo each other.
            list(pool.map(lambda block: output.write("a", block, values[block]), blocks))
        output.finish()
    stored = open_store(path).array("a")
    with ThreadPoolExecutor(8) as pool:
        for block, found in zip(blocks, pool.map(stored.read, blocks), strict=True):
            np.testing.assert_array_equal(found, values[block])


def test_misuse_is_refused(path: Path) -> None:
    output = small(path)
    with pytest.raises(ValueError, match="step 1"):
        output.read("a", slice(0, 4, 2))
    with pytest.raises(ValueError, match="out has the shape"):
        output.read("a", None, np.empty((2, 2), "f4"))
    with pytest.raises(ValueError, match="data of shape"):
        output.write("a", None, np.zeros((2, 2), "f4"))
    with pytest.raises(ValueError, match="store's own attributes"):
        output.finish({"complete": False})
    output.finish()
    with pytest.raises(ValueError, match="complete or closed"):
        output.checkpoint({})
