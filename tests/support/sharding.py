"""Activations whose output is made in shards, and whole to compare with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import zarr

import hpv
from hpv.fitting.job import prepare_fit
from hpv.fitting.options import FitOptions
from hpv.fitting.running import fit_shard, fit_to_store
from hpv.fitting.stored import open_background
from hpv.store.shards import shard_path
from hpv.walking.shards import cut_shard

OPTIONS: dict[str, Any] = {"memory": "128MiB", "threads": 2}
SAMPLES = 230


def make(path: Path, rows: int = 16, samples: int = SAMPLES) -> Path:
    """A Zarr group of two layers, one in chunks of so many rows."""
    rng = np.random.default_rng(samples)
    values = np.maximum(rng.normal(size=(samples, 11)), 0).astype(np.float32)
    values[3, 4] = np.nan
    group = zarr.create_group(path)
    for name, array, chunks in (("relu", values, (rows, 6)), ("head", rng.normal(size=(samples, 3)), (7, 3))):
        group.create_array(name, data=array, chunks=chunks)
    return path


def fit_in_shards(source: Any, out: Path, numbers: list[int], of: int, **options: Any) -> None:
    job = prepare_fit(source, FitOptions(**OPTIONS, **options))
    for number in numbers:
        fit_shard(job, cut_shard(job.source, f"{number}/{of}"), out)


def score_in_shards(background: Any, source: Any, out: Path, numbers: list[int], of: int, **options: Any) -> None:
    for number in numbers:
        hpv.score(background, source, out, shard=f"{number}/{of}", **OPTIONS, **options)


def make_whole(folder: Path) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    source, labels = make(folder / "acts.zarr"), np.arange(SAMPLES) // 100
    fit_to_store(
        prepare_fit(str(source), FitOptions(labels=labels, min_class_size=5, **OPTIONS)), folder / "background"
    )
    background = open_background(folder / "background")
    hpv.score(background, str(source), folder / "scores", labels=labels, keep=("codes", "ranges"), **OPTIONS)
    return SimpleNamespace(source=str(source), labels=labels, background=background, folder=folder)


def paths(out: Path, of: int = 3) -> list[str]:
    """Of all shards of an output."""
    return [shard_path(out, number, of) for number in range(1, of + 1)]


def values(data: SimpleNamespace, rows: slice) -> dict[str, np.ndarray]:
    """Some of the samples, in memory."""
    group = zarr.open_group(data.source, mode="r")
    return {name: np.asarray(group[name][rows]) for name in ("relu", "head")}
