"""Activations are written in any pieces, with any restarts, each chunk once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from data import root
from hpv.activations import stored
from hpv.activations.stored import ActivationStore
from hpv.activations.writing import ActivationWriter, save_activations
from hpv.base.errors import DataError, InputError, StoreError
from hpv.base.floats import BFLOAT16, FLOAT32, FLOAT64
from hpv.store import chunks as chunks_module
from hpv.store.headers import ACTIVATIONS
from hpv.store.output import Output
from hpv.store.reading import open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.zarr"


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(stored, "CHUNK_ROWS", (1, 8))


FORMS = {"a": (3, FLOAT32), "b/c": (5, FLOAT64), "h": (2, BFLOAT16)}

N = 61


def blocks(start: int, stop: int) -> dict[str, np.ndarray]:
    return {
        name: (np.arange(start, stop)[:, None] * 10 + np.arange(nodes)).astype(form.storage)
        for name, (nodes, form) in FORMS.items()
    }


def feed(writer: ActivationWriter, cuts: list[int]) -> None:
    edges = sorted({writer.durable, *(cut for cut in cuts if cut > writer.durable)})
    for start, stop in itertools.pairwise(edges):
        rows = blocks(start, stop)
        writer.append(rows, np.arange(start, stop), [f"id{i}" for i in range(start, stop)])
        for block in rows.values():
            block[...] = 0  # the caller's buffers are the caller's again


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_chunks")
@given(cuts=st.lists(st.integers(1, N), max_size=8), stops=st.lists(st.integers(1, N - 1), max_size=3))
def test_activations_in_any_pieces_with_any_restarts(cuts: list[int], stops: list[int], tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("activations") / "x.zarr"
    for stop in [*stops, N]:
        with Output.begin(place, ACTIVATIONS, {}) as output:
            notes = {"a": {"shape": [3, 1]}}
            writer = ActivationWriter(output, FORMS, labels=True, ids=True, notes=notes, seconds=0)
            before = writer.durable
            assert writer.samples == before
            feed(writer, [cut for cut in cuts if cut < stop] + [stop])
            assert writer.durable == max(stop, before)
            np.testing.assert_array_equal(writer.read("a", slice(0, writer.durable)), blocks(0, writer.durable)["a"])
            if stop == N:
                writer.finish({"model": "net"})
    store = ActivationStore(open_store(place, ACTIVATIONS))
    for entry in store.entries:
        assert (entry.nodes, entry.float_format) == FORMS[entry.name]
        np.testing.assert_array_equal(store.layer(entry).read(), blocks(0, N)[entry.name])
    assert store.samples == N
    assert store.entries[0].notes["shape"] == [3, 1]
    assert store.store.attributes["model"] == "net"
    labels, ids = store.labels(), store.ids()
    assert labels is not None
    assert ids is not None
    assert labels[:].tolist() == list(range(N))
    assert [str(name) for name in ids[:]] == [f"id{i}" for i in range(N)]
    assert zarr.open_array(place, path="layers/h", mode="r").attrs["float_format"] == "bfloat16"


@pytest.mark.usefixtures("tiny_chunks")
def test_every_chunk_is_written_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = chunks_module.write_file

    def write(file: str, *rest: Any) -> None:
        written.append(file)
        real(file, *rest)

    monkeypatch.setattr(chunks_module, "write_file", write)
    with Output.begin(path, ACTIVATIONS, {}) as output:
        writer = ActivationWriter(output, FORMS, labels=True, ids=True)
        feed(writer, [*range(0, N + 1, 7), N])
        writer.finish()
    assert len(written) == len(set(written)) > 20


@pytest.mark.usefixtures("tiny_chunks")
def test_rows_that_were_lost_are_noticed(path: Path) -> None:
    with Output.begin(path, ACTIVATIONS, {}) as output:
        writer = ActivationWriter(output, FORMS, labels=True, ids=True)
        feed(writer, [20])
        writer._columns["layers/h"]._waiting.pop()
        with pytest.raises(DataError, match=r"layers/h holds 16 of 20 samples; part of the work was lost"):
            writer.finish()
    with pytest.raises(StoreError, match="incomplete"):
        open_store(path)


def test_no_samples_or_layers(path: Path) -> None:
    with Output.begin(path, ACTIVATIONS, {}) as output:
        with pytest.raises(InputError, match="no layer"):
            ActivationWriter(output, {})
        with pytest.raises(InputError, match="no sample"):
            ActivationWriter(output, FORMS).finish()
        with pytest.raises(ValueError, match="same samples"):
            ActivationWriter(output, FORMS).append(blocks(0, 3), labels=np.zeros(3, int))


def test_save_activations_and_a_layer_that_does_not_fit(path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4)).astype("f2")
    save_activations(path, {"x": values}, labels=np.arange(9), attributes={"model": "m"})
    save_activations(path, {"x": values}, labels=np.arange(9))
    store = ActivationStore(open_store(path))
    np.testing.assert_array_equal(store.layer(store.entries[0]).read(), values)
    assert store.ids() is None
    root(path, samples=8)
    wrong = ActivationStore(open_store(path))
    with pytest.raises(StoreError, match=r"layer x has shape \(9, 4\)"):
        wrong.layer(wrong.entries[0])
    root(path, layers=[])
    with pytest.raises(StoreError, match="list no layers"):
        ActivationStore(open_store(path))
