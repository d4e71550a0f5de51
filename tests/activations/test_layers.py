"""Layers, and stored arrays, behave as arrays do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hpv
from hpv.activations.layers import Layer
from hpv.activations.opening import open_activations
from hpv.activations.windows import windowed
from hpv.activations.writing import save_activations

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)


def layers(folder: Path) -> dict[str, Layer]:
    """The same values, wherever they may lie."""
    save_activations(folder / "store", {"conv": VALUES})
    np.save(folder / "x.npy", VALUES)
    stored = open_activations(folder / "store").layers["conv"]
    return {
        "array": open_activations(VALUES).layers["activations"],
        "planes": open_activations(VALUES.reshape(6, 2, 2)).layers["activations"],
        "file": open_activations(folder / "x.npy").layers["activations"],
        "store": stored,
        "part": open_activations(np.concatenate([VALUES, VALUES])).layers["activations"].part(slice(6, 12)),
        "window": windowed(stored, 4, 1, 2),
    }


def test_every_kind_is_an_array(tmp_path: Path) -> None:
    for layer in layers(tmp_path).values():
        assert (layer.shape, layer.ndim, len(layer), layer.dtype) == ((6, 4), 2, 6, np.float32)
        assert np.array_equal(np.asarray(layer), VALUES)
        assert np.array_equal(layer[1:5, ::2], VALUES[1:5, ::2])
        assert np.array_equal(layer[-1], VALUES[-1])
        assert np.array_equal(layer[[4, 0], 1], VALUES[[4, 0], 1])
        assert np.asarray(layer, np.float64).dtype == np.float64


def test_bfloat16_comes_as_float32() -> None:
    values = torch.tensor([[1.5, -2.0], [float("nan"), float("inf")]], dtype=torch.bfloat16)
    layer = open_activations(values).layers["activations"]
    assert layer.dtype == np.float32
    assert np.array_equal(np.asarray(layer), values.float().numpy(), equal_nan=True)


def test_repr() -> None:
    assert repr(open_activations(VALUES).layers["activations"]) == (
        "<hpv.Layer activations: 6 samples x 4 nodes float32>"
    )


@pytest.mark.filterwarnings("ignore:.*:hpv.HpvWarning")
def test_codes_and_scores_are_arrays(tmp_path: Path) -> None:
    background = hpv.fit(VALUES)
    scores = hpv.score(background, VALUES, tmp_path / "scores", tails="right", forms="subset")
    codes = scores.codes("activations")
    assert (codes.shape, codes.ndim, len(codes), codes.dtype) == ((6, 4), 2, 6, np.uint8)
    assert np.array_equal(np.asarray(codes), background.encode(VALUES))
    assert np.array_equal(codes[2:4, -1], background.encode(VALUES)[2:4, -1])
    column = scores.column("right", "subset", "berk_jones", "score")
    assert np.array_equal(np.asarray(column), column.read())
