"""The capture itself: forward passes, one after another, into an activation store."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hpv.activations.stored import ActivationStore
from hpv.activations.writing import ActivationWriter
from hpv.base import keeping
from hpv.base.errors import DataError, HpvError, InputError, OutputExistsError
from hpv.base.floats import FloatFormat
from hpv.base.keywords import checks_keywords
from hpv.base.words import quantity
from hpv.capturing.batches import Call, CallRule, evaluating, given_classes, predicted_classes, weights_hash
from hpv.capturing.estimate import CapturePlan, make_plan, refuse_too_large
from hpv.capturing.hooks import Recorded, Recorder
from hpv.store.headers import ACTIVATIONS
from hpv.store.output import Output
from hpv.store.reading import open_store

LabelSource = Literal["argmax", "targets"] | None
_TOLERANCE = 0.02
"""Share of the largest value: on other threads the same inputs may give slightly other activations, never that far."""


@dataclass(frozen=True)
class Captured(os.PathLike[str]):
    """A finished activation store; usable wherever its path is."""

    path: Path | str
    samples: int
    layers: dict[str, tuple[int, str]]
    """Nodes and dtype by layer."""
    labels: str
    """Where the labels come from, or why there are none."""
    already_complete: bool
    """It was there before and nothing was written."""

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@dataclass(frozen=True)
class _Forward:
    """One batch after its forward pass."""

    layers: dict[str, Recorded]
    labels: np.ndarray | None
    note: str

    @property
    def samples(self) -> int:
        return len(next(iter(self.layers.values())).block)


@checks_keywords
def capture(
    model: torch.nn.Module,
    batches: Iterable[Any],
    out: str | os.PathLike[str],
    *,
    layers: str | Sequence[str],
    reduce: str | Mapping[str, str] = "flatten",
    labels: LabelSource = "argmax",
    ids: Iterable[str] | None = None,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    announce: Callable[[CapturePlan], None] | None = None,
) -> Captured:
    """Run ``model`` on ``batches`` and store the outputs of the named layers, one row per sample, as they come.

    The model is in eval mode and without gradients meanwhile; its hooks and modes are afterwards as before.

    ``batches``: of any loader, read once from the start. A tensor is the model's argument. Of a tuple or a list as
    many entries are arguments as ``forward`` has without a default, the rest are targets: (inputs, targets). A
    dictionary gives arguments by name.
    ``layers``: names of modules (``model.named_modules()``) or patterns with ``*`` and ``?``. A module that is called
    again within one forward pass gives further layers ``name#2``, ``name#3``; one that gives a tuple or a dictionary
    gives a layer for each tensor of floats in it, ``name.0`` or ``name.key``. dtypes are kept.
    ``reduce``: ``flatten`` makes a node of every value, in C order, so that outputs of three and more dimensions are
    stored as (samples, nodes), with their shape beside them; ``mean`` and ``max`` keep one value per channel, over all
    other positions. The channels are the last dimension of three (samples, tokens, channels), else the one after the
    samples (samples, channels, height, width); ``mean:1`` names another. A mapping from layer name or pattern to these
    sets them apart. NaN stays NaN.
    ``labels``: ``argmax`` of the model's output where that is (samples, classes), ``targets`` that come with the
    batches, or None.
    ``ids``: one string per sample, in the order of the batches.
    ``device``: where the model and the batches are moved; by default the batches go where the model is.
    ``progress(done, total)`` is called after every batch, ``announce(plan)`` once before anything is written.

    A capture that was stopped goes on when it is run again with batches in the same order: stored samples are not
    run again, but the first batch and the last stored one are compared with what was stored.

    ``InputError`` for what does not fit, before anything is written; ``DataError`` for what goes wrong later.

    >>> import hpv, tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> store = hpv.capture(model, list(torch.rand(10, 5, 4)), tempfile.mkdtemp() + "/activations", layers="1")
    >>> {name: layer.shape for name, layer in hpv.open(store).layers.items()}
    {'1': (50, 8)}
    """
    _check(batches, labels, ids)
    if device is not None:
        _check_device(device)
        model.to(device)
    with evaluating(model), Recorder(model, layers, reduce) as recorder:
        run = _Run(model, recorder, labels, device)
        iterator = iter(batches)
        first_call = next((run.rule.arrange(batch) for batch in iterator), None)
        if first_call is None:
            raise InputError("batches: there is none; give at least one.")
        first = run.forward(first_call)
        plan = make_plan(batches, ids, first.samples, _sizes(first), out)
        refuse_too_large(plan, batches, first.samples, out, overwrite)
        if announce is not None:
            announce(plan)
        request = {
            "model": _class_name(model),
            "weights": weights_hash(model),
            "layers": {
                name: [item.block.shape[1], item.float_format.name, str(item.reduction)]
                for name, item in first.layers.items()
            },
            "labels": first.note,
            "ids": ids is not None,
        }
        calls = chain([first_call], map(run.rule.arrange, iterator))
        with Output.begin(out, ACTIVATIONS, request, overwrite=overwrite) as output:
            if output.already_complete:
                return _already(output.path, first, first.note)
            notes = {
                name: {"shape": list(item.shape), "reduce": str(item.reduction)} for name, item in first.layers.items()
            }
            forms = {name: (item.block.shape[1], item.float_format) for name, item in first.layers.items()}
            has_labels = first.labels is not None
            writer = ActivationWriter(
                output, forms, labels=has_labels, ids=ids is not None, notes=notes, seconds=keeping.CHECKPOINT_SECONDS
            )
            run.store(writer, calls, first, _Ids(ids), plan.samples, progress)
            path = writer.finish({"model": request["model"], "weights": request["weights"], "labels": first.note})
    return Captured(path, writer.samples, plan.layers, first.note, already_complete=False)


class _Run:
    """Forward passes of one capture."""

    def __init__(
        self, model: torch.nn.Module, recorder: Recorder, labels: LabelSource, device: str | torch.device | None
    ) -> None:
        self.rule = CallRule(model)
        self._model = model
        self._recorder = recorder
        self._labels = labels
        self._first: _Forward | None = None
        tensors = chain(model.parameters(), model.buffers())
        found = next((tensor.device for tensor in tensors), None)
        self._device = found if device is None else torch.device(device)

    def forward(self, call: Call) -> _Forward:
        """Run one batch; the first one decides what the others must give."""
        self._recorder.clear()
        call = call.to(self._device)
        output = self._model(*call.args, **call.kwargs)
        if self._first is None:
            layers = self._recorder.first(call.samples)
        else:
            layers = self._recorder.next(call.samples, self._first.layers)
        result = self._labelled(layers, call, output)
        if self._first is None:
            self._first = result
        elif result.note != self._first.note and (result.labels is None) != (self._first.labels is None):
            raise DataError(f"labels: in the first batch {self._first.note}, in a later one {result.note}.")
        return result

    def _labelled(self, layers: dict[str, Recorded], call: Call, output: Any) -> _Forward:
        samples = len(next(iter(layers.values())).block)
        if self._labels is None:
            return _Forward(layers, None, "none: not asked for")
        if self._labels == "targets":
            return _Forward(layers, given_classes(call.targets, samples), "targets of the batches")
        return _Forward(layers, *predicted_classes(output, samples))

    def store(
        self,
        writer: ActivationWriter,
        calls: Iterator[Call],
        first: _Forward,
        ids: _Ids,
        total: int | None,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        """Append every batch; those that an earlier run stored are skipped, or compared at both ends."""
        stored, position = writer.durable, 0
        for number, call in enumerate(calls):
            size = call.samples
            if size == 0:
                continue
            result = None
            if size is None or number == 0 or position + size >= stored:
                result = first if number == 0 else self.forward(call)
                size = result.samples
            names = ids.take(size)
            if result is not None:
                known = min(max(stored - position, 0), size)
                _compare(writer, result, position, known)
                _append(writer, result, names, known)
            position += size
            if progress is not None:
                _tell(progress, position, total, writer)
        ids.refuse_rest(position)
        if position < stored:
            raise InputError(
                f"an earlier run stored {quantity(stored, 'sample')}, the batches hold {position}; give the same "
                f"batches as then, or give overwrite=True."
            )
        if position != writer.samples:
            raise DataError(
                f"{quantity(writer.samples, 'sample')} stored, the batches hold {position}; part of the work was lost; "
                f"begin anew with overwrite=True."
            )


class _Ids:
    """The ids, a batch at a time."""

    def __init__(self, ids: Iterable[str] | None) -> None:
        self._ids = None if ids is None else iter(ids)

    def take(self, count: int) -> list[str] | None:
        if self._ids is None:
            return None
        names = list(islice(self._ids, count))
        if len(names) < count:
            raise DataError("ids: there are fewer of them than samples; give one string for each.")
        if any(not isinstance(name, str) for name in names):
            raise DataError("ids: not all of them are strings; give one string for each sample.")
        return names

    def refuse_rest(self, samples: int) -> None:
        if self._ids is not None and next(self._ids, None) is not None:
            raise DataError(f"ids: there are more of them than samples ({samples:,}); give one string for each.")


def _check(batches: Any, labels: Any, ids: Any) -> None:
    if isinstance(batches, (torch.Tensor, np.ndarray, Mapping, str)) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches: a {type(batches).__name__} is no series of batches; give a DataLoader, or a list such as [x]."
        )
    if labels not in ("argmax", "targets", None):
        raise InputError(f"labels={labels!r}: give 'argmax', 'targets', or labels=None.")
    if isinstance(ids, str):
        raise InputError("ids: a single string; give one string for each sample.")


def _check_device(device: str | torch.device) -> None:
    """Refuse a device that torch does not know, or that this machine does not have."""
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        why = re.split(r"\.(?:\s|$)|\n", str(error).strip())[0]
        raise InputError(
            f"device={str(device)!r} cannot be used here: {why}; give device='cpu', or leave it out to compute where "
            "the model is."
        ) from None


def _tell(
    progress: Callable[[int, int | None], None], position: int, total: int | None, writer: ActivationWriter
) -> None:
    """Who is told may stop the capture: what is captured by then is kept."""
    try:
        progress(position, total)
    except BaseException:
        with suppress(HpvError):  # the first error is the one to tell of
            writer.checkpoint()
        raise


def _append(writer: ActivationWriter, result: _Forward, names: list[str] | None, known: int) -> None:
    rest = slice(known, None)
    writer.append(
        {name: item.block[rest] for name, item in result.layers.items()},
        None if result.labels is None else result.labels[rest],
        None if names is None else names[rest],
    )


def _compare(writer: ActivationWriter, result: _Forward, position: int, known: int) -> None:
    for name, item in result.layers.items():
        if known and not _alike(
            item.block[:known], writer.read(name, slice(position, position + known)), item.float_format
        ):
            raise InputError(
                f"layer {name}: samples {position} to {position + known - 1} differ from those that an earlier run "
                f"stored, so the batches come in another order or are others; fix their order (no shuffling), or "
                f"overwrite=True."
            )


def _already(path: Path | str, first: _Forward, note: str) -> Captured:
    """A complete store of the same request, if it begins with the same samples."""
    store = ActivationStore(open_store(path, ACTIVATIONS))
    for entry in store.entries:
        count = min(first.samples, store.samples)
        now = first.layers[entry.name]
        if not _alike(now.block[:count], store.layer(entry).read((slice(0, count),)), entry.float_format):
            raise OutputExistsError(
                f"{path} holds the activations of other inputs: layer {entry.name} differs in the first batch. Use "
                f"another path, or give overwrite=True."
            )
    return Captured(path, store.samples, _sizes(first), note, already_complete=True)


def _alike(now: np.ndarray, then: np.ndarray, float_format: FloatFormat) -> bool:
    new, old = (float_format.numbers(values).astype(np.float64) for values in (now, then))
    scale = np.max(np.abs(old), where=np.isfinite(old), initial=0.0)
    return bool(np.allclose(new, old, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True))


def _sizes(first: _Forward) -> dict[str, tuple[int, str]]:
    return {name: (item.block.shape[1], item.float_format.name) for name, item in first.layers.items()}


def _class_name(model: torch.nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
