"""Paths of this machine, and addresses of places elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

_FILE = "file://"


def is_address(path: str) -> bool:
    """Whether this names a place elsewhere, such as ``s3://bucket/store``."""
    return "://" in path and not path.startswith(_FILE)


def without_scheme(path: str) -> str:
    """The path in a ``file://`` address; all others stay as they are."""
    return path.removeprefix(_FILE)


def absolute_path(path: str | os.PathLike[str]) -> str:
    """The one name of a place: a path on this machine with all links followed, an address without a last slash."""
    text = os.fspath(path)
    return text.rstrip("/") if is_address(text) else str(real_path(text))


def real_path(path: str) -> Path:
    """A path on this machine with all links followed."""
    return Path(os.path.realpath(without_scheme(path)))
