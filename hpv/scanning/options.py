"""What can be asked of a scan, and of its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Real
from typing import Any

from hpv.base.errors import InputError
from hpv.base.words import Names
from hpv.histograms.ranges import TAILS, check_tail

STATISTICS = ("berk_jones", "higher_criticism", "kolmogorov_smirnov")
FORMS = ("subset", "whole")
AGAINST = ("own", "lowest", "pooled")
ScanKind = tuple[str, str, str]
"""Tail, form, statistic."""
PREFERRED: ScanKind = ("two-sided", "subset", "higher_criticism")
"""The default kind, where it is among the kinds that there are."""


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
    def kinds(self) -> list[ScanKind]:
        """Every (tail, form, statistic) asked for."""
        return list(product(self.tails, self.forms, self.statistics))


def as_names(given: Any) -> tuple[Any, ...]:
    """One name is a list of one; several are taken once each. Whether they are names is for `ScanOptions` to say."""
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    names: list[Any] = []
    for name in given if several else [given]:
        names += [] if name in names else [name]
    return tuple(names)


def choose_kind(
    kinds: Sequence[ScanKind], tail: Names | None, form: Names | None, statistic: Names | None, owner: str
) -> ScanKind:
    """The default among the kinds with the given tail, form and statistic.

    It is the one that has most in common with `PREFERRED`, the tail before the form, and the form before the
    statistic; the first where several do. ``InputError`` says what ``owner`` has instead.

    >>> choose_kind([("left", "whole", "berk_jones"), ("left", "subset", "berk_jones")], "left", None, None, "a scan")
    ('left', 'subset', 'berk_jones')
    """
    wanted = [None if given is None else as_names(given) for given in (tail, form, statistic)]
    fitting = [
        kind for kind in kinds if all(names is None or part in names for part, names in zip(kind, wanted, strict=True))
    ]
    known = zip(wanted, (TAILS, FORMS, STATISTICS), strict=True)
    wrong = [name for names, allowed in known for name in names or () if name not in allowed]
    if wrong or not fitting:
        asked = ", ".join(" or ".join(map(str, names)) or "nothing" for names in wanted if names is not None)
        there = "; ".join(", ".join(dict.fromkeys(parts)) for parts in zip(*kinds, strict=True))
        raise InputError(f"{owner} has no scores of {asked}; it has {there}. Choose one of each, or score again.")
    return max(fitting, key=lambda kind: [part == usual for part, usual in zip(kind, PREFERRED, strict=True)])


def by_tail(tail: Names, answer: Callable[[str], Any]) -> Any:
    """The answer for one tail, or a mapping from each of several tails to its answer."""
    if isinstance(tail, str):
        return answer(check_tail(tail))
    tails = ScanOptions(tails=as_names(tail)).tails
    return {one: answer(one) for one in tails}
