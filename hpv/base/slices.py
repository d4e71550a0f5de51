"""Ranges of samples or nodes: cut into parts, seen from inside of others, checked for gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


def steps(length: int, step: int) -> Iterator[slice]:
    """So many things in pieces of ``step``, the last of which may be shorter."""
    return (slice(start, min(length, start + step)) for start in range(0, length, step))


def split(rows: slice, parts: int, step: int) -> list[slice]:
    """A range of samples in up to ``parts`` contiguous ranges that start at multiples of ``step`` from its start."""
    steps = -(-(rows.stop - rows.start) // step)
    parts = max(1, min(parts, steps))
    borders = [rows.start + min(steps * i // parts * step, rows.stop - rows.start) for i in range(parts)] + [rows.stop]
    return [slice(start, stop) for start, stop in zip(borders, borders[1:], strict=False) if start < stop]


def first_gap(rows: slice, done: Sequence[slice]) -> int | None:
    """The first of a range of samples that not exactly one of the ranges that were done holds; None: there is none."""
    at = rows.start
    for part in sorted(done, key=lambda part: part.start):
        if part.start != at:
            return min(at, part.start)
        at = part.stop
    return None if at == rows.stop else at


def cut_at_multiples(whole: slice, step: int, offset: int = 0) -> list[slice]:
    """A range where the numbers after ``offset`` are multiples of ``step``."""
    second = whole.start + step - (whole.start + offset) % step
    borders = [whole.start, *range(second, whole.stop, step), whole.stop]
    return [slice(start, stop) for start, stop in zip(borders, borders[1:], strict=False)]


def relative_to(inner: slice, outer: slice) -> slice:
    """A range of samples, counted from the start of the range that it is part of."""
    return slice(inner.start - outer.start, inner.stop - outer.start)


Index = Any
"""What numpy takes between brackets: numbers, slices, lists of numbers, masks, and tuples of them."""


def indexed(read: Callable[[tuple[slice, ...]], np.ndarray], shape: tuple[int, ...], index: Index) -> Any:
    """What numpy would answer to an index, from ``read``, which takes a slice of step 1 for each dimension.

    Of a list along the first dimension every entry is read by itself; along the others all between the least and the
    largest entry is read.
    """
    keys = list(index) if isinstance(index, tuple) else [index]
    if any(key is Ellipsis for key in keys):
        at = next(number for number, key in enumerate(keys) if key is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(shape) - len(keys) + 1)
    if len(keys) > len(shape):
        raise IndexError(f"{len(keys)} indices for {len(shape)} dimensions")
    keys += [slice(None)] * (len(shape) - len(keys))
    wanted = [_along(key, length) for key, length in zip(keys, shape, strict=True)]
    first = wanted[0]
    if isinstance(first, np.ndarray) and first.size:
        return np.stack([indexed(read, shape, (int(row), *keys[1:])) for row in first])
    box = tuple(_box(numbers) for numbers in wanted)
    values = read(box)
    for axis, (numbers, side) in reversed(list(enumerate(zip(wanted, box, strict=True)))):
        if isinstance(numbers, int):
            values = values.take(0, axis)
        elif not (isinstance(numbers, range) and numbers.step == 1):
            values = values.take(np.asarray(numbers, np.intp) - side.start, axis)
    return values


def _along(key: Any, length: int) -> int | range | np.ndarray:
    """The numbers that a key stands for along a dimension, from 0 on."""
    if isinstance(key, slice):
        return range(*key.indices(length))
    numbers = np.asarray(key)
    if numbers.dtype == bool and numbers.shape == (length,):
        return np.flatnonzero(numbers)
    if numbers.size == 0 and numbers.ndim == 1:
        return np.empty(0, np.intp)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        raise IndexError(f"index {key!r}: give numbers, slices, lists of numbers or one mask for each dimension")
    if ((numbers < -length) | (numbers >= length)).any():
        raise IndexError(f"index {key!r} is out of bounds for {length} entries")
    numbers = np.where(numbers < 0, numbers + length, numbers)
    return int(numbers) if numbers.ndim == 0 else numbers


def _box(numbers: int | range | np.ndarray) -> slice:
    """The least slice of step 1 that holds the numbers."""
    every = np.atleast_1d(np.asarray(numbers, np.intp))
    return slice(int(every.min()), int(every.max()) + 1) if every.size else slice(0, 0)
