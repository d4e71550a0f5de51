"""Who is told how far the work is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told how far the work is."""

    def start(self, what: str, total: int) -> None:
        """A part of the work begins: ``total`` bytes to read."""

    def advance(self, done: int) -> None:
        """So many more bytes are done; called from the threads that do them. ``StoppedError``: the work is to end."""

    def skip(self, done: int) -> None:
        """So many bytes were done by an earlier run."""


class Quiet:
    """Progress that goes nowhere."""

    def start(self, what: str, total: int) -> None:
        pass

    def advance(self, done: int) -> None:
        pass

    def skip(self, done: int) -> None:
        pass
