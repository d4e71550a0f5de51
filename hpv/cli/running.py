"""Commands that compute: fit, merge, score, plan, demo."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hpv.background import Background
from hpv.cli.clusters import cluster
from hpv.cli.describing import background_facts, background_summary, scores_facts, scores_summary
from hpv.cli.terminal import Terminal
from hpv.errors import InputError, StoreError
from hpv.fitting import Fit, prepare_fit
from hpv.opening import fit_to_store, open_background
from hpv.resources import quantity
from hpv.sharding import Shard, cut, fit_shard, merge_parts, merge_shards, score_shard

if TYPE_CHECKING:
    from hpv.planning import Plan
    from hpv.scoring import Score
    from hpv.sources import Activations


def fit(terminal: Terminal, *, out: str, overwrite: bool, shard: str | None, **options: Any) -> None:
    """``hpv fit``."""
    with _where(options):
        ready = prepared_fit(**options)
        part = None if shard is None else cut(ready.source, shard, overwrite)
        _report_fill(terminal, ready.source)
        with terminal.meter("fit", part.bytes_read(ready.plan) if part else ready.plan.bytes_read) as meter:
            if part:
                background, already = fit_shard(ready, part, out, meter)
            else:
                background, already = fit_to_store(ready, out, overwrite=overwrite, progress=meter)
    document = {"command": "fit", "out": out, **_which(part), "already_complete": already}
    document |= background_facts(background)
    if background.path == out:  # of all shards: they are merged
        part = None
    following = f"Next: hpv merge {out}" if part else f"Next: hpv score {out} ACTIVATIONS -o SCORES"
    terminal.result(document, _outcome(out, already, part), *background_summary(document), following)


def merge(terminal: Terminal, *, parts: Sequence[str], out: str | None, overwrite: bool) -> None:
    """``hpv merge``."""
    if out is None and (len(parts) > 1 or overwrite):
        raise InputError("merge: give -o OUT, or nothing but the one output that the shards were written to.")
    with terminal.meter("merge") as meter:
        if out is None:
            out = parts[0]
            merged, already = merge_shards(out, meter)
        else:
            merged, already = merge_parts(parts, out, overwrite, meter)
    is_background = isinstance(merged, Background)
    document = {"command": "merge", "out": out, "already_complete": already}
    document |= background_facts(merged) if isinstance(merged, Background) else scores_facts(merged)
    summary = (background_summary if is_background else scores_summary)(document)
    terminal.result(document, _outcome(out, already), *summary)


def score(terminal: Terminal, *, background: str, out: str, overwrite: bool, shard: str | None, **options: Any) -> None:
    """``hpv score``."""
    from hpv.scores import write_scores

    keep = _keep(options["keep"])
    with _where(options):
        ready = prepared_score(background, **options)
        part = None if shard is None else cut(ready.source, shard, overwrite)
        _report_fill(terminal, ready.source)
        with terminal.meter("score", part.bytes_read(ready.plan) if part else ready.plan.bytes_read) as meter:
            if part:
                scores = score_shard(ready, part, out, keep, meter)
            else:
                scores = write_scores(ready, out, keep, overwrite, meter)
    already = scores.already_complete
    document = {"command": "score", "out": out, **_which(part), "already_complete": already, **scores_facts(scores)}
    if scores.path == out:  # of all shards: they are merged
        part = None
    following = f"Next: hpv {'merge' if part else 'top'} {out}"
    terminal.result(document, _outcome(out, already, part), *scores_summary(document), following)


def plan_fit(terminal: Terminal, **options: Any) -> None:
    """``hpv plan fit``."""
    ready = prepared_fit(**options)
    _show_plan(terminal, ready.plan, ready.source)


def plan_score(terminal: Terminal, *, background: str, **options: Any) -> None:
    """``hpv plan score``."""
    ready = prepared_score(background, **options)
    _show_plan(terminal, ready.plan, ready.source)


def demo(terminal: Terminal, *, seeds: int, out: str) -> None:
    """``hpv demo``."""
    from hpv.demo import run

    result = run(out, seeds=seeds, console=terminal.console())
    if terminal.as_json:
        terminal.result({"command": "demo", **result.summary()})


def _where(options: dict[str, Any]) -> AbstractContextManager[None]:
    """Where to compute, taken out of the options; entered before the work is planned: it may be that of other GPUs."""
    given = {name: options.pop(name) for name in ("scheduler", "scheduler_file", "workers")}
    return cluster(**given, threads=options["threads"], backend=options["backend"])


def prepared_fit(*, pilot: str, edges: str | None, labels: str | None, **options: Any) -> Fit:
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
) -> Score:
    """The score that these options ask for, planned."""
    from hpv.scoring import prepare_score

    # Lists that are not given leave the defaults to the library.
    given = {"tails": tail, "statistics": statistic, "forms": form}
    options |= {name: separate(values) for name, values in given.items() if values}
    return prepare_score(
        open_background(background),
        layers=list(layer) if layer else None,
        labels=None if labels is None else read_labels(labels),
        keep=_keep(keep),
        **options,
    )


def separate(values: Sequence[str]) -> list[str]:
    """Values that were given one by one or with commas, each once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _keep(values: Sequence[str] | None) -> tuple[str, ...]:
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


def _which(part: Shard | None) -> dict[str, Any]:
    """What the document says of a shard."""
    return {} if part is None else {"shard": {"number": part.number, "of": part.of}}


def _outcome(out: str, already: bool, part: Shard | None = None) -> str:
    what = f"{out}: shard {part.number} of {part.of}" if part else out
    return f"{what} was complete already: nothing to do." if already else f"{what} is complete."


def _report_fill(terminal: Terminal, source: Activations) -> None:
    """Missing chunks of stores that others wrote are legal, but a reader should know."""
    for layer in source.layers.values():
        if layer.missing_chunks:
            chunks = quantity(layer.missing_chunks, "chunk")
            terminal.warn(f"{layer.origin}: {chunks} without a file, read as the fill value.")


def _show_plan(terminal: Terminal, plan: Plan, source: Activations) -> None:
    _report_fill(terminal, source)
    terminal.result({"command": "plan", **plan.as_json()}, str(plan))
