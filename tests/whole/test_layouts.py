"""Stores of every layout and codec give the bits of memory."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import hpv
from hpv.activations.opening import open_activations
from hpv.activations.windows import WindowLayer
from hpv.base.floats import BFLOAT16, FLOAT32, FORMATS
from stores import CODECS, store, values_of
from strategies import as_input

LAYOUTS = {"rows": (64, 21), "tiles": (50, 8), "columns": (230, 4), "one chunk": (230, 21), "larger": (300, 40),
           "a node": (70, 1), "few rows": (9, 21)}  # fmt: skip
SHARDS = {"shards": (2, 3), "a shard": (9, 9), "shards of rows": (1, 9)}
"""Chunks in a shard along each dimension."""


@pytest.mark.parametrize("form", [FORMATS["float16"], BFLOAT16, FLOAT32], ids=str)
def test_fit_and_score_of_every_store_give_the_bits_of_memory(form, zarrs, tmp_path):
    """Layouts in codecs and shards, a third of the pairs for each format: each a layer, so one call reads them all."""
    values, sources = values_of(form), {}
    for number, (layout, chunk) in enumerate(LAYOUTS.items()):
        shards = {
            name: {"shards": tuple(one * size for one, size in zip(times, chunk, strict=True))}
            for name, times in SHARDS.items()
        }
        for name, options in list((CODECS | shards).items())[(number + len(str(form))) % 3 :: 3]:
            sources[f"{layout}, {name}"] = store(tmp_path / layout / name, values, form, chunk, **options)
    memory = dict.fromkeys(sources, as_input(values, form))
    stored, expected = hpv.fit(sources, threads=2), hpv.fit(memory, threads=2)
    assert stored.fingerprint == expected.fingerprint
    options = {"tails": "two-sided", "statistics": "berk_jones", "forms": "subset"}
    found, same = (hpv.score(expected, one, tmp_path / str(n), **options) for n, one in enumerate((sources, memory)))
    for part in ("score", "alpha", "size"):
        scores = [getattr(one.get("two-sided", "subset", "berk_jones"), part) for one in (found, same)]
        np.testing.assert_array_equal(*scores)
    codes = expected.encode(memory)
    for name in sources:
        np.testing.assert_array_equal(found.codes(name).read(), codes[name])


def test_values_in_the_other_byte_order(zarrs, tmp_path):
    values = values_of(FLOAT32)
    expected = hpv.fit(values).fingerprint
    for name, options in CODECS.items():
        array = zarr.create_array(tmp_path / name, shape=values.shape, dtype=">f4", chunks=(50, 8), **options)
        array[...] = values
        assert hpv.fit(array).fingerprint == expected


@given(st.data())
@settings(max_examples=30)
def test_any_layout_of_any_shape(data):
    """Also of more dimensions, and of some samples only."""
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4)))
    shape = shape[: data.draw(st.sampled_from([2, 3]))]
    chunk = tuple(data.draw(st.integers(1, size + 3)) for size in shape)
    options = dict(CODECS[data.draw(st.sampled_from(sorted(CODECS)))])
    if data.draw(st.booleans()) and "zarr_format" not in options:
        options["shards"] = tuple(size * data.draw(st.integers(1, 3)) for size in chunk)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, dtype="f4", chunks=chunk, **options)
    array[...] = values
    source = open_activations(array)
    assert hpv.fit(source).fingerprint == hpv.fit(values).fingerprint
    first = data.draw(st.integers(0, shape[0] - 1))
    part = source.part(slice(first, data.draw(st.integers(first + 1, shape[0]))))
    (layer,) = part.layers.values()
    rows = values.reshape(shape[0], -1)[first : first + part.samples]
    np.testing.assert_array_equal(layer.read(slice(None)), rows)
    window = WindowLayer(layer, data.draw(st.integers(1, 70)), 1, 1)
    low, high = sorted(data.draw(st.tuples(st.integers(0, part.samples), st.integers(0, part.samples))))
    np.testing.assert_array_equal(window.read(slice(low, high), slice(0, 1)), rows[low:high, :1])
