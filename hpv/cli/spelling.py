"""Messages of the library name parameters as Python spells them, ``pilot=None``; here they become ``--pilot all``."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

_VALUE = r"\[[^\]]*\]|'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\w+"
_NONE = {"pilot": "all", "labels": "none"}
"""What None is called."""


def spell(text: str, command: Callable[[], Any]) -> str:
    """A message with the parameters that are options of the parser ``command()`` as the command line spells them."""
    options = _options(command)
    return _pattern(command).sub(lambda found: _option(options[found["name"] or found["first"]], found), text)


@functools.cache
def _pattern(command: Callable[[], Any]) -> re.Pattern[str]:
    """``name=value`` and ``name=`` anywhere but in a path, and ``name`` where the message begins with ``name: ``."""
    names = "|".join(_options(command))
    named = rf"(?<![\w./-])(?P<name>{names})=(?:(?P<value>{_VALUE})(?![\w/])|(?=[\s,;.]|\Z))"
    return re.compile(rf"{named}|\A(?P<first>{names})(?=: )")


def _option(option: str, found: re.Match[str]) -> str:
    """An option, with the value that a message gives it."""
    name, value = found["name"], found["value"]
    if value is None:
        return option
    try:
        given = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        given = value
    if given is None:
        given = _NONE.get(name)
    if given is None or isinstance(given, bool):
        return option
    parts = [str(one) for one in given] if isinstance(given, list) else [str(given)]
    return f"{option} {shlex.quote(','.join(parts) or 'none')}"


@functools.cache
def _options(command: Callable[[], Any]) -> dict[str, str]:
    """Name of the parameter in Python -> option. Lists are named in the plural there."""
    found: dict[str, str] = {}
    for parameter in _parameters(command()):
        option = max(parameter.opts, key=len)
        found |= {parameter.name: option} | ({f"{parameter.name}s": option} if parameter.multiple else {})
    return found


def _parameters(command: Any) -> Iterator[Any]:
    """Options of a command and of those beneath it."""
    yield from (parameter for parameter in command.params if parameter.param_type_name == "option")
    for inner in getattr(command, "commands", {}).values():
        yield from _parameters(inner)
