"""Outputs in object stores: complete, continued, replaced, and never half of one."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

import hpv
from data import assert_same_scores
from hpv.base import keeping
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_to_store
from hpv.places import locks
from hpv.places import place as places
from hpv.places.remote import RemoteStore
from hpv.scoring import tallying
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.running import score_to_store
from hpv.store.headers import BACKGROUND
from hpv.store.output import Output
from hpv.walking import candidates
from hpv.walking.progress import Quiet
from remote_data import content, content_if_complete, open_header, small
from stopping import Stop, StopAfter


def test_a_stopped_fit_continues(place: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(candidates, "SEGMENT", 4000)
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 4000)
    job = prepare_fit(local / "a", FitOptions(by_class=True, pilot=300, threads=1))
    out = f"{place}/b"
    with pytest.raises(Stop):
        fit_to_store(job, out, progress=StopAfter(60_000))
    with pytest.raises(hpv.StoreError, match="incomplete"):
        hpv.open(out)
    with pytest.raises(hpv.OutputExistsError, match="bins=32 there and bins=9 here"):
        fit_to_store(prepare_fit(local / "a", FitOptions(by_class=True, pilot=300, bins=9)), out)
    background, before = fit_to_store(job, out)
    assert not before
    assert background.fingerprint == hpv.open(out).fingerprint == hpv.open(local / "b").fingerprint
    assert "progress" not in (places.place_of(out).names() or [])
    assert fit_to_store(job, out)[1]


def test_a_stopped_score_continues(memory: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "segment_length", lambda ready: 128)
    job = prepare_score(hpv.open(local / "b"), local / "a", ScoreOptions(threads=1))
    with pytest.raises(Stop):
        score_to_store(job, f"{memory}/s", ("codes",), False, StopAfter(40_000))
    found = hpv.Scores(*score_to_store(job, f"{memory}/s", ("codes",), False, Quiet()))
    assert not found.already_complete
    assert_same_scores(found, hpv.open(local / "s"))


def test_a_store_is_replaced_when_the_new_one_is_complete(place: str) -> None:
    out = f"{place}/out"
    small(out, {"bins": 32}).finish()
    assert small(out, {"bins": 32}).already_complete
    with pytest.raises(hpv.OutputExistsError, match="bins=32 there and bins=10 here"):
        small(out, {"bins": 10})
    with small(out, {"bins": 10}, overwrite=True) as output:
        assert content(out) == {32}
        with pytest.raises(hpv.OutputExistsError, match="is being written by process"):
            small(out, {"bins": 10}, overwrite=True)
        output.finish()
    assert content(out) == {10}
    assert set(RemoteStore(place).sizes()) == {
        "out/zarr.json",
        "out/a/zarr.json",
        *(f"out/a/c/{i}/0" for i in range(3)),
    }
    with pytest.raises(hpv.OutputExistsError, match="replaces only its own kind"):
        Output.begin(out, BACKGROUND, {}, overwrite=True)


def test_a_kill_while_a_store_is_replaced(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any number of requests: whatever opens is whole, and the same command ends with the new store."""
    monkeypatch.setattr(locks, "EXPIRY_SECONDS", 1000.0)
    real = RemoteStore._do
    for allowed in itertools.count():
        out = f"{memory}/{allowed}/out"
        small(out, {"bins": 32}).finish()
        output = small(out, {"bins": 10}, overwrite=True)
        left = [allowed]

        def dying(store: RemoteStore, request: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] < 0:
                request.close()
                raise KeyboardInterrupt
            return real(store, request)

        with monkeypatch.context() as patch:
            patch.setattr(RemoteStore, "_do", dying)
            try:
                output.finish()
            except KeyboardInterrupt:
                pass
            for lock in output._locks:
                lock._ended.set()  # type: ignore[attr-defined]
        assert content_if_complete(out) in (None, {32}, {10})
        # The locks of the killed run are gone after a while.
        store = RemoteStore(f"{memory}/{allowed}")
        store.remove([key for key in store.sizes() if locks.LOCK in key])
        begun = open_header(out)["request"] == {"bins": 10}
        with small(out, {"bins": 10}, overwrite=not begun) as again:
            if not again.already_complete:
                again.finish()
        assert content(out) == {10}
        assert {key.partition("/")[0] for key in store.sizes()} == {"out"}
        if left[0] >= 0:
            break
    assert allowed > 6


def test_a_kill_before_a_new_store_is_begun(place: str) -> None:
    """What is left is a lock; the next run removes it once it has expired."""
    small(f"{place}/out", {"bins": 32}).finish()
    new = RemoteStore(f"{place}/out.hpv-new")
    for until, names in ((time.time() + 1000, [".lock"]), (0, None)):
        new.write(".lock", json.dumps({"id": "1", "holder": "a run that was killed", "until": until}).encode())
        assert small(f"{place}/out", {"bins": 32}).already_complete
        assert new.names() == names
