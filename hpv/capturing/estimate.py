"""How large a capture will be, known after its first batch and before anything is written."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpv.base.addresses import is_address, real_path
from hpv.base.errors import InputError
from hpv.base.floats import FORMATS
from hpv.base.words import human, quantity


@dataclass(frozen=True)
class CapturePlan:
    """What a capture will write."""

    layers: dict[str, tuple[int, str]]
    """Nodes and dtype by layer."""
    bytes_per_sample: int
    samples: int | None
    """At most so many, by the number of batches or ids; None if the batches have no length."""
    free_bytes: int | None
    """Free where the store will lie; None where nothing says so, as in object stores."""

    @property
    def bytes(self) -> int | None:
        """Bytes of the whole store; None if the number of samples is not known."""
        return None if self.samples is None else self.samples * self.bytes_per_sample

    def __str__(self) -> str:
        nodes = sum(count for count, _ in self.layers.values())
        text = f"{quantity(len(self.layers), 'layer')}, {quantity(nodes, 'node')}"
        text += f", {quantity(self.bytes_per_sample, 'byte')} per sample"
        if self.bytes is not None:
            text += f"; at most {quantity(self.samples or 0, 'sample')}, {human(self.bytes)}"
        return text if self.free_bytes is None else f"{text}; {human(self.free_bytes)} are free"


def make_plan(
    batches: Any, ids: Any, first: int, layers: dict[str, tuple[int, str]], out: str | os.PathLike[str]
) -> CapturePlan:
    """The plan by the number of ids or batches; ``first``: samples of the first batch."""
    per_sample = sum(nodes * FORMATS[dtype].storage.itemsize for nodes, dtype in layers.values())
    samples = len(ids) if hasattr(ids, "__len__") else _length(batches) * first or None
    return CapturePlan(layers, per_sample, samples, _free_bytes(os.fspath(out)))


def refuse_too_large(plan: CapturePlan, batches: Any, first: int, out: str | os.PathLike[str], overwrite: bool) -> None:
    """``InputError`` if the store cannot fit on its disk; batches without a length are let through."""
    if plan.free_bytes is None:
        return
    # The last batch may be short, and a run that continues has written a part.
    least = max((_length(batches) - 1) * first + 1, 0) * plan.bytes_per_sample
    least -= 0 if overwrite else _bytes_in(real_path(os.fspath(out)))
    if least > plan.free_bytes:
        raise InputError(
            f"{os.fspath(out)} would take {human(least)} more, {human(plan.free_bytes)} are free; choose "
            f"fewer layers, reduce='mean' or reduce='max', or another disk."
        )


def _free_bytes(out: str) -> int | None:
    if is_address(out):
        return None
    place = real_path(out)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _length(batches: Any) -> int:
    """Number of batches; 0 if it is not known: a DataLoader over a stream has the method and refuses."""
    try:
        return len(batches)
    except TypeError:
        return 0


def _bytes_in(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file()) if folder.is_dir() else 0
