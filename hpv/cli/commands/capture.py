"""``hpv capture``: finding the user's function, and running the model that it returns."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import hpv
from hpv.base.errors import DataError, HpvError, InputError
from hpv.base.words import quantity
from hpv.cli import options as o
from hpv.cli.command import command
from hpv.cli.terminal import Terminal


@command("hpv capture mynet:load -o activations.zarr --layer 'features.*,classifier.1'")
def capture(
    terminal: Terminal,
    *,
    function: Annotated[
        str,
        Argument(
            metavar="MODULE:FUNCTION",
            show_default=False,
            help="Returns (model, batches) or (model, batches, ids). FILE.py:FUNCTION is fine, too.",
        ),
    ],
    out: Annotated[str, o.out("Activation store to write.")],
    layer: Annotated[
        list[str],
        o.several(
            "--layer",
            "PATTERN",
            "Names of modules, or patterns with * and ?; again or with commas for more.",
            show_default=False,
        ),
    ],
    reduce: Annotated[
        list[str] | None,
        o.several(
            "--reduce",
            "flatten|mean|max",
            "What becomes a node: every value, or a channel over all positions. PATTERN=mean for some layers only; "
            "again or with commas for more. Default: flatten.",
        ),
    ] = None,
    labels: Annotated[
        str, Option("--labels", metavar="argmax|targets|none", help="The model's class, or that of the batches.")
    ] = "argmax",
    device: Annotated[
        str | None, Option("--device", metavar="DEVICE", help="As torch names it. Default: where the model is.")
    ] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Run a torch model and store the outputs of its layers."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("hpv capture needs torch, which is not installed: pip install 'hpv[torch]'.")
    options: dict[str, Any] = {
        "layers": layer,
        "reduce": _reductions(reduce),
        "labels": None if labels == "none" else labels,
    }
    model, batches, ids = _call(function)

    def run() -> Any:
        with terminal.meter("capture", unit="sample") as meter:
            return hpv.capture(
                model, batches, out, ids=ids, device=device, overwrite=overwrite, progress=meter.reach,
                announce=lambda plan: terminal.say(str(plan)), **options,
            )  # fmt: skip

    captured = _blaming(f"{function}: its model or its batches", DataError, run)
    document = {
        "command": "capture",
        "out": out,
        "already_complete": captured.already_complete,
        "samples": captured.samples,
        "layers": [{"name": name, "nodes": nodes, "dtype": dtype} for name, (nodes, dtype) in captured.layers.items()],
        "labels": captured.labels,
    }
    state = "was complete already: nothing to do" if captured.already_complete else "is complete"
    layers = ", ".join(f"{name}: {quantity(nodes, 'node')} {dtype}" for name, (nodes, dtype) in captured.layers.items())
    summary = f"{quantity(captured.samples, 'sample')}; {layers}; labels: {captured.labels}"
    terminal.result(document, f"{out} {state}.", summary, f"Next: hpv fit {out} -o BACKGROUND")


def _reductions(values: Sequence[str] | None) -> str | dict[str, str]:
    """One reduction for all layers, or some by pattern."""
    if not values:
        return "flatten"
    if len(values) == 1 and "=" not in values[0]:
        return values[0]
    named = [value for value in values if "=" in value]
    if len(named) < len(values):
        raise InputError(f"--reduce {' '.join(values)}: give one for all layers, or PATTERN=REDUCTION for each.")
    return dict(value.rsplit("=", 1) for value in named)


def _call(spec: str) -> tuple[Any, Iterable[Any], Iterable[str] | None]:
    """Model, batches and ids that MODULE:FUNCTION gives."""
    function = _find(spec)
    given = _blaming(spec, InputError, function)
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise InputError(
            f"{spec} returned {_article(given)}; let it return (model, batches), or (model, batches, ids)."
        )
    from torch.nn import Module

    if not isinstance(given[0], Module):
        raise InputError(f"{spec} returned {_article(given[0])} as its model; let it return a torch.nn.Module first.")
    return given[0], given[1], given[2] if len(given) == 3 else None


def _find(spec: str) -> Callable[[], Any]:
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise InputError(f"{spec}: give MODULE:FUNCTION, as in mynet:load for the function load of mynet.py.")
    module = _load(place)
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{place} has no {name}; it has {', '.join(known[:10]) or 'no function'}.")
    if not callable(found):
        raise InputError(f"{spec} is {_article(found)}; name a function.")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise InputError(f"{spec} is called without arguments, but {error}; name a function that needs none.") from None
    except ValueError:
        pass  # a compiled function, which says nothing of its arguments
    return found


def _load(place: str) -> Any:
    if place.endswith(".py"):
        return _blaming(place, InputError, lambda: _load_file(Path(place)))
    _find_neighbours(Path.cwd())
    spec = None
    with suppress(ModuleNotFoundError, ValueError):
        spec = importlib.util.find_spec(place)
    if spec is not None:
        return _blaming(place, InputError, lambda: importlib.import_module(place))
    raise InputError(
        f"there is no module {place} here or among the installed ones; give MODULE:FUNCTION, or FILE.py:FUNCTION."
    )


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path} does not exist; check the path.")
    _find_neighbours(path.resolve().parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _find_neighbours(folder: Path) -> None:
    """Modules of this folder can be imported, as when Python runs a file there."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _blaming(who: str, kind: type[HpvError], work: Callable[[], Any]) -> Any:
    """The result of code that is the user's; what it raises is told in one message with its place."""
    try:
        return work()
    except HpvError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if Path(last.filename).is_relative_to(Path(__file__).parents[2]):
            raise  # a mistake of hpv, which needs the whole traceback
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise kind(f"{who} failed: {text} ({last.filename}, line {last.lineno}).") from error


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" + (f" of {len(value)}" if isinstance(value, tuple) else "")
