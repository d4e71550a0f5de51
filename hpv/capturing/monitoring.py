"""The online form of scoring: a running model's activations become codes, tallies and scores, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce as fold
from types import TracebackType
from typing import Any

import numpy as np
import torch

from hpv.activations.labels import check_labels
from hpv.backends.choosing import get_backend
from hpv.base.errors import InputError, warn
from hpv.base.floats import FloatFormat
from hpv.base.keywords import checks_keywords
from hpv.base.machine import thread_count
from hpv.base.patterns import select_names
from hpv.base.words import Names, as_tuple, nearly_meant, quantity
from hpv.capturing.batches import Call, largest_classes, weights_hash
from hpv.capturing.devices import DeviceScanner, Tallies
from hpv.capturing.hooks import Hooks, LayerOutput, check_samples, modules_of, uncompiled
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import FORMS, STATISTICS, ScanKind, by_tail, choose_kind
from hpv.scanning.scanner import count_missing
from hpv.scanning.scored import Scored, sample_number, subset
from hpv.scoring.matching import check_weights, references_of_labels, scan_options
from hpv.scoring.options import ScoreOptions


@dataclass
class _Batch:
    """What one forward pass gave so far."""

    samples: int | None
    """None until it is known."""
    codes: dict[str, torch.Tensor] = field(default_factory=dict)
    forms: dict[str, FloatFormat] = field(default_factory=dict)
    """Float format of every layer that was given."""
    tallies: dict[torch.device, Tallies] = field(default_factory=dict)
    missing: int = 0
    """NaN among the values that were tallied."""
    classes: torch.Tensor | None = None
    """That the model predicts."""
    note: str = ""
    """Where they come from, or why there are none."""


class Monitor:
    """Scores what a model does while it runs, as `hpv.score` scores what it did: the same bits, without a store.

    While its ``with`` block lasts, hooks on the modules that give the background's layers code and tally the
    activations of every call of ``model`` where they are: they are neither kept nor copied. The model itself is left
    as it is: use it in the mode (``model.eval()``) that the background was captured in.

    ``background``: of a store that `hpv.capture` wrote, or of layers that are named as it names them.
    ``tail`` (one or several), ``alphas``, ``alpha_max``, ``against``: as for `hpv.score`; every statistic and form can
    then be had.
    ``layers``: some of the background's, by names or by patterns with ``*`` and ``?``; or a mapping from their names to
    those that a capture would give them.
    ``reduce``: as it was for the capture of the background.
    ``keep``: ``codes`` (a byte per value; p-values and subsets of nodes follow from them), or nothing.
    ``threads``: for large batches on the CPU; by default the processors that this process may use.
    ``backend``: as for `hpv.fit`; activations on a GPU are worked on there.

    The first batch makes the tables of all layers, which are kept: some 1.3 KB per node for three tails, and 0.3 KB for
    every class. One forward pass at a time: a monitor is not to be shared by threads. ``InputError`` from within the
    call of the model names the layer that does not fit the background; the next batch is scored as if that had not
    happened.

    >>> import hpv, tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    >>> store = hpv.capture(model, list(torch.rand(20, 50, 4)), tempfile.mkdtemp() + "/activations", layers="1")
    >>> background = hpv.fit(store)
    >>> with hpv.Monitor(model, background) as monitor:
    ...     for inputs in torch.rand(3, 5, 4):
    ...         outputs = model(inputs)
    ...         found = monitor.scores()
    >>> found.get().score.shape
    (5,)
    >>> found.codes("1").shape, found.pvalues("1", tail="left")[1].dtype
    (torch.Size([5, 8]), torch.float32)
    """

    @checks_keywords
    def __init__(
        self,
        model: torch.nn.Module,
        background: BackgroundState,
        *,
        tail: Names = ("right", "left", "two-sided"),
        alphas: str = "grid",
        alpha_max: float = 0.5,
        layers: Names | Mapping[str, str] | None = None,
        reduce: str | Mapping[str, str] = "flatten",
        against: str | None = None,
        keep: Names = ("codes",),
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise InputError(f"model: a {type(model).__name__}; give a torch.nn.Module.")
        self.options = scan_options(
            background,
            ScoreOptions(STATISTICS, tail, FORMS, alphas, alpha_max, against=against),
        )
        if layers is not None:
            _refuse_patterns(layers, background)
            background = background.select(list(layers) if isinstance(layers, Mapping) else layers)
        self.background = background
        self._keep = as_tuple(keep or ())
        if set(self._keep) - {"codes"}:
            raise InputError(f"keep={keep!r}: give a list with codes, or none; ranges follow from codes by pvalues().")
        thread_count(threads)
        get_backend(backend)
        self._names = _names(background, layers)
        """Layer of the background by that of the model."""
        if background.attributes.get("weights"):
            check_weights(background, weights_hash(model))
        self._model, self._backend, self._threads = model, backend, threads
        modules = modules_of(model, self._names).values()
        self._hooks = Hooks(model, modules, reduce, self._take, wanted=self._names)
        self._handles: list[Any] = []
        self._places: dict[torch.device, DeviceScanner] = {}
        self._running: _Batch | None = None
        self._done: _Batch | None = None

    def __enter__(self) -> Monitor:
        if self._handles:
            raise InputError("the monitor is watching already; leave its with block first.")
        self._hooks.__enter__()
        self._handles.append(self._model.register_forward_pre_hook(uncompiled(self._begin), with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(uncompiled(self._end)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        while self._handles:
            self._handles.pop().remove()

    @checks_keywords
    def scores(self, labels: Any = None) -> BatchScores:
        """Scores of the batch that the model ran last.

        ``labels``: the class of every sample, integers or a tensor of them, where samples are scored against their own
        class; by default the one that the model predicts, as `hpv.capture` stores it.
        """
        batch = self._done
        if batch is None or batch.samples is None:
            raise InputError("there is no batch to score: the model has not run since the monitor watches, or the last "
                             "forward pass failed.")  # fmt: skip
        reference, tallies, missing = self._group(batch, labels), batch.tallies, batch.missing
        if self.options.against == "own":
            tallies = {}
            for layer, codes in batch.codes.items():
                place = self._places[codes.device]
                own = _at(tallies, codes.device, place, batch.samples)
                place.tally_codes(layer, codes, batch.forms[layer], reference, own)
                missing += count_missing(codes)
        if missing:
            warn(f"{quantity(missing, 'NaN value')} in this batch; NaN has the range [0, 1] and is never significant.")
        kept = batch.codes if self._keep else {}
        return BatchScores(self._places, kept, _on_host(list(tallies.values())), reference, missing)

    def __repr__(self) -> str:
        layers = ", ".join(f"{name}: {quantity(state.nodes, 'node')}" for name, state in self.background.layers.items())
        return f"<hpv.Monitor of {type(self._model).__name__}; {layers}>"

    def _group(self, batch: _Batch, labels: Any) -> np.ndarray:
        """Which counts answer for every sample, where its own class does."""
        assert batch.samples is not None
        if isinstance(labels, torch.Tensor):
            labels = labels.detach().cpu().numpy()
        if labels is not None:
            labels = check_labels(labels, batch.samples)
        if self.options.against != "own":
            return np.zeros(batch.samples, np.int64)
        if labels is None:
            if batch.classes is None:
                raise InputError(f"against='own': labels: {batch.note}; give labels=, or make the monitor with "
                                 "against='lowest' or 'pooled'.")  # fmt: skip
            labels = batch.classes.cpu().numpy()
        return references_of_labels(self.background, labels, len(labels)).astype(np.int64)

    # --- while the model runs ---

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._hooks.clear()
        self._running, self._done = _Batch(Call(args, kwargs).samples), None

    def _take(self, given: LayerOutput) -> None:
        """Code, and where it is known what answers for the samples also tally, a layer's activations."""
        batch = self._running
        if batch is None:  # a module is called by itself
            return
        layer, rows = self._names[given.layer], given.rows
        batch.samples = len(rows) if batch.samples is None else batch.samples
        check_samples(given.layer, (len(rows), *given.shape), batch.samples, InputError)
        nodes = self.background.layers[layer].nodes
        if rows.shape[1] != nodes:
            raise InputError(
                f"layer {given.layer}: {quantity(rows.shape[1], 'node')}, but the background has {nodes}; give the "
                "model inputs of the same size, and reduce= as for the capture of the background."
            )
        place = self._place(rows.device)
        batch.forms[layer] = given.float_format
        if self.options.against == "own":
            batch.codes[layer] = place.encode(layer, rows, given.float_format)
            return
        tallies = _at(batch.tallies, rows.device, place, batch.samples)
        codes, missing = place.tally(layer, rows, given.float_format, tallies, bool(self._keep))
        batch.missing += missing
        if codes is not None:
            batch.codes[layer] = codes

    def _end(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        batch, self._running = self._running, None
        if batch is None:
            return
        for given, layer in self._names.items():
            if layer not in batch.forms:
                close = nearly_meant(given, self._hooks.given)
                hint = f" Close to it: {', '.join(close)}." if close else ""
                raise InputError(
                    f"layer {given}: this forward pass of the model did not give it.{hint} Choose layers that every "
                    "one gives, with layers=. A model that ran compiled before passes hooks by: compile it again "
                    "(torch.compiler.reset()) inside of the with block, or give the model that was compiled."
                )
        assert batch.samples is not None
        if self.options.against == "own":
            batch.classes, batch.note = largest_classes(output, batch.samples)
        self._done = batch

    def _place(self, device: torch.device) -> DeviceScanner:
        if device not in self._places:
            self._places[device] = DeviceScanner(self.background, self.options, device, self._backend, self._threads)
        return self._places[device]


class BatchScores:
    """What `Monitor.scores` found in one batch; it stays as it is when the next batch runs.

    >>> import hpv, numpy as np, torch
    >>> model = torch.nn.Sequential(torch.nn.Identity())
    >>> background = hpv.fit({"0": np.random.default_rng(0).normal(size=(1000, 5))})
    >>> with hpv.Monitor(model, background) as monitor:
    ...     outputs = model(torch.tensor([[0.0, 9.0, 0.0, 9.0, 0.0]]))
    >>> found = monitor.scores()
    >>> int(found.get("right").size[0])
    2
    >>> found.nodes(0, "right")
    {'0': array([1, 3])}
    >>> found.codes("0").dtype
    torch.uint8
    >>> pmin, pmax = found.pvalues("0", tail="right")
    >>> bool(pmax[0, 1] < 0.002)
    True
    """

    def __init__(
        self,
        places: Mapping[torch.device, DeviceScanner],
        codes: dict[str, torch.Tensor],
        tallies: dict[str, np.ndarray],
        reference: np.ndarray,
        missing: int,
    ) -> None:
        self._places, self._codes, self._tallies, self._group = places, codes, tallies, reference
        self._scanner = next(iter(places.values())).scanner
        self._scored: dict[ScanKind, Scored] = {}
        self.missing = missing
        """NaN among the values; they have the range [0, 1] and are never significant."""

    @property
    def samples(self) -> int:
        """Number of samples of the batch."""
        return len(self._group)

    @property
    def kinds(self) -> list[ScanKind]:
        """Every (tail, form, statistic) that can be had."""
        return self._scanner.options.kinds

    @property
    def layers(self) -> list[str]:
        """Layers of the background that were scanned, as one set of nodes."""
        return list(self._scanner.background.layers)

    @checks_keywords
    def get(self, tail: Names | None = None, form: Names | None = None, statistic: Names | None = None) -> Scored:
        """Score, alpha, size and label of every sample, of one kind.

        Of what is not named the default is taken: two-sided, subset, higher_criticism, or what there is.
        """
        return self._get(self._kind(tail, form, statistic))

    def _kind(self, tail: Names | None, form: Names | None, statistic: Names | None) -> ScanKind:
        return choose_kind(self.kinds, tail, form, statistic, "the monitor")

    def _get(self, kind: ScanKind) -> Scored:
        if kind not in self._scored:
            self._scored[kind] = Scored.empty(self.samples)
            self._scanner.scores(self._tallies, self._group, {kind: self._scored[kind]})
        return self._scored[kind]

    def codes(self, layer: str) -> torch.Tensor:
        """Codes of a layer, uint8 (samples, nodes), on the device where its activations were."""
        if layer not in self.layers:
            raise InputError(f"no layer {layer}; the monitor has {', '.join(self.layers)}.")
        if layer not in self._codes:
            raise InputError("codes were not kept; make the monitor with keep='codes'.")
        return self._codes[layer]

    @checks_keywords
    def pvalues(self, layer: str, tail: Names = "right", dtype: str = "float32") -> Any:
        """P-value ranges (pmin, pmax) of a layer, (samples, nodes), where its codes are: of the class that answered.

        Of several tails a mapping from each to its ranges. float32 is rounded outward, float64 is exact. Where every
        class answered (``against="lowest"``) they are those of the pooled counts.
        """
        if dtype not in ("float32", "float64"):
            raise InputError(f"dtype={dtype!r}: give float32 (rounded outward) or float64 (exact).")
        codes = self.codes(layer)
        place = self._places[codes.device]
        return by_tail(tail, lambda one: place.look_up(layer, codes, self._group, one, dtype))

    @checks_keywords
    def nodes(
        self, i: int, tail: Names | None = None, form: Names | None = None, statistic: Names | None = None
    ) -> dict[str, np.ndarray]:
        """The subset of sample ``i``: for every layer the indices of the nodes with pmax <= alpha, ascending.

        ``tail``, ``form`` and ``statistic`` choose the kind, as for ``get``.
        """
        kind = self._kind(tail, form, statistic)
        scored, i = self._get(kind), sample_number(i, self.samples)

        def codes_of(layer: str) -> np.ndarray:
            return self.codes(layer)[i].cpu().numpy()

        background = self._scanner.background
        return subset(background, self.layers, codes_of, int(scored.label[i]), kind[0], float(scored.alpha[i]))

    def __repr__(self) -> str:
        return f"<hpv.BatchScores of {quantity(self.samples, 'sample')}>"


def _refuse_patterns(layers: Any, background: BackgroundState) -> None:
    """A mapping says of each layer by itself what the model calls it."""
    for name in layers if isinstance(layers, Mapping) else ():
        if name not in background.layers and select_names(name, background.layers, "layer", "the background"):
            raise InputError(f"layers: {name!r} is a pattern; in a mapping give the name of each layer.")


def _names(background: BackgroundState, layers: Any) -> dict[str, str]:
    """Layer of the background by that of the model."""
    given = dict(layers) if isinstance(layers, Mapping) else {name: name for name in background.layers}
    names = {module: layer for layer, module in given.items()}
    if len(names) < len(given):
        twice = next(module for layer, module in given.items() if names[module] != layer)
        raise InputError(f"layers: {twice} is given for two layers of the background; give each its own.")
    return names


def _at(tallies: dict[torch.device, Tallies], device: torch.device, place: DeviceScanner, samples: int) -> Tallies:
    """The tallies on a device, begun where there are none."""
    if device not in tallies:
        tallies[device] = place.empty_tallies(samples)
    return tallies[device]


def _on_host(tallies: list[Tallies]) -> dict[str, np.ndarray]:
    """The sum of the tallies on all devices, in this machine's memory."""
    parts = [{tail: tally.cpu().numpy() for tail, tally in part.items()} for part in tallies]
    return fold(lambda one, other: {tail: one[tail] + other[tail] for tail in one}, parts)
