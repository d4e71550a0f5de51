"""Kernels on values that are on the device, beside a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import hpv
from benchmarks.cuda.device import BASE, BINS, rows_of, timed
from benchmarks.measuring import Options, Table, half_relu, met
from hpv.api.background import Background
from hpv.backends import cpu, gpu, moving
from hpv.backends import cuda as backend
from hpv.base.floats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FloatFormat, convert_keys
from hpv.histograms.ranges import TAILS, outward, range_tables
from hpv.kernels.cuda import counting, encoding, ranging, tallying
from hpv.kernels.cuda.device import SIMULATED, cuda
from hpv.scanning.thresholds import GRID, alpha_grid, level_table

FORMS = (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)
"""Narrow ones first: their results take the most memory, which is then used again."""
LEAST = {"fit": 0.7, "encode": 0.7, "scan, 3 tails": 0.5}
"""Share of the copy's bandwidth that a kernel must reach at float32 and bfloat16."""
STRANGE = 101
"""One value in so many is a NaN, an infinity, -0.0 or a subnormal number where answers are compared with the CPU's."""
RESULT_SHARE = 7
"""Times the bytes of 16-bit values that they, their copy and all results take."""
EVENTS = 10
"""Events for each of the rounds: what they time takes milliseconds."""
LARGE = 4
"""Times the L2 that values must be for figures that mean memory."""


class Case(NamedTuple):
    """What is timed."""

    moved: int
    """Bytes that must be moved for a value: read, and written for every value."""
    call: Callable[[], Any]


def measure(options: Options) -> list[Table]:
    """Every kernel and dtype: bytes per second, beside those of the copy."""
    columns = ("kernel", "dtype", "ms", "GB_per_s", "share_of_copy", "least", "met")
    base = half_relu(min(BASE, rows_of(options.gpu_bytes, options.nodes, 8)), options.nodes)
    background = hpv.fit(base, bins=BINS, backend="cpu")
    size = options.gpu_bytes
    if (free := gpu.free_memory()) is not None:
        size = min(size, int(0.8 * free) // RESULT_SHARE)
    table = Table("cuda", f"Kernels at {BINS} bins on {size / 1e9:.2g} GB of values, {options.nodes:,} nodes, half "
                  "Gaussian, half ReLU", columns)  # fmt: skip
    place = moving.Slot()
    for form in FORMS:
        bits = bits_of(base, form)
        check(mixed(bits, form), form, background)
        samples = rows_of(size, options.nodes, form.key.itemsize)
        cases = prepare(bits, samples, form, background, place)
        taken = timed({name: case.call for name, case in cases.items()}, cases["copy"].call, place.stream,
                      options.rounds * EVENTS)  # fmt: skip
        values, rate = samples * options.nodes, cases["copy"].moved / taken["copy"]
        for name, case in cases.items():
            least = LEAST.get(name) if form in (FLOAT32, BFLOAT16) else None
            share = case.moved / taken[name] / rate
            table.add(kernel=name, dtype=form.name, ms=taken[name] * 1e3, share_of_copy=share, least=least,
                      GB_per_s=case.moved * values / taken[name] / 1e9,
                      met=None if least is None else met(share, least=least))  # fmt: skip
    table.notes += [
        f"Medians of {options.rounds * EVENTS} pairs of events; a copy before each keeps the device busy meanwhile.",
        "Bytes that must be moved: values read, codes (1) and ranges (8) written; the copy reads and writes. Counts",
        f"and tallies are left out. All answers to the {base.size:,} values that are repeated, NaN and others",
        "mixed in, are those of the CPU, bit for bit.",
    ]
    if not SIMULATED and size < LARGE * cuda.get_current_device().L2_CACHE_SIZE:
        table.notes.append(f"These values are less than {LARGE} times the L2: the figures are not those of the memory.")
    return [table]


def bits_of(values: np.ndarray, form: FloatFormat) -> np.ndarray:
    """float32 values in a format, viewed as signed integers."""
    if form is BFLOAT16:
        rounded = values.view(np.uint32) + np.uint32(0x8000)
        return (rounded >> np.uint32(16)).astype(np.uint16).view(form.key)
    return values.astype(form.storage).view(form.key)


def mixed(bits: np.ndarray, form: FloatFormat) -> np.ndarray:
    """A copy with other values here and there that a float can have."""
    numbers = bits_of(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32), form)
    strange = np.append(numbers, form.key.type(1))
    found = bits.copy()
    places = found.reshape(-1)[::STRANGE]
    places[:] = np.resize(strange, len(places))
    return found


def inner_edges(background: Background, form: FloatFormat) -> np.ndarray:
    """Keys that a fit counts at."""
    state = background.layers["activations"]
    return convert_keys(state.edges, state.float_format, form)


