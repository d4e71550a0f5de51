"""Indices of things that are read in blocks give what numpy gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, basic_indices

from hpv.base.slices import indexed


def answer(array: np.ndarray, index: Any) -> Any:
    """By way of slices of step 1, as stores are read."""

    def read(box: tuple[slice, ...]) -> np.ndarray:
        assert len(box) == array.ndim
        assert all(
            side.step is None and 0 <= side.start <= side.stop <= size
            for side, size in zip(box, array.shape, strict=True)
        )
        return array[box]

    return indexed(read, array.shape, index)


@given(st.data())
def test_numbers_slices_and_ellipsis(data: st.DataObject) -> None:
    shape = data.draw(array_shapes(max_dims=3, max_side=6))
    array = np.arange(np.prod(shape)).reshape(shape)
    index = data.draw(basic_indices(shape, allow_newaxis=False))
    found = answer(array, index)
    assert np.shape(found) == np.shape(array[index])
    assert np.array_equal(found, array[index])


@given(st.data())
def test_lists_and_masks_along_one_dimension(data: st.DataObject) -> None:
    rows, columns = (data.draw(st.integers(1, 6)) for _ in range(2))
    array = np.arange(rows * columns).reshape(rows, columns)
    for axis, size in ((0, rows), (1, columns)):
        chosen = data.draw(st.lists(st.integers(-size, size - 1), max_size=5))
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        for key in (chosen, np.array(chosen, int), mask):
            index = (key,) if axis == 0 else (slice(None), key)
            numbers = np.asarray(key, bool if key is mask else int)
            assert np.array_equal(answer(array, index), array[(numbers,) if axis == 0 else (slice(None), numbers)])


@pytest.mark.parametrize("index", [(0, 0, 0), 3, -4, [3], "a", 0.5, np.ones(2, bool), [[0, 1]]])
def test_what_is_no_index(index: Any) -> None:
    with pytest.raises(IndexError):
        answer(np.zeros((3, 2)), index)
