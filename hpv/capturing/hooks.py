"""Forward hooks: which modules, which of their outputs, and how an output becomes a row of nodes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any

import numpy as np
import torch

from hpv.errors import DataError, InputError, near
from hpv.floats import BFLOAT16, FloatFormat, float_format
from hpv.resources import quantity

_LISTED = 40


@dataclass(frozen=True)
class Reduction:
    """How the output of a module becomes one value per node."""

    rule: str
    """``flatten``, ``mean`` or ``max``."""
    channels: int | None = None
    """The dimension that is kept by mean and max; None: the last of three, else the one after the samples."""

    @classmethod
    def parse(cls, text: Any) -> Reduction:
        """From ``"mean"``, or ``"mean:1"`` where the kept dimension is named."""
        rule, colon, place = str(text).partition(":")
        number = place.removeprefix("-").isdecimal()
        if rule not in ("flatten", "mean", "max") or (colon and (not number or rule == "flatten" or int(place) == 0)):
            raise InputError(
                f"reduce: {text!r} is none of flatten, mean and max; mean:1 and max:-1 name the dimension that is kept."
            )
        return cls(rule, int(place) if colon else None)

    def __str__(self) -> str:
        return self.rule if self.channels is None else f"{self.rule}:{self.channels}"

    def apply(self, tensor: torch.Tensor, layer: str) -> torch.Tensor:
        """(samples, nodes) of (samples, ...)."""
        if self.rule == "flatten" or tensor.ndim < 3:
            return tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]
        kept = (tensor.ndim - 1 if tensor.ndim == 3 else 1) if self.channels is None else self.channels
        if not -tensor.ndim < kept < tensor.ndim:
            raise InputError(f"reduce: {self} for layer {layer}, whose output has the shape {tuple(tensor.shape)}.")
        positions = [place for place in range(1, tensor.ndim) if place != kept % tensor.ndim]
        return tensor.mean(positions) if self.rule == "mean" else tensor.amax(positions)


@dataclass(frozen=True)
class Recorded:
    """One layer's activations in one batch."""

    block: np.ndarray
    """(samples, nodes) in ``form.storage``, a copy."""
    form: FloatFormat
    shape: tuple[int, ...]
    """Of one sample's output before it was laid out."""
    reduction: Reduction


