"""What cannot be opened says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr

from data import root, small
from hpv.base.errors import StoreError
from hpv.store.foreign import zarr_layers
from hpv.store.headers import BACKGROUND, SCORES
from hpv.store.reading import open_store


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
