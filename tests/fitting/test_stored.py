"""Backgrounds on disk: what is written is what was computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr

import hpv
from data import three_classes, two_layers
from hpv.base.floats import BFLOAT16
from hpv.fitting.merging import merge_to_store


@pytest.fixture
def data():
    return two_layers()


@pytest.fixture
def labels():
    return three_classes()


def test_background_survives_the_disk(tmp_path, data, labels):
    background = hpv.fit(data, labels=labels)
    background.save(tmp_path / "b")
    again = hpv.open(tmp_path / "b")
    assert again.fingerprint == background.fingerprint
    assert again.rule == background.rule
    np.testing.assert_array_equal(again.classes, [0, 3, 9])
    for name in data:
        np.testing.assert_array_equal(again.edges(name), background.edges(name))
        np.testing.assert_array_equal(again.modal(name), background.modal(name))
    result, other = (b.scan(data, labels=labels) for b in (background, again))
    np.testing.assert_array_equal(result.score, other.score)


def test_background_of_bfloat16_and_of_nothing(tmp_path):
    values = np.arange(40, dtype=np.uint16).reshape(20, 2) + 0x3F80
    values[:, 1] = 0x7FC0  # NaN alone
    background = hpv.fit(torch.from_numpy(values.view(np.int16)).view(torch.bfloat16))
    background.save(tmp_path / "b")
    again = hpv.open(tmp_path / "b")
    assert again.fingerprint == background.fingerprint
    assert again.layers["activations"].float_format is BFLOAT16
    low, high = again.pvalues(torch.ones(3, 2, dtype=torch.bfloat16), dtype="float64")
    np.testing.assert_array_equal(low[:, 1], 0)
    np.testing.assert_array_equal(high[:, 1], 1)


def test_saving_twice(tmp_path, data):
    background = hpv.fit(data)
    background.save(tmp_path / "b")
    background.save(tmp_path / "b")
    other = hpv.fit(data, bins=5)
    with pytest.raises(hpv.OutputExistsError, match="fingerprint"):
        other.save(tmp_path / "b")
    assert hpv.open(tmp_path / "b").fingerprint == background.fingerprint
    other.save(tmp_path / "b", overwrite=True)
    assert hpv.open(tmp_path / "b").fingerprint == other.fingerprint


def test_changed_background_is_noticed(tmp_path, data):
    hpv.fit(data).save(tmp_path / "b")
    array = zarr.open_array(tmp_path / "b" / "layers" / "head" / "survivors", mode="r+")
    array[0, 0, 0] = 5
    with pytest.raises(hpv.DataError, match="fingerprint"):
        hpv.open(tmp_path / "b")


def test_merged_stores(tmp_path, data):
    first = hpv.fit({name: x[:500] for name, x in data.items()})
    first.save(tmp_path / "1")
    hpv.fit({name: x[500:] for name, x in data.items()}, edges=first).save(tmp_path / "2")
    merged, _ = merge_to_store([tmp_path / "2", tmp_path / "1"], tmp_path / "both")
    assert merged.fingerprint == hpv.fit(data, edges=first).fingerprint
    assert hpv.open(tmp_path / "both").fingerprint == merged.fingerprint
    assert merge_to_store([tmp_path / "1", tmp_path / "2"], tmp_path / "both")[1]