def select_modules(model: torch.nn.Module, patterns: str | Sequence[str]) -> dict[str, list[str]]:
    """Names of the modules that each name or pattern selects; the model itself is not among them."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise InputError("layers: none given; name modules of the model, or give patterns such as 'features.*'.")
    every = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    once = [name for name, _ in model.named_modules() if name]
    chosen = {}
    for pattern in patterns:
        found = [pattern] if pattern in every else [name for name in once if fnmatchcase(name, pattern)]
        if not found:
            close = near(pattern, every)
            hint = f" Close to it: {', '.join(close)}." if close else ""
            listed = ", ".join(once[:_LISTED]) + (f" and {len(once) - _LISTED} more" if len(once) > _LISTED else "")
            raise InputError(f"layers: no module of the model is called {pattern!r}.{hint} There are: {listed}.")
        chosen[pattern] = found
    return chosen


class Recorder:
    """Hooks on the selected modules while its ``with`` block lasts; keeps what one forward pass gives."""

    def __init__(
        self, model: torch.nn.Module, layers: str | Sequence[str], reduce: str | Mapping[str, str] = "flatten"
    ) -> None:
        """``reduce``: one rule for all, or rules by module name or pattern (others are flattened)."""
        self._chosen = select_modules(model, layers)
        names = list(dict.fromkeys(name for found in self._chosen.values() for name in found))
        modules = dict(model.named_modules(remove_duplicate=False))
        self._modules = {name: modules[name] for name in names}
        self._reductions = _reductions(names, reduce)
        self._handles: list[Any] = []
        self._calls: Counter[str] = Counter()
        self._floats: Counter[str] = Counter()
        self._kept: dict[str, Recorded] = {}

    def __enter__(self) -> Recorder:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def clear(self) -> None:
        """Forget the last forward pass."""
        self._calls.clear()
        self._floats.clear()
        self._kept = {}

    def first(self, size: int | None) -> dict[str, Recorded]:
        """What the first forward pass gave: it decides which layers there are."""
        for pattern, names in self._chosen.items():
            if not any(self._calls[name] for name in names):
                listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                raise InputError(
                    f"layers: {pattern!r} selects {listed}, which the forward pass of the model does not call; "
                    f"name modules that it calls."
                )
            silent = [name for name in names if self._calls[name] and not self._floats[name]]
            if silent:
                raise InputError(f"layers: the output of {silent[0]} holds no tensor of floats; leave it out.")
        for name, recorded in self._kept.items():
            if recorded.block.size == 0:
                what = "no samples in the first batch" if len(recorded.block) == 0 else "no nodes"
                raise InputError(f"layer {name} has {what}: its output has the shape {(size, *recorded.shape)}.")
        return self._same_samples(size, InputError)

    def next(self, size: int | None, before: Mapping[str, Recorded]) -> dict[str, Recorded]:
        """What a later pass gave; ``DataError`` if a layer is not what it was."""
        if self._kept.keys() != before.keys():
            names = sorted(self._kept.keys() ^ before.keys())
            raise DataError(
                f"layer {names[0]}: in some batches the model gives it, in others not; choose layers that every "
                f"forward pass calls equally often."
            )
        for name, now in self._kept.items():
            then = before[name]
            if now.block.shape[1] != then.block.shape[1]:
                raise DataError(
                    f"layer {name} has {quantity(now.block.shape[1], 'node')} in one batch and "
                    f"{then.block.shape[1]} in the first; give inputs of one size, or reduce='mean' or reduce='max'."
                )
            if now.form != then.form:
                raise DataError(
                    f"layer {name} is {now.form} in one batch and {then.form} in the first; run all under one autocast."
                )
        return self._same_samples(size, DataError)

    def _same_samples(self, size: int | None, error: type[Exception]) -> dict[str, Recorded]:
        for name, recorded in self._kept.items():
            size = len(recorded.block) if size is None else size
            if len(recorded.block) != size:
                raise error(
                    f"layer {name} has an output of shape {(len(recorded.block), *recorded.shape)} for a batch of "
                    f"{quantity(size, 'sample')}; choose modules all of whose outputs have the samples first, as with "
                    "batch_first=True."
                )
        return self._kept

    def _hook(self, name: str) -> Any:
        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            self._calls[name] += 1
            label = name if self._calls[name] == 1 else f"{name}#{self._calls[name]}"
            for suffix, tensor in tensors_of(output):
                if tensor.is_floating_point():
                    self._floats[name] += 1
                    self._keep(f"{label}{suffix}", tensor, self._reductions[name])

        return keep

    def _keep(self, layer: str, tensor: torch.Tensor, reduction: Reduction) -> None:
        if layer in self._kept:
            raise InputError(f"layers: two outputs have the name {layer}; leave out the module whose output holds it.")
        form = float_format(tensor.dtype, f"layer {layer}")
        if tensor.ndim == 0:
            raise InputError(f"layer {layer} gives one number for the whole batch, not one row per sample.")
        # Copied now: the modules that follow may work in place.
        rows = reduction.apply(tensor.detach(), layer).to("cpu", copy=True)
        block = rows.view(torch.int16).numpy().view(np.uint16) if form is BFLOAT16 else rows.numpy()
        self._kept[layer] = Recorded(block, form, tuple(tensor.shape[1:]), reduction)


def tensors_of(output: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in an output with their places: ``.0`` in a tuple, ``.name`` in a mapping or dataclass."""
    if isinstance(output, torch.Tensor):
        yield prefix, output
        return
    items: Any = ()
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, (tuple, list)):
        items = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        items = ((field.name, getattr(output, field.name)) for field in dataclasses.fields(output))
    for name, item in items:
        yield from tensors_of(item, f"{prefix}.{name}")


def _reductions(names: list[str], reduce: str | Mapping[str, str]) -> dict[str, Reduction]:
    if not isinstance(reduce, Mapping):
        return dict.fromkeys(names, Reduction.parse(reduce))
    rules = {pattern: Reduction.parse(text) for pattern, text in reduce.items()}
    unused = [pattern for pattern in rules if not any(name == pattern or fnmatchcase(name, pattern) for name in names)]
    if unused:
        raise InputError(f"reduce: {unused[0]!r} fits none of the chosen layers {', '.join(names[:_LISTED])}.")
    return {
        name: rules.get(name)
        or next((rule for pattern, rule in rules.items() if fnmatchcase(name, pattern)), Reduction("flatten"))
        for name in names
    }
