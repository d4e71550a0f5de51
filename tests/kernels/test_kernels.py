"""Every compiled loop against plain numpy, on bits that no rounding could have produced."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpv.base.floats import FLOAT32, FLOAT64, FORMATS, FloatFormat, to_keys
from hpv.kernels.cpu import ranging, tallying
from hpv.kernels.cpu.coders import coding
from hpv.kernels.cpu.vectors import registers
from hpv.kernels.rules import NAN_CODE
from strategies import edge_keys, nasty

ROOT = Path(__file__).resolve().parents[2]
FORMS = list(FORMATS.values())
EDGES = (0, 1, 12, 20, 21, 36, 62, 63, 127, 254)
SHAPES = ((1, 1), (3, 5), (61, 37), (64, 128), (300, 131))


def reference_codes(keys: np.ndarray, edges: np.ndarray, form: FloatFormat) -> np.ndarray:
    codes = np.stack([np.searchsorted(edges[j], keys[:, j], "right") for j in range(len(edges))], axis=1)
    return np.where(keys == form.nan_key, NAN_CODE, codes)


def check(
    bits: np.ndarray, first: int, edges: np.ndarray, rows: np.ndarray, form: FloatFormat, threads: int = 1
) -> None:
    """Codes and counts of nodes ``first`` on."""
    keys = to_keys(bits.view(form.storage), form)[:, first : first + len(edges)]
    expected = reference_codes(keys, edges, form)
    codes = np.full(keys.shape, 77, np.uint8)
    coding.make_coder(edges, form.infinity).encode(bits, first, codes, threads)
    np.testing.assert_array_equal(codes, expected)
    counts = coding.count(bits, first, rows, coding.make_counter(edges, form.infinity), threads)
    chosen = keys[rows]
    present = chosen != form.nan_key
    np.testing.assert_array_equal(counts.counted, present.sum(axis=0))
    reached = [(chosen[:, j, None] >= edges[j]).sum(axis=0) for j in range(len(edges))]
    np.testing.assert_array_equal(counts.survivors, np.array(reached).reshape(edges.shape))
    highest, lowest = np.full(len(edges), form.nan_key, form.key), np.full(len(edges), form.no_edge, form.key)
    np.testing.assert_array_equal(counts.lowest, np.where(present, chosen, form.no_edge).min(axis=0, initial=lowest[0]))
    np.testing.assert_array_equal(counts.highest, chosen.max(axis=0, initial=highest[0]))


@pytest.mark.parametrize("k", EDGES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_codes_and_counts(form: FloatFormat, k: int) -> None:
    rng = np.random.default_rng(k)
    for number, (samples, nodes) in enumerate(SHAPES):
        first = 0 if number % 2 else 3
        bits = nasty(rng, samples, nodes + first, form)
        edges = edge_keys(rng, to_keys(bits.view(form.storage), form)[:, first:], k, form)
        rows = np.sort(rng.choice(samples, rng.integers(0, samples + 1), replace=False))
        check(bits, first, edges, rows, form)


@pytest.mark.parametrize("k", [12, 40])
def test_nan_alone_and_no_rows(k: int) -> None:
    bits = np.full((70, 20), FLOAT32.infinity + 5, np.int32)
    bits[::2] |= np.iinfo(np.int32).min
    edges = np.sort(np.random.default_rng(0).integers(-FLOAT32.infinity, FLOAT32.infinity, (20, k)), axis=1)
    check(bits, 0, edges.astype(np.int32), np.arange(70), FLOAT32)
    check(bits, 0, edges.astype(np.int32), np.arange(0), FLOAT32)


@given(st.sampled_from(FORMS), st.integers(0, 2**32), st.integers(0, 70), st.integers(1, 90), st.integers(1, 40))
@settings(max_examples=25)
def test_any_edges(form: FloatFormat, seed: int, k: int, samples: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    first = int(rng.integers(0, 3))
    bits = nasty(rng, samples, nodes + first + int(rng.integers(0, 3)), form)
    keys = to_keys(bits.view(form.storage), form)[:, first : first + nodes]
    check(bits, first, edge_keys(rng, keys, k, form), np.arange(samples), form)


@pytest.mark.parametrize("k", [12, 40, 100])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_counters_do_not_overflow_when_rows_come_one_by_one(form: FloatFormat, k: int) -> None:
    """As those of a rare class do: each is then filled up to a whole group."""
    rng = np.random.default_rng(k)
    bits = nasty(rng, 1, 3, form)
    keys = to_keys(bits.view(form.storage), form)
    edges = edge_keys(rng, keys, k, form)
    state = coding.make_counter(edges, form.infinity).start(form.key)
    for _ in range(1030):  # 64 times as many pass 16 bits, 63 times do not
        state.add(bits, 0, np.arange(1))
    counts, codes = state.finish(), reference_codes(keys, edges, form)[0]
    for node, code in enumerate(codes):
        reached = 0 if code == NAN_CODE else int(code)
        assert counts.counted[node] == (0 if code == NAN_CODE else 1030)
        assert counts.survivors[node].tolist() == [1030] * reached + [0] * (k - reached)


def test_two_threads_at_once() -> None:
    rng = np.random.default_rng(1)
    bits = nasty(rng, 700, 150, FLOAT32)
    keys = to_keys(bits.view(np.float32), FLOAT32)
    errors: list[BaseException] = []

    def work(k: int) -> None:
        try:
            check(bits, 0, edge_keys(np.random.default_rng(k), keys, k, FLOAT32), np.arange(700), FLOAT32)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in (12, 40, 12, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("classes", [1, 3])
def test_look_ups_and_tallies(classes: int) -> None:
    rng = np.random.default_rng(classes)
    samples, nodes, entries = 77, 133, 38
    codes = rng.integers(0, entries - 1, (samples, nodes)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.1] = NAN_CODE
    group = rng.integers(0, classes, samples)
    at = np.where(codes == NAN_CODE, entries - 1, codes)
    low, high = rng.random((2, classes, nodes, entries), np.float32)
    for tables in ((low, high), ranging.pair_tables(low, high)):
        pmin, pmax = np.empty((2, samples, nodes), np.float32)
        ranging.look_up_ranges(codes, group, *tables, pmin, pmax)
        np.testing.assert_array_equal(pmin, low[group[:, None], np.arange(nodes), at])
        np.testing.assert_array_equal(pmax, high[group[:, None], np.arange(nodes), at])
    rows = np.sort(rng.choice(samples, 50, replace=False))
    for dtype in (np.uint16, np.int32):
        levels = rng.integers(0, 258, (classes, nodes, entries)).astype(dtype)
        tally = np.ones((samples, 258), np.int32)
        tallying.tally_levels(codes, rows, group[rows], levels, tally)
        expected = np.ones_like(tally)
        for i in rows:
            np.add.at(expected[i], levels[group[i], np.arange(nodes), at[i]], 1)
        np.testing.assert_array_equal(tally, expected)


def check_ranges(
    bits: np.ndarray, first: int, edges: np.ndarray, classes: int, form: FloatFormat, threads: int = 1
) -> bool:
    """Ranges straight from values; whether they were written at all."""
    rng = np.random.default_rng(len(edges))
    keys = to_keys(bits.view(form.storage), form)[:, first : first + len(edges)]
    group = rng.integers(0, classes, len(bits))
    low, high = rng.random((2, classes, len(edges), edges.shape[1] + 2), np.float32)
    low[..., -1], high[..., -1] = 0, 1
    at = np.minimum(reference_codes(keys, edges, form), edges.shape[1] + 1)
    tables = ranging.make_tables(low, high, edges, form.infinity)
    # No result starts where a line of the cache does, nor beside the other.
    pmin, pmax = (np.full(at.size + 3, 7, np.float32)[d : d + at.size].reshape(at.shape) for d in (1, 2))
    done = ranging.fill_directly(bits, first, group, tables, pmin, pmax, threads)
    for found, table in ((pmin, low), (pmax, high)):
        expected = table[group[:, None], np.arange(len(edges)), at] if done else np.full_like(found, 7)
        np.testing.assert_array_equal(found, expected)
        assert found.base is not None
        np.testing.assert_array_equal(found.base[[0, -1]], 7)
    return done


@pytest.mark.parametrize("k", [0, 1, 36, 62, 63, 254])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_ranges_from_values(form: FloatFormat, k: int) -> None:
    rng = np.random.default_rng(k)
    for number, (samples, nodes) in enumerate((*SHAPES, (9, 4200))):
        first = 0 if number % 2 else 3
        bits = nasty(rng, samples, nodes + first + number, form)
        edges = edge_keys(rng, to_keys(bits.view(form.storage), form)[:, first : first + nodes], k, form)
        assert check_ranges(bits, first, edges, 1, form) == (samples >= ranging.FEWEST_ROWS)
        many = samples >= 3 * ranging.FEWEST_ROWS
        assert check_ranges(bits, first, edges, 3, form) == many or not many


def check_tally(
    rng: np.random.Generator, samples: int, nodes: int, classes: int, entries: int, g: int
) -> tallying.Levels:
    """Tallies with nodes and values without a p-value; the levels as they were laid out."""
    codes = rng.integers(0, entries - 1, (samples, nodes)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.1] = NAN_CODE
    group = rng.integers(0, classes, samples)
    levels = rng.integers(0, g + 1, (classes, nodes, entries)).astype(np.uint16)
    levels[rng.random(levels.shape) < 0.4] = g
    levels[..., -1] = g + 1
    levels[rng.random((classes, nodes)) < 0.1] = g + 1
    rows = rng.permutation(samples)[: samples - samples // 3]
    tally, expected = np.ones((2, samples, g + 2), np.int32)
    made = tallying.make_levels(levels, g)
    tallying.tally(codes, rows, group[rows], made, tally)
    at = np.where(codes == NAN_CODE, entries - 1, codes)
    for i in rows:
        np.add.at(expected[i], levels[group[i], np.arange(nodes), at[i]], 1)
    np.testing.assert_array_equal(tally, expected)
    return made


@pytest.mark.parametrize("entries", [2, 3, 38, tallying.MOST_COMPARED + 2, tallying.MOST_COMPARED + 3, 129, 256])
@pytest.mark.parametrize("g", [1, 40, 255, 256])
def test_tallies_from_levels(entries: int, g: int) -> None:
    rng = np.random.default_rng(entries)
    fits = g < 256 and registers.looks_up_bytes_in_registers()
    many = tallying.Packed if entries - 2 <= tallying.MOST_COMPARED else tallying.Wide
    for samples, nodes in (*SHAPES, (9, 2100)):
        for classes in (1, 3):
            made = check_tally(rng, samples, nodes, classes, entries, g)
            assert isinstance(made.many, many if fits else type(None))


@pytest.mark.parametrize("k", [0, 36, 63, 254])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_tallies_from_values(form: FloatFormat, k: int) -> None:
    rng = np.random.default_rng(k)
    for number, (samples, nodes) in enumerate((*SHAPES, (70, 4200))):
        first, classes, g = number % 3, 1 + number % 2, int(rng.choice([1, 40, 255]))
        bits = nasty(rng, samples, nodes + first + number % 2, form)
        keys = to_keys(bits.view(form.storage), form)[:, first : first + nodes]
        edges = edge_keys(rng, keys, k, form)
        codes, group = reference_codes(keys, edges, form), rng.integers(0, classes, samples)
        tables = [rng.integers(0, g + 1, (classes, nodes, k + 2)).astype(np.uint16) for _ in range(2)]
        without = rng.random((classes, nodes)) < 0.1
        for table in tables:
            table[..., -1] = g + 1
            table[without] = g + 1
        made = tallying.make_tallier(edges, form.infinity, tables, g)
        assert (made is not None) == registers.looks_up_bytes_in_registers()
        if made is None:  # then by codes only
            continue
        tallies, expected = (np.ones((2, samples, g + 2), np.int32) for _ in range(2))
        left = np.full(codes.shape, 7, np.uint8)
        found = tallying.tally_values(bits, first, group, made, list(tallies), left)
        if found is not None:
            np.testing.assert_array_equal(left, codes)
            assert found == np.count_nonzero(codes == NAN_CODE)
            at = np.where(codes == NAN_CODE, k + 1, codes)
            for one, table in zip(expected, tables, strict=True):
                for i in range(samples):
                    np.add.at(one[i], table[group[i], np.arange(nodes), at[i]], 1)
        assert (found is None) == (samples < tallying.FEWEST_ROWS * len(np.unique(group)))
        np.testing.assert_array_equal(tallies, expected)


def test_levels_that_bytes_cannot_say_are_looked_up() -> None:
    levels = np.zeros((1, 3, 5), np.uint16)
    assert tallying.make_levels(levels, 255).many is None
    levels[..., -1] = 256
    assert (tallying.make_levels(levels, 255).many is not None) == registers.looks_up_bytes_in_registers()
    levels[0, 1, 2] = 256
    assert tallying.make_levels(levels, 255).many is None
    assert tallying.make_tallier(np.zeros((3, 3), np.int32), FLOAT32.infinity, [levels], 255) is None


def run(code: str, **environment: str) -> None:
    """Run code in a process of its own, with this module's helpers."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", Path(__file__).parent)))
    settings = {**os.environ, "PYTHONPATH": path, **environment}
    head = "import os, threading\nimport numpy as np\nfrom test_kernels import *\n"
    result = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)], env=settings, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "done"


