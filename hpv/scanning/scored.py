"""Tallies become scores; scores, and the nodes behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from hpv.base.errors import InputError
from hpv.base.keywords import checks_keywords
from hpv.base.words import Names, quantity
from hpv.histograms.ranges import range_tables
from hpv.histograms.state import BackgroundState, LayerHistograms
from hpv.scanning.options import FORMS, STATISTICS, ScanKind, ScanOptions, choose_kind

POOLED = -1
"""Stands for the class where the pooled counts answered."""
_OWNER = "this scan"


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
    """The answer of `Background.scan`: ``score``, ``alpha``, ``size`` and ``label``, one of each per sample.

    Where several tails, forms or statistics were scanned, these are the scores of the default kind; ``kinds`` lists
    all kinds, and ``get`` gives the scores of any. ``nodes`` names the nodes behind the score of a sample.

    >>> import numpy as np, hpv
    >>> background = hpv.fit(np.random.default_rng(0).normal(size=(1000, 5)))
    >>> result = background.scan(np.array([[0.0, 9.0, 0.0, -9.0, 0.0]]), tail=["right", "left", "two-sided"])
    >>> result.kinds
    [('right', 'subset', 'berk_jones'), ('left', 'subset', 'berk_jones'), ('two-sided', 'subset', 'berk_jones')]
    >>> result.size, result.get("right").size
    (array([2]), array([1]))
    >>> result.nodes(0), result.nodes(0, "right")
    ({'activations': array([1, 3])}, {'activations': array([1])})
    """

    _scored: Mapping[ScanKind, Scored]
    """Scores by kind."""
    _nodes: Callable[[int, str, Scored], dict[str, np.ndarray]]
    """The subset of a sample, for a tail and its scores."""

    @classmethod
    def of(
        cls, scored: Mapping[ScanKind, Scored], nodes: Callable[[int, str, Scored], dict[str, np.ndarray]]
    ) -> ScanResult:
        """The answer that holds these scores by kind."""
        first = scored[choose_kind(list(scored), None, None, None, _OWNER)]
        return cls(first.score, first.alpha, first.size, first.label, scored, nodes)

    @property
    def kinds(self) -> list[ScanKind]:
        """Every (tail, form, statistic) that was scanned."""
        return list(self._scored)

    @checks_keywords
    def get(self, tail: Names | None = None, form: Names | None = None, statistic: Names | None = None) -> Scored:
        """Score, alpha, size and label of every sample, of one kind.

        Of what is not named the default is taken: two-sided, subset, higher_criticism, where they were scanned.
        """
        return self._scored[choose_kind(self.kinds, tail, form, statistic, _OWNER)]

    @checks_keywords
    def nodes(
        self, i: int, tail: Names | None = None, form: Names | None = None, statistic: Names | None = None
    ) -> dict[str, np.ndarray]:
        """The subset of sample ``i``: for every layer the indices of the nodes with pmax <= alpha, ascending.

        ``tail``, ``form`` and ``statistic`` choose the kind, as for ``get``.
        """
        kind = choose_kind(self.kinds, tail, form, statistic, _OWNER)
        return self._nodes(i, kind[0], self._scored[kind])


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


def subset(
    background: BackgroundState,
    layers: Sequence[str],
    codes_of: Callable[[str], np.ndarray],
    label: int,
    tail: str,
    alpha: float,
) -> dict[str, np.ndarray]:
    """The subset of a sample: for every layer the indices of the nodes with pmax <= alpha, ascending.

    ``codes_of`` gives the sample's codes (n,) of a layer; the counts of the class ``label`` answer, or the pooled ones.
    """
    reference = 0 if label == POOLED else int(background.reference_of(np.array([label]))[0])
    found = {}
    for layer in layers:
        codes = codes_of(layer)
        parts = [
            piece.start + _within(histograms, codes[piece], reference, tail, alpha)
            for piece, histograms in background.histograms_by_piece(layer)
        ]
        found[layer] = np.concatenate(parts)
    return found


def _within(histograms: LayerHistograms, codes: np.ndarray, reference: int, tail: str, alpha: float) -> np.ndarray:
    """Indices of the nodes with pmax <= alpha, ascending, from one sample's codes (n,)."""
    chosen = slice(reference, reference + 1)
    pmax = range_tables(histograms.survivors[chosen], histograms.counted[chosen], tail)[1][0]
    entry = np.minimum(codes.astype(np.intp), pmax.shape[1] - 1)
    reached = pmax[np.arange(len(codes)), entry] <= alpha
    return np.flatnonzero(reached & (entry < pmax.shape[1] - 1) & (histograms.counted[reference] > 0))


def sample_number(i: int, samples: int) -> int:
    """A sample as a number from 0 on; negative ones count from the end."""
    if not isinstance(i, int | np.integer):
        raise InputError(f"sample {i!r}: give the number of one sample.")
    if not -samples <= i < samples:
        raise IndexError(f"sample {i}: there are {samples}, from 0 on")
    return range(samples)[i]