def tables_of(background: Background) -> tuple[tuple[np.ndarray, np.ndarray], list[np.ndarray]]:
    """pmin and pmax of the right tail, and the levels of all tails, pooled."""
    histograms = background.histograms("activations")
    survivors, counted = histograms.survivors[:1], histograms.counted[:1]
    exact = {tail: range_tables(survivors, counted, tail) for tail in TAILS}
    thresholds = alpha_grid(int(counted.max()), 0.5)
    low, high = outward(*exact["right"])
    return (low, high), [level_table(exact[tail][1], counted, thresholds) for tail in TAILS]


def prepare(bits: np.ndarray, samples: int, form: FloatFormat, background: Background, place: Any) -> dict[str, Case]:
    """The launches, by name, on ``samples`` on the device; outputs are allocated here."""
    nodes, size, stream = bits.shape[1], form.key.itemsize, place.stream
    values = place.on_device("values", (samples, nodes), form.key)
    target = place.on_device("target", (samples, nodes), form.key)
    drawn = cuda.to_device(bits)
    for start in range(0, samples, len(bits)):
        part = values[start : start + len(bits)]
        part.copy_to_device(drawn[: part.shape[0]], stream=stream)
    (pmin_table, pmax_table), levels = tables_of(background)
    histograms = background.histograms("activations").edges_for(form)
    counter = backend.make_counter(inner_edges(background, form), form)
    state = backend.start_counts(counter, 1, form).on(moving.FIRST)
    tallier = backend.make_tallier(histograms, form, levels, GRID)
    made = backend.make_ranges((pmin_table, pmax_table), histograms, form)
    (inner,), (edges,) = counter.tables.on(moving.FIRST), tallier.coder.tables.on(moving.FIRST)
    counts = state.histograms[0], state.lowest, state.highest
    codes = place.on_device("codes", (samples, nodes), np.uint8)
    out = tuple(place.on_device(name, (samples, nodes), np.float32) for name in ("pmin", "pmax"))
    tallies = place.on_device("tallies", (len(TAILS), samples, GRID + 2), np.int32)
    nan, packed = cuda.to_device(np.zeros(1, np.int64)), tallier.levels.on(moving.FIRST)[0]
    at, by = (values, 0), (edges, form.infinity)
    counted = partial(counting.count, *at, None, inner, form.infinity, *counts, stream)
    ranged = partial(ranging.ranges, *at, None, None, *by, made.tables.on(moving.FIRST), out, stream)
    return {
        "copy": Case(2 * size, partial(target.copy_to_device, values, stream=stream)),
        "fit": Case(size, counted),
        "encode": Case(size + 1, partial(encoding.encode, *at, *by, codes, stream)),
        "ranges": Case(size + 8, ranged),
        "scan, 3 tails": Case(size, partial(tallying.tally, *at, None, *by, packed, tallies, None, nan, stream)),
    }


def check(bits: np.ndarray, form: FloatFormat, background: Background) -> None:
    """Compare all answers with those of the CPU."""
    for name, ours, theirs in zip(
        ("survivors", "counted", "lowest", "highest", "codes", "pmin", "pmax", *TAILS),
        answers(backend, bits, form, background),
        answers(cpu, bits, form, background),
        strict=True,
    ):
        if not np.array_equal(ours, theirs):
            raise RuntimeError(f"{name} of {form} differ between the GPU and the CPU: these figures would mean nothing")


def answers(by: Any, bits: np.ndarray, form: FloatFormat, background: Background) -> list[np.ndarray]:
    """Counts, codes, ranges and tallies of a block by a backend."""
    edges, (ranges, levels) = background.histograms("activations").edges_for(form), tables_of(background)
    group, rows = np.zeros(len(bits), np.int64), np.arange(len(bits))
    counted = by.start_counts(by.make_counter(inner_edges(background, form), form), 1, form)
    by.add_counts(counted, bits, 0, group)
    counts = by.finish_counts(counted)
    coder, codes = by.make_coder(edges, form), np.empty(bits.shape, np.uint8)
    by.encode(coder, bits, 0, codes)
    out = (np.empty(bits.shape, np.float32), np.empty(bits.shape, np.float32))
    by.ranges(coder, by.make_ranges(ranges, edges, form), bits, 0, group, partial(np.empty, dtype=np.uint8), out)
    tallies = [np.zeros((len(bits), GRID + 2), np.int32) for _ in levels]
    tallier = by.make_tallier(edges, form, levels, GRID)
    if tallier is None or by.tally_values(tallier, bits, 0, group, tallies, None) is None:
        for table, tally in zip(levels, tallies, strict=True):
            by.tally(codes, rows, group, by.make_levels(table, GRID), tally)
    return [counts.survivors, counts.counted, counts.lowest, counts.highest, codes, *out, *tallies]
