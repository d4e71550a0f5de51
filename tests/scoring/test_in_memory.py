"""Codes and ranges of arrays: by class, into memory of the caller, as mappings of layers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import hpv
from strategies import as_input, matrices


def test_each_sample_is_answered_by_its_own_class():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 9)).astype(np.float32)
    classes = np.repeat([5, 3, 8], 20)
    background = hpv.fit(values, labels=classes, min_class_size=20)
    test, names = rng.normal(size=(30, 9)).astype(np.float32), rng.choice([3, 5, 8, 99], 30)
    together = background.pvalues(test, labels=names)
    for name in (3, 5, 8, 99):
        alone = background.pvalues(test[names == name], labels=np.full((names == name).sum(), name))
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(found[names == name], expected)


@given(matrices(), st.integers(1, 20))
def test_results_are_written_where_the_caller_says(activations, bins):
    values, form = activations
    background = hpv.fit(as_input(values, form), bins=bins)
    given = as_input(values, form)
    codes = np.zeros(values.shape, np.uint8)
    assert background.encode(given, out=codes) is codes
    np.testing.assert_array_equal(codes, background.encode(given))
    pair = np.zeros(values.shape, np.float32), np.zeros(values.shape, np.float32)
    found = background.pvalues(given, out=pair)
    assert found[0] is pair[0]
    assert found[1] is pair[1]
    np.testing.assert_array_equal(pair, background.pvalues(given))


def test_mappings_answer_with_mappings():
    rng = np.random.default_rng(2)
    wide, narrow = rng.normal(size=(40, 7)), rng.normal(size=(40, 3)).astype(np.float16)
    background = hpv.fit({"wide": wide, "narrow": narrow})
    alone = hpv.fit(narrow)
    codes = background.encode({"narrow": narrow, "wide": wide, "more": wide})
    assert set(codes) == {"wide", "narrow"}
    np.testing.assert_array_equal(codes["narrow"], alone.encode(narrow))
    out = {"wide": np.zeros((40, 7), np.uint8), "narrow": np.zeros((40, 3), np.uint8)}
    assert background.encode({"wide": wide, "narrow": narrow}, out=out)["wide"] is out["wide"]
    ranges = background.pvalues({"wide": wide, "narrow": narrow}, tail="left")
    np.testing.assert_array_equal(ranges["narrow"], alone.pvalues(narrow, tail="left"))
    only = background.select(["narrow"])
    np.testing.assert_array_equal(only.encode(narrow), alone.encode(narrow))
    assert only.layers["narrow"] is background.layers["narrow"]
