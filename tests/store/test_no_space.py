"""No space, no right to write: it is said, and the same run goes on later."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import REQUEST, failing_with, small
from hpv.base.errors import DataError, InputError, StoreError
from hpv.store import chunks as chunks_module
from hpv.store.headers import SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store


def failing(number: int) -> Any:
    return failing_with(OSError(number, os.strerror(number)))


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
