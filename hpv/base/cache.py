"""Things that are made once, up to a size, for all threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

LIMIT = 2**30
"""Bytes."""


class Cache:
    """Keeps what was made for a key, for the next who asks; what was not asked for the longest goes first."""

    def __init__(self, limit: float = LIMIT) -> None:
        """``limit``: bytes of all arrays that are kept."""
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept for the key; the first who asks makes it, while others wait."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            made = make()
            self._keep(key, made, bytes_in(made))
            return made

    def _keep(self, key: Hashable, made: Any, size: int) -> None:
        if size > self._limit:
            return
        self._kept[key] = made, size
        self._bytes += size
        while self._bytes > self._limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed


def bytes_in(thing: Any) -> int:
    """Bytes of the arrays in a thing: in its attributes, and in lists, tuples and mappings of them."""
    if hasattr(thing, "nbytes"):
        return int(thing.nbytes)
    if isinstance(thing, dict):
        parts: Iterable[Any] = thing.values()
    elif isinstance(thing, list | tuple):
        parts = thing
    else:
        parts = getattr(thing, "__dict__", {}).values()
    return sum(map(bytes_in, parts))
