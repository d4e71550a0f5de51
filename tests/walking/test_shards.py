"""Which samples a shard has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
from hpv.walking.shards import cut_shard


@settings(max_examples=200)
@given(samples=st.integers(1, 500), rows=st.integers(1, 600), of=st.integers(1, 40))
def test_every_sample_is_in_one_shard_and_chunks_are_shared_only_where_there_are_too_few(
    samples: int, rows: int, of: int
) -> None:
    source: Any = SimpleNamespace(samples=samples, chunk_rows=rows)
    if of > samples:
        with pytest.raises(hpv.InputError, match=rf"more shards than samples \({samples}\)"):
            cut_shard(source, f"1/{of}")
        return
    shards = [cut_shard(source, f"{number}/{of}") for number in range(1, of + 1)]
    covered = [sample for shard in shards for sample in range(shard.rows.start, shard.rows.stop)]
    assert covered == list(range(samples))
    assert all(shard.rows.start < shard.rows.stop for shard in shards)
    if -(-samples // rows) >= of:
        assert all(shard.rows.start % rows == 0 for shard in shards)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", "1.0/2", "", "1/ 3", 3])
def test_what_is_no_shard(text: Any) -> None:
    with pytest.raises(hpv.InputError, match="give I/N"):
        cut_shard(SimpleNamespace(samples=9, chunk_rows=1), text)  # type: ignore[arg-type]
