"""Small networks, what is put into them, and the activations that a capture of them stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hpv.activations.layers import Activations
from hpv.activations.opening import open_activations


class Net(nn.Module):
    """Convolution, an in-place ReLU and a ReLU that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.inplace = nn.ReLU(inplace=True)
        self.twice = nn.ReLU()
        self.head = nn.Linear(3 * 36, 5)
        self.unused = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.inplace(self.norm(self.conv(x)))
        return self.twice(self.head(self.twice(x - 0.2).flatten(1))) - 0.5


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x[:, :, ::2], {"scaled": x.transpose(1, 2) * 3, "number": x.argmax(1)}


class Branching(nn.Module):
    """A convolution, an in-place ReLU, a ReLU that is called twice, and a module that gives several tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3)
        self.inplace = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.twice = nn.ReLU()
        self.head = nn.Linear(18, 4)
        self.unused = nn.Linear(2, 2)
        self.skip = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inplace(self.conv(x))
        if not self.skip:
            x = self.twice(x - 0.1)
        x, _ = self.pair(x.mean(1))
        x = self.twice(x)
        result: torch.Tensor = self.head(x.flatten(1))
        return result


LAYERS = ["conv", "inplace", "twice", "pair", "head"]
"""Of the network that branches."""


class Linear(nn.Module):
    """Of any dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 9)
        self.relu = nn.ReLU()
        self.head = nn.Linear(9, 3)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.relu(self.first(x)))
        return result


def images(count: int = 11, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def rows(count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)


def read(path: Any) -> tuple[Activations, dict[str, np.ndarray]]:
    found = open_activations(path)
    return found, {name: layer.read(slice(None)) for name, layer in found.layers.items()}
