"""Keywords of public calls: singular and plural are both taken; of a wrong keyword the error names the right one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from hpv.base.words import nearly_meant

Call = TypeVar("Call", bound=Callable[..., Any])

ONE_NAME = {"tails": "tail", "statistics": "statistic", "forms": "form"}
"""The documented name of what may be one name or several, by the plural."""
_NUMBERS = ONE_NAME | {"layer": "layers"}
_OTHER = _NUMBERS | {name: other for other, name in _NUMBERS.items()}


def checks_keywords(call: Call) -> Call:
    """A public function or method that takes the other number of a keyword, and names the one that was meant.

    >>> @checks_keywords
    ... def count(x, *, bins=32, tail="right"):
    ...     return bins, tail
    >>> count([], tails="left")
    (32, 'left')
    >>> count([], bin=10)
    Traceback (most recent call last):
        ...
    TypeError: hpv.count: there is no keyword bin; did you mean bins?
    """
    known = keywords_of(call)

    @functools.wraps(call)
    def checked(*data: Any, **options: Any) -> Any:
        if not options.keys() <= known:
            options = check_keywords(_name_of(call, data), options, known)
        return call(*data, **options)

    return cast(Call, checked)


def keywords_of(call: Callable[..., Any], *others: str) -> frozenset[str]:
    """Names that may be given to a function as keywords, without ``self`` and the ``others``."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = inspect.signature(call).parameters.values()
    return frozenset(one.name for one in parameters if one.kind in kinds) - {"self", *others}


def check_keywords(call: str, options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The options under the names that are ``known``; ``TypeError`` for one that ``call`` does not have."""
    taken: dict[str, Any] = {}
    for name, value in options.items():
        own = name if name in known else _OTHER.get(name, "")
        if own not in known:
            raise TypeError(f"{call}: there is no keyword {name}; {_which(name, known)}")
        if own in taken or (own != name and own in options):
            raise TypeError(f"{call}: {_OTHER[own]} and {own} are the same; give {ONE_NAME.get(own, own)} alone.")
        taken[own] = value
    return taken


def _name_of(call: Callable[..., Any], data: tuple[Any, ...]) -> str:
    """As a user knows it: hpv.fit, hpv.Background.scan, hpv.Monitor."""
    owner = [type(data[0]).__name__] if "." in call.__qualname__ and data else []
    return ".".join(["hpv", *owner, *([] if call.__name__ == "__init__" else [call.__name__])])


def _which(name: str, known: Collection[str]) -> str:
    documented = sorted({ONE_NAME.get(one, one) for one in known})
    near = nearly_meant(name, documented)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(documented)}."
