"""Stores: what is written is read back, damage is named, and an output is complete, continued or refused."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from hpv.activations import stored
from hpv.activations.stored import ActivationStore, activation_chunks
from hpv.activations.writing import ActivationWriter, save_activations
from hpv.base.errors import DataError, HpvWarning, InputError, OutputExistsError, StoreError
from hpv.base.floats import BFLOAT16, FLOAT32, FLOAT64
from hpv.places import locks as locks_module
from hpv.places.names import escape, unescape
from hpv.store import chunks as chunks_module
from hpv.store.foreign import zarr_layers
from hpv.store.headers import ACTIVATIONS, BACKGROUND, SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store

REQUEST = {"bins": 32, "input": {"path": "a.npy", "shape": [3, 4]}}


def save(
    path: str | os.PathLike[str],
    kind: str,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    request: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path | str:
    """Write a whole store of arrays that are in memory; each is cut along its first dimension into chunks of 4 MiB."""
    with Output.begin(path, kind, request or {}, overwrite=overwrite) as output:
        if output.already_complete:
            return output.path
        for name, values in arrays.items():
            row = max(values[:1].nbytes, 1)
            rows = max(1, min(len(values), (4 << 20) // row))
            output.create(name, values.shape, values.dtype, (rows, *(max(size, 1) for size in values.shape[1:])))
            output.write(name, None, values)
        return output.finish(attributes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.zarr"


def small(path: Path, request: dict[str, Any] = REQUEST, kind: str = SCORES, **options: Any) -> Output:
    """A begun output with one written array."""
    output = Output.begin(path, kind, request, **options)
    output.create("a", (10, 6), "f4", (4, 6))
    output.write("a", None, np.arange(60, dtype="f4").reshape(10, 6))
    return output


def chunk(path: Path, name: str = "a", index: str = "1/0") -> Path:
    return path / name / "c" / index


# ---------------------------------------------------------------- arrays


@st.composite
def regions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[slice, ...]]:
    """A shape, a chunk shape and slices."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, size + 2)) for size in shape)
    ends = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
    return shape, chunks, tuple(slice(*pair) for pair in ends)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "zstd": {},
    "v2 plain": {"compressors": None, "zarr_format": 2},
    "v2 default": {"zarr_format": 2},
    "v2 turned": {"compressors": None, "zarr_format": 2, "order": "F"},
    "v2 slash": {
        "compressors": None,
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}},
    },
}


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


# ---------------------------------------------------------------- damage


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[17] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"1234")


def turn_into_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "checksum"),
        (cut, "97 bytes instead of 100"),
        (lengthen, "bytes instead of 100"),
        (Path.unlink, "missing"),
        (turn_into_folder, "instead of 100|directory"),
    ],
)
def test_damage_in_own_store_is_named(path: Path, damage: Any, words: str) -> None:
    small(path).finish()
    damage(chunk(path))
    stored = open_store(path).array("a")
    assert stored.read(slice(0, 4)).shape == (4, 6)
    for rows in (slice(0, 10), slice(5, 6)):
        with pytest.raises(DataError, match=rf"array a: chunk \(1, 0\) .*({words})"):
            stored.read(rows)


@pytest.mark.parametrize("way", ["plain", "zstd", "v2 default"])
def test_missing_chunks_in_foreign_stores_are_counted(path: Path, way: str) -> None:
    group = zarr.open_group(path, mode="w")
    foreign = group.create_array("b", shape=(10, 6), chunks=(4, 3), dtype="f4", fill_value=2.5, **_of_v3(way))
    foreign[:4] = 1
    layers = zarr_layers(path)
    assert isinstance(layers, dict)
    assert layers["b"].missing_chunks == 4
    assert layers["b"].read((slice(3, 5), slice(0, 2))).tolist() == [[1, 1], [2.5, 2.5]]


def _of_v3(way: str) -> dict[str, Any]:
    return {name: value for name, value in WAYS[way].items() if name != "zarr_format"}


def test_damage_in_a_compressed_store_is_named(path: Path) -> None:
    foreign = zarr.create_array(path, shape=(10, 6), chunks=(4, 6), dtype="f4")
    foreign[...] = np.arange(60).reshape(10, 6)
    (path / "c/1/0").write_bytes(b"not zstd at all")
    stored = zarr_layers(path)
    assert not isinstance(stored, (dict, ActivationStore))
    with pytest.raises(DataError, match=r"out.zarr: chunk \(1, 0\) cannot be read"):
        stored.read()


