"""Commands that are told to end, that find no space, or that another run is in the way of, go on later."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpv
from commands import capture_command, done, fit_command, refused, run, score_command
from data import CommandData, snapshot
from hpv.base import keeping
from hpv.cli.progress import Meter
from hpv.histograms.counts import LayerCounts
from hpv.store.output import Output
from hpv.walking import candidates

pytestmark = pytest.mark.slow


def merge_command(data: CommandData) -> list[object]:
    values, folder = np.load(data.bare), data.normal.parent
    for number, part in enumerate((values[:250], values[250:400], values[400:])):
        if not (folder / f"{number}.zarr").exists():
            hpv.fit(part, edges=[0.5]).save(folder / f"{number}.zarr")
    return ["merge", *(folder / f"{number}.zarr" for number in range(3))]


WRITING = {"fit": fit_command, "score": score_command, "capture": capture_command, "merge": merge_command}


@pytest.fixture(params=list(WRITING))
def writing(request: pytest.FixtureRequest, data: CommandData, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A command that writes a store, in many steps, each kept as it is done."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 4096)
    monkeypatch.setattr(candidates, "KEPT_CHUNK", 1)
    command: list[object] = WRITING[request.param](data)
    return command


def same_arrays(first: Path, second: Path) -> bool:
    """Less the roots, which have an identity each."""
    one, other = ({name: part for name, part in snapshot(path).items() if name != "zarr.json"}
                  for path in (first, second))  # fmt: skip
    return len(one) > 2 and one == other


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("steps", [0, 1])
def test_told_to_end(
    writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, steps: int
) -> None:
    command = [*writing, "--threads", threads] if writing[0] in ("fit", "score") else writing
    done(*command, "-o", tmp_path / "undisturbed")
    advance, left = Meter.advance, [steps]

    def advance_and_be_killed(self: Meter, amount: int) -> None:
        left[0] -= 1
        if left[0] == -1:
            time.sleep(0.1)  # the main thread waits by then; a signal just before that would be seen after it
            os.kill(os.getpid(), signal.SIGTERM)
            assert self._stop.wait(10)
        advance(self, amount)

    monkeypatch.setattr(Meter, "advance", advance_and_be_killed)
    handler = signal.getsignal(signal.SIGTERM)
    message = refused(*command, "-o", tmp_path / "b.zarr", code=75)
    assert f"{writing[0]} was stopped" in message
    assert "run the same command again" in message
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.setattr(Meter, "advance", advance)
    if writing[0] == "capture":  # the batch at work is finished and written
        assert f"so far: {30 * (steps + 1)} samples" in done("info", tmp_path / "b.zarr").out
    assert done(*command, "-o", tmp_path / "b.zarr").code == 0
    assert same_arrays(tmp_path / "b.zarr", tmp_path / "undisturbed")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["fit", "score", "merge"])
def test_nothing_that_was_done_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, threads: int
) -> None:
    """Told to end long before a checkpoint is due, a command keeps all that it has done."""
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 4096)
    monkeypatch.setattr(candidates, "KEPT_CHUNK", 1)
    values = np.random.default_rng(0).normal(size=(4096, 64)).astype("f4")
    np.save(tmp_path / "values.npy", values)
    hpv.fit(values).save(tmp_path / "of.zarr")
    score = ["score", tmp_path / "of.zarr", tmp_path / "values.npy", "--threads", threads]
    command = {"fit": ["fit", tmp_path / "values.npy", "--threads", threads], "score": score, "merge": ["merge"]}[what]
    places = tmp_path / "undisturbed", tmp_path / "stopped"
    for place in places if what == "merge" else ():
        for part in ("1/2", "2/2"):
            done(*score, "-o", place, "--shard", part)
    undisturbed, stopped = ([*command, *([] if what == "merge" else ["-o"]), place] for place in places)
    advance, work = Meter.advance, [0]

    def advance_and_be_told(self: Meter, amount: int) -> None:
        work[0] += amount
        if work[0] > tell_at and not self._stop.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            assert self._stop.wait(10)
        advance(self, amount)

    monkeypatch.setattr(Meter, "advance", advance_and_be_told)
    tell_at = 10**12
    done(*undisturbed)
    total, work[0] = work[0], 0
    tell_at = 2 * total // 3
    assert f"{what} was stopped after" in refused(*stopped, code=75)
    assert total > work[0] > tell_at
    tell_at = 10**12
    done(*stopped)
    assert work[0] == total
    assert same_arrays(*places)


def test_interrupted_while_adding_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that were added up only in part are not kept."""
    monkeypatch.setattr(candidates, "LARGEST_BLOCK", 4096)
    monkeypatch.setattr(candidates, "SEGMENT", 16384)
    values = np.random.default_rng(0).normal(size=(512, 64)).astype("f4")
    np.save(tmp_path / "values.npy", values)
    add, left = LayerCounts.add, [3]

    def add_and_be_interrupted(self: LayerCounts, *given: Any) -> None:
        add(self, *given)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(LayerCounts, "add", add_and_be_interrupted)
    command = "fit", tmp_path / "values.npy", "--threads", 1, "-o", tmp_path / "b.zarr"
    assert run(*command).code == 130
    assert left == [0]
    done(*command)
    assert hpv.open(tmp_path / "b.zarr").fingerprint == hpv.fit(values).fingerprint


def test_a_full_disk(writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write finds no space: the message says so, and the same command goes on when there is some."""
    import zarr.storage._local as local

    writev, put, left = os.writev, local._put, [10**6]

    def limited(write: Any) -> Any:
        def attempt(*given: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*given, **options)

        return attempt

    monkeypatch.setattr(os, "writev", limited(writev))
    monkeypatch.setattr(local, "_put", limited(put))
    done(*writing, "-o", tmp_path / "undisturbed")
    writes = 10**6 - left[0]
    assert writes > 3
    for place in sorted({0, 1, writes // 3, writes // 2, writes - 2, writes - 1}):
        out = tmp_path / f"{place}"
        left[0] = place
        assert "no space left; free some and run the same command again" in refused(*writing, "-o", out, code=3)
        if out.exists():
            with pytest.raises(hpv.StoreError, match="incomplete|not a Zarr store"):
                hpv.open(out)
        left[0] = 10**6
        done(*writing, "-o", out)
        assert same_arrays(out, tmp_path / "undisturbed")


def test_a_place_that_cannot_be_written(writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    message = refused(*writing, "-o", tmp_path / "deep" / "b.zarr")
    assert message == f"{tmp_path}/deep/b.zarr cannot be written: Read-only file system; use another path."
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_on_the_same_output(
    writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the first one does not notice."""
    done(*writing, "-o", tmp_path / "undisturbed")
    write, seconds = Output.write, []

    def write_beside_another(self: Output, *given: Any) -> None:
        if not seconds:
            seconds.append(None)
            seconds[0] = refused(*writing, "-o", tmp_path / "b.zarr")
        write(self, *given)

    monkeypatch.setattr(Output, "write", write_beside_another)
    done(*writing, "-o", tmp_path / "b.zarr")
    assert f"b.zarr is being written by process {os.getpid()} on " in seconds[0]
    assert same_arrays(tmp_path / "b.zarr", tmp_path / "undisturbed")


def test_told_to_end_twice() -> None:
    with Meter("fit", 10, "byte"):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(hpv.StoppedError, match="run the same command again"):
            signal.raise_signal(signal.SIGTERM)
