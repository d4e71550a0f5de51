"""A command: its work, the options that are its own, and those of the families that it shares with other commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any

import typer

from hpv.cli import options as o
from hpv.cli.terminal import Terminal

Work = Callable[[Terminal], None]
Given = Mapping[str, list[str]]
"""The arguments that were given on the command line, by parameter, as another command would be given them."""


@dataclass(frozen=True)
class Command:
    """What the parser knows of a command."""

    work: Callable[..., None]
    """Called with a `Terminal`, the families, and the command's own options."""
    example: str
    families: Mapping[str, Callable[..., Any]]

    def register(self, app: typer.Typer, name: str | None = None) -> None:
        """Make it a command of the parser, by default with the name of its function."""
        app.command(name or self.work.__name__, epilog=f"Example: {self.example}")(self._parse())

    def _parse(self) -> Callable[..., Work]:
        """The function whose parameters are all options; it gives back the work to do."""

        def parse(context: typer.Context, json: bool, **values: Any) -> Work:
            given = _given(context)
            ready = {name: _bound(family, values, given) for name, family in self.families.items()}
            return partial(_bound(self.work, values, given), **ready)

        own = _options(self.work)
        required = [option for option in own if option.default is Parameter.empty]
        shared = [option for family in self.families.values() for option in _options(family)]
        every = {option.name: option for option in [*required, *shared, *own]}
        context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
        json = Parameter("json", Parameter.KEYWORD_ONLY, annotation=o.Json, default=False)
        parse.__signature__ = Signature([context, *every.values(), json])  # type: ignore[attr-defined]
        parse.__annotations__ = {}
        parse.__doc__ = self.work.__doc__
        return parse


def command(example: str, **families: Callable[..., Any]) -> Callable[[Callable[..., None]], Command]:
    """A function whose keyword-only parameters are a command's own options; ``example`` is shown beneath its help.

    ``families``: by parameter of the function, functions whose keyword-only parameters are options, too. It is given
    each of them with the values of its options, to be called: what several commands share is said in one place. A
    function with a parameter ``given`` gets the arguments as they were given.
    """
    return lambda work: Command(work, example, families)


def _options(function: Callable[..., Any]) -> list[Parameter]:
    """The keyword-only parameters of a function, each with its option."""
    names: dict[str, Any] = getattr(function, "__globals__", {})
    options = [one for one in signature(function).parameters.values() if one.kind is Parameter.KEYWORD_ONLY]
    # Only these: what the others are called may be known to type checkers alone.
    return [option.replace(annotation=eval(option.annotation, names)) for option in options]


def _bound(function: Callable[..., Any], values: Mapping[str, Any], given: Given) -> partial[Any]:
    """A function with the values of its options."""
    own: dict[str, Any] = {option.name: values[option.name] for option in _options(function)}
    return partial(function, **own, **({"given": given} if "given" in signature(function).parameters else {}))


def _given(context: typer.Context) -> dict[str, list[str]]:
    """What was given on the command line, arguments before options."""
    arguments: dict[str, list[str]] = {}
    for parameter in sorted(context.command.params, key=lambda one: one.param_type_name != "argument"):
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value, option = context.params[name], max(parameter.opts, key=len)
        values = [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
        if parameter.param_type_name == "argument":
            arguments[name] = values
        elif isinstance(value, bool):
            arguments[name] = [option]
        else:
            arguments[name] = [part for one in values for part in (option, one)]
    return arguments
