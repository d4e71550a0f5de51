"""What a fit is asked for, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from hpv.base.words import Names


@dataclass(frozen=True)
class FitOptions:
    """The parameters of `hpv.fit` beside the activations, with its defaults; what they mean stands there."""

    bins: int = 32
    binning: str = "balanced"
    modal_fraction: Fraction | str | float = Fraction(1, 10)
    pilot: int | Literal["auto"] | None = "auto"
    edges: Any = None
    layers: Names | None = None
    by_class: bool = False
    labels: Any = None
    min_class_size: int = 100
    memory: int | str | None = None
    threads: int | None = None
    backend: str = "auto"
