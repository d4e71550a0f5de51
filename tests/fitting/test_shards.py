"""Fits in shards: any number in any order, killed and continued, give the background of one run."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
from data import contents
from hpv.api.merging import merge_parts, merge_shards
from hpv.base import keeping
from hpv.fitting import running
from hpv.fitting.job import FitJob, prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_shard, fit_to_store
from hpv.fitting.stored import open_background
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.store.shards import shard_path
from hpv.walking import candidates
from hpv.walking.progress import Quiet
from hpv.walking.shards import cut_shard
from sharding import OPTIONS, fit_in_shards, make, make_whole, paths
from stopping import Kill, StopAfter

pytestmark = pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    return make_whole(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
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
        fit_to_store(prepare_fit(source, FitOptions(**OPTIONS, **options)), folder / "whole")
        fit_in_shards(source, folder / "out", random.Random(seed).sample(range(1, of + 1), of), of, **options)
        merged, already = merge_shards(folder / "out")
        assert isinstance(merged, hpv.Background)
        assert not already
        assert merged.fingerprint == open_background(folder / "whole").fingerprint
        assert merged.rule == open_background(folder / "whole").rule
        assert contents(folder / "out") == contents(folder / "whole")


def test_shards_may_run_at_the_same_time(data: SimpleNamespace, tmp_path: Path) -> None:
    job = prepare_fit(data.source, FitOptions(memory="128MiB", threads=1))
    shards = [cut_shard(job.source, f"{number}/8") for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda shard: fit_shard(job, shard, tmp_path / "out"), shards))
    assert [already for _, already in found] == [False] * 8
    merged, _ = merge_shards(tmp_path / "out")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == hpv.fit(data.source).fingerprint


@pytest.mark.parametrize("after", [0, 3000, 10_000])
def test_a_killed_shard_continues(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 1000)
    job = prepare_fit(data.source, FitOptions(pilot=100, memory="128MiB", threads=1))
    shard = cut_shard(job.source, "2/2")
    with pytest.raises(Kill):
        fit_shard(job, shard, tmp_path / "out", StopAfter(after, Kill))
    with pytest.raises(hpv.StoreError, match="shard 1 of 2 is missing, shard 2 of 2 is unfinished; run them, then"):
        hpv.open(tmp_path / "out")
    with pytest.raises(hpv.StoreError, match="shard 2 of 2 is unfinished"):
        merge_shards(tmp_path / "out")
    fit_in_shards(data.source, tmp_path / "out", [2, 1], 2, pilot=100)
    merged, _ = merge_shards(tmp_path / "out")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == hpv.fit(data.source, pilot=100).fingerprint


def test_the_table_of_outputs_holds_for_a_shard(data: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = prepare_fit(data.source, FitOptions(**OPTIONS))
    first, second = (cut_shard(job.source, f"{number}/2") for number in (1, 2))
    assert fit_shard(job, first, out)[1] is False
    before = contents(out)
    assert fit_shard(job, first, out)[1] is True
    with Output.begin(shard_path(out, 2, 2), BACKGROUND, {}), pytest.raises(hpv.OutputExistsError, match="something"):
        fit_shard(job, second, out)
    shutil.rmtree(shard_path(out, 2, 2))
    for text, options, words in (
        ("1/2", {"bins": 7}, "bins=32 there and bins=7 here"),
        ("1/3", {}, "2 shards there and 3 shards here"),
        ("1/2", {"labels": data.labels}, "no labels there and labels, min_class_size=100 here"),
    ):
        other = prepare_fit(data.source, FitOptions(**OPTIONS, **options))  # type: ignore[arg-type]
        with pytest.raises(hpv.OutputExistsError, match=words):
            fit_shard(other, cut_shard(other.source, text), out)
    with pytest.raises(hpv.OutputExistsError, match="2 shards there and no shards here"):
        fit_to_store(job, out)
    with pytest.raises(hpv.InputError, match="no shard may replace"):
        cut_shard(job.source, "1/2", overwrite=True)
    assert contents(out) == before
    fit_shard(job, second, out)
    merge_shards(out)
    assert fit_shard(job, second, out)[1] is True
    assert fit_to_store(job, out)[1] is True
    assert merge_shards(out)[1] is True
    with pytest.raises(hpv.OutputExistsError, match="bins=32 there and bins=7 here"):
        fit_in_shards(data.source, out, [1], 2, bins=7)


def test_the_same_shard_twice_at_once(data: SimpleNamespace, tmp_path: Path) -> None:
    job = prepare_fit(data.source, FitOptions(**OPTIONS))
    shard = cut_shard(job.source, "1/2")

    class Again(Quiet):
        def start(self, what: str, total: int) -> None:
            with pytest.raises(hpv.OutputExistsError, match=f"is being written by process {os.getpid()}"):
                fit_shard(job, shard, tmp_path / "out")

    assert fit_shard(job, shard, tmp_path / "out", Again())[1] is False


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


def test_backgrounds_of_shards_are_backgrounds(data: SimpleNamespace, tmp_path: Path) -> None:
    fit_in_shards(data.source, tmp_path / "out", [1, 2], 2)
    parts = paths(tmp_path / "out", 2)
    merged, _ = merge_parts(parts, tmp_path / "merged")
    assert isinstance(merged, hpv.Background)
    assert merged.fingerprint == hpv.fit(data.source).fingerprint
    shutil.copytree(parts[0], tmp_path / "copy")
    with pytest.raises(hpv.InputError, match="are both shard 1 of 2"):
        merge_parts([*parts, tmp_path / "copy"], tmp_path / "x")


def test_the_plan_of_a_shard_counts_the_classes_of_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a whole fit does: they are held for as long as it runs."""
    np.save(tmp_path / "values.npy", np.zeros((4000, 2), np.float32))
    run, peaks = running.run_fit, []

    def note_and_run(job: FitJob, *rest: Any) -> Any:
        peaks.append(job.plan.peak)
        return run(job, *rest)

    monkeypatch.setattr(running, "run_fit", note_and_run)
    for labels in (None, np.zeros(4000, np.int64)):
        job = prepare_fit(tmp_path / "values.npy", FitOptions(labels=labels))
        fit_shard(job, cut_shard(job.source, "1/2"), tmp_path / f"{len(peaks)}.zarr")
    assert peaks[1] - peaks[0] == job.class_index.nbytes == 4 * 4000
