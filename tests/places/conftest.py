"""Places that are not on this machine; what needs the S3 server is slow."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hpv
from hpv.activations.writing import save_activations
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_to_store
from remote_data import IDS, LABELS
from servers import ask, forget_connections, s3_server

NUMBERS = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            fixtures, chosen = getattr(item, "fixturenames", ()), getattr(item, "callspec", None)
            if "server" in fixtures or (chosen and chosen.params.get("place") == "s3"):
                item.add_marker("slow")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A real S3 server in a process of its own."""
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder in a bucket of its own."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    bucket = f"bucket-{next(NUMBERS)}"
    ask(f"{server}/{bucket}", "PUT")
    forget_connections()
    yield f"s3://{bucket}/deep"
    forget_connections()


@pytest.fixture
def memory() -> str:
    return f"memory://place-{next(NUMBERS)}"


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest) -> str:
    """An object store that can be written."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "relu/1": np.maximum(rng.normal(size=(700, 40)), 0).astype(np.float32),
        "head": rng.normal(size=(700, 7)).astype(np.float16),
    }


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, data: dict[str, np.ndarray]) -> Path:
    """The whole way on this machine."""
    folder = tmp_path_factory.mktemp("local")
    save_activations(folder / "a", data, labels=LABELS, ids=IDS)
    fit_to_store(prepare_fit(folder / "a", FitOptions(by_class=True, pilot=300)), folder / "b")
    hpv.score(hpv.open(folder / "b"), folder / "a", folder / "s")
    return folder
