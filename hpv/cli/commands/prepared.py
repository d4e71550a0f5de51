"""Options that commands share: the parameters of each function are options, its result is what a command is handed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from hpv.base.errors import InputError, StoreError
from hpv.base.words import quantity
from hpv.cli import options as o
from hpv.cli.command import Given
from hpv.cli.terminal import Terminal

if TYPE_CHECKING:
    import numpy as np

    from hpv.activations.layers import Activations
    from hpv.api.scores import Scores
    from hpv.fitting.job import FitJob
    from hpv.scoring.job import ScoreJob
    from hpv.walking.shards import Shard


def fit_job(
    given: Given,
    *,
    activations: o.Activations,
    bins: o.Bins = 32,
    binning: o.Binning = "balanced",
    modal_fraction: o.ModalFraction = "1/10",
    pilot: o.Pilot = "auto",
    edges: o.Edges = None,
    layer: o.Layers = None,
    by_class: o.ByClass = False,
    labels: o.Labels = None,
    min_class_size: o.MinClassSize = 100,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
) -> FitJob:
    """The fit that these options ask for, planned."""
    from hpv.fitting.job import prepare_fit
    from hpv.fitting.options import FitOptions
    from hpv.fitting.stored import open_background

    for other in ("bins", "binning", "modal_fraction", "pilot") if edges is not None else ():
        if other in given:
            raise InputError(f"edges: the edges are given, leave out {other}=.")
    return prepare_fit(
        activations,
        FitOptions(
            bins=bins,
            binning=binning,
            modal_fraction=modal_fraction,
            pilot=_pilot(pilot),
            edges=None if edges is None else open_background(edges),
            layers=layer,
            by_class=by_class,
            labels=None if labels is None else read_labels(labels),
            min_class_size=min_class_size,
            memory=memory,
            threads=threads,
            backend=backend,
        ),
    )


def score_job(
    *,
    background: o.BackgroundPath,
    activations: o.Activations,
    tail: o.Tails = None,
    statistic: o.Statistics = None,
    form: o.Forms = None,
    alphas: o.Alphas = "grid",
    alpha_max: o.AlphaMax = 0.5,
    layer: o.Layers = None,
    labels: o.Labels = None,
    against: o.Against = None,
    keep: o.Keep = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
) -> ScoreJob:
    """The score that these options ask for, planned."""
    from hpv.fitting.stored import open_background
    from hpv.scoring.job import prepare_score
    from hpv.scoring.options import ScoreOptions

    # Lists that are not given leave the defaults to the library.
    lists: dict[str, Any] = {"tail": tail, "statistic": statistic, "form": form, "keep": _to_keep(keep)}
    return prepare_score(
        open_background(background),
        activations,
        ScoreOptions(
            alphas=alphas,
            alpha_max=alpha_max,
            layers=layer,
            labels=None if labels is None else read_labels(labels),
            against=against,
            memory=memory,
            threads=threads,
            backend=backend,
            **{name: names for name, names in lists.items() if names is not None},
        ),
    )


def computing(
    *,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    scheduler: o.Scheduler = None,
    scheduler_file: o.SchedulerFile = None,
    workers: o.Workers = None,
) -> AbstractContextManager[None]:
    """Where to compute; entered before the work is planned: it may be that of other GPUs."""
    from hpv.cli.clusters import cluster

    return cluster(scheduler, scheduler_file, workers, threads=threads, backend=backend)


def _to_keep(names: Sequence[str] | None) -> Sequence[str] | None:
    """What ``--keep`` names; nothing for ``none``."""
    return () if names == ["none"] else names


def _pilot(text: str) -> int | Literal["auto"] | None:
    if text in ("auto", "all"):
        return None if text == "all" else "auto"
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"--pilot {text}: give a number of samples, auto or all.")
    return int(text)


def read_labels(path: str) -> np.ndarray:
    """One integer per sample, from an .npy file or lines of text."""
    import numpy as np

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


def open_scores(path: str) -> Scores:
    """The scores at a path."""
    from hpv.api.scores import Scores
    from hpv.store.headers import SCORES
    from hpv.store.reading import open_store

    return Scores(open_store(path, SCORES))


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
