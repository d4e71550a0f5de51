"""The oracle: every rule of hpv for one node or one sample, with loops over lists of Python floats.

Slow, readable and independent: it imports nothing of hpv, so that a test which compares the two compares two programs.
Ranges are exact fractions; scan scores are computed with 50 digits and rounded at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import combinations

Range = tuple[Fraction, Fraction]
Step = Callable[[float], float]
Ordinals = tuple[Callable[[float], int], Callable[[int], float]]
"""Number of a float in the order of its format (0 for zero), and back."""

TAILS = ("right", "left", "two-sided")
STATISTICS = ("berk_jones", "higher_criticism", "kolmogorov_smirnov")
FORMS = ("subset", "whole")
NAN_CODE = 255
MOST_INNER_EDGES = 252
NO_RANGE: Range = (Fraction(0), Fraction(1))
GRID_STEPS = 65_000
NEAR = 1e-12
"""Shares this close to a target are equally near (absolute); scores this close are equal (relative)."""


# --- p-value ranges (sections 1 and 2) ---


def numbers(values: Iterable[float]) -> list[float]:
    """The values that are not NaN, ascending."""
    return sorted(value for value in values if not math.isnan(value))


def empirical_range(background: Sequence[float], value: float, tail: str) -> Range:
    """[pmin, pmax] from the stored background values themselves."""
    counted = numbers(background)
    if not counted or math.isnan(value):
        return NO_RANGE
    above = sum(b > value for b in counted)
    below = sum(b < value for b in counted)
    equal = len(counted) - above - below
    return _tail_range(above, above + equal, len(counted), tail)


def histogram_range(code: int, survivors: Sequence[int], counted: int, tail: str) -> Range:
    """[pmin, pmax] of a code; ``survivors`` at all edges of the node, the outer two included."""
    if counted == 0 or code == NAN_CODE:
        return NO_RANGE
    padded = [counted, *survivors, 0]
    return _tail_range(padded[code + 1], padded[code], counted, tail)


def _tail_range(above: int, at_or_above: int, counted: int, tail: str) -> Range:
    """``above`` background values certainly lie above the test value, at most ``at_or_above`` are not below it."""
    right = Fraction(above, counted + 1), Fraction(at_or_above + 1, counted + 1)
    left = Fraction(counted - at_or_above, counted + 1), Fraction(counted - above + 1, counted + 1)
    if tail == "right":
        return right
    if tail == "left":
        return left
    return 2 * min(right[0], left[0]), min(Fraction(1), 2 * min(right[1], left[1]))


def survivors(background: Sequence[float], edges: Sequence[float]) -> list[int]:
    """S_k = #{background >= e_k} for each edge."""
    return [sum(b >= edge for b in background) for edge in edges]


def code(value: float, edges: Sequence[float]) -> int:
    """code = number of edges e with value >= e; NaN has the code 255."""
    return NAN_CODE if math.isnan(value) else sum(value >= edge for edge in edges)


def closed_edges(inner: Sequence[float], background: Sequence[float], next_up: Step) -> list[float]:
    """Inner edges, the background's minimum and the next number above its maximum (not above +inf), ascending."""
    edges = set(inner)
    counted = numbers(background)
    if counted:
        edges.add(counted[0])
        if counted[-1] < math.inf:
            edges.add(next_up(counted[-1]))
    return sorted(edges)


# --- where the edges go (section 3) ---


def modal_values(values: Sequence[float], modal_fraction: Fraction, covers_all: bool) -> list[float]:
    """Values above the modal fraction of the values that are not NaN; above half of it where the pilot is a part."""
    counted = numbers(values)
    bar = modal_fraction if covers_all else modal_fraction / 2
    return sorted(value for value, count in Counter(counted).items() if count > bar * len(counted))


def _pairs(modal: Sequence[float], next_up: Step) -> list[float]:
    """The edges v and next(v) of each modal value; +inf has no next number."""
    return [*modal, *(next_up(value) for value in modal if value < math.inf)]


