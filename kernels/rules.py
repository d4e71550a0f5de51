"""The rules of hpv as plain functions: CUDA compiles them, numpy calls them.

The CPU's loops say the same of whole vectors (``keys_of`` in cpu/vectors/lanes.py), numpy's keys are those of
hpv/base/floats.py; tests hold all of them equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# What crosses the border between Python and the kernels:
#
#   bits     the values themselves, viewed as signed integers of their width; what a block of activations becomes
#   keys     integers of that width in the order of the values (hpv/base/floats.py): lowest = NaN, highest = no edge
#   codes    CODE, number of edges e with value >= e: 0..MOST_EDGES; NAN_CODE for NaN
#   counts   COUNT, of samples at or above each edge
#   tallies  TALLY, of a sample's nodes at each level
#   ranges   pmin and pmax, float32 rounded outward or float64
CODE = np.uint8
COUNT = np.int64
TALLY = np.int32
MOST_EDGES = 254
NAN_CODE = 255


def is_nan(bits: Any, infinity: Any, nan_key: Any) -> Any:
    """Whether a value is NaN: its magnitude is above infinity's.

    ``bits`` are signed; ``nan_key`` is the lowest integer of the format, ``infinity`` the bits of +inf.
    """
    return bits & ~nan_key > infinity


def key_of_number(bits: Any, nan_key: Any) -> Any:
    """The key of a value that is not NaN: its magnitude, negated for negative numbers."""
    magnitude = bits & ~nan_key
    return -magnitude if bits < 0 else magnitude


def reaches(key: Any, edge: Any) -> Any:
    """Whether a value counts at an edge: code = number of edges that it reaches."""
    return key >= edge


def right_tail(at_or_above: Any, above: Any, counted: Any) -> tuple[Any, Any]:
    """[pmin, pmax] of a value whose bin starts where `at_or_above` samples remain and ends where `above` do."""
    return above / (counted + 1), (at_or_above + 1) / (counted + 1)


def left_tail(at_or_above: Any, above: Any, counted: Any) -> tuple[Any, Any]:
    """The same for small values: ``counted - at_or_above`` samples are smaller, ``counted - above`` not larger."""
    return (counted - at_or_above) / (counted + 1), (counted - above + 1) / (counted + 1)


def is_modal(count: Any, counted: Any, numerator: int, denominator: int) -> Any:
    """A value is modal when it makes up more than ``numerator / denominator`` of its node; integers, strict."""
    return denominator * count > numerator * counted
