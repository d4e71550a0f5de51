"""What is odd but lawful works: nodes that are NaN everywhere or in one class, one sample of one node."""

from __future__ import annotations

import numpy as np

import hpv
from checks import NAME
from small import CLASSES, VALUES


def test_a_node_that_is_nan_everywhere():
    values = VALUES.copy()
    values[:, 2] = np.nan
    background = hpv.fit(values, labels=CLASSES)
    assert background.layers[NAME].missing[:, 2].tolist() == [120, 120]
    test = np.full((2, 6), 9.0, np.float32)
    for labels in (None, [0, 1]):
        for tail in ("right", "left", "two-sided"):
            pmin, pmax = background.pvalues(test, tail=tail, labels=labels)
            assert (pmin[:, 2].tolist(), pmax[:, 2].tolist()) == ([0, 0], [1, 1])
    for alphas in ("grid", "all"):
        for options in ({"alpha_max": 1.0}, {"alpha_max": 0.5}):
            result = background.scan(test, labels=[0, 1], alphas=alphas, **options)
            assert result.nodes(0)[NAME].tolist() == [0, 1, 3, 4, 5]
            assert result.size.tolist() == [5, 5]
    alone = hpv.fit(np.full((4, 3), np.nan))
    assert alone.encode(test[:, :3]).tolist() == [[0, 0, 0]] * 2
    assert np.isnan(alone.quantile(0.5)).all()
    assert alone.scan(test[:, :3]).score.tolist() == [0, 0]


def test_a_node_that_is_nan_in_one_class():
    values = VALUES.copy()
    values[CLASSES == 1, 2] = np.nan
    background = hpv.fit(values, labels=CLASSES)
    pmin, pmax = background.pvalues(np.full((2, 6), 9.0, np.float32), labels=[0, 1], dtype="float64")
    assert (pmin[:, 2].tolist(), pmax[:, 2].tolist()) == ([0, 0], [1 / 121, 1])
    result = background.scan(np.full((2, 6), 9.0, np.float32), labels=[0, 1], alphas="all")
    assert result.size.tolist() == [6, 5]


def test_one_sample_and_one_node():
    background = hpv.fit(np.array([[3.0]], np.float16))
    pmin, pmax = background.pvalues(np.array([[3.0], [2.0], [4.0], [np.nan]], np.float16), dtype="float64")
    assert list(zip(pmin.ravel(), pmax.ravel(), strict=True)) == [(0, 1), (0.5, 1), (0, 0.5), (0, 1)]
    assert background.scan(np.array([[4.0]])).size.tolist() == [0]
    assert background.scan(np.array([[4.0]]), tail="right").size.tolist() == [1]
