"""Histogram p-values of neural network activations: fit a background, encode, give p-value ranges, scan.

Public names are loaded when they are first used, so ``import hpv`` and ``hpv --help`` stay quick. No module has the
name of a public function: importing such a module would put the module in the function's place.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpv.base.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from hpv.activations.layers import Activations, Layer
    from hpv.api.background import Background
    from hpv.api.calls import edges, fit, merge, open, plan, score
    from hpv.api.scores import Scores
    from hpv.base.errors import DataError, HpvError, HpvWarning, InputError, OutputExistsError, StoppedError, StoreError
    from hpv.capturing import Monitor, capture
    from hpv.histograms.edges import Edges
    from hpv.scanning.scored import ScanResult
    from hpv.walking.plan import Plan

_MODULES = {
    "Activations": "hpv.activations.layers",
    "Background": "hpv.api.background",
    "DataError": "hpv.base.errors",
    "Edges": "hpv.histograms.edges",
    "HpvError": "hpv.base.errors",
    "HpvWarning": "hpv.base.errors",
    "InputError": "hpv.base.errors",
    "Layer": "hpv.activations.layers",
    "Monitor": "hpv.capturing",
    "OutputExistsError": "hpv.base.errors",
    "Plan": "hpv.walking.plan",
    "ScanResult": "hpv.scanning.scored",
    "Scores": "hpv.api.scores",
    "StoppedError": "hpv.base.errors",
    "StoreError": "hpv.base.errors",
    "capture": "hpv.capturing",
    "edges": "hpv.api.calls",
    "fit": "hpv.api.calls",
    "merge": "hpv.api.calls",
    "open": "hpv.api.calls",
    "plan": "hpv.api.calls",
    "score": "hpv.api.calls",
}

__all__ = [*_MODULES]


def _find_kernels_of_checkout(package: Path) -> None:
    """In a checkout the folder ``kernels/`` beside ``hpv/`` is ``hpv.kernels``; an installation has it inside."""
    root = package.parent
    installed = (package / "kernels").is_dir()
    if not installed and (root / "kernels" / "__init__.py").is_file() and (root / "pyproject.toml").is_file():
        __path__.append(str(root))


_find_kernels_of_checkout(Path(__file__).resolve().parent)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hpv' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
