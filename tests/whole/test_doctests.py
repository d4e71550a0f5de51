"""The examples in the docstrings of public functions are true."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import hpv
from hpv.capturing.monitoring import BatchScores

pytestmark = pytest.mark.slow

PUBLIC = [name for name in hpv.__all__ if not inspect.isclass(getattr(hpv, name))]
OTHERS = {
    "hpv.activations.layers",
    "hpv.api.background",
    "hpv.base.keywords",
    "hpv.base.patterns",
    "hpv.histograms.state",
    "hpv.scanning.options",
    "hpv.scanning.scored",
    "hpv.api.scores",
    "hpv.capturing.monitoring",
    "hpv.walking.plan",
}
MODULES = sorted({getattr(hpv, name).__module__ for name in PUBLIC} | OTHERS)
METHODS = {
    hpv.Background: ("encode", "pvalues", "scan", "quantile", "save", "select", "edges", "modal"),
    hpv.Scores: ("get", "column", "codes", "pvalues", "nodes", "background"),
    hpv.ScanResult: ("get", "nodes"),
    hpv.Monitor: ("scores",),
    BatchScores: ("get", "codes", "pvalues", "nodes"),
}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0
    assert results.attempted > 0


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_an_example(name):
    assert ">>>" in (getattr(hpv, name).__doc__ or "")


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_public_methods_have_an_example(kind):
    """Their own, or one in that of their class."""
    for name in METHODS[kind]:
        assert ">>>" in getattr(kind, name).__doc__ or f".{name}(" in kind.__doc__
