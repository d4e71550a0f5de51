"""Commands that compute: fit, merge, score, plan, demo."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hpv.cli.describing import background_facts, background_summary, scores_facts, scores_summary
from hpv.cli.terminal import Terminal
from hpv.errors import InputError, StoreError
from hpv.fitting import Fit, prepare_fit
from hpv.opening import fit_to_store, merge_to_store, open_background

if TYPE_CHECKING:
    from hpv.planning import Plan
    from hpv.scoring import Score
    from hpv.sources import Activations


def fit(terminal: Terminal, *, out: str, overwrite: bool, **options: Any) -> None:
    """``hpv fit``."""
    ready = _prepare_fit(**options)
    _report_fill(terminal, ready.source)
    with terminal.meter("fit", ready.plan.bytes_read) as meter:
        background, already = fit_to_store(ready, out, overwrite=overwrite, progress=meter)
    document = {"command": "fit", "out": out, "already_complete": already, **background_facts(background)}
    following = f"Next: hpv score {out} ACTIVATIONS -o SCORES"
    terminal.result(document, _outcome(out, already), *background_summary(document), following)


def merge(terminal: Terminal, *, parts: Sequence[str], out: str, overwrite: bool) -> None:
    """``hpv merge``."""
    with terminal.meter("merge", len(parts), unit="parts") as meter:
        background, already = merge_to_store(parts, out, overwrite=overwrite, progress=meter)
    document = {"command": "merge", "out": out, "already_complete": already, **background_facts(background)}
    terminal.result(document, _outcome(out, already), *background_summary(document))


def score(terminal: Terminal, *, background: str, out: str, overwrite: bool, **options: Any) -> None:
    """``hpv score``."""
    from hpv.scores import write_scores

    keep = _keep(options["keep"])
    ready = _prepare_score(background, **options)
    _report_fill(terminal, ready.source)
    with terminal.meter("score", ready.plan.bytes_read) as meter:
        scores = write_scores(ready, out, keep, overwrite, meter)
    already = scores.already_complete
    document = {"command": "score", "out": out, "already_complete": already, **scores_facts(scores)}
    terminal.result(document, _outcome(out, already), *scores_summary(document), f"Next: hpv top {out}")


def plan_fit(terminal: Terminal, **options: Any) -> None:
    """``hpv plan fit``."""
    ready = _prepare_fit(**options)
    _show_plan(terminal, ready.plan, ready.source)


def plan_score(terminal: Terminal, *, background: str, **options: Any) -> None:
    """``hpv plan score``."""
    ready = _prepare_score(background, **options)
    _show_plan(terminal, ready.plan, ready.source)


def demo(terminal: Terminal, *, seeds: int, out: str) -> None:
    """``hpv demo``."""
    from hpv.demo import run

    result = run(out, seeds=seeds, console=terminal.console())
    if terminal.as_json:
        terminal.result({"command": "demo", **result.summary()})


def _prepare_fit(*, pilot: str, edges: str | None, labels: str | None, **options: Any) -> Fit:
    return prepare_fit(
        pilot=_pilot(pilot),
        edges=None if edges is None else open_background(edges),
        labels=None if labels is None else read_labels(labels),
        **options,
    )


def _prepare_score(
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


def _outcome(out: str, already: bool) -> str:
    return f"{out} was complete already: nothing to do." if already else f"{out} is complete."


def _report_fill(terminal: Terminal, source: Activations) -> None:
    """Missing chunks of stores that others wrote are legal, but a reader should know."""
    for layer in source.layers.values():
        if layer.missing_chunks:
            terminal.warn(f"{layer.origin}: {layer.missing_chunks} chunks have no file and are read as the fill value.")


def _show_plan(terminal: Terminal, plan: Plan, source: Activations) -> None:
    _report_fill(terminal, source)
    terminal.result({"command": "plan", **plan.as_json()}, str(plan))
