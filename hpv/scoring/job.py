"""A score that is checked and planned; no activation is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpv.activations.labels import PerSample
from hpv.activations.layers import Activations
from hpv.activations.opening import open_activations
from hpv.base.digests import digest
from hpv.base.errors import InputError
from hpv.base.words import as_tuple
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import ScanOptions
from hpv.scanning.scanner import Scanner
from hpv.scoring.matching import check_layers, check_weights, references_of, scan_options
from hpv.scoring.options import ScoreOptions
from hpv.scoring.plan import plan_score
from hpv.walking.cluster import backend_for
from hpv.walking.plan import Plan

KEEP = ("codes", "ranges")
DEFAULTS = ScoreOptions()


@dataclass(frozen=True)
class ScoreJob:
    """A score that is ready to run; no activation has been read."""

    full: BackgroundState
    """As it was given."""
    background: BackgroundState
    """Its layers that are scanned."""
    source: Activations
    source_layers: dict[str, str]
    """Layer of the activations for each layer of the background."""
    options: ScanOptions
    keep: tuple[str, ...]
    """``codes`` and ``ranges``, or one, or none of them."""
    reference: PerSample
    """Which counts answer for every sample, where its own class does; 0 where that is the same for all."""
    plan: Plan
    scanner: Scanner
    backend_name: str
    """Name of the backend, which workers of a cluster look for at their own place."""


def prepare_score(background: BackgroundState, activations: Any, options: ScoreOptions = DEFAULTS) -> ScoreJob:
    """Check everything that a score is asked for, and plan it."""
    scan = scan_options(background, options)
    keep = as_tuple(options.keep or ())
    wrong = [what for what in keep if what not in KEEP]
    if wrong:
        raise InputError(f"keep={wrong[0]!r}: give a list with codes, ranges, both of them, or none.")
    full = background
    if options.layers is not None:
        background = background.select(options.layers)
    source = open_activations(activations)
    source_layers = check_layers(background, source)
    check_weights(background, source.attributes.get("weights"))
    reference = references_of(background, source, options.labels, scan.against)
    scanner = Scanner(background, scan, backend_for(options.backend, source))
    plan = _plan(scanner, source, source_layers, keep, reference, options.memory, options.threads)
    return ScoreJob(full, background, source, source_layers, scan, keep, reference, plan, scanner, options.backend)


def _plan(
    scanner: Scanner, source: Activations, source_layers: dict[str, str], keep: Sequence[str],
    reference: PerSample, memory: int | str | None, threads: int | None,
) -> Plan:  # fmt: skip
    levels, options = max(len(thresholds) for thresholds in scanner.thresholds.values()) + 2, scanner.options
    return plan_score(
        scanner.background, source, source_layers, tails=len(options.tails), scores=len(options.kinds),
        bytes_per_value_written=("codes" in keep) + ("ranges" in keep) * 8 * len(options.tails),
        memory=memory, threads=threads, levels=levels, references=len(scanner.references), room=scanner.backend.room(),
        beside=reference.nbytes,
    )  # fmt: skip


def part_of_score(
    background: BackgroundState, source: Activations, source_layers: dict[str, str], options: ScanOptions,
    keep: tuple[str, ...], reference: PerSample, memory: int, backend: str,
) -> ScoreJob:  # fmt: skip
    """The score of some of the samples by one thread. Nothing is checked again: `prepare_score` did that."""
    scanner = Scanner(background, options, backend_for(backend, source))
    plan = _plan(scanner, source, source_layers, keep, reference, memory, 1)
    return ScoreJob(background, background, source, source_layers, options, keep, reference, plan, scanner, backend)


def score_request(job: ScoreJob, keep: Sequence[str]) -> dict[str, Any]:
    """What a score is asked for; two requests that are equal give equal scores."""
    options = job.options
    request = {
        "command": "score",
        "background": job.full.fingerprint,
        "activations": job.source.identity,
        "layers": list(job.source_layers),
        "statistics": list(options.statistics),
        "tails": list(options.tails),
        "forms": list(options.forms),
        "alphas": options.alphas,
        "alpha_max": float(options.alpha_max),
        "against": options.against,
        "keep": sorted(keep),
    }
    if job.reference.numbers is not None:
        request["labels"] = digest(job.reference.numbers, dtype=np.int64)
    return request


def nodes_in_all(job: ScoreJob) -> int:
    """Nodes of all layers that are scored."""
    return sum(plan.nodes for plan in job.plan.layers)
