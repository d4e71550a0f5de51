"""What cannot be read as activations is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr

from hpv.activations.layers import BARE
from hpv.activations.opening import open_activations
from hpv.activations.writing import save_activations
from hpv.base.errors import InputError, StoreError
from hpv.store.headers import SCORES
from hpv.store.output import Output


def npy(values: np.ndarray, folder: Path) -> Path:
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


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
