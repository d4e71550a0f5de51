"""What can be asked of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from numbers import Real

from hpv.base.errors import InputError
from hpv.histograms.ranges import check_tail

STATISTICS = ("berk_jones", "higher_criticism", "kolmogorov_smirnov")
FORMS = ("subset", "whole")
AGAINST = ("own", "lowest", "pooled")
ScanKind = tuple[str, str, str]
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
    def kinds(self) -> list[ScanKind]:
        """Every (tail, form, statistic) asked for."""
        return list(product(self.tails, self.forms, self.statistics))
