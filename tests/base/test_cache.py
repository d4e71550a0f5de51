"""The cache of tables: made once for all threads, forgotten when it is full."""

from __future__ import annotations

import threading
import time

import numpy as np

from hpv.base.cache import Cache, bytes_in


def test_made_once() -> None:
    cache, made = Cache(), []

    def make() -> list[int]:
        made.append(1)
        return [1]

    assert cache.get("a", make) is cache.get("a", make)
    assert cache.get("b", make) is not cache.get("a", make)
    assert len(made) == 2


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    cache, made = Cache(limit=2 * 80), []

    def ask(key: str) -> None:
        cache.get(key, lambda: made.append(key) or np.zeros(10))

    for key in "ab" + "a" + "c":  # c takes the room of b
        ask(key)
    ask("a")
    ask("b")
    assert made == ["a", "b", "c", "b"]


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    cache, made = Cache(limit=100), []
    cache.get("small", lambda: made.append("small") or np.zeros(1))
    for _ in range(2):
        cache.get("large", lambda: made.append("large") or np.zeros(1000))
    cache.get("small", lambda: made.append("small") or np.zeros(1))
    assert made == ["small", "large", "large"]


def test_threads_that_ask_for_the_same_wait_for_it() -> None:
    cache, made = Cache(), []

    def make() -> object:
        made.append(1)
        time.sleep(0.05)
        return object()

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_an_error_is_not_kept() -> None:
    cache = Cache()
    for _ in range(2):
        try:
            cache.get("key", lambda: 1 / 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("no error")
    assert cache.get("key", lambda: 5) == 5


def test_bytes_of_nested_arrays() -> None:
    class Thing:
        def __init__(self) -> None:
            self.array, self.others = np.zeros(4), {"one": (np.zeros(2, np.uint8), [np.zeros(1)])}

    assert bytes_in(Thing()) == 32 + 2 + 8
    assert bytes_in(None) == bytes_in("text") == 0
