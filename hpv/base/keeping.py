"""When finished work is kept, so that a run that is killed repeats little of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from hpv.base.errors import HpvError

CHECKPOINT_SECONDS = 20.0
"""Between two times that finished work is kept."""


class Every:
    """Tells when it is time again to keep what was done: every so many seconds."""

    def __init__(self, seconds: float | None = None) -> None:
        """``seconds``: None for CHECKPOINT_SECONDS."""
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether so many seconds have gone by since it was made, or since ``done``."""
        seconds = CHECKPOINT_SECONDS if self._seconds is None else self._seconds
        return time.monotonic() - self._last >= seconds

    def done(self) -> None:
        """Work was kept just now."""
        self._last = time.monotonic()


class Saves(Protocol):
    """Keeps what was done."""

    def save(self) -> None:
        """Keep now what waits for a later call."""


@contextmanager
def saving(checkpoint: Saves | None) -> Iterator[None]:
    """Where this is stopped, or fails, all that was done before it is kept."""
    try:
        yield
    except BaseException:
        if checkpoint is not None:
            with suppress(HpvError):  # the first error is the one to tell of
                checkpoint.save()
        raise