def test_short_reads_and_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_write = os.preadv, os.writev
    monkeypatch.setattr(os, "preadv", lambda file, parts, at: real_read(file, [parts[0][:7]], at))
    monkeypatch.setattr(os, "writev", lambda file, parts: real_write(file, [parts[0][:5]]))
    small(path).finish()
    assert open_store(path).array("a").read().ravel().tolist() == list(range(60))


# ---------------------------------------------------------------- opening


def root(path: Path, **changes: Any) -> None:
    """Change the root's attributes of a store."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"] |= changes
    file.write_text(json.dumps(metadata))


def test_what_cannot_be_opened(path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_store(path)
    small(path).finish()
    with pytest.raises(StoreError, match=r"Close to it there is out\.zarr"):
        open_store(path.with_name("out.zar"))
    with pytest.raises(StoreError, match=r"is a score store; this needs a background"):
        open_store(path, BACKGROUND)
    with pytest.raises(StoreError, match=r"no array b; there are a\."):
        open_store(path).array("b")
    with pytest.raises(StoreError, match="is a file"):
        open_store(path / "zarr.json")
    root(path, version=2)
    with pytest.raises(StoreError, match="version 2 of hpv-scores, this hpv reads up to 1"):
        open_store(path)
    root(path, format="other")
    with pytest.raises(StoreError, match="not one of hpv's; give a score store"):
        open_store(path, SCORES)
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="is not a Zarr store that can be read"):
        open_store(path)
    (path / "zarr.json").unlink()
    with pytest.raises(StoreError, match="is not a Zarr store"):
        open_store(path)


def test_a_bare_array_is_no_store_of_hpv(path: Path) -> None:
    zarr.create_array(path, shape=(2, 2), dtype="f4")
    with pytest.raises(StoreError, match="not one of hpv's"):
        open_store(path)


def test_unfinished_does_not_open(path: Path) -> None:
    with small(path), pytest.raises(StoreError, match="incomplete: run the command that was writing it again"):
        open_store(path)
    with pytest.raises(StoreError, match="is a score store; this needs an activation store"):
        zarr_layers(path)


# ---------------------------------------------------------------- the table of existing outputs


def test_same_request_of_a_complete_output(path: Path) -> None:
    small(path).finish({"n": 1})
    before = (path / "zarr.json").stat().st_mtime_ns
    with Output.begin(path, SCORES, REQUEST) as output:
        assert output.already_complete
        assert output.path == path
        assert output.attributes == {"n": 1}
    assert (path / "zarr.json").stat().st_mtime_ns == before
    assert sorted(os.listdir(path)) == ["a", "zarr.json"]


def test_same_request_continues(path: Path) -> None:
    with small(path) as output:
        assert output.progress == {}
        output.note({"n": 2})
        output.checkpoint({"done": 3})
    with Output.begin(path, SCORES, REQUEST) as output:
        assert not output.already_complete
        assert output.progress == {"done": 3}
        assert output.attributes == {"n": 2}
        output.create("a", (10, 6), "f4", (4, 6))
        assert output.read("a")[9, 5] == 59
        output.finish()
    assert open_store(path).attributes == {"n": 2}


def test_another_layout_does_not_continue(path: Path) -> None:
    small(path).close()
    with Output.begin(path, SCORES, REQUEST) as output, pytest.raises(StoreError, match="was begun with"):
        output.create("a", (10, 6), "f8", (4, 6))


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ({**REQUEST, "bins": 10}, SCORES, "bins=32 there and bins=10 here"),
        ({"bins": 32}, SCORES, "input=.* there and no input= here"),
        ({**REQUEST, "tail": "left"}, SCORES, "no tail= there and tail='left' here"),
        ({"bins": 32, "input": {"path": "b.npy", "shape": [3, 4]}}, SCORES, r"input=.*'a\.npy'.* there"),
    ],
)
def test_another_request_is_refused(
    path: Path, complete: bool, request_: dict[str, Any], kind: str, words: str
) -> None:
    output = small(path)
    if complete:
        output.finish()
    else:
        output.close()
    before = sorted(path.rglob("*"))
    with pytest.raises(OutputExistsError, match=f"{words}.*Use another path, or give overwrite=True"):
        Output.begin(path, kind, request_)
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_is_not_hpvs_is_never_replaced(path: Path, overwrite: bool) -> None:
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="is not a store of hpv; use another path, or remove it yourself"):
        Output.begin(path, SCORES, {}, overwrite=overwrite)
    path.unlink()
    path.mkdir()
    (path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputExistsError, match="is not a store of hpv"):
        Output.begin(path, SCORES, {}, overwrite=overwrite)
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    with pytest.raises(OutputExistsError, match="is not a store of hpv"):
        Output.begin(path, SCORES, {}, overwrite=overwrite)
    assert (path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("request_", [REQUEST, {"bins": 10}])
@pytest.mark.parametrize("complete", [True, False])
def test_overwrite_replaces_when_the_new_one_is_complete(path: Path, request_: dict[str, Any], complete: bool) -> None:
    output = small(path)
    if complete:
        output.finish({"age": "old"})
    else:
        output.note({"age": "old"})
        output.close()
    with Output.begin(path, SCORES, request_, overwrite=True) as output:
        continued = request_ == REQUEST and not complete
        assert output.attributes == ({"age": "old"} if continued else {})
        output.create("a", (2, 2), "f4", (2, 2)) if not continued else None
        if complete:
            assert open_store(path).attributes == {"age": "old"}
        output.finish({"age": "new"})
    assert open_store(path).attributes == {"age": "new"}
    assert os.listdir(path.parent) == ["out.zarr"]
    assert ".lock" not in os.listdir(path)


def test_interrupted_overwrite_continues(path: Path) -> None:
    small(path).finish({"age": "old"})
    with small(path, {"bins": 10}, overwrite=True) as output:
        output.checkpoint({"done": 1})
    assert open_store(path).attributes == {"age": "old"}
    with Output.begin(path, SCORES, {"bins": 10}, overwrite=True) as output:
        assert output.progress == {"done": 1}
    with small(path, {"bins": 11}, overwrite=True) as output:
        assert output.progress == {}
        output.finish({"age": "new"})
    assert open_store(path).attributes == {"age": "new"}
    assert os.listdir(path.parent) == ["out.zarr"]


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("overwrite", [True, False])
def test_kill_between_the_two_renames(path: Path, step: int, overwrite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small(path).finish({"age": "old"})
    output = small(path, {"bins": 10}, overwrite=True)
    real = os.rename
    calls: list[Any] = []

    def dying(source: Any, target: Any) -> None:
        if len(calls) == step:
            raise KeyboardInterrupt
        calls.append(source)
        real(source, target)

    monkeypatch.setattr(os, "rename", dying)
    with output, pytest.raises(KeyboardInterrupt):
        output.finish({"age": "new"})
    monkeypatch.undo()
    if step == 0 and not overwrite:
        with pytest.raises(OutputExistsError):
            Output.begin(path, SCORES, {"bins": 10})
        return
    with Output.begin(path, SCORES, {"bins": 10}, overwrite=overwrite) as output:
        assert output.already_complete
    assert open_store(path).attributes == {"age": "new"}
    assert os.listdir(path.parent) == ["out.zarr"]


def test_kill_while_an_old_attempt_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(path).finish({"age": "old"})
    small(path, {"bins": 10}, overwrite=True).close()

    def dying(place: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt):
        Output.begin(path, SCORES, {"bins": 11}, overwrite=True)
    monkeypatch.undo()
    # The first attempt was half removed: its own command must not take it up again.
    with Output.begin(path, SCORES, {"bins": 10}, overwrite=True) as output:
        assert output.progress == {}
        assert not list(path.with_name("out.zarr.hpv-new").rglob("c"))
        output.finish()
    assert open_store(path).request == {"bins": 10}


@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_is_left_of_an_attempt_that_was_to_be_removed_goes(
    path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it was begun, while it was emptied, or while a run has it that still lives."""
    small(path).finish()
    new = path.with_name("out.zarr.hpv-new")
    if step == 0:
        new.mkdir()
        (new / ".lock").touch()
    else:
        small(path, {"bins": 10}, overwrite=True).close()
        monkeypatch.setattr(shutil, "rmtree", failing_with(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            Output.begin(path, SCORES, {"bins": 11}, overwrite=True)
        monkeypatch.undo()
    if step == 2:
        with Output.begin(path, SCORES, {"bins": 12}, overwrite=True) as output:
            assert Output.begin(path, SCORES, REQUEST).already_complete
            assert new.exists()
            output.checkpoint({"rows": 1})
        assert Output.begin(path, SCORES, REQUEST).already_complete
        assert new.exists(), "it may be continued"
        return
    assert Output.begin(path, SCORES, REQUEST).already_complete
    assert os.listdir(path.parent) == ["out.zarr"]


def test_an_empty_folder_and_missing_parents_are_begun(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    small(tmp_path / "empty").finish()
    small(tmp_path / "x/y/z").finish()
    assert open_store(tmp_path / "x/y/z").names() == open_store(tmp_path / "empty").names() == ["a"]


def test_partial_files_of_a_killed_run_go(path: Path) -> None:
    small(path).close()
    left = chunk(path).with_name("0.1-2.partial")
    left.write_text("half")
    with Output.begin(path, SCORES, REQUEST) as output:
        assert not left.exists()
        output.finish()


# ---------------------------------------------------------------- two runs, no space, no rights


def test_second_run_is_refused(path: Path) -> None:
    with small(path), pytest.raises(OutputExistsError, match=f"being written by process {os.getpid()} on "):
        Output.begin(path, SCORES, REQUEST)
    with Output.begin(path, SCORES, REQUEST) as output:
        output.finish()
    with small(path, {"bins": 1}, overwrite=True), pytest.raises(OutputExistsError, match="being written"):
        Output.begin(path, SCORES, {"bins": 1}, overwrite=True)


def test_many_runs_at_once_only_one_writes(path: Path) -> None:
    job = threading.Barrier(6)

    def attempt(number: int) -> str:
        job.wait()
        try:
            with Output.begin(path, SCORES, REQUEST) as output:
                if output.already_complete:
                    return "complete"
                output.create("a", (1,), "f4", (1,))
                output.write("a", None, [number])
                output.finish()
                return "wrote"
        except OutputExistsError:
            return "refused"

    for _ in range(5):
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(attempt, range(6)))
        assert results.count("wrote") == 1
        assert open_store(path).names() == ["a"]
        assert sorted(os.listdir(path)) == ["a", "zarr.json"]
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


def test_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks_module.fcntl, "flock", unable)
    with pytest.warns(HpvWarning, match="no locks"):
        small(path).finish()


def failing(number: int) -> Any:
    return failing_with(OSError(number, os.strerror(number)))


def failing_with(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_no_space_is_said_and_continues(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Output.begin(path, SCORES, REQUEST) as output:
        output.create("a", (10, 6), "f4", (4, 6))
        monkeypatch.setattr(chunks_module.os, "writev", failing(errno.ENOSPC))
        with pytest.raises(DataError, match=r"out\.zarr: a: no space left; free some and run the same command again"):
            output.write("a", None, np.ones((10, 6)))
        monkeypatch.undo()
    assert not list(path.rglob("*.partial"))
    with small(path) as output:
        monkeypatch.setattr(chunks_module.os, "open", failing(errno.EIO))
        with pytest.raises(DataError, match="a: cannot be written: Input/output error"):
            output.write("a", None, np.ones((10, 6)))
        monkeypatch.undo()
        output.finish()
    assert open_store(path).array("a").read()[9, 5] == 59


def test_no_space_for_the_metadata(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small(path) as output:
        monkeypatch.setattr("zarr.storage._local._put", failing(errno.ENOSPC))
        with pytest.raises(DataError, match="attributes: no space left"):
            output.finish()
        output.create("b", (1,), "f4", (1,))
        with pytest.raises(DataError, match="new arrays: no space left"):
            output.write("b", None, np.zeros(1, np.float32))
    monkeypatch.undo()
    with pytest.raises(StoreError, match="incomplete"):
        open_store(path)


def test_no_space_for_many_arrays_is_said_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with small(path) as output:
        for number in range(30):
            output.create(f"group/{number}", (1,), "f4", (1,))
        monkeypatch.setattr("zarr.storage._local._put", failing(errno.ENOSPC))
        with pytest.raises(DataError, match=r"out\.zarr: new arrays: no space left; free some and run"):
            output.checkpoint({})
        monkeypatch.undo()
        gc.collect()  # asyncio tells of errors that nobody asked for when they go
        assert caplog.messages == []
        output.finish()
    assert len(open_store(path).names()) == 31


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.EACCES, InputError, "cannot be written: Permission denied"),
        (errno.EROFS, InputError, "cannot be written: Read-only file system"),
        (errno.ENOSPC, DataError, "no space left"),
    ],
)
def test_no_right_to_begin(
    path: Path, number: int, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(number))
    with pytest.raises(error, match=words):
        Output.begin(path, SCORES, {})


def test_outputs_lie_where_something_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written: (Not a directory|File exists)"):
        Output.begin(tmp_path / "file/out", SCORES, {})
    for text, words in (
        ("", "no path"),
        ("https://host/out", "https:// can be read only; give a folder or an address that begins with s3://"),
        ("s3://bucket/", "is a whole bucket; give a place inside it"),
        (str(Path("s3://bucket/out")), "has lost a slash"),
    ):
        with pytest.raises(InputError, match=words):
            Output.begin(text, SCORES, {})


def test_file_addresses_are_paths(path: Path) -> None:
    output = small(f"file://{path}")  # type: ignore[arg-type]
    assert output.finish() == path
    assert open_store(f"file://{path}").array("a").is_plain


KILLED = """
import os, sys, numpy as np
from hpv.store.output import Output
from hpv.store.headers import SCORES
output = Output.begin(sys.argv[1], SCORES, {})
output.create("a", (1000, 50), "f4", (10, 50))
for number in range(output.progress.get("done", 0), 100):
    output.write("a", slice(10 * number, 10 * number + 10), np.full((10, 50), number))
    output.checkpoint({"done": number + 1})
    print(number, flush=True)
output.finish()
"""


def test_kill_9_leaves_what_was_noted(path: Path) -> None:
    root_of_checkout = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", KILLED, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(root_of_checkout)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                process.send_signal(signal.SIGKILL)
                break
    with pytest.raises(StoreError, match="incomplete"):
        open_store(path)
    with Output.begin(path, SCORES, {}) as output:
        done = output.progress["done"]
        assert 20 <= done <= 100
        output.create("a", (1000, 50), "f4", (10, 50))
        np.testing.assert_array_equal(
            output.read("a", slice(0, 10 * done)), np.repeat(np.arange(done), 10)[:, None] * np.ones(50)
        )
    assert subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert open_store(path).array("a").read()[:, 7].tolist() == np.repeat(np.arange(100), 10).tolist()


# ---------------------------------------------------------------- save, names, activations


def test_save(path: Path) -> None:
    arrays = {"layers/x/edges": np.arange(12, dtype="i4").reshape(4, 3), "counts": np.zeros((2, 0, 5), "i8")}
    assert save(path, BACKGROUND, {"bins": 3}, arrays) == path
    store = open_store(path, BACKGROUND)
    assert store.names() == ["counts", "layers/x/edges"]
    for name, values in arrays.items():
        np.testing.assert_array_equal(store.array(name).read(), values)
        assert store.array(name).dtype == values.dtype
    first = store.id
    save(path, BACKGROUND, {"bins": 3}, arrays)
    assert open_store(path).id == first
    with pytest.raises(OutputExistsError):
        save(path, BACKGROUND, {}, arrays, request={"fingerprint": "other"})
    save(path, BACKGROUND, {"bins": 4}, arrays, request={"fingerprint": "other"}, overwrite=True)
    assert open_store(path).attributes == {"bins": 4}
    assert open_store(path).id != first


@given(st.text(max_size=30))
def test_escaped_names_are_path_parts(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        name = "surrogates"
    part = escape(name)
    assert unescape(part) == name
    assert part
    assert part[0] not in "._"
    assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-%")


def test_escaped_names_differ() -> None:
    names = ["", ".", "..", "_a", "%", "a/b", "a.b", "a%2Fb", "a#2", "zarr.json", "c"]
    assert len({escape(name) for name in names}) == len(names)
    assert escape("features.0.relu-1_x") == "features.0.relu-1_x"


@given(st.integers(1, 3_000_000), st.sampled_from([2, 4, 8]))
def test_activation_chunks(nodes: int, itemsize: int) -> None:
    rows, columns = activation_chunks(nodes, itemsize)
    assert columns == min(nodes, 16384)
    assert 64 <= rows <= 4096
    assert rows & (rows - 1) == 0
    assert rows == 4096 or 2 << 20 <= rows * columns * itemsize <= 8 << 20


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(stored, "CHUNK_ROWS", (1, 8))


FORMS = {"a": (3, FLOAT32), "b/c": (5, FLOAT64), "h": (2, BFLOAT16)}
N = 61


def blocks(start: int, stop: int) -> dict[str, np.ndarray]:
    return {
        name: (np.arange(start, stop)[:, None] * 10 + np.arange(nodes)).astype(form.storage)
        for name, (nodes, form) in FORMS.items()
    }


def feed(writer: ActivationWriter, cuts: list[int]) -> None:
    edges = sorted({writer.durable, *(cut for cut in cuts if cut > writer.durable)})
    for start, stop in itertools.pairwise(edges):
        rows = blocks(start, stop)
        writer.append(rows, np.arange(start, stop), [f"id{i}" for i in range(start, stop)])
        for block in rows.values():
            block[...] = 0  # the caller's buffers are the caller's again


@pytest.mark.usefixtures("tiny_chunks")
@given(cuts=st.lists(st.integers(1, N), max_size=8), stops=st.lists(st.integers(1, N - 1), max_size=3))
def test_activations_in_any_pieces_with_any_restarts(cuts: list[int], stops: list[int], tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("activations") / "x.zarr"
    for stop in [*stops, N]:
        with Output.begin(place, ACTIVATIONS, {}) as output:
            notes = {"a": {"shape": [3, 1]}}
            writer = ActivationWriter(output, FORMS, labels=True, ids=True, notes=notes, seconds=0)
            before = writer.durable
            assert writer.samples == before
            feed(writer, [cut for cut in cuts if cut < stop] + [stop])
            assert writer.durable == max(stop, before)
            np.testing.assert_array_equal(writer.read("a", slice(0, writer.durable)), blocks(0, writer.durable)["a"])
            if stop == N:
                writer.finish({"model": "net"})
    store = ActivationStore(open_store(place, ACTIVATIONS))
    for entry in store.entries:
        assert (entry.nodes, entry.float_format) == FORMS[entry.name]
        np.testing.assert_array_equal(store.layer(entry).read(), blocks(0, N)[entry.name])
    assert store.samples == N
    assert store.entries[0].notes["shape"] == [3, 1]
    assert store.store.attributes["model"] == "net"
    labels, ids = store.labels(), store.ids()
    assert labels is not None
    assert labels.tolist() == list(range(N))
    assert ids == [f"id{i}" for i in range(N)]
    assert zarr.open_array(place, path="layers/h", mode="r").attrs["float_format"] == "bfloat16"


@pytest.mark.usefixtures("tiny_chunks")
def test_every_chunk_is_written_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = chunks_module.write_file

    def write(file: str, *rest: Any) -> None:
        written.append(file)
        real(file, *rest)

    monkeypatch.setattr(chunks_module, "write_file", write)
    with Output.begin(path, ACTIVATIONS, {}) as output:
        writer = ActivationWriter(output, FORMS, labels=True, ids=True)
        feed(writer, [*range(0, N + 1, 7), N])
        writer.finish()
    assert len(written) == len(set(written)) > 20


@pytest.mark.usefixtures("tiny_chunks")
def test_rows_that_were_lost_are_noticed(path: Path) -> None:
    with Output.begin(path, ACTIVATIONS, {}) as output:
        writer = ActivationWriter(output, FORMS, labels=True, ids=True)
        feed(writer, [20])
        writer._columns["layers/h"]._waiting.pop()
        with pytest.raises(DataError, match=r"layers/h holds 16 of 20 samples; part of the work was lost"):
            writer.finish()
    with pytest.raises(StoreError, match="incomplete"):
        open_store(path)


def test_no_samples_or_layers(path: Path) -> None:
    with Output.begin(path, ACTIVATIONS, {}) as output:
        with pytest.raises(InputError, match="no layer"):
            ActivationWriter(output, {})
        with pytest.raises(InputError, match="no sample"):
            ActivationWriter(output, FORMS).finish()
        with pytest.raises(ValueError, match="same samples"):
            ActivationWriter(output, FORMS).append(blocks(0, 3), labels=np.zeros(3, int))


def test_save_activations_and_a_layer_that_does_not_fit(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4)).astype("f2")
    save_activations(path, {"x": values}, labels=np.arange(9), attributes={"model": "m"})
    save_activations(path, {"x": values}, labels=np.arange(9))
    store = ActivationStore(open_store(path))
    np.testing.assert_array_equal(store.layer(store.entries[0]).read(), values)
    assert store.ids() is None
    root(path, samples=8)
    wrong = ActivationStore(open_store(path))
    with pytest.raises(StoreError, match=r"layer x has shape \(9, 4\)"):
        wrong.layer(wrong.entries[0])
    root(path, layers=[])
    with pytest.raises(StoreError, match="list no layers"):
        ActivationStore(open_store(path))