PREPARE = """
rng = np.random.default_rng(5)
cases = []
for form, k in ((FLOAT32, 12), (FLOAT32, 40), (FLOAT64, 100)):
    bits = nasty(rng, 290, 37, form)
    cases.append((bits, 0, edge_keys(rng, to_keys(bits.view(form.storage), form), k, form), np.arange(290), form))
"""


@pytest.mark.slow
def test_flush_to_zero_changes_nothing() -> None:
    run(
        PREPARE
        + """
import torch
torch.set_flush_denormal(True)
assert np.float32(1e-45) * np.float32(1) == 0
for case in cases:
    check(*case)
print("done")
"""
    )


@pytest.mark.slow
def test_processors_without_look_up_in_registers(tmp_path: Path) -> None:
    code = PREPARE + "for case in cases: check(*case)\n"
    code += "assert not any(check_ranges(*case[:3], 2, case[4]) for case in cases)\n"
    code += "assert check_tally(rng, 61, 131, 2, 38, 255).many is None\nprint('done')"
    run(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))


PARALLEL = """
from hpv.kernels.cpu import parallel
def both(*case):
    bits, _, edges, _, form = case
    with parallel.one_caller(2) as threads:
        check(*case, threads)
        if not check_ranges(bits, 0, edges, 1, form, threads):
            codes = np.random.default_rng(0).integers(0, len(edges[0]) + 1, bits.shape).astype(np.uint8)
            tables = np.random.default_rng(0).random((2, 1, len(edges), len(edges[0]) + 2))
            pmin, pmax = np.empty((2, *codes.shape))
            ranging.look_up(codes, np.zeros(len(codes), np.int64), tuple(tables), pmin, pmax, threads)
            np.testing.assert_array_equal(pmax, tables[1, 0, np.arange(codes.shape[1]), codes])
    return threads
"""


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_loops_with_threads_called_by_two_threads(layer: str) -> None:
    run(
        PREPARE
        + PARALLEL
        + """
for case in cases: assert both(*case) == 2
errors, found = [], set()
def work():
    try:
        for _ in range(30):
            found.update(both(*case) for case in cases)
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
assert 2 in found
print("done")
""",
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_loops_with_threads_in_a_forked_child(layer: str) -> None:
    run(
        PREPARE
        + PARALLEL
        + """
for case in cases: assert both(*case) == 2
child = os.fork()
if child == 0:
    try:
        for case in cases: assert both(*case) == 1
    except BaseException:
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for case in cases: assert both(*case) == 2
print("done")
""",
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS="2",
    )


@pytest.mark.slow
def test_compiled_kernels_are_kept(tmp_path: Path) -> None:
    code = PREPARE + "for case in cases: check(*case)\n"
    count = "hits = [f.stats for f in (comparing.encode_few, trees.encode_many, trees.count_many)]\n"
    code += "from hpv.kernels.cpu.coders import comparing\nfrom hpv.kernels.cpu.coders import trees\n" + count
    run(code + "assert all(not s.cache_hits for s in hits)\nprint('done')", NUMBA_CACHE_DIR=str(tmp_path))
    run(code + "assert all(not s.cache_misses for s in hits)\nprint('done')", NUMBA_CACHE_DIR=str(tmp_path))


def test_one_array_for_two_formats_of_sixteen_bits() -> None:
    bits = np.array([[0x7C00], [0x7F80]], np.int16)
    codes = np.empty((2, 1), np.uint8)
    for name, expected in (("float16", [0, NAN_CODE]), ("bfloat16", [0, 1])):
        form = FORMATS[name]
        edges = np.array([[0x7E00]], np.int16) if name == "bfloat16" else np.full((1, 1), form.no_edge, np.int16)
        coding.make_coder(edges, form.infinity).encode(bits, 0, codes)
        assert codes[:, 0].tolist() == expected


def test_keys_of_double_precision_are_not_narrowed() -> None:
    near = np.array([[1.0], [np.nextafter(1.0, 2.0)]])
    edges = to_keys(near[1:], FLOAT64)
    codes = np.empty((2, 1), np.uint8)
    coding.make_coder(edges, FLOAT64.infinity).encode(near.view(np.int64), 0, codes)
    assert codes[:, 0].tolist() == [0, 1]
