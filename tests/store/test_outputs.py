"""What is at an output already: complete, continued, replaced or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import REQUEST, chunk, failing_with, small
from hpv.base.errors import InputError, OutputExistsError, StoreError
from hpv.store.headers import BACKGROUND, SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store


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
