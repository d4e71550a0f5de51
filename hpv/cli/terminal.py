"""What a person or a program sees: results on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from hpv.base.errors import HpvWarning
from hpv.cli.progress import Meter, make_meter

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH_OF_FILES = 200
"""Columns of a table that goes to a file or a pipe."""


class Terminal:
    """Where a command prints: as text, or as JSON with nothing else on stdout."""

    def __init__(self, *, as_json: bool = False, spell: Callable[[str], str] = str) -> None:
        """``spell``: how a message of the library is worded here."""
        self.as_json = as_json
        self.spell = spell

    def result(self, document: Mapping[str, Any], *shown: RenderableType) -> None:
        """The outcome of a command: the document with --json, else what is to be shown."""
        if self.as_json:
            typer.echo(_json(document, indent=2))
            return
        console = self.console()
        for item in shown:
            console.print(item, soft_wrap=isinstance(item, str))

    def console(self) -> Console:
        """Text for stdout; with --json it goes to stderr."""
        from rich.console import Console

        class Output(Console):
            def on_broken_pipe(self) -> None:
                raise  # the error that it is called for: `main` knows what to do

        out = sys.stderr if self.as_json else sys.stdout
        width = None if out.isatty() else WIDTH_OF_FILES
        return Output(file=out, width=width, markup=False, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        """A line beside the result; nothing with --json."""
        if not self.as_json:
            typer.echo(text, err=True)

    def usage(self, text: str) -> None:
        """Help that nobody asked for."""
        typer.echo(text, err=True)

    def warn(self, text: str) -> None:
        """A warning as one line."""
        text = self.spell(text)
        typer.echo(_json({"warning": text}) if self.as_json else f"warning: {text}", err=True)

    def fail(self, text: str, kind: str) -> None:
        """An error as one message."""
        text = self.spell(text)
        typer.echo(_json({"error": text, "kind": kind}) if self.as_json else f"error: {text}", err=True)

    @contextmanager
    def showing_warnings(self) -> Iterator[None]:
        """Warnings of hpv as lines of ours, each once; those of other libraries as Python shows them."""
        with warnings.catch_warnings():
            others, seen = warnings.showwarning, set()

            def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
                if not issubclass(category, HpvWarning):
                    others(message, category, *rest, **options)
                elif str(message) not in seen:
                    seen.add(str(message))
                    self.warn(str(message))

            warnings.simplefilter("always", HpvWarning)
            warnings.showwarning = show
            yield

    def meter(self, command: str, total: int | None = None, unit: str = "byte") -> Meter:
        """Progress of a command that does ``total`` units of work (None: what its parts say when they start)."""
        return make_meter(command, total, unit, shown=not self.as_json)


def grid(rows: Sequence[tuple[str, object]]) -> str:
    """Names and values below each other."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[str] = ()) -> RenderableType:
    """A table of figures; the columns named in ``left`` hold text."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for head in heads:
        made.add_column(head, justify="left" if head in left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def _json(document: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(document), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, numbers that JSON does not have as null, all else that it does not know as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
