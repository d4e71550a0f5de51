"""Subset scanning: from p-value ranges to a score per sample, by tallies of nodes over levels of significance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from hpv.background import Background, ClosedLayer
from hpv.errors import InputError
from hpv.pvalues import check_tail, range_tables
from hpv.resources import quantity

if TYPE_CHECKING:
    from hpv.buffers import Buffers

STATISTICS = ("berk_jones", "higher_criticism", "kolmogorov_smirnov")
FORMS = ("subset", "whole")
AGAINST = ("own", "lowest", "pooled")
GRID = 255
"""Thresholds of a grid."""
POOLED = -1
"""Stands for the class where the pooled counts answered."""
Kind = tuple[str, str, str]
"""Tail, form, statistic."""


@dataclass(frozen=True)
class ScanOptions:
    """What is asked of every sample; see `Background.scan`."""

    statistics: tuple[str, ...] = ("berk_jones",)
    tails: tuple[str, ...] = ("two-sided",)
    forms: tuple[str, ...] = ("subset",)
    alphas: str = "grid"
    """``grid``: 255 thresholds in geometric progression; ``all``: every distinct pmax."""
    alpha_max: float = 0.5
    against: str = "pooled"

    def __post_init__(self) -> None:
        for name, known in (("statistics", STATISTICS), ("forms", FORMS)):
            wrong = [value for value in getattr(self, name) if value not in known]
            if wrong or not getattr(self, name):
                raise InputError(f"{name[:-1]}={wrong[0] if wrong else None!r}: give one of {', '.join(known)}.")
        if not self.tails:
            raise InputError("tail=None: give one of right, left, two-sided.")
        for tail in self.tails:
            check_tail(tail)
        if self.alphas not in ("grid", "all"):
            raise InputError(f"alphas={self.alphas!r}: give 'grid' or 'all'.")
        real = isinstance(self.alpha_max, Real) and not isinstance(self.alpha_max, bool)
        if not real or not 0 < self.alpha_max <= 1:
            raise InputError(f"alpha_max={self.alpha_max!r}: give a number above 0 and up to 1.")
        if self.against not in AGAINST:
            raise InputError(f"against={self.against!r}: give one of {', '.join(AGAINST)}.")

    @property
    def kinds(self) -> list[Kind]:
        """Every (tail, form, statistic) asked for."""
        return list(product(self.tails, self.forms, self.statistics))


@dataclass(frozen=True, repr=False)
class Scored:
    """One answer per sample (s,)."""

    score: np.ndarray
    """Scan score, float64; larger is more anomalous, 0 where no subset of the nodes is anomalous."""
    alpha: np.ndarray
    """Threshold where the score is reached, float64; NaN where the score is 0."""
    size: np.ndarray
    """Nodes with pmax <= alpha, int64."""
    label: np.ndarray
    """Class whose counts answered, int32; -1 for the pooled counts."""

    @classmethod
    def empty(cls, samples: int) -> Scored:
        """Room for the answers of so many samples."""
        return cls(np.empty(samples), np.empty(samples), np.empty(samples, np.int64), np.empty(samples, np.int32))

    def part(self, rows: slice) -> Scored:
        """The answers of some of the samples, in the same memory."""
        return Scored(self.score[rows], self.alpha[rows], self.size[rows], self.label[rows])

    def __repr__(self) -> str:
        return f"<hpv.{type(self).__name__} of {quantity(len(self.score), 'sample')}>"


def join(parts: Sequence[Scored]) -> Scored:
    """The answers of consecutive ranges of samples, as one."""
    if len(parts) == 1:
        return parts[0]
    return Scored(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Scored)))


@dataclass(frozen=True, repr=False)
class ScanResult(Scored):
    """The answer of `Background.scan`: ``score``, ``alpha``, ``size`` and ``label``, one per sample."""

    _nodes: Callable[[int], dict[str, np.ndarray]]

    def nodes(self, i: int) -> dict[str, np.ndarray]:
        """The subset of sample ``i``: for every layer the indices of the nodes with pmax <= alpha, ascending.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.random.default_rng(0).normal(size=(1000, 5)))
        >>> background.scan(np.array([[0.0, 9.0, 0.0, 9.0, 0.0]])).nodes(0)
        {'activations': array([1, 3])}
        """
        return self._nodes(i)


def grid(largest: int, alpha_max: float) -> np.ndarray:
    """255 thresholds in geometric progression from 1/(largest + 1), the smallest pmax there is, to ``alpha_max``.

    pmax is rounded up to the next threshold, at most by the factor r = (alpha_max (largest + 1))^(1/254). So the score
    never exceeds the exact one. With k of N nodes at the exact threshold t, and u = min(r t, alpha_max), it loses at
    most (n = k for the form ``subset``, n = N for ``whole``; a negative k - n u counts as 0)

        Berk-Jones            k ln(u/t)
        Higher Criticism      (k - n t) / sqrt(n t (1-t)) - (k - n u) / sqrt(n u (1-u))
        Kolmogorov-Smirnov    sqrt(n) (u - t)
    """
    first = min(1.0 / (largest + 1), alpha_max)
    thresholds = first * (alpha_max / first) ** (np.arange(GRID) / (GRID - 1))
    thresholds[-1] = alpha_max
    return np.maximum.accumulate(np.minimum(thresholds, alpha_max))


def level_table(pmax: np.ndarray, counted: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Level (groups, nodes, entries) of every code: the first threshold that is not below its pmax.

    After the thresholds come two levels more: above all of them, and without a p-value (a missing value, or a node
    that has counted nothing).
    """
    levels = np.searchsorted(thresholds, pmax, side="left")
    levels[..., -1] = len(thresholds) + 1
    levels[counted == 0] = len(thresholds) + 1
    return levels.astype(np.uint16 if len(thresholds) + 2 <= 2**16 else np.int32)