def uniform_edges(
    pilot: Sequence[float],
    bins: int,
    modal_fraction: Fraction,
    covers_all: bool,
    next_up: Step,
    round_up: Step = float,
) -> list[float]:
    """Inner edges of the paper's rule: equal widths over the finite values that are not modal."""
    modal = modal_values(pilot, modal_fraction, covers_all)
    finite = [value for value in numbers(pilot) if value not in modal and math.isfinite(value)]
    edges = _pairs(modal, next_up)
    if finite:
        low, high = finite[0], finite[-1]
        # Up to 251 spans are added up below, so a huge span is scaled by a power of two, which rounds nothing.
        scale = 2.0**-10 if high - low > 2.0**1000 else 1.0
        scaled = [value * scale for value in finite]
        count = min(_uniform_bins(scaled, bins), MOST_INNER_EDGES - 1 - 2 * len(modal))
        span = scaled[-1] - scaled[0]
        inside = [(scaled[0] + i * span / count) / scale for i in range(1, count)]
        edges += [low, *(round_up(edge) for edge in inside), next_up(high)]
    return sorted(set(edges))


def _uniform_bins(finite: Sequence[float], bins: int) -> int:
    """nb = min(bins, ceil(ptp / w)) with the narrower of the Freedman-Diaconis and Sturges widths."""
    n, span = len(finite), finite[-1] - finite[0]
    if span == 0:
        return 1
    spread = _percentile(finite, 75) - _percentile(finite, 25)
    width = span / (math.log2(n) + 1)
    if spread > 0:
        width = min(width, 2 * spread * n ** (-1 / 3))
    # A width may underflow to 0: the quotient is then infinite, as it is in IEEE arithmetic.
    quotient = span / width if width > 0 else math.inf
    return bins if quotient >= bins else math.ceil(quotient)


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """Linear interpolation between order statistics."""
    place, rest = divmod((len(ascending) - 1) * percent, 100)
    start = ascending[place]
    return start + (ascending[place + 1] - start) * (rest / 100) if rest else start


def quantile_edges(
    pilot: Sequence[float],
    bins: int,
    modal_fraction: Fraction,
    covers_all: bool,
    next_up: Step,
    ordinals: Ordinals | None = None,
) -> list[float]:
    """Inner edges at equal steps of the share p of pilot values at or above them."""
    return _cut(pilot, bins, modal_values(pilot, modal_fraction, covers_all), next_up, lambda p: p, ordinals)


def balanced_edges(
    pilot: Sequence[float],
    bins: int,
    modal_fraction: Fraction,
    covers_all: bool,
    next_up: Step,
    ordinals: Ordinals | None = None,
) -> list[float]:
    """Inner edges at equal steps of G(p) = (1/3) p + (2/3) (ln(p/(1-p)) + L) / (2L), with L = ln m."""
    size = len(numbers(pilot))
    end = math.log(size) if size > 1 else 0.0

    def measure(p: float) -> float:
        if end == 0:
            return p
        logit = -end if p <= 0 else end if p >= 1 else min(end, max(-end, math.log(p / (1 - p))))
        return p / 3 + 2 / 3 * (logit + end) / (2 * end)

    return _cut(pilot, bins, modal_values(pilot, modal_fraction, covers_all), next_up, measure, ordinals)


