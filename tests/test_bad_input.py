"""What does not fit is refused with a message that names what came and what to do; what is odd but lawful works."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import hpv
from hpv.activations.opening import open_activations

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(240, 6)).astype(np.float32)
CLASSES = np.repeat([0, 1], 120)
NAME = "activations"


@pytest.fixture(scope="module")
def background():
    return hpv.fit(VALUES)


@pytest.fixture(scope="module")
def by_class():
    return hpv.fit(VALUES, labels=CLASSES)


@pytest.fixture(scope="module")
def layered():
    return hpv.fit({"conv": VALUES, "hidden": VALUES[:, :4]})


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
    for wrong in (["conv", "output"], "output", []):
        with pytest.raises(hpv.InputError, match=r"layers \[.*\]: choose one or more of conv, hidden"):
            layered.scan(both, layers=wrong)


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


# --- rules of a fit ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins=0: give a whole number from 1 to 254"),
        ({"bins": 255}, "bins=255: give a whole number from 1 to 254"),
        ({"bins": "ten"}, "bins='ten': give a whole number"),
        ({"bins": None}, "bins=None: give a whole number"),
        ({"binning": "paper"}, "binning='paper': give one of balanced, uniform, quantile"),
        ({"modal_fraction": 0.001}, "modal_fraction=0.001: give a fraction from 1/50 to 1"),
        ({"modal_fraction": None}, "modal_fraction=None: give a fraction"),
        ({"pilot": -3}, "pilot=-3: give a number of samples, 'auto', or None for all"),
        ({"memory": "much"}, "memory='much': give bytes, or text such as 512MiB"),
        ({"threads": 0}, "threads=0: give a whole number from 1 on"),
    ],
)
def test_rules(options, message):
    for call in (hpv.fit, hpv.edges, partial(hpv.plan, "fit")):
        with pytest.raises(hpv.InputError, match=re.escape(message)):
            call(VALUES, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "gpu"}, "backend='gpu': give"),
        ({"min_class_size": 0}, "min_class_size=0: give a whole number from 1 on"),
        ({"min_class_size": "few"}, "min_class_size='few': give a whole number from 1 on"),
        ({"min_class_size": 2.5}, "min_class_size=2.5: give a whole number from 1 on"),
        ({"by_class": True}, "by_class: the activations carry no labels; give labels=, one integer per sample"),
        ({"labels": CLASSES[:5]}, "labels: shape (5,) for 240 samples; give one integer per sample"),
        ({"labels": CLASSES[:, None]}, "labels: shape (240, 1) for 240 samples"),
        ({"labels": CLASSES / 2}, "labels: dtype float64; give integers"),
        ({"labels": CLASSES > 0}, "labels: dtype bool; give integers"),
        ({"labels": CLASSES - 1}, "labels: from -1 to 0; give numbers from 0 to"),
        ({"labels": CLASSES + 2**31}, "labels: from 2147483648 to 2147483649; give numbers from 0 to"),
        ({"labels": ["cat"] * 240}, "labels: dtype <U3; give integers"),
    ],
)
def test_arguments_of_fit(options, message):
    with pytest.raises(hpv.InputError, match=re.escape(message)):
        hpv.fit(VALUES, **options)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (np.zeros((5, 3)), "edges of layer activations: shape (5, 3); give one list for all, or one for each of 6"),
        (np.zeros((6, 3, 2)), "edges of layer activations: shape (6, 3, 2)"),
        (3.0, "edges of layer activations: shape (); give"),
        (["low", "high"], "edges of layer activations: dtype <U4; give numbers"),
        (np.ones(3, complex), "edges of layer activations: dtype complex128; give numbers"),
        (np.arange(253.0), "edges of layer activations: 253 per node; give at most 252"),
        ([[1.0]] * 4 + [[1.0, 2.0]], "edges of layer activations: shape (5, 2); give one list for all"),
        ([[[1.0]], [1.0, 2.0]], "edges of layer activations: give one list of numbers for each node"),
        ([[1.0], 3.0, [1.0, 2.0]], "edges of layer activations: give one list of numbers for each node"),
        ({"other": [1.0], "more": [2.0]}, "edges: they are those of the layers other, more, the activations have "
                                          "activations; give edges for every layer"),
    ],
)  # fmt: skip
def test_given_edges(edges, message):
    with pytest.raises(hpv.InputError, match=re.escape(message)):
        hpv.fit(VALUES, edges=edges)


def test_edges_of_other_activations(background, layered):
    with pytest.raises(hpv.InputError, match="edges of layer activations: for 6 nodes, but it has 4"):
        hpv.fit(VALUES[:, :4], edges=background)
    with pytest.raises(
        hpv.InputError, match=r"edges: they are those of the layers conv, hidden, .* give edges for every"
    ):
        hpv.fit({"conv": VALUES}, edges=layered)
    with pytest.raises(hpv.InputError, match=r"edges: they are those of the layers conv, hidden"):
        hpv.fit({"conv": VALUES, "output": VALUES}, edges=hpv.edges({"conv": VALUES, "hidden": VALUES}))


# --- merging ---


def test_backgrounds_that_do_not_add_up(background, by_class, layered):
    with pytest.raises(hpv.InputError, match="merge: no backgrounds were given; give at least one"):
        hpv.merge([])
    with pytest.raises(hpv.InputError, match=r"merge: give backgrounds, as hpv\.fit and hpv\.open return them"):
        hpv.merge([background, VALUES])
    again = "than background 1; fit it again with edges= background 1"
    with pytest.raises(hpv.InputError, match=rf"merge: background 3 has other edges in layer activations {again}"):
        hpv.merge([background, hpv.fit(VALUES[:60], edges=background), hpv.fit(VALUES[::2])])
    with pytest.raises(hpv.InputError, match="merge: background 2 has other edges in layer activations"):
        hpv.merge([background, hpv.fit(VALUES.astype(np.float64))])
    layers = r"merge: background 2 has the layers \['conv', 'hidden'\], background 1 \['activations'\]; give parts of"
    with pytest.raises(hpv.InputError, match=layers):
        hpv.merge([background, layered])
    with pytest.raises(
        hpv.InputError, match="merge: layer activations of background 2 has 4 nodes, that of background"
    ):
        hpv.merge([background, hpv.fit(VALUES[:, :4])])
    with pytest.raises(
        hpv.InputError, match="merge: only one of background 1 and background 2 was fitted by class; fit both alike"
    ):
        hpv.merge([background, by_class])
    other = hpv.fit(VALUES, labels=CLASSES, edges=by_class, min_class_size=7)
    with pytest.raises(
        hpv.InputError, match="merge: min_class_size is 100 in background 1 and 7 in background 2; fit both alike"
    ):
        hpv.merge([by_class, other])


def test_a_background_that_is_merged_with_itself(background, tmp_path):
    again = hpv.fit(VALUES[:60], edges=background)
    with pytest.raises(hpv.InputError, match="merge: background 3 is background 1 again; its samples would count"):
        hpv.merge([background, again, background])
    background.save(tmp_path / "b")
    with pytest.raises(hpv.InputError, match="merge: background 2 is background 1 again"):
        hpv.merge([hpv.open(tmp_path / "b"), hpv.open(tmp_path / "b")])
    with pytest.warns(hpv.HpvWarning, match="merge: backgrounds 1 and 3 have the same counts everywhere"):
        merged = hpv.merge([again, background, hpv.fit(VALUES[:60], edges=background)])
    assert merged.samples.tolist() == [60 + len(VALUES) + 60]
    # Others that differ in one value only, or in nothing but the number of samples, are merged without a word.
    hpv.merge([again, hpv.fit(np.concatenate([VALUES[:59], VALUES[90:91]]), edges=background)])
    opened = hpv.open(tmp_path / "b")
    assert hpv.merge([opened, again]).path is None
    assert opened.select([NAME]).path is None


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


# --- odd, and lawful ---


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
