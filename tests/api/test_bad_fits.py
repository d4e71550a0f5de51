"""Rules, labels and edges of a fit, and backgrounds to merge, that do not fit are refused with a message that helps."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

import hpv
from checks import NAME
from small import CLASSES, VALUES

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
