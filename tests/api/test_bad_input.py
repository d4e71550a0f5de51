"""Activations, layers and questions that do not fit are refused: messages name what came and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import hpv
from hpv.activations.opening import open_activations
from small import CLASSES, VALUES


def everything(background: hpv.Background) -> list[Callable[[Any], Any]]:
    """Every call that takes activations."""
    plan = partial(hpv.plan, "fit")
    return [hpv.fit, hpv.edges, background.encode, background.pvalues, background.scan, plan]


# --- activations ---


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((3, 6), int), r"activations: dtype int64 is not one of float16, bfloat16, float32, float64; convert"),
        (np.ones((3, 6), bool), "activations: dtype bool is not one of"),
        (np.ones((3, 6), complex), "activations: dtype complex128 is not one of"),
        (np.ones((3, 6), object), "activations: dtype object is not one of"),
        (np.ones((3, 6), np.longdouble), r"activations: dtype \w+ is not one of"),
        (np.full((3, 6), "1.5"), r"activations: dtype \S+ is not one of"),
        (torch.ones((3, 6), dtype=torch.int8), "activations: dtype int8 is not one of"),
        (torch.ones((3, 6), dtype=torch.complex64), "activations: dtype complex64 is not one of"),
        (np.zeros((0, 6), np.float32), r"activations: there are no samples, shape \(0, 6\); give at least one"),
        (np.zeros((3, 0), np.float32), r"activations: there are no nodes, shape \(3, 0\); leave this layer out"),
        (np.zeros(6, np.float32), r"activations: shape \(6,\); activations have two dimensions, samples and nodes"),
        (
            np.float32(3),
            "activations: a float32 cannot be read as activations; give a numpy, torch, Zarr or Dask array",
        ),
        ([[1.0, 2.0]], "activations: a list cannot be read as activations"),
        (None, "activations: a NoneType cannot be read as activations"),
        ({}, "activations: the mapping holds no layer; give at least one"),
        ({3: VALUES}, "activations: layer names are strings, not 3"),
        (
            {"a": VALUES, "b": VALUES[:9]},
            "layer b has 9 samples, layer a has 240; give the same samples of every layer",
        ),
        ({"a": VALUES.astype(int)}, "layer a: dtype int64 is not one of"),
        (torch.ones((3, 6)).to_sparse(), r"activations: a tensor of layout torch.sparse_coo; give a dense one"),
    ],
)
def test_activations(background, wrong, message):
    for call in everything(background):
        with pytest.raises(hpv.InputError, match=message):
            call(wrong)


def test_stored_activations_of_a_wrong_dtype(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 6), int))
    with pytest.raises(hpv.InputError, match=r"x\.npy: dtype int64 is not one of"):
        hpv.fit(tmp_path / "x.npy")
    zarr.save_array(tmp_path / "x.zarr", np.ones((3, 6), np.complex64))
    with pytest.raises(hpv.InputError, match=r"x\.zarr.*dtype complex64 is not one of"):
        hpv.fit(tmp_path / "x.zarr")
    with pytest.raises(hpv.StoreError, match=r"none\.zarr"):
        hpv.fit(tmp_path / "none.zarr")


# --- layers ---


@pytest.mark.parametrize("call", ["encode", "pvalues", "scan"])
def test_layers_that_do_not_fit(layered, background, call):
    with pytest.raises(
        hpv.InputError, match=r"the activations have no layer hidden of the background; they have conv\."
    ):
        getattr(layered, call)({"conv": VALUES})
    with pytest.raises(hpv.InputError, match="no layer conv of the background; they have convolution, hidden"):
        getattr(layered, call)({"convolution": VALUES, "hidden": VALUES[:, :4]})
    with pytest.raises(hpv.InputError, match="no layer conv, hidden of the background; they have activations"):
        getattr(layered, call)(VALUES)
    with pytest.raises(
        hpv.InputError, match=r"layer hidden: 5 nodes, but the background has 4; give activations of the"
    ):
        getattr(layered, call)({"conv": VALUES, "hidden": VALUES[:, :5]})
    with pytest.raises(hpv.InputError, match="layer activations: 7 nodes, but the background has 6"):
        getattr(background, call)(np.zeros((3, 7)))


def test_layers_to_scan(layered):
    both = {"conv": VALUES, "hidden": VALUES[:, :4]}
    for wrong in (["conv", "output"], "output"):
        with pytest.raises(hpv.InputError, match="no layer of the background is called 'output'. There are: conv, hid"):
            layered.scan(both, layers=wrong)
    with pytest.raises(hpv.InputError, match="layers: none given; name layers of the background"):
        layered.scan(both, layers=[])


def test_other_weights_are_warned_about(background):
    ours = replace(background, attributes={"weights": "aaaa1111" * 8})
    source = replace(open_activations(VALUES), attributes={"weights": "bbbb2222" * 8})
    with pytest.warns(
        hpv.HpvWarning, match=r"bbbb2222bbbb, the background from aaaa1111aaaa.*Capture both with the same"
    ):
        ours.scan(source)
    for unknown in ({}, {"weights": "aaaa1111" * 8}):
        ours.scan(replace(source, attributes=unknown))
    assert hpv.fit(source).attributes == {"weights": "bbbb2222" * 8}


# --- questions ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "bj"}, "statistic='bj': give one of berk_jones, higher_criticism, kolmogorov_smirnov"),
        ({"form": "part"}, "form='part': give one of subset, whole"),
        ({"tail": "both"}, "tail='both': give one of right, left, two-sided"),
        ({"alphas": "some"}, "alphas='some': give 'grid' or 'all'"),
        ({"alphas": [0.1]}, "alphas=[0.1]: give 'grid' or 'all'"),
        ({"alpha_max": 0}, "alpha_max=0: give a number above 0 and up to 1"),
        ({"alpha_max": -0.1}, "alpha_max=-0.1: give a number above 0 and up to 1"),
        ({"alpha_max": 1.01}, "alpha_max=1.01: give a number above 0 and up to 1"),
        ({"alpha_max": float("nan")}, "alpha_max=nan: give a number above 0 and up to 1"),
        ({"alpha_max": "0.5"}, "alpha_max='0.5': give a number above 0 and up to 1"),
        ({"alpha_max": True}, "alpha_max=True: give a number above 0 and up to 1"),
        ({"against": "all"}, "against='all': give one of own, lowest, pooled"),
        ({"against": "own"}, "against='own': the background has no classes; fit it with by_class=True, or give "
                             "against='pooled'"),
        ({"against": "lowest"}, "against='lowest': the background has no classes"),
        ({"labels": CLASSES[:7]}, "labels: shape (7,) for 240 samples; give one integer per sample"),
    ],
)  # fmt: skip
def test_arguments_of_scan(background, options, message):
    with pytest.raises(hpv.InputError, match=re.escape(message)):
        background.scan(VALUES, **options)


def test_labels_of_a_scan(by_class):
    with pytest.raises(
        hpv.InputError, match="against='own': the activations carry no labels; give labels=, or against="
    ):
        by_class.scan(VALUES)
    for against in (None, "own", "pooled", "lowest"):
        with pytest.raises(hpv.InputError, match=r"labels: shape \(3,\) for 240 samples; give one integer per sample"):
            by_class.scan(VALUES, labels=[0, 1, 0], against=against)
    with pytest.raises(hpv.InputError, match="labels: dtype float64; give integers"):
        by_class.scan(VALUES, labels=CLASSES / 1)
    assert by_class.scan(VALUES, labels=torch.from_numpy(CLASSES)).label.tolist() == CLASSES.tolist()
    assert by_class.scan(VALUES, labels=CLASSES.astype(np.uint8).tolist()).label.tolist() == CLASSES.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tail": "up"}, "tail='up': give one of right, left, two-sided"),
        ({"dtype": "float16"}, "dtype='float16': give float32 (rounded outward) or float64 (exact)"),
        ({"dtype": None}, "dtype=None: give float32"),
        ({"labels": CLASSES}, "labels: the background has no classes; fit it with by_class=True, or leave labels out"),
    ],
)
def test_arguments_of_pvalues(background, options, message):
    with pytest.raises(hpv.InputError, match=re.escape(message)):
        background.pvalues(VALUES, **options)


def test_names_of_dtypes(background):
    expected = background.pvalues(VALUES, dtype="float64")
    for dtype in (np.float64, np.dtype("float64"), float, "f8"):
        np.testing.assert_array_equal(background.pvalues(VALUES, dtype=dtype), expected)


def test_places_to_write_to_that_do_not_fit(background, layered):
    good = np.zeros(VALUES.shape, np.uint8)
    message = r"out of layer activations: give a C-contiguous, writable uint8 array of shape \(240, 6\)"
    frozen = good.copy()
    frozen.flags.writeable = False
    for wrong in (good[:9], good.T, good.astype(np.int8), np.asfortranarray(good), good.tolist(), frozen):
        with pytest.raises(hpv.InputError, match=message):
            background.encode(VALUES, out=wrong)
    one, message = np.zeros(VALUES.shape, np.float32), "out of layer activations: give a C-contiguous, writable float32"
    for wrong in ((one, good), (one.astype(float), one), (one[:9], one)):
        with pytest.raises(hpv.InputError, match=message):
            background.pvalues(VALUES, out=wrong)
    for wrong in (one, (one,), [one] * 3, 7):
        with pytest.raises(hpv.InputError, match="out of layer activations: give a pair of arrays, for pmin and pmax"):
            background.pvalues(VALUES, out=wrong)
    both = {"conv": VALUES, "hidden": VALUES[:, :4]}
    with pytest.raises(hpv.InputError, match="out: give a mapping with the layers conv, hidden"):
        layered.encode(both, out=good)
    with pytest.raises(hpv.InputError, match="out: give a mapping with the layers conv, hidden"):
        layered.encode(both, out={"conv": good})


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), [0.5, 2], [[0.5]], "half"])
def test_quantiles_that_are_none(background, wrong):
    with pytest.raises(hpv.InputError, match=r"q=.*: give a number from 0 to 1, or a list of them"):
        background.quantile(wrong)


def test_what_is_no_background(background):
    with pytest.raises(hpv.InputError, match="background: ndarray; give what hpv.fit or hpv.open returned"):
        hpv.plan("score", VALUES, VALUES)
    with pytest.raises(hpv.InputError, match="background: NoneType; give what hpv.fit or hpv.open returned"):
        hpv.plan("score", VALUES)
    with pytest.raises(hpv.InputError, match="keep='pvalues': give a list with codes, ranges, both of them, or none"):
        hpv.plan("score", VALUES, background, keep=("pvalues",))


def test_a_question_to_what_is_not_there(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 3)).astype("f4")
    background = hpv.fit(values)
    for ask in (background.edges, background.modal, background.histograms):
        with pytest.raises(hpv.InputError, match="no layer nowhere; the background has activations"):
            ask("nowhere")
    background.save(tmp_path / "b")
    scores = hpv.score(hpv.open(tmp_path / "b"), values, tmp_path / "s")
    for wrong in ([1, 2], 2.5):
        with pytest.raises(hpv.InputError, match="give the number of one sample"):
            scores.nodes(wrong)
    with pytest.raises(hpv.InputError, match="give a range of samples"):
        scores.pvalues("activations", samples=3)
    assert hpv.score(background, values, tmp_path / "none", keep=None).path  # nothing is kept but the scores
