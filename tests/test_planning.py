"""Plans: arithmetic on shapes and budgets, made without reading, refused with numbers; and the walks after them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
from hpv.activations.opening import open_activations
from hpv.base import machine as machine_module
from hpv.base.buffers import Buffers
from hpv.base.machine import available_memory, bytes_of, thread_count
from hpv.base.slices import split
from hpv.base.words import GIB, KIB, MIB, human
from hpv.scoring.job import prepare_score
from hpv.scoring.plan import TALLY_SHARE
from hpv.scoring.tallying import segment_length
from hpv.walking.threads import Queue, in_steps, run_in_threads
from hpv.walking.tiling import DONE_AT_ONCE, score_chunks

SHAPES = st.tuples(st.integers(1, 10**9), st.one_of(st.integers(1, 300), st.integers(1, 2_000_000)))
BUDGETS = st.sampled_from([64 * MIB, 200 * MIB, 512 * MIB, GIB, 8 * GIB])


def virtual(shape: tuple[int, int], dtype: str = "float32", chunks: tuple[int, int] | None = None) -> Any:
    """Activations of any size that take no memory and fail when they are read."""
    if chunks is None:
        array = np.broadcast_to(np.zeros((), dtype), shape)
    else:
        array = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, dtype=dtype, chunks=chunks)
    source = open_activations(array)
    for layer in source.layers.values():
        layer.read = refuse  # type: ignore[method-assign]
    return source


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a plan reads no values")


def covers(parts: tuple[slice, ...], length: int) -> bool:
    """Consecutive, none empty, from 0 to the end."""
    ends = [0, *(part.stop for part in parts)]
    return [part.start for part in parts] == ends[:-1] and ends[-1] == length and all(p.start < p.stop for p in parts)


# --- what there is ---


@pytest.mark.parametrize(
    ("given", "size"),
    [("64MiB", 64 * MIB), ("2GiB", 2 * GIB), ("2 GB", 2 * 10**9), ("1.5g", GIB * 3 // 2), ("100000000", 10**8),
     (" 70M ", 70 * MIB), ("65536KiB", 64 * MIB), ("0.5TB", 5 * 10**11), (10**8, 10**8), (1e8, 10**8),
     (np.int64(10**8), 10**8)],
)  # fmt: skip
def test_bytes(given, size):
    assert bytes_of(given) == size


@pytest.mark.parametrize(
    "wrong", ["", "GiB", "2 GiBs", "-2GiB", "1.2.3GB", "2 G B", True, [1], float("nan"), float("inf")]
)
def test_bytes_that_are_none(wrong):
    with pytest.raises(hpv.InputError, match=r"memory=.*give bytes, or text such as 512MiB or 2GB"):
        bytes_of(wrong)


@pytest.mark.parametrize("little", [0, 1, -5, "63MiB", 64 * MIB - 1])
def test_too_few_bytes(little):
    with pytest.raises(hpv.InputError, match=rf"memory={little!r}: give at least 64MiB"):
        bytes_of(little)


def test_bytes_for_people():
    assert [human(size) for size in (0, 1023, 1024, 1536, 5 * MIB, 3 * GIB, 2**40 * 7)] == [
        "0 B", "1023 B", "1 KiB", "1.5 KiB", "5 MiB", "3 GiB", "7 TiB",
    ]  # fmt: skip


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB available, no groups, no SLURM."""
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    monkeypatch.setattr(machine_module, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine_module, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(machine_module, "CGROUPS", tmp_path / "groups")
    return tmp_path


def make_group(folder: Path, limit: Any, used: int, cache: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    line = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon {used}\n{line} {cache}\nactive_file 77\n")


def test_memory_of_a_plain_machine(machine):
    assert available_memory() == 8 * GIB
    assert bytes_of(None) == 2 * GIB
    (machine / "meminfo").unlink()
    assert available_memory() == 4 * GIB


def test_memory_of_a_group(machine):
    """What files left in memory counts as free; a group above that leaves less decides."""
    (machine / "membership").write_text("0::/slurm/job_7/step_0\n")
    make_group(machine / "groups" / "slurm" / "job_7" / "step_0", "max", GIB, 0)
    make_group(machine / "groups" / "slurm" / "job_7", 6 * GIB, 3 * GIB, 2 * GIB)
    assert available_memory() == 5 * GIB
    make_group(machine / "groups" / "slurm", 4 * GIB, 3 * GIB, 0)
    assert available_memory() == GIB
    make_group(machine / "groups" / "slurm", 4 * GIB, 5 * GIB, 0)
    assert available_memory() == 0
    assert bytes_of(None) == 256 * MIB


def test_memory_of_a_group_of_version_one(machine):
    (machine / "membership").write_text("9:cpu:/\n4:memory:/docker/abc\n0::/\n")
    make_group(machine / "groups" / "memory" / "docker" / "abc", 3 * GIB, GIB, GIB // 2, version=1)
    assert available_memory() == 5 * GIB // 2


def test_memory_in_a_container_that_sees_its_own_group_as_the_root(machine):
    (machine / "membership").write_text("0::/\n")
    make_group(machine / "groups", 2 * GIB, GIB, 0)
    assert available_memory() == GIB


def test_memory_in_slurm(machine, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "3072")
    assert available_memory() == 3 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    assert available_memory() == 8 * GIB
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1024")
    assert available_memory() == GIB
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "5")
    assert available_memory() == 5 * GIB


def test_threads(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert thread_count(None) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert thread_count(None) == 2
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert thread_count(None) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "many")
    assert thread_count(None) == 3
    assert thread_count(7) == 7
    assert thread_count(np.int32(2)) == 2
    for wrong in (0, -1, 1.5, 2.0, "2", True, [1]):
        with pytest.raises(hpv.InputError, match=rf"threads={re.escape(repr(wrong))}: give a whole number from 1 on"):
            thread_count(wrong)


# --- plans ---


@pytest.mark.filterwarnings("ignore:layer activations. every chunk:hpv.HpvWarning")
@given(
    SHAPES, st.sampled_from(["float16", "float32", "float64"]), BUDGETS, st.integers(1, 64), st.booleans(), st.data()
)
@settings(max_examples=150)
def test_plans_cover_everything_once_inside_the_budget(shape, dtype, memory, threads, chunked, data):
    chunks = None
    if chunked:
        chunks = tuple(data.draw(st.integers(1, min(size, 3000))) for size in shape)
    source = virtual(shape, dtype, chunks)
    pilot, bins = data.draw(st.sampled_from(["auto", 100])), data.draw(st.sampled_from([1, 32, 254]))
    try:
        plan = hpv.plan("fit", source, memory=memory, threads=threads, pilot=pilot, bins=bins)
    except hpv.InputError:  # what it says is looked at below
        assert memory < 8 * GIB or shape[1] > 50_000
        return
    (layer,) = plan.layers
    assert covers(layer.tiles, shape[1])
    assert covers(layer.segments, shape[0])
    assert 1 <= layer.block <= shape[0]
    assert all(part.start % layer.block == 0 for part in layer.segments)
    assert 0 < plan.peak <= plan.memory == memory
    pilot_samples = sum(run.stop - run.start for run in layer.pilot)
    assert plan.bytes_read == (shape[0] + pilot_samples) * shape[1] * np.dtype(dtype).itemsize
    if chunks and len(layer.tiles) > 1 and layer.tiles[0].stop >= chunks[1]:
        assert all(tile.start % chunks[1] == 0 for tile in layer.tiles)
    if chunks and layer.block >= chunks[0]:
        assert layer.block % chunks[0] == 0 or layer.block == shape[0]
    again = hpv.plan("fit", source, memory=memory, threads=threads, pilot=pilot, bins=bins)
    assert again == plan
    facts = json.loads(json.dumps(plan.as_json()))
    assert (facts["blocks"], facts["peak"], facts["bytes_read"]) == (plan.blocks, plan.peak, plan.bytes_read)
    assert facts["layers"][0]["tiles"] == len(layer.tiles)
    assert f"{plan.blocks:,} block" in str(plan)
    assert human(plan.peak) in str(plan)


@pytest.mark.filterwarnings("ignore:layer activations. every chunk:hpv.HpvWarning")
@given(
    st.tuples(st.integers(1, 10**8), st.integers(1, 3000)), BUDGETS, st.integers(1, 64), st.sampled_from(["", "codes"]),
    st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
@settings(max_examples=100)
def test_scores_are_planned_inside_the_budget(shape, memory, threads, kept, by_class, chunked, data):
    chunks = tuple(data.draw(st.integers(1, min(size, 3000))) for size in shape) if chunked else None
    values = np.random.default_rng(0).normal(size=(60, shape[1])).astype(np.float32)
    background = hpv.fit(values, labels=np.arange(60) % 3 if by_class else None, min_class_size=1)
    options = {"against": "lowest" if by_class else "pooled", "keep": (kept,) if kept else ()}
    source = virtual(shape, "float32", chunks)
    try:
        job = prepare_score(background, source, memory=memory, threads=threads, **options)
    except hpv.InputError:
        assert memory < 8 * GIB
        return
    plan, (layer,) = job.plan, job.plan.layers
    assert 0 < plan.peak <= plan.memory == memory
    assert 1 <= layer.block <= layer.part <= shape[0]
    assert covers(layer.tiles, shape[1])
    assert plan.together == (len(layer.tiles) == 1) or len(layer.tiles) == 1
    # What waits to be scored: of all threads, or of a segment where there are several tiles.
    of_sample = sum(len(one) + 2 for one in job.scanner.thresholds.values()) * 4 * len(job.scanner.references)
    waiting = layer.part * threads if plan.together else segment_length(job)
    assert waiting * of_sample <= max(memory // TALLY_SHARE, threads * of_sample)
    if layer.part > layer.block and not layer.window:
        whole = score_chunks(shape[1], shape[0], shape[1])[0]
        assert layer.part == shape[0] or layer.part % layer.block == layer.part % whole == 0


@given(SHAPES, st.integers(1, 8))
@settings(max_examples=60)
def test_more_memory_never_means_more_tiles(shape, threads):
    source, tiles = virtual(shape), []
    for memory in (GIB, 4 * GIB, 16 * GIB, 64 * GIB):
        try:
            tiles.append(len(hpv.plan("fit", source, memory=memory, threads=threads).layers[0].tiles))
        except hpv.InputError:
            tiles.append(10**9)
    assert tiles == sorted(tiles, reverse=True)


def test_a_narrow_layer_does_not_make_the_parts_of_a_wide_one_long():
    """A chunk of codes of ten nodes could hold 2**18 samples: those of the wide layer are 100 GB."""
    layers = {"logits": 10, "features": 100_000}
    background = hpv.fit({name: np.eye(4, nodes, dtype=np.float32) for name, nodes in layers.items()})
    source = {name: np.broadcast_to(np.float32(0), (10**7, nodes)) for name, nodes in layers.items()}
    job = prepare_score(background, source, memory="4GiB", threads=2)
    assert job.plan.together
    assert all(plan.part * sum(layers.values()) <= DONE_AT_ONCE for plan in job.plan.layers)
    assert score_chunks(10, 10**7, 100_010) == (512, 10)
    assert score_chunks(10, 10**7, 10) == (2**18, 10)


def test_plan_of_a_score_reads_nothing():
    values = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    background = hpv.fit(values, labels=np.arange(200) % 2)
    source = virtual((10**7, 30))
    plan = hpv.plan("score", source, background, memory="512MiB", threads=3, keep=(), against="lowest")
    assert (plan.kind, plan.threads, plan.memory) == ("score", 3, 512 * MIB)
    assert plan.bytes_read == 10**7 * 30 * 4
    kinds = 3 * 2 * 2
    assert plan.bytes_written == 10**7 * kinds * 24
    with_codes = hpv.plan("score", source, background, against="pooled", tails=("right",))
    assert with_codes.bytes_written == 10**7 * (30 + 2 * 2 * 24)
    with pytest.raises(hpv.InputError, match="plan of 'merge': give 'fit' or 'score'"):
        hpv.plan("merge", source)


def test_too_little_memory_is_refused_with_numbers():
    message = r"memory 64 MiB is too little: the state of all layers takes [\d.]+ MiB, .* give at least \d+ MiB"
    with pytest.raises(hpv.InputError, match=message):
        hpv.plan("fit", virtual((1000, 300_000)), memory="64MiB")
    for nodes in (300_000, 3_000_000, 30_000_000):
        source = virtual((1000, nodes))
        enough = re.search(r"give at least ([\d.]+ \w+)", refusal(source))[1]
        plan = hpv.plan("fit", source, memory=enough, threads=2)
        assert plan.peak <= plan.memory == bytes_of(enough)
    background = hpv.fit(np.zeros((3, 20_000), np.float16), edges=np.arange(200.0))
    with pytest.raises(hpv.InputError, match="memory 64 MiB is too little: the background takes"):
        hpv.plan("score", virtual((5, 20_000), "float16"), background, memory="64MiB")
    message = (
        r"layer activations: 1.49 GiB are needed beside the state to read one of its chunks of 100000 x 2000, and "
        r".* are left; give more memory, or store it in smaller chunks, such as \(512, 2000\)"
    )
    with pytest.raises(hpv.InputError, match=message):
        hpv.plan("fit", virtual((10**8, 2000), chunks=(10**5, 2000)), memory="300MiB", threads=64, pilot=None)


def refusal(source: Any) -> str:
    with pytest.raises(hpv.InputError) as caught:
        hpv.plan("fit", source, memory="64MiB")
    return str(caught.value)


def test_the_default_budget_is_a_quarter(machine):
    assert hpv.plan("fit", virtual((1000, 10))).memory == 2 * GIB
    assert 4 * KIB == 4096


# --- walking ---


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
def test_threads_after_a_fork(tmp_path):
    """The threads that stay between calls are not there in a forked child, which makes its own."""
    code = """
import os
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


def test_buffers_belong_to_their_thread():
    buffers = Buffers()
    first = buffers.get("values", (4, 5), np.float32)
    assert buffers.get("values", (2, 5), np.float32).base is first.base
    assert buffers.get("codes", (4, 5), np.float32).base is not first.base
    assert buffers.get("values", (4, 5), np.uint8).dtype == np.uint8
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(buffers.get("values", (4, 5), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], first)
