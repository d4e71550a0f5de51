"""Shards: any number, any order and any chunks give the output of one run; nothing incomplete opens as complete."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
from hpv.activations.writing import save_activations
from hpv.api import calls
from hpv.api.merging import merge_parts, merge_shards
from hpv.cli import main
from hpv.fitting import merging as fitting_merging
from hpv.fitting import stored as fitting_stored
from hpv.fitting.job import prepare_fit
from hpv.fitting.running import fit_shard, fit_to_store
from hpv.fitting.stored import load_background, open_background
from hpv.histograms import state
from hpv.scoring import merging as scoring_merging
from hpv.scoring import stored as scoring_stored
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.store.shards import shard_path
from hpv.walking import keeping, tiling
from hpv.walking.progress import Quiet
from hpv.walking.shards import cut_shard

ROOT = Path(__file__).resolve().parent.parent
OPTIONS: dict[str, Any] = {"memory": "128MiB", "threads": 2}
SAMPLES = 230
pytestmark = pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")


class Kill(BaseException):
    """Stands for one."""


def contents(store: Path) -> dict[str, Any]:
    """All that a store holds, but its lock, and the number that was drawn when it was begun."""
    found: dict[str, Any] = {}
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.name != ".lock":
            found[str(path.relative_to(store))] = path.read_bytes()
    root = json.loads(found.pop("zarr.json"))
    root["attributes"].pop("id")
    return {**found, "root": root}


def make(path: Path, rows: int = 16, samples: int = SAMPLES) -> Path:
    """A Zarr group of two layers, one in chunks of so many rows."""
    rng = np.random.default_rng(samples)
    values = np.maximum(rng.normal(size=(samples, 11)), 0).astype(np.float32)
    values[3, 4] = np.nan
    group = zarr.create_group(path)
    for name, array, chunks in (("relu", values, (rows, 6)), ("head", rng.normal(size=(samples, 3)), (7, 3))):
        group.create_array(name, data=array, chunks=chunks)
    return path


def fit_in_shards(source: Any, out: Path, numbers: list[int], of: int, **options: Any) -> None:
    ready = prepare_fit(source, **OPTIONS, **options)
    for number in numbers:
        fit_shard(ready, cut_shard(ready.source, f"{number}/{of}"), out)


def score_in_shards(background: Any, source: Any, out: Path, numbers: list[int], of: int, **options: Any) -> None:
    for number in numbers:
        hpv.score(background, source, out, shard=f"{number}/{of}", **OPTIONS, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    folder = tmp_path_factory.mktemp("data")
    source, labels = make(folder / "acts.zarr"), np.arange(SAMPLES) // 100
    fit_to_store(prepare_fit(str(source), labels=labels, min_class_size=5, **OPTIONS), folder / "background")
    background = open_background(folder / "background")
    hpv.score(background, str(source), folder / "scores", labels=labels, keep=("codes", "ranges"), **OPTIONS)
    return SimpleNamespace(source=str(source), labels=labels, background=background, folder=folder)


# --- which samples ---


@settings(max_examples=200)
@given(samples=st.integers(1, 500), rows=st.integers(1, 600), of=st.integers(1, 40))
def test_every_sample_is_in_one_shard_and_chunks_are_shared_only_where_there_are_too_few(
    samples: int, rows: int, of: int
) -> None:
    source: Any = SimpleNamespace(samples=samples, chunk_rows=rows)
    if of > samples:
        with pytest.raises(hpv.InputError, match=rf"more shards than samples \({samples}\)"):
            cut_shard(source, f"1/{of}")
        return
    shards = [cut_shard(source, f"{number}/{of}") for number in range(1, of + 1)]
    covered = [sample for shard in shards for sample in range(shard.rows.start, shard.rows.stop)]
    assert covered == list(range(samples))
    assert all(shard.rows.start < shard.rows.stop for shard in shards)
    if -(-samples // rows) >= of:
        assert all(shard.rows.start % rows == 0 for shard in shards)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", "1.0/2", "", "1/ 3", 3])
def test_what_is_no_shard(text: Any) -> None:
    with pytest.raises(hpv.InputError, match="give I/N"):
        cut_shard(SimpleNamespace(samples=9, chunk_rows=1), text)  # type: ignore[arg-type]


# --- the same bits ---


@settings(max_examples=6)
@given(of=st.integers(1, 9), rows=st.sampled_from([1, 5, 16, 64, 1000]), seed=st.integers(0, 99), pilot=st.booleans(),
       classes=st.sampled_from([None, 1, 60, 1000]))  # fmt: skip
def test_fits_in_shards(of: int, rows: int, seed: int, pilot: bool, classes: int | None) -> None:
    """By class, labels come in runs: most shards lack some of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = str(make(folder / "acts.zarr", rows, 150))
        options: dict[str, Any] = {"pilot": 40 if pilot else None, "bins": 9}
        if classes:
            options |= {"labels": np.arange(150) // classes, "min_class_size": 3}
        fit_to_store(prepare_fit(source, **OPTIONS, **options), folder / "whole")
        fit_in_shards(source, folder / "out", random.Random(seed).sample(range(1, of + 1), of), of, **options)
        merged, already = merge_shards(folder / "out")
        assert isinstance(merged, hpv.Background)
        assert not already
        assert merged.fingerprint == open_background(folder / "whole").fingerprint
        assert merged.rule == open_background(folder / "whole").rule
        assert contents(folder / "out") == contents(folder / "whole")


@pytest.mark.parametrize(("of", "against"), [(1, "own"), (2, "lowest"), (5, "own"), (7, "pooled"), (SAMPLES, "own")])
def test_scores_in_shards(data: SimpleNamespace, tmp_path: Path, of: int, against: str) -> None:
    ids = [f"sample {i}" for i in range(SAMPLES)]
    layers = {name: layer[:] for name, layer in zarr.open_group(data.source).arrays()}
    save_activations(tmp_path / "acts", layers, labels=data.labels, ids=ids)
    options: dict[str, Any] = {"against": against, "keep": ("codes", "ranges"), "tails": ("right", "two-sided"),
                               "statistics": "higher_criticism"}  # fmt: skip
    source = str(tmp_path / "acts")
    hpv.score(data.background, source, tmp_path / "whole", **OPTIONS, **options)
    numbers = random.Random(of).sample(range(1, of + 1), min(of, 7))
    score_in_shards(data.background, source, tmp_path / "out", numbers, of, **options)
    if of > 7:  # as many shards as samples: a few of them
        assert hpv.open(shard_path(tmp_path / "out", numbers[0], of)).samples == 1
        return
    scores = hpv.merge(tmp_path / "out")
    assert isinstance(scores, hpv.Scores)
    assert scores.ids == ids
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_chunks_of_scores_are_filled_from_several_shards(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_stored, "SCORE_CHUNK", 64)
    monkeypatch.setattr(
        scoring_stored, "kept_chunks", lambda nodes, samples, *others: (min(samples, 50), min(nodes, 4))
    )
    options: dict[str, Any] = {"labels": data.labels, "keep": ("codes", "ranges"), "tails": "right"}
    hpv.score(data.background, data.source, tmp_path / "whole", **OPTIONS, **options)
    score_in_shards(data.background, data.source, tmp_path / "out", [3, 1, 4, 2], 4, **options)
    hpv.merge(str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_shards_may_run_at_the_same_time(data: SimpleNamespace, tmp_path: Path) -> None:
    ready = prepare_fit(data.source, memory="128MiB", threads=1)
    shards = [cut_shard(ready.source, f"{number}/8") for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda shard: fit_shard(ready, shard, tmp_path / "out"), shards))
    assert [already for _, already in found] == [False] * 8
    merged, _ = merge_shards(tmp_path / "out")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == hpv.fit(data.source).fingerprint


class StopAfter(Quiet):
    """Stops after so many bytes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def advance(self, done: int) -> None:
        self.left -= done
        if self.left < 0:
            raise Kill


@pytest.mark.parametrize("after", [0, 3000, 10_000])
def test_a_killed_shard_continues(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(tiling, "LARGEST_BLOCK", 1000)
    ready = prepare_fit(data.source, pilot=100, memory="128MiB", threads=1)
    shard = cut_shard(ready.source, "2/2")
    with pytest.raises(Kill):
        fit_shard(ready, shard, tmp_path / "out", StopAfter(after))
    with pytest.raises(hpv.StoreError, match="shard 1 of 2 is missing, shard 2 of 2 is unfinished; run them, then"):
        hpv.open(tmp_path / "out")
    with pytest.raises(hpv.StoreError, match="shard 2 of 2 is unfinished"):
        merge_shards(tmp_path / "out")
    fit_in_shards(data.source, tmp_path / "out", [2, 1], 2, pilot=100)
    merged, _ = merge_shards(tmp_path / "out")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == hpv.fit(data.source, pilot=100).fingerprint


# --- what is there already ---


def test_the_table_of_outputs_holds_for_a_shard(data: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ready = prepare_fit(data.source, **OPTIONS)
    first, second = (cut_shard(ready.source, f"{number}/2") for number in (1, 2))
    assert fit_shard(ready, first, out)[1] is False
    before = contents(out)
    assert fit_shard(ready, first, out)[1] is True
    with Output.begin(shard_path(out, 2, 2), BACKGROUND, {}), pytest.raises(hpv.OutputExistsError, match="something"):
        fit_shard(ready, second, out)
    shutil.rmtree(shard_path(out, 2, 2))
    for text, options, words in (
        ("1/2", {"bins": 7}, "bins=32 there and bins=7 here"),
        ("1/3", {}, "2 shards there and 3 shards here"),
        ("1/2", {"labels": data.labels}, "no labels there and labels, min_class_size=100 here"),
    ):
        other = prepare_fit(data.source, **OPTIONS, **options)  # type: ignore[arg-type]
        with pytest.raises(hpv.OutputExistsError, match=words):
            fit_shard(other, cut_shard(other.source, text), out)
    with pytest.raises(hpv.OutputExistsError, match="2 shards there and no shards here"):
        fit_to_store(ready, out)
    with pytest.raises(hpv.InputError, match="no shard may replace"):
        cut_shard(ready.source, "1/2", overwrite=True)
    assert contents(out) == before
    fit_shard(ready, second, out)
    merge_shards(out)
    assert fit_shard(ready, second, out)[1] is True
    assert fit_to_store(ready, out)[1] is True
    assert merge_shards(out)[1] is True
    with pytest.raises(hpv.OutputExistsError, match="bins=32 there and bins=7 here"):
        fit_in_shards(data.source, out, [1], 2, bins=7)


def test_the_same_shard_twice_at_once(data: SimpleNamespace, tmp_path: Path) -> None:
    ready = prepare_fit(data.source, **OPTIONS)
    shard = cut_shard(ready.source, "1/2")

    class Again(Quiet):
        def start(self, what: str, total: int) -> None:
            with pytest.raises(hpv.OutputExistsError, match=f"is being written by process {os.getpid()}"):
                fit_shard(ready, shard, tmp_path / "out")

    assert fit_shard(ready, shard, tmp_path / "out", Again())[1] is False


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(60, 4))
    np.save(tmp_path / "a.npy", values)
    fit_in_shards(str(tmp_path / "a.npy"), tmp_path / "out", [1], 2)
    np.save(tmp_path / "a.npy", values[:50])
    with pytest.raises(hpv.OutputExistsError, match="holds something else: activations"):
        fit_in_shards(str(tmp_path / "a.npy"), tmp_path / "out", [2], 2)


def test_no_input_and_nothing_foreign_is_an_output(data: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    other = "a score store there and a background here"
    for out, words in ((tmp_path / "mine", "not a store of hpv"), (data.folder / "scores", other)):
        with pytest.raises(hpv.OutputExistsError, match=words):
            fit_in_shards(data.source, out, [1], 2)


# --- merging what does not belong together ---


@pytest.fixture
def three(data: SimpleNamespace, tmp_path: Path) -> Path:
    """Scores in three shards that are not merged."""
    score_in_shards(data.background, data.source, tmp_path / "three", [1, 2, 3], 3, labels=data.labels, forms="whole")
    return tmp_path / "three"


def paths(out: Path, of: int = 3) -> list[str]:
    return [shard_path(out, number, of) for number in range(1, of + 1)]


def test_shards_that_are_given(data: SimpleNamespace, three: Path, tmp_path: Path) -> None:
    one, two, last = paths(three)
    merged, _ = merge_parts([last, one, two], tmp_path / "merged")
    assert isinstance(merged, hpv.Scores)
    assert merged.path == str(tmp_path / "merged")
    assert merge_parts([one, two, last], tmp_path / "merged")[1] is True
    assert all(Path(path).exists() for path in paths(three))
    with pytest.raises(hpv.InputError, match="shards 2 of 3 are missing"):
        merge_parts([last, one], tmp_path / "x")
    shutil.copytree(one, tmp_path / "copy")
    for given_twice in (one, str(tmp_path / "copy")):
        with pytest.raises(hpv.InputError, match="are both shard 1 of 3; its samples would count double"):
            merge_parts([one, two, last, given_twice], tmp_path / "x")
    with pytest.raises(hpv.InputError, match="is no shard"):
        merge_parts([one, two, str(data.folder / "scores")], tmp_path / "x")
    score_in_shards(data.background, data.source, tmp_path / "four", [2], 4, labels=data.labels, forms="whole")
    with pytest.raises(hpv.InputError, match="it is shard 2 of 4"):
        merge_parts([one, shard_path(tmp_path / "four", 2, 4), last], tmp_path / "x")
    score_in_shards(data.background, data.source, tmp_path / "other", [2], 3, labels=data.labels, alpha_max=0.25,
                    forms="whole")  # fmt: skip
    other = shard_path(tmp_path / "other", 2, 3)
    with pytest.raises(hpv.InputError, match="alpha_max=0.25 there and alpha_max=0.5 here; leave it out"):
        merge_parts([one, other, last], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_shards_beneath_an_output_that_are_not_its_own(three: Path) -> None:
    one, two, last = (Path(path) for path in paths(three))
    with pytest.raises(hpv.InputError, match="no output of shards"):
        merge_shards(one)
    shutil.move(two, three.parent / "kept")
    shutil.copytree(last, two)
    with pytest.raises(hpv.InputError, match="shard-2-of-3 and .*shard-3-of-3 are both shard 3 of 3"):
        merge_shards(three)
    shutil.rmtree(two)
    with pytest.raises(hpv.StoreError, match="shard 2 of 3 is missing; run it"):
        merge_shards(three)
    shutil.move(three.parent / "kept", two)
    shutil.copytree(one, three / "shard-1-of-4")
    with pytest.raises(hpv.InputError, match="shard-1-of-4 is none of the shards 1 to 3 of"):
        merge_shards(three)
    shutil.rmtree(three / "shard-1-of-4")
    assert merge_shards(three)[1] is False


def test_a_gap_between_shards_is_named(three: Path) -> None:
    header = Path(paths(three)[1]) / "zarr.json"
    document = json.loads(header.read_text())
    document["attributes"]["request"]["shard"]["samples"][0] += 1
    header.write_text(json.dumps(document))
    with pytest.raises(hpv.InputError, match="begins at sample 81, the shards before it end at 80"):
        merge_shards(three)


def test_damage_in_a_shard_is_named(three: Path) -> None:
    chunk = Path(paths(three)[1]) / "codes" / "head" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"123456789")
    with pytest.raises(hpv.DataError, match="shard-2-of-3: array codes/head: chunk"):
        merge_shards(three)
    with pytest.raises(hpv.StoreError, match="all 3 shards are there, run hpv merge"):
        hpv.open(three)


def test_backgrounds_of_shards_are_backgrounds(data: SimpleNamespace, tmp_path: Path) -> None:
    fit_in_shards(data.source, tmp_path / "out", [1, 2], 2)
    parts = paths(tmp_path / "out", 2)
    merged, _ = merge_parts(parts, tmp_path / "merged")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == hpv.fit(data.source).fingerprint
    shutil.copytree(parts[0], tmp_path / "copy")
    with pytest.raises(hpv.InputError, match="are both shard 1 of 2"):
        merge_parts([*parts, tmp_path / "copy"], tmp_path / "x")


# --- killed while merging ---


@pytest.mark.parametrize("kind", ["fit", "score"])
def test_a_kill_at_any_step_of_a_merger_leaves_shards_or_a_complete_output(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(scoring_merging, "thread_count", lambda _: 1)
    shards, out, source = tmp_path / "shards", tmp_path / "out", f"{data.source}/head"
    fit_to_store(prepare_fit(source, **OPTIONS), tmp_path / ("whole" if kind == "fit" else "background"))
    if kind == "fit":
        fit_in_shards(source, shards, [1, 2, 3], 3)
    else:
        options: dict[str, Any] = {"statistics": "berk_jones", "tails": "right", "forms": "whole"}
        background = open_background(tmp_path / "background")
        score_in_shards(background, source, shards, [1, 2], 2, **options)
        hpv.score(background, source, tmp_path / "whole", **options, **OPTIONS)
    whole, seen = contents(tmp_path / "whole"), set[str]()
    step = 0
    while True:
        step += 9 if "complete" in seen else 1  # then the shards' files are removed one by one
        for path in tmp_path.glob("out*"):
            shutil.rmtree(path)
        shutil.copytree(shards, out)
        try:
            with killed_at(step):
                merge_shards(out)
            break
        except Kill:
            seen.add(look(out, whole))
        merge_shards(out)
        assert contents(out) == whole
        assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    assert seen == {"shards", "between two names", "complete"}


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """A kill just before the change number so many of what is on the disk."""
    left = step

    def counting(function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Kill
            return function(*arguments, **options)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "rename"), (os, "unlink"), (Output, "write"), (Output, "_save")):
            patch.setattr(owner, name, counting(getattr(owner, name)))
        yield


def look(out: Path, whole: dict[str, Any]) -> str:
    """What a kill left; nothing incomplete opens."""
    if not out.exists():
        return "between two names"
    if json.loads((out / "zarr.json").read_text())["attributes"]["complete"]:
        assert contents(out) == whole
        return "complete"
    with pytest.raises(hpv.StoreError, match=r"all \d shards are there, run hpv merge"):
        hpv.open(out)
    return "shards"


def test_a_merger_goes_on_where_it_was(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    written: list[str] = []
    write = Output.write

    def noting(self: Output, name: str, *rest: Any) -> None:
        if len(written) == 5:
            raise Kill
        written.append(name)
        write(self, name, *rest)

    monkeypatch.setattr(Output, "write", noting)
    with pytest.raises(Kill):
        merge_shards(three)
    monkeypatch.setattr(Output, "write", lambda self, name, *rest: (written.append(name), write(self, name, *rest)))
    merge_shards(three)
    assert len(written) == len(set(written))


def test_a_merger_of_backgrounds_goes_on_where_it_was(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shard is read twice but the first, which has the edges of all; also where counts outgrow their type."""
    fit_in_shards(data.source, tmp_path / "out", [1, 2, 3, 4, 5, 6, 7], 7, labels=data.labels, min_class_size=5)
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(state, "LARGEST_INT32", 100)
    read: list[str] = []
    load = load_background

    def noting(store: Any) -> hpv.Background:
        if len(read) in (3, 7):
            read.append("killed")
            raise Kill
        read.append(store.path.rpartition("/")[2])
        return load(store)

    for module in (fitting_merging, fitting_stored, calls):
        monkeypatch.setattr(module, "load_background", noting)
    for _ in range(2):
        with pytest.raises(Kill):
            merge_shards(tmp_path / "out")
    merged, _ = merge_shards(tmp_path / "out")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == data.background.fingerprint
    numbers = [name.split("-")[1] if "-" in name else name for name in read]
    assert numbers == ["1", "2", "3", "killed", "1", "4", "5", "killed", "1", "6", "7"]


def values(data: SimpleNamespace, rows: slice) -> dict[str, np.ndarray]:
    """Some of the samples, in memory."""
    group = zarr.open_group(data.source, mode="r")
    return {name: np.asarray(group[name][rows]) for name in ("relu", "head")}


def test_a_merger_of_parts_goes_on_where_it_was(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given in another order the second time; the classes of the parts differ."""
    parts = [slice(start, start + 30) for start in range(0, 210, 30)]
    labels = np.arange(210) // 45
    first = hpv.fit(values(data, parts[0]), labels=labels[parts[0]], min_class_size=5)
    expected = hpv.fit(values(data, slice(210)), labels=labels, edges=first, min_class_size=5)
    for number, rows in enumerate(parts):
        part = hpv.fit(values(data, rows), labels=labels[rows], edges=first, min_class_size=5)
        part.save(tmp_path / str(number))
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    read: list[str] = []
    load = load_background

    def noting(store: Any) -> hpv.Background:
        if len(read) == 4:
            read.append("killed")
            raise Kill
        read.append(store.path)
        return load(store)

    for module in (fitting_merging, fitting_stored, calls):
        monkeypatch.setattr(module, "load_background", noting)
    paths = [tmp_path / str(number) for number in range(7)]
    with pytest.raises(Kill):
        merge_parts(paths, tmp_path / "all")
    merged, already = merge_parts(paths[::-1], tmp_path / "all")
    assert isinstance(merged, hpv.Background)
    assert (merged.fingerprint, already) == (expected.fingerprint, False)
    assert hpv.open(tmp_path / "all").fingerprint == expected.fingerprint
    again = read.pop(5)
    assert (read[0], read.pop(4), len(set(read)), len(read)) == (again, "killed", 8, 8)  # 7 parts, and the whole
    assert merge_parts(paths, tmp_path / "all")[1]


def test_parts_that_do_not_belong_together_leave_nothing_behind(data: SimpleNamespace, tmp_path: Path) -> None:
    hpv.fit(values(data, slice(100))).save(tmp_path / "1")
    hpv.fit(values(data, slice(100, None))).save(tmp_path / "2")
    with pytest.raises(hpv.InputError, match=r"merge: \S+/2 has other edges in layer \w+ than \S+/1; fit it again"):
        merge_parts([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


# --- the command line ---


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_five_shards_by_the_command_line(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    background, scores = tmp_path / "b", tmp_path / "s"
    np.savetxt(tmp_path / "labels.txt", data.labels, "%d")
    fit = ("fit", data.source, "-o", background, "--labels", tmp_path / "labels.txt", "--min-class-size", 5)
    for number in (4, 1, 5):
        assert run(*fit, "--shard", f"{number}/5", "--json") == 0
    assert json.loads(capsys.readouterr().out.split("}\n{")[0] + "}")["shard"] == {"number": 4, "of": 5}
    words = "shards 2, 3 of 5 are missing; run them, then hpv merge"
    for command in (
        ("merge", background),
        ("score", background, data.source, "-o", scores),
        ("fit", data.source, "-o", tmp_path / "x", "--edges", background),
    ):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert f"error: {background} is incomplete: {words} {background}." in error
    assert run("info", background) == 0
    assert f"incomplete: {words}" in capsys.readouterr().out
    assert run("info", background, "--json") == 0
    assert json.loads(capsys.readouterr().out)["shards"] == {"of": 5, "missing": [2, 3], "unfinished": []}
    for number in (3, 2):
        assert run(*fit, "--shard", f"{number}/5") == 0
    assert f"{background}: shard 2 of 5 is complete." in capsys.readouterr().out
    assert run("merge", background, "--json") == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == data.background.fingerprint
    assert run("merge", background) == 0
    assert "was complete already" in capsys.readouterr().out
    assert run(*fit, "--shard", "2/5") == 0
    out = capsys.readouterr().out
    assert f"{background} was complete already: nothing to do." in out
    assert f"Next: hpv score {background} " in out
    for number in (2, 5, 1, 3, 4):
        score = ("score", background, data.source, "-o", scores, "--labels", tmp_path / "labels.txt", "--keep",
                 "codes,ranges", "--shard", f"{number}/5")  # fmt: skip
        assert run(*score) == 0
        if number == 5:
            assert run("top", scores) == 2
            assert "shards 1, 3, 4 of 5 are missing; run them, then hpv merge" in capsys.readouterr().err
    assert f"Next: hpv merge {scores}\n" in capsys.readouterr().out
    assert run("merge", scores, "--json") == 0
    assert run("top", scores) == 0
    capsys.readouterr()
    assert run(*score) == 0
    out = capsys.readouterr().out
    assert f"{scores} was complete already: nothing to do." in out
    assert f"Next: hpv top {scores}\n" in out
    merged, whole = contents(scores), contents(data.folder / "scores")
    for root in (merged["root"], whole["root"]):
        root["attributes"].pop("background_path")
    assert merged == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "SOURCE", "-o", "x", "--shard", "6/5"), "--shard 6/5: give I/N"),
        (("fit", "SOURCE", "-o", "x", "--shard", "1/231"), "more shards than samples (230)"),
        (("fit", "SOURCE", "-o", "x", "--shard", "1/2", "--overwrite"), "no shard may replace"),
        (("merge", "a", "b"), "give -o OUT"),
        (("merge", "nowhere"), "nowhere does not exist"),
        (("merge", "SOURCE"), "not a store of hpv"),
        (("slurm", "fit", "SOURCE", "-o", "x", "--shards", "0"), "--shards 0: give a whole number"),
        (("slurm", "fit", "SOURCE", "-o", "x", "--shards", "231"), "more shards than samples (230)"),
        (("slurm", "fit", "SOURCE", "-o", "x", "--shards", "2", "--memory", "64KiB"), "give at least 64MiB"),
    ],
)
def test_refused(
    arguments: tuple[str, ...], words: str, data: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.replace("SOURCE", data.source) for argument in arguments)) == 2
    assert words in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


# --- the script of hpv slurm, without a SLURM (tests/slurm has one) ---


def test_the_script_says_what_it_needs(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    given = ("slurm", "fit", data.source, "-o", "it's", "--shards", 7, "--bins", 20, "--threads", 3, "--time", "9:00")
    assert run(*given, "--partition", "long", "--memory", "1GiB", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == [sys.executable, "-m", "hpv", "fit", data.source, "--out", "it's", "--bins", "20",
                               "--memory", "1GiB", "--shard", "I/7"]  # fmt: skip
    assert document["merge"] == [sys.executable, "-m", "hpv", "merge", "it's"]
    assert {name: document[name] for name in ("array", "cpus", "mem", "time")} == {
        "array": "1-7", "cpus": 3, "mem": "1792M", "time": "9:00"}  # fmt: skip
    head = document["script"].split("set -euo")[0].splitlines()
    for line in ("job-name=hpv-fit", "array=1-7", "cpus-per-task=3", "mem=1792M", "time=9:00", "partition=long",
                 f'chdir="{tmp_path / "a b"}"', "requeue", "signal=B:USR1@120"):  # fmt: skip
        assert f"#SBATCH --{line}" in head
    assert run("slurm", "score", data.folder / "background", data.source, "-o", "s", "--shards", 2, "--tail", "left",
               "--tail", "right", "--against", "pooled") == 0  # fmt: skip
    script = capsys.readouterr().out
    assert f"{data.source} --out s --tail left --tail right --against pooled --memory 2GiB --shard" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_script_asks_for_a_gpu_where_the_nodes_are_to_have_one(
    data: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node that prints the script need not have one."""
    given = ("slurm", "score", data.folder / "background", data.source, "-o", "s", "--shards", 2, "--against", "pooled")
    assert run(*given, "--backend", "cuda") == 0
    script = capsys.readouterr().out
    assert 'array=$(sbatch --parsable --gres=gpu:1 "$0")' in script  # not the merger
    assert "--backend cuda --memory 2GiB --shard" in script
    assert run(*given) == 0
    assert "gres" not in capsys.readouterr().out
    assert run(*given, "--backend", "gpu") == 2
    assert "backend gpu: give auto, cpu or cuda" in capsys.readouterr().err.replace("--backend='gpu'", "backend gpu")


def test_the_script_runs_its_shards_and_merges_them(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a ``sbatch`` that says yes, and tasks that are started by hand."""
    monkeypatch.chdir(tmp_path)
    arguments = ("slurm", "fit", data.source, "-o", "it's", "--shards", 1, "--threads", 1, "--memory", "128MiB")
    assert run(*arguments) == 0
    (tmp_path / "job.sh").write_text(capsys.readouterr().out)
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "sbatch"
    stub.write_text('#!/bin/bash\necho "$@" >> asked\necho "41;east"\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / f"hpv-{os.getuid()}").symlink_to(os.environ["NUMBA_CACHE_DIR"])
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                                "TMPDIR": str(scratch)}  # fmt: skip

    def bash(**more: str) -> None:
        subprocess.run(["bash", "job.sh"], check=True, env=environment | more, capture_output=True)

    bash()
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first == "--parsable job.sh"
    assert second.split()[:3] == ["--array=0", "--job-name=hpv-merge", "--dependency=afterok:41"]
    assert (tmp_path / "hpv-logs").is_dir()
    for task in ("1", "0"):
        bash(SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1")
    assert open_background(tmp_path / "it's").fingerprint == hpv.fit(data.source).fingerprint
