"""Stores on a web server: read again where a read fails, and read only."""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from pathlib import Path

import pytest
import zarr

import hpv
from data import assert_same_scores
from hpv.places import remote
from remote_data import layers
from servers import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def web(local: Path) -> Iterator[Server]:
    with Server(http.server.SimpleHTTPRequestHandler, directory=str(local)) as found:
        yield found


@pytest.mark.parametrize("how", [503, 0])
def test_a_read_that_fails_twice_from_the_web(
    web: Server, local: Path, monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.01))
    web.how = how
    web.failures = {"relu%25": 2, "head/c/": 2, "labels": 2}
    background = hpv.fit(f"{web.url}/a", by_class=True, pilot=300)
    assert web.failed == 6
    assert background.fingerprint == hpv.open(local / "b").fingerprint
    found = hpv.open(f"{web.url}/s")
    web.failures = {"score/zarr.json": 1000}
    with pytest.raises(hpv.DataError, match=rf"{web.url}/s: "):
        found.get(*found.kinds[0])
    web.failures = {"head/c/": 1000}
    with pytest.raises(
        hpv.DataError, match=r"layers/head: chunk \(0, 0\) cannot be read: .*run the same command again"
    ):
        hpv.fit(f"{web.url}/a", pilot=300)


def test_the_web_is_read_only(web: Server, local: Path, tmp_path: Path) -> None:
    background = hpv.open(f"{web.url}/b/")
    found = hpv.score(background, f"{web.url}/a", tmp_path / "s")
    assert_same_scores(found, hpv.open(local / "s"))
    assert_same_scores(hpv.open(f"{web.url}/s"), hpv.open(local / "s"))
    with pytest.raises(hpv.InputError, match="http:// can be read only"):
        background.save(f"{web.url}/c")
    with pytest.raises(hpv.StoreError, match="is not a Zarr store: there is no zarr.json"):
        hpv.open(f"{web.url}/none")
    with pytest.raises(hpv.StoreError, match=r"\.npy files are read from this machine only"):
        hpv.fit(f"{web.url}/x.npy")


def test_chunks_that_the_web_does_not_have(tmp_path: Path) -> None:
    for name, compressors in (("plain", None), ("zstd", "auto")):
        array = zarr.create_array(
            tmp_path / name, shape=(10, 6), chunks=(4, 3), dtype="f4", fill_value=2.5, compressors=compressors
        )
        array[:4] = 1
    with Server(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)) as found:
        for name in ("plain", "zstd"):
            (layer,) = layers(f"{found.url}/{name}")
            assert layer.missing_chunks == 4
            # This server does not know how to send a span of a file.
            assert layer.read(slice(3, 5), slice(0, 2)).tolist() == [[1, 1], [2.5, 2.5]]
