"""Threads: every block once, results in order, errors come through."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpv
from hpv.base.slices import split
from hpv.walking.progress import Quiet
from hpv.walking.threads import Queue, in_steps, run_in_threads


@given(st.integers(0, 50), st.integers(0, 200), st.integers(1, 9), st.integers(1, 70))
def test_ranges_are_split_at_multiples(start, length, parts, step):
    rows = slice(start, start + length)
    found = split(rows, parts, step)
    assert len(found) <= parts
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(start, start + length))
    assert all((part.start - start) % step == 0 for part in found)
    sizes = [part.stop - part.start for part in found]
    assert max(sizes, default=0) - min(sizes, default=0) <= 2 * step
    blocks = list(in_steps(rows, step))
    assert [i for part in blocks for i in range(part.start, part.stop)] == list(range(start, start + length))
    assert all(part.stop - part.start == step for part in blocks[:-1])


@given(st.integers(0, 50), st.integers(0, 3000), st.integers(1, 900), st.integers(1, 900), st.integers(1, 9))
def test_queued_blocks_cover_everything_once_and_shrink(start, length, largest, least, threads):
    largest = max(largest, least)
    rows = slice(start, start + length)
    sizes = [part.stop - part.start for part in Queue(rows, largest, least, threads)]
    assert sum(sizes) == length
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert all(least <= size <= largest for size in sizes[:-1])
    assert not sizes or 1 <= sizes[-1] <= largest
    if largest == least:
        assert set(sizes[:-1]) <= {least}
    queue = Queue(rows, largest, least, threads)
    taken = run_in_threads(lambda _: list(queue), range(threads), threads)
    assert sorted(i for parts in taken for part in parts for i in range(part.start, part.stop)) == list(
        range(start, start + length)
    )


@pytest.mark.parametrize("seconds", [60.0, math.inf])
def test_work_that_is_told_to_end(seconds):
    """No more blocks are given out, and the one at work is finished; where all is needed, all is done."""

    class Told(Quiet):
        def advance(self, done: int) -> None:
            raise hpv.StoppedError("stopped")

    queue, seen = Queue(slice(3, 10), 1, 1, 1, seconds), []
    for block in queue:
        queue.advance(Told(), 1)
        seen.append(block.start)
    assert seen == ([3] if seconds == 60.0 else list(range(3, 10)))
    assert queue.taken_to == seen[-1] + 1


def test_work_within_work_is_done_by_the_thread_that_has_it():
    """Waiting for threads that are all waiting would take for ever."""
    found = run_in_threads(lambda i: run_in_threads(lambda j: i * j, range(4), 2), range(4), 2)
    assert found == [[i * j for j in range(4)] for i in range(4)]


def test_nothing_goes_on_after_an_error():
    started, steps = threading.Event(), [0]

    def task(i: int) -> None:
        if i == 0:
            started.wait(60)
            raise hpv.DataError("chunk 0 is corrupt")
        for _ in in_steps(slice(0, 10**12), 1):
            steps[0] += 1
            started.set()

    with pytest.raises(hpv.DataError, match="chunk 0 is corrupt"):
        run_in_threads(task, range(2), 2)
    before = steps[0]
    time.sleep(0.05)
    assert steps[0] == before > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.slow
def test_threads_after_a_fork(tmp_path):
    """The threads that stay between calls are not there in a forked child, which makes its own."""
    code = """
import os
from hpv.walking.progress import Quiet
from hpv.walking.threads import run_in_threads
ten = list(range(10))
assert run_in_threads(str, ten, 2) == list(map(str, ten))
child = os.fork()
if child == 0:
    os._exit(0 if run_in_threads(str, ten, 2) == list(map(str, ten)) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_and_errors_come_through(threads):
    assert run_in_threads(lambda i: i * i, range(20), threads) == [i * i for i in range(20)]
    seen: set[int] = set()
    run_in_threads(lambda _: seen.add(threading.get_ident()), range(20), threads)
    assert 1 <= len(seen) <= threads

    def fail(i: int) -> int:
        if i == 3:
            raise hpv.DataError("chunk 3 is corrupt")
        return i

    with pytest.raises(hpv.DataError, match="chunk 3 is corrupt"):
        run_in_threads(fail, range(5), threads)
