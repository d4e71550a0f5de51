"""Fixtures of tests that read Zarr arrays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpv.store import accelerating


@pytest.fixture(params=["on", "off"])
def zarrs(request, monkeypatch) -> Iterator[str]:
    """With and without zarrs."""
    monkeypatch.setenv(accelerating.SWITCH, request.param)
    accelerating.wanted.cache_clear()
    yield request.param
    monkeypatch.undo()
    accelerating.wanted.cache_clear()
