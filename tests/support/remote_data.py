"""Small stores at addresses: how they are made and what is in them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hpv.activations.opening import open_activations
from hpv.places import place as places
from hpv.store.headers import SCORES
from hpv.store.output import Output
from hpv.store.reading import open_store

IDS = [f"image-{i}" for i in range(700)]
LABELS = np.arange(700) % 3


def small(address: str, request: dict[str, Any], **options: Any) -> Output:
    """A begun output with one written array."""
    output = Output.begin(address, SCORES, request, **options)
    if not output.already_complete:
        output.create("a", (10, 6), "f4", (4, 6))
        output.write("a", None, np.full((10, 6), request["bins"]))
    return output


def content(address: str) -> set[float]:
    return set(open_store(address).array("a").read().ravel().tolist())


def content_if_complete(address: str) -> set[float] | None:
    return content(address) if open_header(address)["complete"] else None


def open_header(address: str) -> dict[str, Any]:
    found = (places.place_of(address).read("zarr.json") or b"{}").decode()
    attributes: dict[str, Any] = json.loads(found)["attributes"]
    return attributes


def layers(source: Any) -> list[Any]:
    return list(open_activations(source).layers.values())
