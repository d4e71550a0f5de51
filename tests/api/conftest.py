"""Backgrounds of 240 samples: of one layer, by class, and of two layers."""

from __future__ import annotations

import pytest

import hpv
from small import CLASSES, VALUES


@pytest.fixture(scope="session")
def background():
    return hpv.fit(VALUES)


@pytest.fixture(scope="session")
def by_class():
    return hpv.fit(VALUES, labels=CLASSES)


@pytest.fixture(scope="session")
def layered():
    return hpv.fit({"conv": VALUES, "hidden": VALUES[:, :4]})
