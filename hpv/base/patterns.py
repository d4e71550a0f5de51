"""Layers are chosen by name or by pattern, in the same way wherever they are chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hpv.base.errors import InputError
from hpv.base.words import nearly_meant

_LISTED = 40


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern is this name, or selects it with ``*``, ``?`` and ``[...]``."""
    return name == pattern or fnmatchcase(name, pattern)


def select_names(patterns: str | Iterable[str], names: Iterable[str], what: str, of: str) -> list[str]:
    """The names that one or several names or patterns select, in the order of ``names``.

    ``InputError`` where one selects nothing: it calls a name ``what``, as layer, and all of them together ``of``.

    >>> select_names(["conv.*", "head"], ["conv.0", "conv.1", "norm", "head"], "layer", "the background")
    ['conv.0', 'conv.1', 'head']
    """
    names = list(names)
    selected = {name for found in select_by_pattern(patterns, names, what, of).values() for name in found}
    return [name for name in names if name in selected]


def select_by_pattern(
    patterns: str | Iterable[str], names: Sequence[str], what: str, of: str, more: Collection[str] = ()
) -> dict[str, list[str]]:
    """The same, pattern by pattern. ``more``: names that are selected only where they are given in full."""
    given = _listed(patterns)
    if not given:
        raise InputError(f"layers: none given; name {what}s of {of}, or give patterns such as 'features.*'.")
    chosen = {}
    for pattern in given:
        if not isinstance(pattern, str):
            raise InputError(f"layers: {pattern!r} is no name; give names of {what}s of {of}, or patterns.")
        whole = pattern in names or pattern in more
        chosen[pattern] = [pattern] if whole else [name for name in names if fnmatchcase(name, pattern)]
        if not chosen[pattern]:
            raise InputError(f"layers: no {what} of {of} is called {pattern!r}.{which_there_are(pattern, names, more)}")
    return chosen


def which_there_are(name: str, names: Sequence[str], more: Collection[str] = ()) -> str:
    """For an error: names that may have been meant, then all names."""
    close = nearly_meant(name, [*names, *(one for one in more if one not in names)])
    hint = f" Close to it: {', '.join(close)}." if close else ""
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return f"{hint} There are: {listed}."


def _listed(patterns: Any) -> list[Any]:
    return list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
