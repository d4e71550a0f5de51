"""A small network that has never seen an 8 or a 9, clean digits, and four kinds of anomaly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

LEFT_OUT = (8, 9)
BACKGROUND_SIZE = 1000
FGSM_EPSILON = 0.25
LAYERS = ("relu2", "relu3")
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 20, 32, 2e-3, 1e-3


@dataclass(frozen=True)
class Digits:
    """Images (samples, 1, 8, 8) with float32 pixels in [0, 1] and their classes 0..7."""

    background: torch.Tensor
    background_classes: torch.Tensor
    clean: torch.Tensor
    """Held out: neither trained on nor fitted."""
    clean_classes: torch.Tensor
    left_out: torch.Tensor
    """Eights and nines."""


def load(seed: int) -> Digits:
    """The 1,797 digits of scikit-learn, split anew for every seed, each class in proportion."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    known = ~np.isin(data.target, LEFT_OUT)
    background, clean, background_classes, clean_classes = train_test_split(
        images[known], data.target[known], train_size=BACKGROUND_SIZE, random_state=seed, stratify=data.target[known]
    )
    tensor = torch.from_numpy
    return Digits(
        tensor(background), tensor(background_classes), tensor(clean), tensor(clean_classes), tensor(images[~known])
    )


def network() -> nn.Sequential:
    """Two convolutions and one hidden layer; the outputs of ``relu2`` (2,048 nodes) and ``relu3`` (64) are captured."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            hidden=nn.Linear(32 * 4 * 4, 64),
            relu3=nn.ReLU(),
            classes=nn.Linear(64, 10 - len(LEFT_OUT)),
        )
    )


def train(digits: Digits, seed: int) -> nn.Sequential:
    """A network trained on the background digits alone; the same seed gives the same network on any number of cores."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(digits.background)).split(BATCH):
                loss = nn.functional.cross_entropy(model(digits.background[rows]), digits.background_classes[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def accuracy(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> float:
    """Share of the images whose class is predicted rightly."""
    with torch.no_grad():
        return float((model(images).argmax(1) == classes).float().mean())


def fgsm(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The images, each pixel moved by 0.25 so that the loss grows (Goodfellow, Shlens and Szegedy, 2015)."""
    pixels = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(pixels), classes, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, pixels)
    return (images + FGSM_EPSILON * gradient.sign()).clamp(0, 1)


def anomalies(model: nn.Module, digits: Digits, seed: int) -> dict[str, torch.Tensor]:
    """Name -> images. All but the left-out classes are made from the clean digits, or as many."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((len(digits.clean), 64), generator=generator).argsort(1)
    return {
        "left-out": digits.left_out,
        "shuffled": digits.clean.flatten(1).gather(1, order).reshape(digits.clean.shape),
        "FGSM": fgsm(model, digits.clean, digits.clean_classes),
        "noise": torch.rand(digits.clean.shape, generator=generator),
    }


def batches(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Inputs of the network, as a data loader would give them."""
    yield from images.split(256)
