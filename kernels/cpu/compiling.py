"""How the kernels are compiled: without the GIL, kept on disk, and never answered from a stale cache.

Numba notices an edit only in the file of the function itself. So the cache has one folder per state of *all* the
sources here: an edit anywhere means a new folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config


def sources_hash() -> str:
    """Hash of every source file of the kernels."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent.parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """``NUMBA_CACHE_DIR`` where it is set (node-local on clusters), else the user's cache folder."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "hpv"
    )
    return Path(base) / f"hpv-{_SOURCES}"


_SOURCES = sources_hash()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on the first call, one version per combination of dtypes; callers run it from threads of their own."""
    return _compile(function, cache_folder())


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """The same over Numba's own threads; only ``parallel.py`` may call these, behind its guard.

    Kept elsewhere: Numba takes two versions of one function for the same.
    """
    return _compile(function, cache_folder() / "parallel", parallel=True)


def _compile(function: Callable[..., Any], folder: Path, **options: bool) -> Any:
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy", **options)
    except RuntimeError:  # nowhere to write: compile in every process
        return numba.njit(function, nogil=True, error_model="numpy", **options)
    finally:
        config.CACHE_DIR = before
