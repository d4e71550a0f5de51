"""What the header of a store says: its kind, its version, what it was asked for."""

from __future__ import annotations

import json
import os
from typing import Any

from hpv.base.errors import StoreError
from hpv.places.locks import LOCK
from hpv.places.place import ROOT, Place, place_of
from hpv.places.remote import PlaceError

ACTIVATIONS, BACKGROUND, SCORES = "hpv-activations", "hpv-background", "hpv-scores"
VERSION = 1
RESERVED = ("format", "version", "id", "complete", "request", "progress")
"""Entries of the root's attributes that say what the store is; all others belong to its kind."""
NAMES = {ACTIVATIONS: "an activation store", BACKGROUND: "a background", SCORES: "a score store"}
"""Names of the formats, in messages."""


def header_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `read_header` finds at a path or an address."""
    try:
        return read_header(place_of(path, read_only=True))
    except PlaceError as error:
        raise StoreError(f"{os.fspath(path)}: {error.strerror}.") from error


def read_header(place: Place) -> dict[str, Any] | None:
    """Root attributes of a store of hpv, complete or not; None where nothing has been written yet.

    ``StoreError`` for everything else that may be there.
    """
    try:
        content = place.read(ROOT)
        if content is None:
            if all(_is_passing(name) for name in place.names() or []):
                return None
            content = place.read(ROOT)  # another run that has just begun may have written it since
        header = json.loads(content or b"")["attributes"]
        if header["format"] in NAMES:
            return dict(header)
    except (NotADirectoryError, ValueError, KeyError, TypeError):
        pass
    raise StoreError(f"{place.path} exists and is not a store of hpv; use another path, or remove it yourself first.")


def _is_passing(name: str) -> bool:
    """Whether a run that has only begun leaves such a file."""
    return name.startswith(LOCK) or name.endswith(".partial")
