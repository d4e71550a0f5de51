"""One caller of in-memory fits, codes and ranges has loops with threads of their own."""

from __future__ import annotations

import numpy as np
import pytest

import hpv
from hpv.backends import cpu
from hpv.kernels.cpu import parallel
from hpv.walking import parts


@pytest.mark.parametrize("bins", [10, 32, 254])
def test_one_caller_has_loops_with_threads(bins, monkeypatch):
    """In-memory fits, codes and ranges of some size: the same bits as with one thread."""
    values = np.random.default_rng(bins).standard_normal((1100, 260)).astype(np.float32)
    values[::7, 3] = np.nan
    edges, asked = hpv.edges(values, bins=bins), []
    one = hpv.fit(values, edges=edges, threads=1)
    expected = one.encode(values[:9]), *one.pvalues(values[:9])

    def one_caller(threads):
        asked.append(threads)
        return parallel.one_caller(threads)

    monkeypatch.setattr(cpu, "one_caller", one_caller)
    monkeypatch.setattr(parts, "thread_count", lambda threads: threads or 2)
    background = hpv.fit(values, edges=edges, threads=2)
    assert background.fingerprint == one.fingerprint
    results = background.encode(values), *background.pvalues(values)
    assert asked == [2, 2, 2]
    for found, few in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found[:9], few)
    codes = one.encode(np.asfortranarray(values))
    assert asked[3:] == [1]  # blocks are copied, by threads that call
    np.testing.assert_array_equal(codes, results[0])