def _cut(
    pilot: Sequence[float],
    bins: int,
    modal: Sequence[float],
    next_up: Step,
    measure: Callable[[float], float],
    ordinals: Ordinals | None,
) -> list[float]:
    """Modal pairs, and order statistics that divide what ``measure`` leaves outside the modal values equally."""
    counted = numbers(pilot)
    counts = Counter(counted)
    ordinary = sorted(value for value in counts if value not in modal)
    room = MOST_INNER_EDGES - 2 * len(modal)
    if len(ordinary) <= min(bins, room):
        return sorted({*_pairs(modal, next_up), *ordinary})
    reached: dict[float, float] = {}  # distinct ordinary value -> measure at or above it, outside modal values
    at_or_above, taken = 0, 0.0
    for value in sorted(counts, reverse=True):
        before, at_or_above = at_or_above, at_or_above + counts[value]
        if value in modal:
            taken += measure(at_or_above / len(counted)) - measure(before / len(counted))
        else:
            reached[value] = measure(at_or_above / len(counted)) - taken
    parts = min(bins, room + 1)
    targets = [j * (1 - taken) / parts for j in range(parts - 1, 0, -1)]
    chosen = _nearest(targets, ordinary, reached)
    return (
        _on_grid(chosen, _pairs(modal, next_up), ordinals) if ordinals else sorted({*_pairs(modal, next_up), *chosen})
    )


def _on_grid(chosen: Sequence[float], pairs: Sequence[float], ordinals: Ordinals) -> list[float]:
    """Chosen values move down to the next multiple of 2**grid, in integers of the same order, where no edge stands."""
    number, value_of = ordinals
    grid = 0
    while chosen and (number(chosen[-1]) - number(chosen[0])) >> grid >= GRID_STEPS:
        grid += 1
    edges: list[float] = []
    for value in sorted({*pairs, *chosen}):
        moved = value if value in pairs else value_of(number(value) >> grid << grid)
        edges.append(moved if not edges or moved > edges[-1] else value)
    return edges


def _nearest(targets: Sequence[float], ordinary: Sequence[float], reached: dict[float, float]) -> list[float]:
    """For each target (descending measure) the value nearest to it, or the next larger one that is not used."""
    chosen: list[float] = []
    for target in targets:
        distance = {value: abs(reached[value] - target) for value in ordinary}
        shortest = min(distance.values())
        best = max(value for value in ordinary if distance[value] <= shortest + NEAR)
        free = [value for value in ordinary if not chosen or value > chosen[-1]]
        if free:
            chosen.append(max(best, free[0]))
    return chosen


def inner_edges(
    binning: str,
    pilot: Sequence[float],
    bins: int,
    modal_fraction: Fraction,
    covers_all: bool,
    next_up: Step,
    round_up: Step = float,
    ordinals: Ordinals | None = None,
) -> list[float]:
    """The inner edges of one node by the name of the rule; with ``ordinals`` moved to the library's grid."""
    if binning == "uniform":
        return uniform_edges(pilot, bins, modal_fraction, covers_all, next_up, round_up)
    rule = {"quantile": quantile_edges, "balanced": balanced_edges}[binning]
    return rule(pilot, bins, modal_fraction, covers_all, next_up, ordinals)


# --- scans of one sample (section 5) ---


@cache
def general_statistic(statistic: str, significant: int, nodes: int, alpha: float) -> Decimal:
    """The statistic of N = ``nodes``, of which N_alpha = ``significant`` have pmax <= alpha; 0 without an excess."""
    with localcontext(Context(prec=50)):
        a, k, n = Decimal(alpha), Decimal(significant), Decimal(nodes)
        if k - n * a <= Decimal(NEAR) * k:
            return Decimal(0)
        if statistic == "higher_criticism":
            return (k - n * a) / (n * a * (1 - a)).sqrt()
        if statistic == "kolmogorov_smirnov":
            return (k - n * a) / n.sqrt()
        if k == n:
            return n * -a.ln()
        return k * (k / n / a).ln() + (n - k) * ((n - k) / n / (1 - a)).ln()


