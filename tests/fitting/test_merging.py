"""Backgrounds are added up, also where that was stopped and goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hpv
from hpv.api import calls
from hpv.api.merging import merge_parts, merge_shards
from hpv.base import keeping
from hpv.fitting import merging as fitting_merging
from hpv.fitting import stored as fitting_stored
from hpv.fitting.stored import load_background
from hpv.histograms import state
from sharding import fit_in_shards, make_whole, values
from stopping import Kill

pytestmark = pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    return make_whole(tmp_path_factory.mktemp("data"))


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
