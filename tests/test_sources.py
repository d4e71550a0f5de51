"""Every kind of source gives the same blocks, and bad ones are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
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

import hpv
from hpv.activations.device_arrays import TensorLayer
from hpv.activations.layers import BARE, Activations
from hpv.activations.opening import open_activations
from hpv.activations.writing import save_activations
from hpv.base.errors import DataError, InputError, StoreError
from hpv.base.floats import BFLOAT16, FLOAT16, FLOAT32, FORMATS
from hpv.store.headers import SCORES
from hpv.store.output import Output

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


def test_layers_on_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {name: torch.zeros(3, 2, device="meta") for name in ("conv", "head", "tail")}
    where = {"conv": "cuda:0", "head": "cuda:0", "tail": "cuda:1"}
    monkeypatch.setattr(TensorLayer, "device", property(lambda layer: where[layer.name]))
    with pytest.raises(hpv.InputError, match="layer conv is on cuda:0, layer tail on cuda:1; bring them to one device"):
        open_activations(tensors)
    assert not open_activations({name: tensors[name] for name in ("conv", "head")}).on_device  # no GPU's


def test_arrays_of_other_libraries() -> None:
    """What says by DLPack where its memory is."""

    class Other:
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.values.__dlpack_device__()

        def __dlpack__(self, **options: Any) -> Any:
            return self.values.__dlpack__(**options)

    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert hpv.fit(Other(values)).fingerprint == hpv.fit(values).fingerprint
    with pytest.raises(hpv.InputError, match="activations: dtype int64 is not one of"):
        hpv.fit(Other(np.zeros((3, 2), np.int64)))


def test_tensors_of_another_device_are_copied_by_blocks() -> None:
    # No other device is at hand here: the layer of one is given a tensor of this one.
    values = torch.randn(7, 6).to(torch.bfloat16)
    layer = TensorLayer("x", "layer x", values, BFLOAT16)
    bits = values[2:5, 1:4].view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(layer.read(slice(2, 5), slice(1, 4)), bits)
    deep = TensorLayer("x", "layer x", values.reshape(7, 2, 3), BFLOAT16)
    np.testing.assert_array_equal(deep.read(slice(2, 5), slice(1, 4)), bits)


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


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("dtype", ["i8", "u1", "?", "c16", "O", "M8[s]", "U3", "V4", "u2"])
@pytest.mark.parametrize("name", [None, "relu"])
def test_other_dtypes_are_refused(dtype: str, name: str | None) -> None:
    values = np.zeros((3, 2), dtype)
    with pytest.raises(InputError, match=f"{'layer relu' if name else BARE}: dtype .* is not one of float16"):
        open_activations({name: values} if name else values)


def test_other_dtypes_in_stores_are_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("counts", shape=(4, 3), dtype="i4")
    with pytest.raises(InputError, match=r"g\.zarr/counts: layer counts: dtype int32"):
        open_activations(tmp_path / "g.zarr")
    np.save(tmp_path / "c.npy", np.zeros((2, 2), complex))
    with pytest.raises(InputError, match=r"c\.npy: dtype complex128"):
        open_activations(tmp_path / "c.npy")
    with pytest.raises(InputError, match="layer t: dtype int64"):
        open_activations({"t": torch.zeros(2, 2, dtype=torch.int64)})
    with pytest.raises(InputError, match="activations: dtype float8"):
        open_activations(torch.zeros(2, 2).to(torch.float8_e5m2))
    with pytest.raises(InputError, match="activations: dtype complex64"):
        open_activations(da.zeros((2, 2), dtype="c8"))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4,), "activations have two dimensions"),
        ((), "activations have two dimensions"),
        ((0, 3), "no samples"),
        ((3, 0), "no nodes"),
        ((3, 2, 0), "no nodes"),
    ],
)
@pytest.mark.parametrize("make", [np.zeros, torch.zeros, da.zeros], ids=["numpy", "torch", "dask"])
def test_shapes_that_do_not_fit(shape: tuple[int, ...], words: str, make: Any) -> None:
    with pytest.raises(InputError, match=f"layer x: .*{words}"):
        open_activations({"x": make(shape)})


def test_layers_that_do_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layer b has 4 samples, layer a has 3"):
        open_activations({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))})
    with pytest.raises(InputError, match="holds no layer"):
        open_activations({})
    with pytest.raises(InputError, match="names are strings, not 3"):
        open_activations({3: np.zeros((3, 2))})
    save_activations(tmp_path / "own.zarr", {"a": np.ones((3, 2)), "b": np.ones((3, 2))})
    with pytest.raises(InputError, match=r"layer x: .*own\.zarr holds 2 layers \(a, b\); give the path of one"):
        open_activations({"x": tmp_path / "own.zarr"})


def test_labels_of_another_length(tmp_path: Path) -> None:
    path = tmp_path / "own.zarr"
    save_activations(path, {"a": np.ones((3, 2))}, labels=np.arange(3))
    zarr.open_array(path, path="labels", mode="r+").resize((2,))
    with pytest.raises(InputError, match="there are 2 labels for 3 samples"):
        open_activations(path)


@pytest.mark.parametrize("source", [[[1.0, 2.0]], 3.5, None, object(), (np.zeros((2, 2)),)])
def test_other_objects_are_refused(source: Any) -> None:
    with pytest.raises(InputError, match="cannot be read as activations; give a numpy"):
        open_activations(source)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    for name in ("no.npy", "no.zarr"):
        with pytest.raises(StoreError, match="does not exist"):
            open_activations(tmp_path / name)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.csv").write_text("1,2")
    with pytest.raises(StoreError, match=r"text\.npy is not an \.npy file"):
        open_activations(tmp_path / "text.npy")
    with pytest.raises(StoreError, match=r"text\.csv is a file; give a Zarr store"):
        open_activations(str(tmp_path / "text.csv"))
    np.save(tmp_path / "o.npy", np.array([[1, "a"]], object), allow_pickle=True)
    with pytest.raises(StoreError, match=r"cannot be loaded|Object arrays|Array can't be memory-mapped"):
        open_activations(tmp_path / "o.npy")
    path = npy(np.zeros((50, 50)), tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StoreError, match=r"is not an \.npy file that can be read"):
        open_activations(path)
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(StoreError, match="a Zarr group without arrays"):
        open_activations(tmp_path / "empty.zarr")


def test_stores_that_are_no_activations(tmp_path: Path) -> None:
    with Output.begin(tmp_path / "s.zarr", SCORES, {}) as output:
        with pytest.raises(StoreError, match="is a score store; this needs an activation store"):
            open_activations(tmp_path / "s.zarr")
        output.finish()
    with pytest.raises(StoreError, match="is a score store; this needs an activation store"):
        open_activations(tmp_path / "s.zarr")


@pytest.mark.parametrize("chunks", [(1000, 250), (4000, 1000), (7, 1000)])
def test_what_a_dask_array_takes_is_in_the_plan(tmp_path: Path, chunks: tuple[int, int]) -> None:
    """Compressed chunks are decoded, computed with, and put together."""
    values = np.random.default_rng(0).normal(size=(4000, 1000)).astype("f4")
    zarr.create_array(tmp_path / "a", data=values, chunks=chunks)
    lazy = da.from_zarr(tmp_path / "a") * 2
    (layer,) = open_activations(lazy).layers.values()
    plan = hpv.plan("fit", lazy, memory="1GiB", threads=3, pilot=None)
    block = plan.layers[0].block
    out = np.empty((block, 1000), "f4")
    layer.read(slice(0, block), out=out)
    tracemalloc.start()
    found = layer.read(slice(0, block), out=out)
    beside = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, values[:block] * 2)
    assert layer.scratch(block) / 8 < beside < layer.scratch(block) + 2**21, "and the graph"
    in_memory = hpv.plan("fit", values, memory="1GiB", threads=3, pilot=None)
    assert plan.peak == in_memory.peak + 3 * (out.nbytes + layer.scratch(block))


def test_tensors_and_dask_arrays_that_cannot_be_read_in_blocks() -> None:
    with pytest.raises(InputError, match=r"layout torch\.sparse_coo; give a dense one"):
        open_activations(torch.eye(3).to_sparse())
    unknown = da.from_array(np.arange(12.0).reshape(4, 3), chunks=2)
    with pytest.raises(InputError, match="unknown shape"):
        open_activations(unknown[unknown[:, 0] > 3])


def test_in_memory_arrays_need_no_other_library() -> None:
    code = "import sys, numpy, hpv.activations.opening as s; s.open_activations(numpy.ones((2, 2))); " + (
        "print(sorted({'zarr', 'torch', 'dask'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_types() -> None:
    assert isinstance(open_activations(np.ones((1, 1), "f2")), Activations)
    assert open_activations(np.ones((1, 1), "f2")).layers[BARE].float_format is FLOAT16
    assert open_activations(np.ones((1, 1), "f4")).layers[BARE].float_format is FLOAT32
