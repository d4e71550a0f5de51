"""Histogram p-values of neural network activations: fit a background, encode, give p-value ranges, scan.

Public names are loaded when they are first used, so ``import hpv`` and ``hpv --help`` stay quick. No module has the
name of a public function: importing such a module would put the module in the function's place.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpv.background import Background, merge
    from hpv.capturing import Monitor, capture
    from hpv.errors import (
        DataError,
        HpvError,
        HpvWarning,
        InputError,
        OutputExistsError,
        StoppedError,
        StoreError,
    )
    from hpv.fitting import fit
    from hpv.opening import open
    from hpv.pilot import Edges
    from hpv.planning import plan
    from hpv.proposing import edges
    from hpv.scores import Scores
    from hpv.scoring import score

__version__ = "0.1.0"

__all__ = [
    "Background",
    "DataError",
    "Edges",
    "HpvError",
    "HpvWarning",
    "InputError",
    "Monitor",
    "OutputExistsError",
    "Scores",
    "StoppedError",
    "StoreError",
    "capture",
    "edges",
    "fit",
    "merge",
    "open",
    "plan",
    "score",
]

_MODULES = {
    "Background": "hpv.background",
    "DataError": "hpv.errors",
    "Edges": "hpv.pilot",
    "HpvError": "hpv.errors",
    "HpvWarning": "hpv.errors",
    "InputError": "hpv.errors",
    "Monitor": "hpv.capturing",
    "OutputExistsError": "hpv.errors",
    "Scores": "hpv.scores",
    "StoppedError": "hpv.errors",
    "StoreError": "hpv.errors",
    "capture": "hpv.capturing",
    "edges": "hpv.proposing",
    "fit": "hpv.fitting",
    "merge": "hpv.background",
    "open": "hpv.opening",
    "plan": "hpv.planning",
    "score": "hpv.scoring",
}


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
