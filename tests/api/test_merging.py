"""Shards are merged if they belong together; a merger that is killed goes on, and nothing incomplete opens."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hpv
from data import contents
from hpv.api.merging import merge_parts, merge_shards
from hpv.base import keeping
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_to_store
from hpv.fitting.stored import open_background
from hpv.scoring import merging as scoring_merging
from hpv.store.output import Output
from hpv.store.shards import shard_path
from sharding import OPTIONS, fit_in_shards, make_whole, paths, score_in_shards
from stopping import Kill

pytestmark = pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    return make_whole(tmp_path_factory.mktemp("data"))


@pytest.fixture
def three(data: SimpleNamespace, tmp_path: Path) -> Path:
    """Scores in three shards that are not merged."""
    score_in_shards(data.background, data.source, tmp_path / "three", [1, 2, 3], 3, labels=data.labels, forms="whole")
    return tmp_path / "three"


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fit", "score"])
def test_a_kill_at_any_step_of_a_merger_leaves_shards_or_a_complete_output(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(scoring_merging, "thread_count", lambda _: 1)
    shards, out, source = tmp_path / "shards", tmp_path / "out", f"{data.source}/head"
    fit_to_store(prepare_fit(source, FitOptions(**OPTIONS)), tmp_path / ("whole" if kind == "fit" else "background"))
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
