"""Scores on disk: those of a scan, and what belongs to them."""

from __future__ import annotations

import numpy as np
import pytest

import hpv
from data import three_classes, two_layers
from hpv.activations.writing import save_activations


@pytest.fixture
def data():
    return two_layers()


@pytest.fixture
def labels():
    return three_classes()


@pytest.mark.parametrize("against", ["own", "lowest", "pooled"])
@pytest.mark.parametrize("alphas", ["grid", "all"])
def test_scores_are_those_of_scan(tmp_path, data, labels, against, alphas):
    background = hpv.fit(data, labels=labels)
    found = hpv.score(
        background, data, tmp_path / "s", labels=labels, against=against, alphas=alphas, keep=("codes", "ranges")
    )
    codes = background.encode(data)
    for tail, form, statistic in found.kinds:
        result = background.scan(
            data, statistic=statistic, tail=tail, form=form, labels=labels, against=against, alphas=alphas
        )
        scored = found.get(tail, form, statistic)
        for name in ("score", "alpha", "size", "label"):
            np.testing.assert_array_equal(getattr(scored, name), getattr(result, name))
        chosen = int(result.score.argmax())
        nodes = found.nodes(chosen, tail, form, statistic)
        expected = result.nodes(chosen)
        assert sum(len(part) for part in nodes.values()) == result.size[chosen]
        for name in data:
            np.testing.assert_array_equal(nodes[name], expected[name])
    for name in data:
        np.testing.assert_array_equal(found.codes(name).read(), codes[name])
    if against == "own":
        exact = background.pvalues(data, tail="left", dtype="float64", labels=labels)["head"]
        for end, values in zip(found.pvalues("head", "left"), exact, strict=True):
            np.testing.assert_array_equal(end, values)
        rounded = background.pvalues(data, tail="left", labels=labels)["head"]
        stored = [found._store.array(f"ranges/left/head/{end}").read() for end in ("pmin", "pmax")]
        np.testing.assert_array_equal(stored, rounded)


def test_scores_find_the_background_that_was_opened(tmp_path, data):
    background = hpv.fit(data)
    background.save(tmp_path / "b")
    found = hpv.score(hpv.open(tmp_path / "b"), data, tmp_path / "s")
    assert found.background().fingerprint == background.fingerprint
    hpv.score(background, data, tmp_path / "other")
    with pytest.raises(hpv.InputError, match="was not a store; give the path of one"):
        hpv.open(tmp_path / "other").background()


def test_missing_values_are_reported(tmp_path, data):
    background = hpv.fit(data)
    data["head"][5, 3] = np.nan
    data["head"][8] = np.nan
    with pytest.warns(hpv.HpvWarning, match="8 NaN values"):
        found = hpv.score(background, data, tmp_path / "s")
    assert found.missing == 8
    assert (found.codes("head").read()[8] == 255).all()


def test_another_background_is_refused(tmp_path, data):
    background = hpv.fit(data)
    found = hpv.score(background, data, tmp_path / "s")
    with pytest.raises(hpv.InputError, match="another background"):
        found.background(hpv.fit(data, bins=4))
    with pytest.raises(hpv.OutputExistsError, match="background"):
        hpv.score(hpv.fit(data, bins=4), data, tmp_path / "s")
    with pytest.raises(hpv.InputError, match="no scores of"):
        found.get("right", "subset", "kolmogorov_smirnov")


def test_other_values_are_another_input(tmp_path, data):
    """Of an array in memory the values count, not the shape alone."""
    background = hpv.fit(data)
    hpv.score(background, data, tmp_path / "s")
    with pytest.raises(hpv.OutputExistsError, match="values"):
        hpv.score(background, {name: x + 5 for name, x in data.items()}, tmp_path / "s")


def test_ids_and_labels_travel(tmp_path, data, labels):
    ids = [f"image-{i:03}" for i in range(900)]
    save_activations(tmp_path / "a", data, labels=labels, ids=ids)
    background = hpv.fit(tmp_path / "a", by_class=True)
    assert background.fingerprint == hpv.fit(data, labels=labels).fingerprint
    found = hpv.score(background, tmp_path / "a", tmp_path / "s")
    assert found.ids == ids
    result = background.scan(data, labels=labels)
    np.testing.assert_array_equal(found.get("two-sided", "subset", "berk_jones").score, result.score)
