"""Counts add up to those of the whole, classes have counts of their own, fingerprints tell states apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpv
from checks import check_ranges, edges_of, survivors_of
from strategies import as_input, binnings, columns, labels, matrices, pairs, sizes, splits, tails


@pytest.mark.filterwarnings("ignore:.* have the same counts")  # parts may be equal
@given(matrices(samples=sizes), binnings, st.booleans(), st.randoms(use_true_random=False), st.data())
def test_parts_add_up_to_the_whole(activations, binning, by_class, shuffle, data):
    values, form = activations
    classes = data.draw(labels(len(values))) if by_class else None
    whole = hpv.fit(as_input(values, form), binning=binning, labels=classes, min_class_size=5)
    proposal = hpv.edges(as_input(values, form), binning=binning)
    parts = []
    for part in data.draw(splits(len(values))):
        own = None if classes is None else classes[part]
        start = data.draw(st.sampled_from([proposal, whole]))
        parts.append(hpv.fit(as_input(values[part], form), edges=start, labels=own, min_class_size=5))
    shuffle.shuffle(parts)
    assert hpv.merge(parts).fingerprint == whole.fingerprint
    assert hpv.merge([hpv.merge(parts[:1]), *parts[1:]]).fingerprint == whole.fingerprint
    for before, after in zip(parts, parts[1:], strict=False):
        assert hpv.merge([before, after]).fingerprint == hpv.merge([after, before]).fingerprint


@given(pairs(), tails, st.integers(1, 20), st.data())
def test_classes_have_their_own_counts(both, tail, least, data):
    (values, form), (test, other) = both
    classes = data.draw(labels(len(values)))
    background = hpv.fit(as_input(values, form), labels=classes, min_class_size=least, bins=6)
    pooled = hpv.fit(as_input(values, form), bins=6)
    assert edges_of(background) == edges_of(pooled)
    assert survivors_of(background) == survivors_of(pooled)
    assert background.classes.tolist() == sorted(set(classes.tolist()))
    assert background.samples.tolist() == [int((classes == name).sum()) for name in background.classes]
    check_ranges(background, columns(values, form), test, other, tail)
    asked = data.draw(st.lists(st.sampled_from([*map(int, background.classes), 12345]), min_size=1, max_size=3))
    for name in asked:
        members = values[classes == name]
        counted = columns(members if len(members) >= least else values, form)
        check_ranges(background, counted, test, other, tail, labels=np.full(len(test), name))


def test_fingerprints_tell_states_apart():
    values = np.arange(30.0).reshape(15, 2)
    first = hpv.fit(values)
    others = [
        hpv.fit(values[:14]),
        hpv.fit(values, bins=3),
        hpv.fit({"other": values}),
        hpv.fit(values.astype(np.float32)),
        hpv.fit(values, labels=np.zeros(15, int)),
        hpv.fit(values, labels=np.ones(15, int)),
        hpv.fit(values, labels=np.ones(15, int), min_class_size=3),
        hpv.fit(np.where(values == 3, np.nan, values), edges=first),
    ]
    found = [first.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(found)) == len(found)
    assert hpv.fit(values.copy()).fingerprint == first.fingerprint
    assert hpv.fit(values, edges=first).fingerprint == first.fingerprint
    assert hpv.fit({"other": values}, edges={"other": first.edges("activations")[:, 1:-1]}).nodes == first.nodes
