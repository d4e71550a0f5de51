"""Forward hooks: which modules, which of their outputs, and how an output becomes a row of nodes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from hpv.base.errors import DataError, HpvError, InputError
from hpv.base.floats import BFLOAT16, FloatFormat, format_of
from hpv.base.patterns import fits, select_by_pattern, which_there_are
from hpv.base.words import quantity


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
class LayerOutput:
    """One layer's activations in one batch, where the model left them."""

    layer: str
    rows: torch.Tensor
    """(samples, nodes); the modules that follow may change them in place."""
    float_format: FloatFormat
    shape: tuple[int, ...]
    """Shape of one sample's output before it was laid out."""
    reduction: Reduction


@dataclass(frozen=True)
class Recorded:
    """One layer's activations in one batch."""

    block: np.ndarray
    """(samples, nodes) in ``float_format.storage``, a copy."""
    float_format: FloatFormat
    shape: tuple[int, ...]
    """Shape of one sample's output before it was laid out."""
    reduction: Reduction


def select_modules(model: torch.nn.Module, patterns: str | Sequence[str]) -> dict[str, list[str]]:
    """Names of the modules that each name or pattern selects; the model itself is not among them."""
    every, once = _names(model)
    return select_by_pattern(patterns, once, "module", "the model", every)


def modules_of(model: torch.nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """The module that gives each layer, by the names that a capture gives to layers.

    A layer is called as its module, perhaps with the number of the call (``#2``) and the place in its output (``.0``):
    the module has the longest name that the layer's begins with.
    """
    every, once = _names(model)
    chosen = {}
    for layer in layers:
        found = [name for name in every if layer == name or layer.startswith((f"{name}.", f"{name}#"))]
        if not found:
            there = which_there_are(layer, once, every)
            raise InputError(f"layers: no module of the model gives the layer {layer!r}.{there}")
        chosen[layer] = max(found, key=len)
    return chosen


def _names(model: torch.nn.Module) -> tuple[list[str], list[str]]:
    """All names of modules, and one name for each module."""
    every = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    return every, [name for name, _ in model.named_modules() if name]


def uncompiled(hook: Any) -> Any:
    """A hook that ``torch.compile`` calls as it is: what hpv does is no part of the model."""
    return torch.compiler.disable(hook)


class Hooks:
    """Hooks on modules while its ``with`` block lasts: every tensor of floats that they give goes to ``take``."""

    def __init__(
        self,
        model: torch.nn.Module,
        names: Iterable[str],
        reduce: str | Mapping[str, str],
        take: Callable[[LayerOutput], None],
        wanted: Container[str] | None = None,
    ) -> None:
        """``names``: of modules. ``reduce``: one rule for all, or rules by module name or pattern, others flattened.

        ``wanted``: the layers that are taken, if not all of them.
        """
        names = list(dict.fromkeys(names))
        modules = dict(model.named_modules(remove_duplicate=False))
        self._modules = {name: modules[name] for name in names}
        self._reductions = _reductions(names, reduce)
        self._take, self._wanted = take, wanted
        self._handles: list[Any] = []
        self.calls: Counter[str] = Counter()
        """Calls of every module since the last ``clear``."""
        self.given: Counter[str] = Counter()
        """Tensors of floats that every layer gave."""
        self.floats: Counter[str] = Counter()
        """Tensors of floats that every module gave."""

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(uncompiled(self._hook(name))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def clear(self) -> None:
        """Forget the last forward pass."""
        for counter in (self.calls, self.given, self.floats):
            counter.clear()

    def _hook(self, name: str) -> Any:
        def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            self.calls[name] += 1
            label = name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"
            for suffix, tensor in tensors_of(output):
                if tensor.is_floating_point():
                    self.floats[name] += 1
                    layer = f"{label}{suffix}"
                    self.given[layer] += 1
                    if self._wanted is None or layer in self._wanted:
                        self._take(self._output(layer, tensor, self._reductions[name]))

        return look

    def _output(self, layer: str, tensor: torch.Tensor, reduction: Reduction) -> LayerOutput:
        if self.given[layer] > 1:
            raise InputError(f"layers: two outputs have the name {layer}; leave out the module whose output holds it.")
        float_format = format_of(tensor.dtype, f"layer {layer}")
        if tensor.ndim == 0:
            raise InputError(f"layer {layer} gives one number for the whole batch, not one row per sample.")
        return LayerOutput(
            layer, reduction.apply(tensor.detach(), layer), float_format, tuple(tensor.shape[1:]), reduction
        )


class Recorder(Hooks):
    """Keeps what one forward pass gives, in this machine's memory."""

    def __init__(
        self, model: torch.nn.Module, layers: str | Sequence[str], reduce: str | Mapping[str, str] = "flatten"
    ) -> None:
        self._chosen = select_modules(model, layers)
        super().__init__(model, (name for found in self._chosen.values() for name in found), reduce, self._keep)
        self._kept: dict[str, Recorded] = {}

    def clear(self) -> None:
        """Forget the last forward pass."""
        super().clear()
        self._kept = {}

    def first(self, size: int | None) -> dict[str, Recorded]:
        """What the first forward pass gave: it decides which layers there are."""
        for pattern, names in self._chosen.items():
            if not any(self.calls[name] for name in names):
                listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                raise InputError(
                    f"layers: {pattern!r} selects {listed}, which the forward pass of the model does not call; "
                    f"name modules that it calls."
                )
            silent = [name for name in names if self.calls[name] and not self.floats[name]]
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
            if now.float_format != then.float_format:
                raise DataError(
                    f"layer {name} is {now.float_format} in one batch and {then.float_format} in the first; run all "
                    "under one autocast."
                )
        return self._same_samples(size, DataError)

    def _same_samples(self, size: int | None, error: type[HpvError]) -> dict[str, Recorded]:
        for name, recorded in self._kept.items():
            size = len(recorded.block) if size is None else size
            check_samples(name, (len(recorded.block), *recorded.shape), size, error)
        return self._kept

    def _keep(self, given: LayerOutput) -> None:
        rows = given.rows.to("cpu", copy=True)  # now: the modules that follow may work in place
        block = rows.view(torch.int16).numpy().view(np.uint16) if given.float_format is BFLOAT16 else rows.numpy()
        self._kept[given.layer] = Recorded(block, given.float_format, given.shape, given.reduction)


def check_samples(layer: str, shape: tuple[int, ...], samples: int, error: type[HpvError]) -> None:
    """Refuse an output of this shape for a batch of so many samples."""
    if shape[0] != samples:
        raise error(
            f"layer {layer} has an output of shape {shape} for a batch of {quantity(samples, 'sample')}; choose "
            "modules all of whose outputs have the samples first, as with batch_first=True."
        )


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
    unused = [pattern for pattern in rules if not any(fits(name, pattern) for name in names)]
    if unused:
        raise InputError(f"reduce: {unused[0]!r} fits none of the chosen layers {', '.join(names[:40])}.")
    return {
        name: rules.get(name)
        or next((rule for pattern, rule in rules.items() if fits(name, pattern)), Reduction("flatten"))
        for name in names
    }