def scan(
    pmax: Sequence[float], statistic: str, form: str, alpha_max: float, thresholds: Sequence[float] | None = None
) -> tuple[float, float, int]:
    """Score, alpha and number of nodes at or below alpha; ``pmax`` of the sample's nodes that have a p-value.

    ``thresholds`` (ascending) is a grid: every pmax is rounded up to the next of them. A score of 0 has no alpha.
    """
    levels = [float(p) for p in pmax]
    if thresholds is not None:
        levels = [min((g for g in thresholds if g >= p), default=math.inf) for p in levels]
    found = []
    for alpha in sorted({level for level in levels if level <= alpha_max}):
        significant = sum(level <= alpha for level in levels)
        nodes = significant if form == "subset" else len(levels)
        found.append((general_statistic(statistic, significant, nodes, alpha), alpha, significant))
    best = max((score for score, _, _ in found), default=Decimal(0))
    if best == 0:
        return 0.0, math.nan, 0
    score, alpha, size = next(entry for entry in found if entry[0] >= best * (1 - Decimal(NEAR)))
    return float(score), alpha, size


def brute_force_subset(pmax: Sequence[float], statistic: str, alpha_max: float) -> float:
    """The highest score of any subset of the nodes at any alpha, each subset scanned as a whole."""
    best = Decimal(0)
    for size in range(1, len(pmax) + 1):
        for subset in combinations(sorted(pmax), size):
            for alpha in {p for p in pmax if p <= alpha_max}:
                significant = sum(p <= alpha for p in subset)
                best = max(best, general_statistic(statistic, significant, size, alpha))
    return float(best)


def grid(m_max: int, alpha_max: float) -> list[float]:
    """255 thresholds in geometric progression from 1/(m_max+1) to alpha_max, both exact."""
    first = min(1 / (m_max + 1), alpha_max)
    ratio = alpha_max / first
    return [first, *(first * ratio ** (i / 254) for i in range(1, 254)), alpha_max]


# --- the uniform rule worked by hand: float64, modal fraction 1/10, the pilot is all of the values ---

INF, NAN = math.inf, math.nan
SIXTEEN = [0, 1, 3, 6, 6.5, 6.75, 7.5, 7.75, 8, 8.25, 8.5, 9, 9.5, 12, 13, 16]

HAND_WORKED: list[tuple[str, list[float], int, list[float], list[int]]] = [
    (
        # Every value twice of 20: 10 * 2 > 20 is false, none is modal. ptp 9, w_S = 9/5.32, w_FD = 10/2.71: 6 bins.
        "ties",
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9],
        10,
        [0, 1.5, 3, 4.5, 6, 7.5, 9.000000000000002],
        [20, 16, 14, 10, 8, 4, 0],
    ),
    (
        # As above, but `bins` is fewer than the rule would take.
        "ties, three bins",
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9],
        3,
        [0, 3, 6, 9.000000000000002],
        [20, 14, 8, 0],
    ),
    (
        # 7 four times of 20 is modal. The other 16: ptp 16, w_S = 16/5, IQR = 9.125 - 6.375, w_FD = 5.5/2.52: 8 bins.
        "a modal value inside the span",
        [*SIXTEEN, 7, 7, 7, 7],
        10,
        [0, 2, 4, 6, 7, 7.000000000000001, 8, 10, 12, 14, 16.000000000000004],
        [20, 18, 17, 17, 14, 10, 8, 3, 3, 1, 0],
    ),
    (
        # The infinities are counted and not modal (10 * 1 > 18 is false); the rule sees 0..15: w_S = 15/5, 5 bins.
        # The minimum -inf is the smallest edge; above the maximum +inf there is no number. NaN is not counted.
        "an infinity",
        [INF, NAN, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, -INF],
        10,
        [-INF, 0, 3, 6, 9, 12, 15.000000000000002],
        [18, 17, 14, 11, 8, 5, 1],
    ),
    (
        # Of 30: ten zeros of both signs and four +inf are modal, +inf without a next number. 1..16: 5 bins.
        "zeros of a ReLU and a modal infinity",
        [0, -0.0, 0, -0.0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, INF, INF, INF, INF],
        10,
        [0, 5e-324, 1, 4, 7, 10, 13, 16.000000000000004, INF],
        [30, 20, 20, 17, 14, 11, 8, 4, 4],
    ),
    (
        "a constant",
        [3.0] * 12,
        10,
        [3, 3.0000000000000004],
        [12, 0],
    ),
]