@dataclass(frozen=True)
class Tables:
    """What turns blocks of some nodes into codes and tallies."""

    nodes: int
    coder: Any
    levels: dict[str, Any]
    """Levels by tail, laid out by the backend."""
    tallier: Any | None
    """What tallies values without a detour by codes, where the backend has such a thing."""


class Scanner:
    """Scans against one background: holds thresholds, makes tables, adds tallies, turns them into scores."""

    def __init__(self, background: Background, options: ScanOptions, backend: Any) -> None:
        self.background = background
        self.options = options
        self.backend = backend
        self.thresholds = self._thresholds()

    def _thresholds(self) -> dict[str, np.ndarray]:
        tails, alpha_max = self.options.tails, float(self.options.alpha_max)
        if self.options.alphas == "grid":
            # Pooled counts are the largest there are.
            largest = max(
                int((self.background.samples.sum() - state.missing.sum(axis=0)).max())
                for state in self.background.layers.values()
            )
            return dict.fromkeys(tails, grid(largest, alpha_max))
        found = {}
        for tail in tails:
            parts = [np.array([])]
            for layer in self.background.layers:
                for _, closed in self.background.pieces(layer):
                    pmax = range_tables(closed.survivors, closed.counted, tail)[1]
                    parts = [np.unique(np.concatenate([*parts, np.unique(pmax[pmax <= alpha_max])]))]
            found[tail] = parts[0]
        return found

    @property
    def targets(self) -> list[int]:
        """Groups that every sample is scored against; a sample's own one stands at place 0 unless ``lowest``."""
        if self.options.against != "lowest":
            return [0]
        classes = self.background.classes
        assert classes is not None
        small = len(self.background.groups) < len(classes)
        return ([0] if small else []) + [number + 1 for number in range(len(self.background.groups))]

    def tables(self, layer: str, nodes: slice, form: Any, *, by_codes: bool = False) -> Tables:
        """Tables of some nodes for values of a format; ``by_codes``: no values will be tallied without their codes."""
        edges: list[np.ndarray] = []
        levels: dict[str, list[np.ndarray]] = {tail: [] for tail in self.options.tails}
        for _, closed in self.background.pieces(layer, nodes):
            edges.append(closed.edges_for(form))
            for tail, parts in levels.items():
                pmax = range_tables(closed.survivors, closed.counted, tail)[1]
                parts.append(level_table(pmax, closed.counted, self.thresholds[tail]))
        keys = np.concatenate(edges)
        joined = {tail: np.concatenate(parts, axis=1) for tail, parts in levels.items()}
        made = {tail: self.backend.make_levels(table, len(self.thresholds[tail])) for tail, table in joined.items()}
        tallier = None
        several = len(self.targets) > 1 and not self.backend.codes_again
        if self.options.alphas == "grid" and not several and not by_codes:
            tallier = self.backend.make_tallier(keys, form, list(joined.values()), GRID)
        return Tables(len(keys), self.backend.make_coder(keys, form), made, tallier)

    def empty_tallies(self, samples: int, buffers: Buffers | None = None) -> dict[str, np.ndarray]:
        """Tallies (targets, samples, thresholds + 2) by tail; in the memory of ``buffers`` if there are any."""
        tallies = {}
        for tail, thresholds in self.thresholds.items():
            shape = (len(self.targets), samples, len(thresholds) + 2)
            if buffers is None:
                tallies[tail] = np.zeros(shape, np.int32)
            else:
                tallies[tail] = buffers.get(f"tallies, {tail}", shape, np.int32)
                tallies[tail].fill(0)
        return tallies

    def tally(self, codes: np.ndarray, group: np.ndarray, tables: Tables, tallies: Mapping[str, np.ndarray]) -> None:
        """Add a block of codes; ``group`` (s,) is used unless every sample is scored against all classes."""
        rows = np.arange(len(codes))
        for tail, levels in tables.levels.items():
            for place, target in enumerate(self.targets):
                chosen = np.full(len(codes), target) if self.options.against == "lowest" else group
                self.backend.tally(codes, rows, chosen, levels, tallies[tail][place])

    def tally_values(
        self,
        bits: np.ndarray,
        first: int,
        group: np.ndarray,
        tables: Tables,
        tallies: Mapping[str, np.ndarray],
        codes: np.ndarray | None,
    ) -> int | None:
        """Add a block of values, nodes from ``first`` on; the number of NaN, or None where it goes by codes.

        Codes are left behind where they are asked for.
        """
        if tables.tallier is None:
            return None
        found: int | None = None
        for place, target in enumerate(self.targets):
            chosen = np.full(len(group), target) if self.options.against == "lowest" else group
            views = [tallies[tail][place] for tail in tables.levels]
            found = self.backend.tally_values(tables.tallier, bits, first, chosen, views, codes)
            codes = None  # they are the same for every class
        return found

    def scores(self, tallies: Mapping[str, np.ndarray], group: np.ndarray, out: Mapping[Kind, Scored]) -> None:
        """Fill in the answers of the samples of some tallies."""
        own = self.labels_of(group)
        for (tail, form, statistic), answers in out.items():
            each: list[Scored] = []
            for part in tallies[tail]:
                found = answers if not each else Scored.empty(len(own))
                score_tallies(part, self.thresholds[tail], statistic, form, found)
                each.append(found)
            if self.options.against != "lowest":
                answers.label[:] = own
                continue
            best = np.argmin([found.score for found in each], axis=0)
            answers.label[:] = self.labels_of(np.array(self.targets)[best])
            every = np.arange(len(best))
            for name in ("score", "alpha", "size"):
                getattr(answers, name)[:] = np.stack([getattr(found, name) for found in each])[best, every]

    def labels_of(self, group: np.ndarray) -> np.ndarray:
        """The class label of every group."""
        labels = [POOLED]
        if self.background.classes is not None:
            labels += [int(self.background.classes[c]) for c in self.background.groups]
        return np.array(labels, np.int64)[group].astype(np.int32)


