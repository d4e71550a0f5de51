"""An S3 server: reads and writes that fail, no way in, no way there, and the command line."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hpv
from commands import ROOT
from hpv.activations.writing import save_activations
from hpv.cli.main import main
from hpv.places import remote
from remote_data import IDS, LABELS, content, small
from servers import Forwarding, Server, ask, forget_connections


@pytest.mark.parametrize("how", [503, 0])
def test_a_read_that_fails_twice_from_s3(
    s3: str, server: str, local: Path, data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, how: int
) -> None:
    save_activations(f"{s3}/a", data, labels=LABELS, ids=IDS)
    with Server(Forwarding, server=server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_connections()
        proxy.how = how
        proxy.failures = {"relu%25": 2, "head/c/": 2}
        background = hpv.fit(f"{s3}/a", by_class=True, pilot=300)
        assert proxy.failed == 4
        assert background.fingerprint == hpv.open(local / "b").fingerprint
        forget_connections()


@pytest.fixture
def closed(s3: str, server: str) -> Iterator[str]:
    """Only known keys are let in, and there are none."""
    ask(f"{server}/moto-api/reset-auth", "POST", b"0")
    yield s3
    ask(f"{server}/moto-api/reset-auth", "POST", b"inf")


def test_wrong_credentials(closed: str) -> None:
    out = f"{closed}/a"
    for call in (lambda: hpv.open(out), lambda: hpv.fit(out), lambda: small(out, {"bins": 1})):
        with pytest.raises(hpv.InputError, match=rf"{out}: access denied \(.*\); check the credentials"):
            call()


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for call in (lambda: hpv.open(f"{s3}/a"), lambda: small(f"{s3}/a", {"bins": 1})):
        with pytest.raises(hpv.InputError, match=rf"{s3}/a: no credentials \(.*\); set them"):
            call()


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_does_not_exist() -> None:
    for call in (lambda: hpv.fit("s3://nobody/a"), lambda: small("s3://nobody/a", {"bins": 1})):
        with pytest.raises(hpv.InputError, match="s3://nobody/a: the bucket does not exist; check its name"):
            call()


def test_no_way_there(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01,))
        for address in (f"{s3}/a", f"{url}/a"):
            with pytest.raises(hpv.StoreError, match=rf"{address}: no connection \(.*\); check the network"):
                hpv.open(address)


def test_no_way_there_is_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the requests that are on their way at the same time one fails first; the others end without a word."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    command = [sys.executable, "-m", "hpv", "info", f"{s3}/a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: {s3}/a: no connection .*; check the network and the endpoint\.\n", done.stderr)


def test_a_write_that_fails(s3: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with small(f"{s3}/out", {"bins": 2}) as output:
        ask(f"{server}/moto-api/reset-auth", "POST", b"0")
        try:
            with pytest.raises(hpv.DataError, match=r"out: a: cannot be written: access denied .*same command again"):
                output.write("a", None, np.ones((10, 6)))
            with pytest.raises(hpv.DataError, match=r"out: attributes: cannot be written: access denied"):
                output.finish()
        finally:
            ask(f"{server}/moto-api/reset-auth", "POST", b"inf")
    with small(f"{s3}/out", {"bins": 2}) as output:
        output.finish()
    assert content(f"{s3}/out") == {2}


def test_command_line(s3: str, local: Path, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert main(list(arguments)) == code
        shown = capsys.readouterr()
        return shown.out, shown.err

    save_activations(f"{s3}/a", data, labels=LABELS, ids=IDS)
    run("fit", f"{s3}/a", "-o", f"{s3}/b", "--by-class", "--pilot", "300")
    run("score", f"{s3}/b", f"{s3}/a", "-o", f"{s3}/s")
    assert hpv.open(f"{s3}/b").fingerprint == hpv.open(local / "b").fingerprint
    assert len(json.loads(run("top", f"{s3}/s", "--n", "3", "--nodes", "--json")[0])["top"]) == 3
    for name, kind in (("a", "activations"), ("b", "background"), ("s", "scores")):
        facts = json.loads(run("info", f"{s3}/{name}", "--json")[0])
        assert facts["kind"] == kind
        assert facts["bytes_on_disk"] > 1000
    assert "this machine only" in run("export", f"{s3}/s", "-o", f"{s3}/s.csv", code=2)[1]
    assert "the bucket does not exist" in run("info", "s3://nobody/x", code=2)[1]
    command = [sys.executable, "-m", "hpv", "info", f"{s3}/b"]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{s3}/b: background" in alone.stdout
    assert alone.stderr == ""  # nothing of connections that were not closed
