"""Tensors and arrays on devices, and those of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hpv
from hpv.activations.device_arrays import TensorLayer
from hpv.activations.opening import open_activations
from hpv.base.floats import BFLOAT16


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
