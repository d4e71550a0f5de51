"""The parser: every command is registered here."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Option

import hpv
from hpv.cli.commands.capture import capture
from hpv.cli.commands.demo import demo
from hpv.cli.commands.export import export
from hpv.cli.commands.fit import fit
from hpv.cli.commands.info import info
from hpv.cli.commands.merge import merge
from hpv.cli.commands.plan import plan_fit, plan_score
from hpv.cli.commands.score import score
from hpv.cli.commands.slurm import slurm_fit, slurm_score
from hpv.cli.commands.top import top

app = typer.Typer(
    name="hpv", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or already complete, 2 bad input, 3 the data failed, 75 stopped early (run it again), "
    "130 interrupted, 1 a bug.",
)  # fmt: skip
plan_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Say what a fit or a score would read, write and need.",
)  # fmt: skip
slurm_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Print a SLURM script of a fit or a score in shards.",
)  # fmt: skip
app.add_typer(plan_app, name="plan")
app.add_typer(slurm_app, name="slurm")
for one in (capture, fit, merge, score, top, info, export, demo):
    one.register(app)
plan_fit.register(plan_app, "fit")
plan_score.register(plan_app, "score")
slurm_fit.register(slurm_app, "fit")
slurm_score.register(slurm_app, "score")


def command() -> Any:
    """The parser; its ``main`` gives back the work."""
    return typer.main.get_command(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(hpv.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Histogram p-values: which activations of a neural network are unusual, in bounded memory.

    capture -> fit -> score -> top: `hpv demo` shows the whole way.
    """
