"""When finished work is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from hpv.base.errors import HpvError

CHECKPOINT_SECONDS = 20.0
"""Between two times that finished work is kept."""


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
