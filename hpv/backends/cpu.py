"""The CPU backend: compiled kernels without the GIL, one caller per thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpv.backends import Counted
from hpv.floats import FloatFormat
from hpv.kernels import coding, ranging, tallying


def make_counter(edges: np.ndarray, form: FloatFormat) -> Any:
    return coding.make_counter(edges, form.infinity)


def start_counts(counter: Any, classes: int) -> Any:
    return [counter, [None] * classes, np.zeros(classes, np.int64)]


def add_counts(accumulator: Any, bits: np.ndarray, first: int, group: np.ndarray) -> None:
    counter, parts, seen = accumulator
    for c in range(len(parts)):
        rows = np.arange(len(bits)) if len(parts) == 1 else np.flatnonzero(group == c)
        if not len(rows) and parts[c] is not None:
            continue
        seen[c] += len(rows)
        counts = coding.count(bits, first, rows, counter)
        if parts[c] is None:
            parts[c] = counts
        else:
            parts[c].survivors[:] += counts.survivors
            parts[c].counted[:] += counts.counted
            np.minimum(parts[c].lowest, counts.lowest, out=parts[c].lowest)
            np.maximum(parts[c].highest, counts.highest, out=parts[c].highest)


def finish_counts(accumulator: Any) -> Counted:
    _, parts, seen = accumulator
    return Counted(
        np.stack([part.survivors for part in parts]),
        np.stack([part.counted for part in parts]),
        np.min([part.lowest for part in parts], axis=0),
        np.max([part.highest for part in parts], axis=0),
        seen,
    )


def make_coder(edges: np.ndarray, form: FloatFormat) -> Any:
    return coding.make_coder(edges, form.infinity)


def encode(coder: Any, bits: np.ndarray, first: int, codes: np.ndarray) -> None:
    coding.encode(bits, first, coder, codes)


def look_up_ranges(
    codes: np.ndarray, group: np.ndarray, tables: tuple[np.ndarray, np.ndarray], out: tuple[Any, Any]
) -> None:
    ranging.look_up_ranges(codes, group, *tables, *out)


def tally(codes: np.ndarray, rows: np.ndarray, group: np.ndarray, levels: np.ndarray, tally: np.ndarray) -> None:
    tallying.tally_levels(codes, rows, group, levels, tally)
