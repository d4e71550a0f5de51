"""The job that the options of a command ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np

from hpv.activations.layers import Activations
from hpv.base.errors import InputError, StoreError
from hpv.base.words import quantity
from hpv.cli.clusters import cluster
from hpv.cli.terminal import Terminal
from hpv.fitting.job import FitJob, prepare_fit
from hpv.fitting.stored import open_background
from hpv.scoring.job import ScoreJob, prepare_score
from hpv.walking.shards import Shard


def output_of_shard(options: dict[str, Any]) -> AbstractContextManager[None]:
    """Where to compute, taken out of the options; entered before the work is planned: it may be that of other GPUs."""
    given = {name: options.pop(name) for name in ("scheduler", "scheduler_file", "workers")}
    return cluster(**given, threads=options["threads"], backend=options["backend"])


def prepared_fit(*, pilot: str, edges: str | None, labels: str | None, **options: Any) -> FitJob:
    """The fit that these options ask for, planned."""
    return prepare_fit(
        pilot=_pilot(pilot),
        edges=None if edges is None else open_background(edges),
        labels=None if labels is None else read_labels(labels),
        **options,
    )


def prepared_score(
    background: str,
    *,
    tail: Sequence[str] | None,
    statistic: Sequence[str] | None,
    form: Sequence[str] | None,
    layer: Sequence[str] | None,
    labels: str | None,
    keep: Sequence[str] | None,
    **options: Any,
) -> ScoreJob:
    """The score that these options ask for, planned."""
    # Lists that are not given leave the defaults to the library.
    given = {"tails": tail, "statistics": statistic, "forms": form}
    options |= {name: separate(values) for name, values in given.items() if values}
    return prepare_score(
        open_background(background),
        layers=list(layer) if layer else None,
        labels=None if labels is None else read_labels(labels),
        keep=names_to_keep(keep),
        **options,
    )


def separate(values: Sequence[str]) -> list[str]:
    """Values that were given one by one or with commas, each once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def names_to_keep(values: Sequence[str] | None) -> tuple[str, ...]:
    """What ``--keep`` names, each once; nothing for ``none``."""
    named = tuple(separate(values or ["codes"]))
    return () if named == ("none",) else named


def _pilot(text: str) -> int | Literal["auto"] | None:
    if text in ("auto", "all"):
        return None if text == "all" else "auto"
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"--pilot {text}: give a number of samples, auto or all.")
    return int(text)


def read_labels(path: str) -> np.ndarray:
    """One integer per sample, from an .npy file or lines of text."""
    wanted = "give an .npy file, or text with one integer per line and sample."
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        raise StoreError(f"--labels {path} does not exist; check the path.") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--labels {path} cannot be read: {error}; {wanted}") from error
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"[+-]?[0-9]{1,18}|", line):
            raise InputError(f"--labels {path}: line {number} is {line[:40]!r}; {wanted}")
    return np.array([int(line) for line in lines if line], np.int64)


def shard_of(part: Shard | None) -> dict[str, Any]:
    """What the document says of a shard."""
    return {} if part is None else {"shard": {"number": part.number, "of": part.of}}


def outcome(out: str, already: bool, part: Shard | None = None) -> str:
    """The first line of a result."""
    what = f"{out}: shard {part.number} of {part.of}" if part else out
    return f"{what} was complete already: nothing to do." if already else f"{what} is complete."


def report_fill(terminal: Terminal, source: Activations) -> None:
    """Missing chunks of stores that others wrote are legal, but a reader should know."""
    for layer in source.layers.values():
        if layer.missing_chunks:
            chunks = quantity(layer.missing_chunks, "chunk")
            terminal.warn(f"{layer.origin}: {chunks} without a file, read as the fill value.")