def score_tallies(
    tally: np.ndarray, thresholds: np.ndarray, statistic: str, form: str, out: Scored | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, alpha and size (s,) of tallies (s, thresholds + 2); float64, the same for every backend."""
    from hpv.kernels.cpu.statistics import score_tallies as fill

    out = Scored.empty(len(tally)) if out is None else out
    kind, shape = STATISTICS.index(statistic), FORMS.index(form)
    fill(tally, thresholds, kind, shape, out.score, out.alpha, out.size)
    return out.score, out.alpha, out.size


def scan_pvalues(
    pmax: np.ndarray, statistic: str = "berk_jones", form: str = "subset", alpha_max: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, alpha and size (s,) of given p-values (samples, nodes) at every distinct alpha; NaN is not counted.

    >>> import numpy as np
    >>> score, alpha, size = scan_pvalues(np.array([[0.01, 0.02, 0.9]]))
    >>> float(alpha[0]), int(size[0])
    (0.02, 2)
    """
    ScanOptions(statistics=(statistic,), forms=(form,), alpha_max=alpha_max)
    pmax = np.asarray(pmax, dtype=np.float64)
    if pmax.ndim != 2:
        raise InputError(f"p-values of shape {pmax.shape}; give (samples, nodes).")
    if ((pmax <= 0) | (pmax > 1)).any():
        raise InputError(f"p-values from {np.nanmin(pmax)} to {np.nanmax(pmax)}; give numbers above 0 and up to 1.")
    out = Scored.empty(len(pmax))
    for i, row in enumerate(pmax):
        _scan_row(row, statistic, form, alpha_max, out.part(slice(i, i + 1)))
    return out.score, out.alpha, out.size


def _scan_row(row: np.ndarray, statistic: str, form: str, alpha_max: float, out: Scored) -> None:
    thresholds, counts = np.unique(row[row <= alpha_max], return_counts=True)
    counted = np.count_nonzero(~np.isnan(row))
    tally = np.array([[*counts, counted - counts.sum(), len(row) - counted]], np.int32)
    score_tallies(tally, thresholds, statistic, form, out)


def subset_nodes(closed: ClosedLayer, codes: np.ndarray, group: int, tail: str, alpha: float) -> np.ndarray:
    """Indices of the nodes with pmax <= alpha, ascending, from one sample's codes (n,)."""
    chosen = slice(group, group + 1)
    pmax = range_tables(closed.survivors[chosen], closed.counted[chosen], tail)[1][0]
    entry = np.minimum(codes.astype(np.intp), pmax.shape[1] - 1)
    reached = pmax[np.arange(len(codes)), entry] <= alpha
    return np.flatnonzero(reached & (entry < pmax.shape[1] - 1) & (closed.counted[group] > 0))
