"""What a score is asked for, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpv.base.words import Names


@dataclass(frozen=True)
class ScoreOptions:
    """The parameters of `hpv.score` beside background, activations and output, with its defaults."""

    statistic: Names = ("berk_jones", "higher_criticism")
    tail: Names = ("right", "left", "two-sided")
    form: Names = ("subset", "whole")
    alphas: str = "grid"
    alpha_max: float = 0.5
    layers: Names | None = None
    labels: Any = None
    against: str | None = None
    keep: Names | None = ("codes",)
    memory: int | str | None = None
    threads: int | None = None
    backend: str = "auto"
