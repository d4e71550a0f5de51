"""Activation stores: read as they were written; damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import hpv
from data import two_layers
from hpv.activations.layers import BARE
from hpv.activations.opening import open_activations
from hpv.activations.stored import activation_chunks
from hpv.activations.writing import save_activations
from hpv.base.errors import DataError
from hpv.base.floats import BFLOAT16


@given(st.integers(1, 3_000_000), st.sampled_from([2, 4, 8]))
def test_activation_chunks(nodes: int, itemsize: int) -> None:
    rows, columns = activation_chunks(nodes, itemsize)
    assert columns == min(nodes, 16384)
    assert 64 <= rows <= 4096
    assert rows & (rows - 1) == 0
    assert rows == 4096 or 2 << 20 <= rows * columns * itemsize <= 8 << 20


def test_an_activation_store(tmp_path: Path) -> None:
    layers = {"conv.1": np.ones((9, 5), "f2"), "a/b": np.zeros((9, 2), "f8")}
    path = tmp_path / "own.zarr"
    ids = [str(i) for i in range(9)]
    save_activations(path, layers, labels=np.arange(9), ids=ids, attributes={"weights": "1f"})
    for source in (path, zarr.open_group(path, mode="r")):
        found = open_activations(source)
        assert list(found.layers) == list(layers)
        assert found.is_mapping
        assert found.labels is not None
        assert found.labels.tolist() == list(range(9))
        assert found.ids == ids
        assert found.attributes["weights"] == "1f"
        assert found.layers["conv.1"].read(slice(0, 2)).tolist() == layers["conv.1"][:2].tolist()
    first = open_activations(path).identity
    assert open_activations(path).identity == first
    bare = open_activations(path / "layers" / "conv.1")
    assert bare.layers[BARE].shape == (9, 5)
    save_activations(path, layers, overwrite=True)
    assert open_activations(path).identity != first


def test_a_damaged_activation_store_is_named(tmp_path: Path) -> None:
    path = save_activations(tmp_path / "own.zarr", {"relu": np.ones((9, 5), "f4")})
    (path / "layers/relu/c/0/0").unlink()
    layer = open_activations(path).layers["relu"]
    with pytest.raises(DataError, match=r"own\.zarr: array layers/relu: chunk \(0, 0\) is missing"):
        layer.read(slice(0, 1))


def test_bfloat16_stores_keep_their_format_as_foreign_arrays(tmp_path: Path) -> None:
    stored = zarr.create_array(tmp_path / "b.zarr", shape=(3, 2), dtype="u2", attributes={"float_format": "bfloat16"})
    assert open_activations(stored).layers[BARE].float_format is BFLOAT16


@pytest.fixture
def data():
    return two_layers()


def test_missing_and_corrupt_chunks_are_named(tmp_path, data):
    save_activations(tmp_path / "a", data)
    chunks = sorted(path for path in (tmp_path / "a" / "layers").rglob("c/*") if path.is_file() or path.is_dir())
    target = next(path for path in chunks[0].rglob("*") if path.is_file()) if chunks[0].is_dir() else chunks[0]
    content = bytearray(target.read_bytes())
    content[100] ^= 1
    target.write_bytes(content)
    with pytest.raises(hpv.DataError, match="chunk"):
        hpv.fit(tmp_path / "a")
    target.unlink()
    with pytest.raises(hpv.DataError, match="missing"):
        hpv.fit(tmp_path / "a")
