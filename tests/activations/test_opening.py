"""Every kind of activations gives the same blocks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from commands import ROOT
from hpv.activations.layers import BARE, Activations
from hpv.activations.opening import open_activations
from hpv.activations.writing import save_activations
from hpv.base.floats import BFLOAT16, FLOAT16, FLOAT32, FORMATS

SHAPE = (23, 4, 3)

VALUES = np.random.default_rng(0).normal(size=SHAPE)


def npy(values: np.ndarray, folder: Path) -> Path:
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


def zarr_array(values: np.ndarray, folder: Path, **options: Any) -> zarr.Array:
    chunks = (5, *values.shape[1:-1], 2)
    stored = zarr.create_array(folder / "x.zarr", shape=values.shape, chunks=chunks, dtype=values.dtype, **options)
    stored[...] = values
    return stored


def zarr_path(values: np.ndarray, folder: Path) -> Path:
    zarr_array(values, folder, compressors=None)
    return folder / "x.zarr"


Maker = Callable[[np.ndarray, Path], Any]

KINDS: dict[str, Maker] = {
    "numpy": lambda values, _: values,
    "numpy of columns": lambda values, _: np.asfortranarray(values),
    "numpy of the other byte order": lambda values, _: values.astype(values.dtype.newbyteorder(">")),
    "numpy cut from a larger one": lambda values, _: np.pad(values, [(1, 1)] * values.ndim)[
        (slice(1, -1),) * values.ndim
    ],
    "torch": lambda values, _: torch.from_numpy(values).requires_grad_(),
    "torch turned": lambda values, _: torch.from_numpy(np.ascontiguousarray(values.T)).permute(
        *reversed(range(values.ndim))
    ),
    "npy": npy,
    "npy of columns": lambda values, folder: npy(np.asfortranarray(values), folder),
    "zarr": zarr_array,
    "zarr v2": lambda values, folder: zarr_array(values, folder, zarr_format=2),
    "zarr path": zarr_path,
    "zarr text path": lambda values, folder: str(zarr_path(values, folder)),
    "dask": lambda values, _: da.from_array(values, chunks=(6, 3, 2)[: values.ndim]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("form", [FLOAT16, FLOAT32, FORMATS["float64"]], ids=str)
def test_blocks_of_every_kind(kind: str, dimensions: int, form: Any, tmp_path: Path) -> None:
    values = VALUES[:, :, 0].astype(form.storage) if dimensions == 2 else VALUES.astype(form.storage)
    flat = values.reshape(len(values), -1)
    found = open_activations(KINDS[kind](np.ascontiguousarray(values), tmp_path))
    layer = found.layers[BARE]
    assert list(found.layers) == [BARE]
    assert not found.is_mapping
    assert found.samples == 23
    assert found.labels is None
    assert found.ids is None
    assert layer.shape == flat.shape
    assert layer.float_format is form
    assert layer.missing_chunks == 0
    if layer.chunks is not None:
        assert layer.chunks[0] in (5, 6)
        assert 1 <= layer.chunks[1] <= flat.shape[1]
    for samples, nodes in (
        (slice(None), slice(None)),
        (slice(3, 17), slice(1, 3)),
        (slice(22, 23), slice(0, 1)),
        (slice(4, 4), slice(0, 4)),
    ):
        expected = flat[samples, nodes]
        out = np.full(expected.shape, 9, form.storage)
        for block in (layer.read(samples, nodes), layer.read(samples, nodes, out)):
            assert block.dtype == form.storage
            np.testing.assert_array_equal(block, expected)
            assert 1 in block.shape or block.size == 0 or block.strides[1] == block.itemsize
        used = layer.read(samples, nodes, out)
        assert used is out or layer.in_memory
    json.dumps(found.identity)


@given(st.data())
def test_any_block_of_a_layer_with_positions(data: st.DataObject) -> None:
    layer = open_activations(VALUES).layers[BARE]
    flat = VALUES.reshape(23, -1)
    rows = slice(*sorted(data.draw(st.tuples(st.integers(0, 23), st.integers(0, 23)))))
    nodes = slice(*sorted(data.draw(st.tuples(st.integers(0, 12), st.integers(0, 12)))))
    np.testing.assert_array_equal(layer.read(rows, nodes), flat[rows, nodes])


def test_views_where_that_is_possible() -> None:
    values = np.ones((6, 4), "f4")
    layer = open_activations(values).layers[BARE]
    assert layer.in_memory
    assert np.shares_memory(layer.read(slice(1, 3), slice(1, 2)), values)
    tensor = torch.ones(6, 4, dtype=torch.bfloat16)
    layer = open_activations({"x": tensor}).layers["x"]
    assert layer.in_memory
    assert layer.float_format is BFLOAT16
    block = layer.read(slice(0, 2))
    tensor[0, 0] = 2
    assert block.dtype == np.uint16
    assert block[0, :2].tolist() == [0x4000, 0x3F80]
    assert not open_activations(np.asfortranarray(values)).layers[BARE].in_memory
    positions = np.ones((6, 4, 2, 3), "f4")
    layer = open_activations(positions).layers[BARE]
    assert np.shares_memory(layer.read(slice(1, 3), slice(7, 9)), positions)


def test_a_mapping_of_everything(tmp_path: Path) -> None:
    flat = VALUES.reshape(23, 12).astype("f4")
    for kind in ("npy", "zarr path"):
        KINDS[kind](flat, tmp_path)
    save_activations(tmp_path / "own.zarr", {"inner": flat})
    source = {
        "n": flat,
        "t": torch.from_numpy(flat).half(),
        "f": tmp_path / "x.npy",
        "z": tmp_path / "x.zarr",
        "o": tmp_path / "own.zarr",
        "d": da.from_array(flat),
    }
    found = open_activations(source)
    assert list(found.layers) == list(source)
    assert found.is_mapping
    for name, layer in found.layers.items():
        assert layer.name == name
        np.testing.assert_allclose(layer.read(slice(3, 9), slice(2, 4)), flat[3:9, 2:4], rtol=1e-3)
    assert found.identity["layers"]["z"]["path"] == str(tmp_path / "x.zarr")
    tensor = found.identity["layers"]["t"]
    assert {"shape": tensor["shape"], "dtype": tensor["dtype"]} == {"shape": [23, 12], "dtype": "float16"}
    assert len(tensor["values"]) == 32  # a hash: another tensor of this shape is another input
    json.dumps(found.identity)
    assert open_activations(found) is found


def test_a_foreign_group(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("block/b", shape=(4, 3), dtype="f4")
    group.create_array("a", shape=(4, 2, 2), dtype="f2")[:2] = 1
    found = open_activations(tmp_path / "g.zarr")
    assert {name: layer.shape for name, layer in found.layers.items()} == {"a": (4, 4), "block/b": (4, 3)}
    assert found.layers["block/b"].missing_chunks == 1
    assert found.is_mapping


def test_a_changed_file_has_another_identity(tmp_path: Path) -> None:
    path = npy(np.zeros((3, 2), "f4"), tmp_path)
    first = open_activations(path).identity
    np.save(path, np.zeros((4, 2), "f4"))
    assert open_activations(path).identity != first


@pytest.mark.slow
def test_in_memory_arrays_need_no_other_library() -> None:
    code = "import sys, numpy, hpv.activations.opening as s; s.open_activations(numpy.ones((2, 2))); " + (
        "print(sorted({'zarr', 'torch', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_types() -> None:
    assert isinstance(open_activations(np.ones((1, 1), "f2")), Activations)
    assert open_activations(np.ones((1, 1), "f2")).layers[BARE].float_format is FLOAT16
    assert open_activations(np.ones((1, 1), "f4")).layers[BARE].float_format is FLOAT32
