"""The calls of a user: fit, edges, score, plan, open, merge."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, overload

from hpv.activations.layers import Activations
from hpv.activations.opening import open_activations
from hpv.api.background import Background
from hpv.api.merging import merge_shards
from hpv.api.scores import Scores
from hpv.base.errors import InputError
from hpv.base.keywords import check_keywords, checks_keywords, keywords_of
from hpv.base.words import Names
from hpv.fitting.job import prepare_fit, select_layers
from hpv.fitting.options import FitOptions
from hpv.fitting.plan import plan_fit
from hpv.fitting.proposing import propose_layer
from hpv.fitting.running import run_fit
from hpv.fitting.stored import load_background
from hpv.histograms.edges import Edges, Rule
from hpv.histograms.merging import add, check_mergeable, refuse_twice
from hpv.scoring.job import prepare_score
from hpv.scoring.options import ScoreOptions
from hpv.scoring.running import score_shard, score_to_store
from hpv.store.headers import ACTIVATIONS, BACKGROUND
from hpv.store.reading import open_store
from hpv.walking.plan import Plan
from hpv.walking.progress import Progress, Quiet
from hpv.walking.shards import cut_shard


@checks_keywords
def fit(
    activations: Any,
    *,
    bins: int = 32,
    binning: str = "balanced",
    modal_fraction: Fraction | str | float = Fraction(1, 10),
    pilot: int | Literal["auto"] | None = "auto",
    edges: Any = None,
    layers: Names | None = None,
    by_class: bool = False,
    labels: Any = None,
    min_class_size: int = 100,
    memory: int | str | None = None,
    threads: int | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Background:
    """Represent background activations by one small histogram per node (arXiv:2312.08143).

    ``activations``: (samples, nodes) as a numpy array, torch tensor, .npy path, Zarr array or group (object, path or
    activation store), Dask array, or a mapping from layer name to any of these. NaN is not counted. Of more than two
    dimensions, as (samples, channels, height, width), every value of a sample is a node: they are flattened in C order.

    ``bins``: ordinary bins per node, 1 to 254. ``binning``: ``balanced`` (default), ``uniform`` (the paper's rule; with
    ``bins=10, pilot=None`` its representation) or ``quantile``. ``modal_fraction``: a value that makes up more of its
    node gets a bin of its own. ``pilot``: how many samples the edges are found by; counts are always exact.
    ``edges``: count at these instead: the result of `hpv.edges`, a background, or numbers per layer and node.
    ``layers``: fit only these of the activations: names, or patterns with ``*`` and ``?``.
    ``by_class``: keep counts per class, by ``labels`` (one integer per sample) or those of the activation store; labels
    alone imply it. A class with fewer than ``min_class_size`` samples answers with the pooled counts.
    ``memory``: bytes or text such as "2GiB", above what the imports take. ``threads``: default all allowed.
    ``backend``: ``cpu``, ``cuda`` (an NVIDIA GPU, with the extra ``cuda`` or ``cuda12``), or ``auto``: the GPU for what
    is there, and for large data if there is one. All give the same integers.

    >>> import numpy as np, hpv
    >>> hpv.fit(np.random.default_rng(0).normal(size=(1000, 5)))
    <hpv.Background of 1,000 samples; activations: 5 nodes>
    >>> hpv.fit({"conv.0": np.zeros((9, 4)), "conv.1": np.zeros((9, 2)), "head": np.zeros((9, 3))}, layers="conv.*")
    <hpv.Background of 9 samples; conv.0: 4 nodes, conv.1: 2 nodes>
    """
    options = FitOptions(
        bins, binning, modal_fraction, pilot, edges, layers, by_class, labels, min_class_size, memory, threads, backend
    )
    job = prepare_fit(activations, options)
    return Background.of(run_fit(job, progress or Quiet()))


@checks_keywords
def edges(
    activations: Any,
    *,
    bins: int = 32,
    binning: str = "balanced",
    modal_fraction: Fraction | str | float = Fraction(1, 10),
    pilot: int | Literal["auto"] | None = "auto",
    layers: Names | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
) -> Edges:
    """Propose the inner edges of every node from a pilot of the samples, without counting.

    ``activations``, ``bins``, ``binning``, ``modal_fraction``, ``pilot``, ``layers``, ``memory`` and ``threads`` are
    those of `hpv.fit`, which proposes the same edges by itself. Rules: ``balanced`` (default), ``uniform`` (the rule of
    arXiv:2312.08143) and ``quantile``.

    >>> import numpy as np, hpv
    >>> hpv.edges(np.arange(100.0).reshape(100, 1), bins=4, binning="quantile")["activations"]
    array([[25., 50., 75.]])
    """
    rule = Rule(bins, binning, modal_fraction, pilot)  # type: ignore[arg-type]
    source = select_layers(open_activations(activations), layers)
    plan = plan_fit(source, rule, memory=memory, threads=threads)
    planned = zip(plan.layers, source.layers.values(), strict=True)
    found = {layer.name: propose_layer(layer, part, rule, plan.threads, Quiet()) for part, layer in planned}
    return Edges(found, rule)


@checks_keywords
def score(
    background: Background,
    activations: Any,
    out: str | Path,
    *,
    statistic: Names = ("berk_jones", "higher_criticism"),
    tail: Names = ("right", "left", "two-sided"),
    form: Names = ("subset", "whole"),
    alphas: str = "grid",
    alpha_max: float = 0.5,
    layers: Names | None = None,
    labels: Any = None,
    against: str | None = None,
    keep: Names | None = ("codes",),
    memory: int | str | None = None,
    threads: int | None = None,
    backend: str = "auto",
    overwrite: bool = False,
    shard: str | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score every sample of the activations against a background and write a score store.

    ``activations``, ``memory``, ``threads``: as for `hpv.fit`. ``statistic``, ``tail``, ``form``: one or several names
    of each; every combination is scored. `Background.scan` says what they are, and ``alphas``, ``alpha_max``,
    ``layers``, ``labels`` and ``against``.
    ``keep``: ``codes`` (a byte per value, from which ranges, other scans and subsets of nodes follow without the
    activations), ``ranges`` (pmin and pmax, eight bytes per value and tail), or nothing.

    An ``out`` that is complete and was made by the same call is opened as it is, an incomplete one is continued, any
    other is refused unless ``overwrite``.

    ``shard="2/5"``: do the second of five parts, each in a process of its own, all with the same ``out``; returns the
    scores of that part. ``hpv.merge(out)`` then makes one store of them.

    >>> import numpy as np, hpv, tempfile
    >>> rng = np.random.default_rng(0)
    >>> background = hpv.fit(rng.normal(size=(1000, 50)))
    >>> scores = hpv.score(background, rng.normal(size=(20, 50)), tempfile.mkdtemp() + "/scores")
    >>> scores.get().score.shape, scores.get("left", form="whole").score.shape
    ((20,), (20,))
    """
    options = ScoreOptions(
        statistic, tail, form, alphas, alpha_max, layers, labels, against, keep, memory, threads, backend
    )
    job = prepare_score(background, activations, options)
    progress = progress or Quiet()
    if shard is None:
        return Scores(*score_to_store(job, out, job.keep, overwrite, progress), background)
    return Scores(*score_shard(job, cut_shard(job.source, shard, overwrite), out, job.keep, progress), background)


