"""Runs that are stopped on their way, as by a kill."""

from __future__ import annotations

from hpv.walking.progress import Quiet


class Stop(Exception):
    """Stands for a kill."""


class Kill(BaseException):
    """Stands for a kill that nothing on the way catches."""


class StopAfter(Quiet):
    """Progress that stops a run after so many bytes."""

    def __init__(self, limit: int, kind: type[BaseException] = Stop) -> None:
        self.left, self.kind = limit, kind

    def advance(self, done: int) -> None:
        self.left -= done
        if self.left < 0:
            raise self.kind
