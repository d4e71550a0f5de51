"""From what a loader gives to a call of the model, and from the model's output to labels."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpv.base.errors import InputError
from hpv.capturing.hooks import tensors_of

_WRAPPERS = r"^(module\.|_orig_mod\.)+"
"""What DataParallel and torch.compile put before the names of parameters."""


@dataclass(frozen=True)
class Call:
    """The arguments of one forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any = None
    """What came with the inputs and is not given to the model."""

    @property
    def samples(self) -> int | None:
        """Length of the first tensor or array; None if there is none."""
        for value in (*self.args, *self.kwargs.values()):
            for item in _leaves(value):
                if isinstance(item, (torch.Tensor, np.ndarray)) and item.ndim:
                    return len(item)
        return None

    def to(self, device: torch.device | None) -> Call:
        """With all tensors on a device."""
        if device is None:
            return self
        args = tuple(_move(value, device) for value in self.args)
        return Call(args, {name: _move(value, device) for name, value in self.kwargs.items()}, self.targets)


class CallRule:
    """How the batches of a loader become arguments of a model.

    - a tensor, or any object that is no container, is the one argument;
    - of a tuple or list as many entries are given as ``forward`` has arguments without a default, at least one; what
      is left are targets. So ``(inputs, targets)`` of an ordinary loader works, and ``((a, b), targets)`` for a model
      of two arguments;
    - a mapping is given by name, less the names that ``forward`` does not know; if that does not fill all arguments
      without a default, the mapping itself is the one argument.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        named = [item for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
        places = [item for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
        self._accepted = {item.name for item in named}
        self._needed = {item.name for item in named if item.default is item.empty}
        self._any_name = any(item.kind is item.VAR_KEYWORD for item in parameters)
        self._places = max(1, sum(item.default is item.empty for item in places))

    def arrange(self, batch: Any) -> Call:
        """The call that a batch asks for."""
        if isinstance(batch, Mapping):
            return self._by_name(batch)
        if not isinstance(batch, (tuple, list)) or not any(True for _ in tensors_of(batch)):
            return Call((batch,), {})
        first, *rest = batch
        if len(rest) <= 1 and isinstance(first, Mapping):
            named = self._by_name(first)
            return Call(named.args, named.kwargs, rest[0] if rest else None)
        if len(rest) <= 1 and isinstance(first, (tuple, list)) and len(first) == self._places > 1:
            return Call(tuple(first), {}, rest[0] if rest else None)
        if len(batch) < self._places:
            raise InputError(
                f"batches: a batch has {len(batch)} entries, the model's forward needs {self._places} arguments."
            )
        targets = batch[self._places] if len(batch) > self._places else None
        return Call(tuple(batch[: self._places]), {}, targets)

    def _by_name(self, batch: Mapping[Any, Any]) -> Call:
        known = {name: value for name, value in batch.items() if self._any_name or name in self._accepted}
        if known and self._needed <= known.keys():
            return Call((), known)
        return Call((batch,), {})


def predicted_classes(output: Any, samples: int) -> tuple[np.ndarray | None, str]:
    """The class with the largest output, one int64 per sample, and a note; None where the output has no classes."""
    classes, note = largest_classes(output, samples)
    return None if classes is None else classes.cpu().numpy().astype(np.int64), note


def largest_classes(output: Any, samples: int) -> tuple[torch.Tensor | None, str]:
    """The same as a tensor (samples,) on the device of the output.

    The scores of the classes are the entry ``logits`` of the output, or else its first tensor.
    """
    found = dict(tensors_of(output))
    logits = found.get(".logits", next(iter(found.values()), None))
    if logits is None:
        return None, "none: the model's output holds no tensor"
    if logits.ndim != 2 or logits.shape[1] < 2 or len(logits) != samples or not logits.is_floating_point():
        kind = str(logits.dtype).removeprefix("torch.")
        return None, f"none: the model's output is {kind} of shape {tuple(logits.shape)}, not one float per class"
    return logits.detach().argmax(1), "argmax of the model's output"


def given_classes(targets: Any, samples: int) -> np.ndarray:
    """The targets of a batch as labels."""
    values = targets.detach().cpu().numpy() if isinstance(targets, torch.Tensor) else np.asarray(targets)
    if values.shape != (samples,) or values.dtype.kind not in "iu":
        raise InputError(
            f"labels: the targets are {values.dtype} of shape {values.shape}, not one integer for each of {samples} "
            f"samples; use labels='argmax' or labels=None."
        )
    return values.astype(np.int64)


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of all parameters and buffers in order of their names, with dtypes and shapes.

    The same for a model that is wrapped to run in parallel, or compiled.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        name = re.sub(_WRAPPERS, "", name)
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: _move(item, device) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [_move(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value.to(device) if hasattr(value, "to") else value
