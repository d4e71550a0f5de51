"""An output in shards: a header, which `open` refuses until they are merged, and beneath it a store for every shard."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpv.base.errors import OutputExistsError, StoreError
from hpv.places.place import place_of
from hpv.store.headers import read_header
from hpv.store.output import Output
from hpv.store.requests import difference

WAIT_SECONDS = 60.0
"""For another shard that is just writing the header: a matter of milliseconds, also on a slow file system."""


@dataclass(frozen=True)
class ShardState:
    """What is there of the shards of an output."""

    of: int
    missing: list[int]
    """Numbers of those that have not begun."""
    unfinished: list[int]

    def __str__(self) -> str:
        if not self.missing and not self.unfinished:
            return f"all {self.of} shards are there, run hpv merge"
        parts = [(self.missing, "missing"), (self.unfinished, "unfinished")]
        one = len(self.missing) + len(self.unfinished) == 1
        listed = [_listed(numbers, self.of, what) for numbers, what in parts if numbers]
        return f"{', '.join(listed)}; run {'it' if one else 'them'}, then hpv merge"


def shard_path(out: str | os.PathLike[str], number: int, of: int) -> str:
    """Where a shard of an output is written, a store of its own."""
    return os.path.join(os.fspath(out), f"shard-{number}-of-{of}")


def shards_of(header: Mapping[str, Any]) -> int | None:
    """How many shards an output is made of; ``None`` if it is written as a whole, or merged."""
    found = header.get("request", {}).get("shards")
    return None if found is None else int(found)


def shard_state(out: str | os.PathLike[str], of: int) -> ShardState:
    """Which shards of an output are there."""
    headers = {number: read_header(place_of(shard_path(out, number, of))) for number in range(1, of + 1)}
    missing = [number for number, header in headers.items() if header is None]
    unfinished = [number for number, header in headers.items() if header and header.get("complete") is not True]
    return ShardState(of, missing, unfinished)


def join_shards(out: str | os.PathLike[str], kind: str, request: Mapping[str, Any], of: int) -> bool:
    """Declare an output of ``of`` shards, or agree with the one that is there; whether it is merged already.

    Any number of shards may call this at once. ``OutputExistsError`` names what else is there.
    """
    end = time.monotonic() + WAIT_SECONDS
    wanted = {**request, "shards": of}
    while True:
        try:
            header = read_header(place_of(out))
        except StoreError as error:
            raise OutputExistsError(str(error)) from None
        if header is not None:
            merged = header.get("complete") is True and shards_of(header) is None
            other = difference(header, {"format": kind, "request": request if merged else wanted})
            if other is not None:
                raise OutputExistsError(
                    f"{os.fspath(out)} holds something else: {other}. Use another path, or remove it."
                )
            return merged
        try:
            Output.begin(out, kind, wanted).close()
        except OutputExistsError:  # another shard is writing it
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _listed(numbers: list[int], of: int, what: str) -> str:
    one = len(numbers) == 1
    return f"{'shard' if one else 'shards'} {ranges(numbers)} of {of} {'is' if one else 'are'} {what}"


def ranges(numbers: list[int]) -> str:
    """Ascending numbers in few words: 1, 3 to 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = {0: "{0}", 1: "{0}, {1}"}
    return ", ".join(words.get(stop - start, "{0} to {1}").format(start, stop) for start, stop in runs)