def plan(
    kind: str,
    activations: Any,
    background: Any = None,
    *,
    memory: int | str | None = None,
    threads: int | None = None,
    **options: Any,
) -> Plan:
    """What `hpv.fit` (``kind="fit"``) or `hpv.score` (``kind="score"``, with the background) would read and need.

    ``options`` are those of `hpv.fit` or `hpv.score`. Returns a `hpv.Plan`. Opens the activations, but
    reads none of their values.

    >>> import numpy as np, hpv
    >>> hpv.plan("fit", np.zeros((1000, 20), np.float32), memory="1GiB", threads=1).bytes_read
    160000
    """
    if kind == "fit":
        options = check_keywords("hpv.plan of a fit", options, keywords_of(FitOptions))
        return prepare_fit(activations, FitOptions(memory=memory, threads=threads, **options)).plan
    if kind == "score":
        options = check_keywords("hpv.plan of a score", options, keywords_of(ScoreOptions))
        return prepare_score(background, activations, ScoreOptions(memory=memory, threads=threads, **options)).plan
    raise InputError(f"plan of {kind!r}: give 'fit' or 'score'.")


@checks_keywords
def open(path: str | Path) -> Background | Scores | Activations:
    """Open a complete store that hpv wrote: a background, scores, or activations.

    Raises `hpv.StoreError`, which says what the path is instead.

    >>> import numpy as np, hpv, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> hpv.fit(np.zeros((10, 2), np.float32)).save(folder + "/background")
    >>> hpv.open(folder + "/background")
    <hpv.Background of 10 samples; activations: 2 nodes>
    """
    store = open_store(path)
    if store.kind == ACTIVATIONS:
        return open_activations(path)
    return Background.of(load_background(store)) if store.kind == BACKGROUND else Scores(store)


@overload
def merge(backgrounds: Sequence[Background]) -> Background: ...


@overload
def merge(backgrounds: str | Path) -> Background | Scores: ...


@checks_keywords
def merge(backgrounds: Sequence[Background] | str | Path) -> Background | Scores:
    """Add backgrounds that were counted at the same edges: the background of all their samples together.

    Or make one store of the shards beneath a path, as the command ``hpv merge`` does: the background, or the scores.

    >>> import numpy as np, hpv
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> first = hpv.fit(x[:300])
    >>> both = hpv.merge([first, hpv.fit(x[300:], edges=first)])
    >>> int(both.samples.sum())
    500
    """
    if isinstance(backgrounds, str | Path):
        return merge_shards(backgrounds)[0]
    parts = [backgrounds] if isinstance(backgrounds, Background) else list(backgrounds)
    if not parts:
        raise InputError("merge: no backgrounds were given; give at least one.")
    if not all(isinstance(part, Background) for part in parts):
        raise InputError("merge: give backgrounds, as hpv.fit and hpv.open return them.")
    check_mergeable({f"background {number}": part.merge_key for number, part in enumerate(parts, start=1)})
    refuse_twice(parts)
    return Background.of(add(parts))
