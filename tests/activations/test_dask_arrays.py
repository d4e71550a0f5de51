"""Dask arrays: what they take is in the plan; some cannot be read in blocks."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import zarr

import hpv
from hpv.activations.opening import open_activations
from hpv.base.errors import InputError


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
