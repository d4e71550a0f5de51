"""Where captures are stored, and networks with their backgrounds, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hpv
from hpv.activations import stored
from hpv.base import keeping
from networks import LAYERS, Branching, Linear, images, rows


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.zarr"


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "CHUNK_ROWS", (4, 4))
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="session")
def net() -> Branching:
    return Branching().eval()


@pytest.fixture(scope="session")
def by_class(net: Branching, tmp_path_factory: Any) -> hpv.Background:
    """Two classes are too small to answer for themselves; one that the net predicts was not fitted."""
    store = hpv.capture(net, images(400).split(100), tmp_path_factory.mktemp("fit") / "a", layers=LAYERS)
    labels = hpv.open(store).labels  # type: ignore[union-attr]
    return hpv.fit(store, labels=np.where(labels == labels.max(), 7, labels), bins=12, min_class_size=60)


@pytest.fixture(scope="session")
def linear_background() -> hpv.Background:
    net = Linear().eval()
    with torch.no_grad():
        first = net.first(rows(500))
        return hpv.fit({"first": first, "relu": first.relu()}, bins=20)
