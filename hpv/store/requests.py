"""How what a store was asked to hold differs from what is asked for now, in words; options as Python spells them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hpv.base.words import quantity
from hpv.store.headers import NAMES

Sides = tuple[str, str]
"""What is there, and what is asked for."""
Words = Callable[[Any, Any], Sides]
_SHOWN = 100
"""Letters of a value."""
_DIGITS = 12
"""Of hashes, as everywhere."""


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """How the header ``found`` differs from the ``wanted`` format, version and request; None if it does not."""
    for name in ("format", "version"):
        if name in wanted and found.get(name) != wanted[name]:
            return _join([_WORDS[name](found.get(name), wanted[name])])
    return request_difference(found.get("request", {}), wanted["request"])


def request_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The same of two requests."""
    differing = [name for name in {**wanted, **found} if not _equal(found.get(name), wanted.get(name))]
    for name in ("removed", "command"):
        differing = [name] if name in differing else differing  # the rest follows from it
    sides = [_WORDS.get(name, _option(name))(found.get(name), wanted.get(name)) for name in differing]
    return _join(sides) if sides else None


def _equal(one: Any, other: Any) -> bool:
    """As JSON has them: 1 is not True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _join(sides: list[Sides]) -> str:
    there, here = (_told(side) for side in zip(*sides, strict=True))
    return f"{there} there and {here} here"


def _told(side: Sequence[str]) -> str:
    """The options that are set on one side; one that is absent only where nothing else differs."""
    return ", ".join([text for text in side if not text.startswith("no ")] or side[:1])


def _option(name: str) -> Words:
    """``bins=32``, and what is not asked for."""

    def side(value: Any) -> str:
        return f"no {name}=" if value is None else f"{name}={_short(repr(value))}"

    return lambda there, here: (side(there), side(here))


def _named(what: str) -> Words:
    """The value after its name."""

    def side(value: Any) -> str:
        return f"no {what}" if value is None else f"{what} {_short(str(value))}"

    return lambda there, here: (side(there), side(here))


def _hashed(what: str) -> Words:
    """The first digits of a hash."""
    named = _named(what)
    return lambda there, here: named(*(None if value is None else value[:_DIGITS] for value in (there, here)))


def _unlike(what: str) -> Words:
    """What is known by a hash that says nothing to anybody."""

    def sides(there: Any, here: Any) -> Sides:
        return (what if there else f"no {what}", ("other " if there else "") + what if here else f"no {what}")

    return sides


def _command(there: Any, here: Any) -> Sides:
    names = {None: "hpv capture", "save": "Background.save"}
    first, second = (names.get(value, f"hpv {value}") for value in (there, here))
    return f"the result of {first}", f"that of {second}"


def _pilot(there: Any, here: Any) -> Sides:
    """All samples are asked for by None."""
    first, second = _option("pilot")(there, here)
    return first.replace("'all'", "None"), second.replace("'all'", "None")


def _labels(there: Any, here: Any) -> Sides:
    """Hashes of given ones; a capture says where its own come from."""
    if any(value is not None and " " in value for value in (there, here)):
        return _named("labels:")(there, here)
    return _unlike("labels")(there, here)


def _shards(there: Any, here: Any) -> Sides:
    first, second = ("no shards" if value is None else quantity(value, "shard") for value in (there, here))
    return first, second


def _layers(there: Any, here: Any) -> Sides:
    """Names to score; nodes, dtype and reduction of the layers of a capture."""
    if not all(isinstance(value, dict) for value in (there, here)):
        return _option("layers")(there, here)
    name = next(name for name in {**there, **here} if there.get(name) != here.get(name))
    first, second = (_layer(name, side.get(name)) for side in (there, here))
    return first, second


def _layer(name: str, entry: Any) -> str:
    return f"no layer {name}" if entry is None else f"layer {name} ({', '.join(str(part) for part in entry)})"


def _activations(there: Any, here: Any) -> Sides:
    """The first of their traits that differs: where they are, their layers, shapes, types; or only their values."""
    for first, second in zip(_traits(there), _traits(here), strict=True):
        if first != second:
            return f"activations {_short(first)}", f"activations {_short(second)}"
    where = next(_traits(there))
    return f"activations {where}", f"other ones {'in memory' if where == 'in memory' else 'at that place'}"


def _traits(activations: Any) -> Iterator[str]:
    layers = (activations or {}).get("layers", {})
    yield ", ".join(dict.fromkeys(layer["path"] for layer in layers.values() if "path" in layer)) or "in memory"
    yield f"with the layers {', '.join(layers)}"
    for name in ("shape", "dtype", "part"):
        yield f"of {name} {', '.join(str(layer.get(name)) for layer in layers.values())}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


_WORDS: dict[str, Words] = {
    "format": lambda there, here: (NAMES.get(there, str(there)), NAMES.get(here, str(here))),
    "version": _named("format version"),
    "command": _command,
    "activations": _activations,
    "pilot": _pilot,
    "labels": _labels,
    "edges": _unlike("given edges"),
    "background": _hashed("background"),
    "fingerprint": _hashed("fingerprint"),
    "parts": _unlike("parts"),
    "weights": _hashed("weights"),
    "model": _named("model"),
    "ids": _unlike("ids"),
    "layers": _layers,
    "tails": _option("tail"),  # the name that a caller gives it
    "statistics": _option("statistic"),
    "forms": _option("form"),
    "shards": _shards,
    "removed": lambda there, here: ("what is left of a store that is being removed", "a new one"),
}
