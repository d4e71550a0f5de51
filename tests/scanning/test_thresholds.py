"""The grid of thresholds, and its losses against the bounds that its docstring states."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
import naive
from checks import EVERY, check_losses, loss_bound
from hpv.scanning.scored import scan_pvalues, score_tallies
from hpv.scanning.thresholds import GRID, alpha_grid
from strategies import largest_alphas


@pytest.mark.parametrize("alpha_max", [1.0, 0.5, 0.05, 1e-3, 1e-7])
@pytest.mark.parametrize("largest", [0, 1, 2, 60, 999, 10**6, 2**33])
def test_thresholds(largest, alpha_max):
    found = alpha_grid(largest, alpha_max)
    assert len(found) == GRID
    np.testing.assert_allclose(found, naive.grid(largest, alpha_max), rtol=1e-13)
    assert (found[0], found[-1]) == (min(1 / (largest + 1), alpha_max), alpha_max)
    assert (np.diff(found) >= 0).all()
    if found[0] < alpha_max:
        ratio = (alpha_max * (largest + 1)) ** (1 / 254)
        assert (np.diff(found) > 0).all()
        np.testing.assert_allclose(found[1:] / found[:-1], ratio, rtol=1e-12)


def worst_alpha(largest: int, alpha_max: float, below: float) -> Fraction:
    """A pmax j / (largest + 1) that is rounded up by nearly the whole factor between two thresholds."""
    thresholds = alpha_grid(largest, alpha_max)
    j = np.arange(2, int(below * (largest + 1)))
    p = j / (largest + 1)
    factor = thresholds[np.searchsorted(thresholds, p)] / p
    return Fraction(int(j[np.argmax(factor)]), largest + 1)


@pytest.mark.parametrize(("statistic", "form"), EVERY)
@pytest.mark.parametrize("samples", [300, 5000])
def test_losses_are_tight_within_a_factor_of_two(statistic, form, samples):
    """All significant nodes at one pmax just above a threshold; the others, if any, are not significant at all."""
    nodes, few = 40, 30
    alpha = worst_alpha(samples, 0.5, 0.45)
    values = np.arange(float(samples))[:, None] + np.zeros(nodes)
    edge = float(samples - alpha.numerator + 1)  # alpha.numerator - 1 values survive there
    background = hpv.fit(values, edges=[edge])
    test = np.where(np.arange(nodes) < few, edge, 0.0)[None]
    asked = {"statistic": statistic, "form": form, "tail": "right"}
    exact, rounded = (background.scan(test, alphas=alphas, **asked) for alphas in ("all", "grid"))
    assert exact.alpha[0] == float(alpha)
    assert exact.size[0] == rounded.size[0] == few
    loss = exact.score[0] - rounded.score[0]
    bound = loss_bound(statistic, form, few, nodes, float(alpha), 0.5, samples)
    assert bound / 2 <= loss <= bound * (1 + 1e-9)


@given(
    st.integers(2, 10**6), st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from(EVERY), largest_alphas
)
@settings(max_examples=300)
def test_losses_of_random_pvalues(largest, shares, kind, alpha_max):
    """pmax of any background of this size: j / (largest + 1), many of them small."""
    pmax = np.array([[(1 + int(share**6 * largest)) / (largest + 1) for share in shares]])
    thresholds = alpha_grid(largest, alpha_max)
    exact, _, _ = scan_pvalues(pmax, *kind, alpha_max)
    level = np.searchsorted(thresholds, pmax[0])
    tally = np.append(np.bincount(level, minlength=GRID + 1), 0).astype(np.int32)[None]
    rounded, _, _ = score_tallies(tally, thresholds, *kind)
    check_losses(exact, rounded, [dict(enumerate(pmax[0].tolist()))], *kind, alpha_max, largest)
