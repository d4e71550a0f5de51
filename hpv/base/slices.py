"""Ranges of samples or nodes: cut into parts, seen from inside of others, checked for gaps."""

from __future__ import annotations

from collections.abc import Sequence


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
