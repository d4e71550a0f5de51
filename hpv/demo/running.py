"""The demo is run, where what it needs is installed, in a folder of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hpv.base.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    from rich.console import Console

    from hpv.demo.pipeline import Result

MARKER = "made-by-hpv-demo.txt"


def run(out: str | Path = "hpv-demo", *, seeds: int = 1, console: Console | None = None) -> Result:
    """Train, capture, fit, score and compare, once per seed; print the means and leave the stores in ``out``.

    A folder that an earlier demo made is written anew; ``OutputExistsError`` for any other folder that is not empty.
    """
    missing = [
        package for package, module in (("torch", "torch"), ("scikit-learn", "sklearn")) if not find_spec(module)
    ]
    if missing:
        raise InputError(f"The demo needs {' and '.join(missing)}, not installed here: pip install 'hpv[demo]'.")
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; give 1 or more.")
    from hpv.demo.pipeline import run_seeds

    return run_seeds(_prepare(Path(out)), seeds, console)


def _prepare(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; name a new folder, or one that an earlier demo made.")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise OutputExistsError(f"{out} holds something that no demo made; name a new folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("hpv demo writes this folder anew each time.\n")
    return out
