"""The commands and their options. Each gives back the work to do, which is imported when it is done."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer import Argument, Option

import hpv
from hpv.cli import options as o
from hpv.cli.terminal import Terminal

Work = Callable[[Terminal], None]

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
app.add_typer(plan_app, name="plan")
slurm_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Print a SLURM script of a fit or a score in shards.",
)  # fmt: skip
app.add_typer(slurm_app, name="slurm")


def command() -> Any:
    """The parser; its ``main`` gives back the work."""
    return typer.main.get_command(app)


def _work(module: str, name: str, options: dict[str, Any]) -> Work:
    options.pop("json", None)
    context: typer.Context | None = options.pop("context", None)
    if context is not None and options["edges"] is not None:
        for other in ("bins", "binning", "modal_fraction", "pilot"):
            source = context.get_parameter_source(other)
            if source is not None and source.name == "COMMANDLINE":
                raise typer.BadParameter(f"the edges are given, leave out --{other.replace('_', '-')}", context,
                                         param_hint="--edges")  # fmt: skip

    def work(terminal: Terminal) -> None:
        getattr(import_module(f"hpv.cli.commands.{module}"), name)(terminal, **options)

    return work


def _again(context: typer.Context, *others: str) -> list[str]:
    """What was given on the command line but ``others``, to be given to another command."""
    arguments = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in others or source is None or source.name != "COMMANDLINE":
            continue
        value, option = context.params[parameter.name or ""], max(parameter.opts, key=len)
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif isinstance(value, bool):
            arguments.append(option)
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                arguments += [option, str(one)]
    return arguments


def _slurm(name: str, options: dict[str, Any]) -> Work:
    options["given"] = _again(options["context"], "shards", "time", "partition", "threads", "json")
    if "edges" not in options:
        options.pop("context")
    return _work("slurm", name, options)


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


@app.command(epilog="Example: hpv capture mynet:load -o background.zarr --layer 'features.*' --layer classifier.1")
def capture(
    function: Annotated[
        str,
        Argument(
            metavar="MODULE:FUNCTION",
            show_default=False,
            help="Returns (model, batches) or (model, batches, ids). FILE.py:FUNCTION is fine, too.",
        ),
    ],
    out: Annotated[str, Option("-o", "--out", metavar="OUT", help="Activation store to write.", show_default=False)],
    layer: Annotated[
        list[str],
        Option(
            "--layer",
            metavar="PATTERN",
            help="Module name, or pattern with * and ?; again for more.",
            show_default=False,
        ),
    ],
    reduce: Annotated[
        list[str] | None,
        Option(
            "--reduce",
            metavar="flatten|mean|max",
            help="What becomes a node: every value, or a channel over all "
            "positions. PATTERN=mean for some layers only. Default: flatten.",
        ),
    ] = None,
    labels: Annotated[
        str, Option("--labels", metavar="argmax|targets|none", help="The model's class, or that of the batches.")
    ] = "argmax",
    device: Annotated[
        str | None, Option("--device", metavar="DEVICE", help="As torch names it. Default: where the model is.")
    ] = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> Work:
    """Run a torch model and store the outputs of its layers."""
    return _work("capture", "capture", locals())


@app.command(epilog="Example: hpv fit activations.zarr -o background.zarr --by-class --memory 2GiB")
def fit(
    context: typer.Context,
    activations: o.Activations,
    out: Annotated[str, Option("-o", "--out", metavar="OUT", help="Background to write.", show_default=False)],
    bins: o.Bins = 32,
    binning: o.Binning = "balanced",
    modal_fraction: o.ModalFraction = "1/10",
    pilot: o.Pilot = "auto",
    edges: o.Edges = None,
    by_class: o.ByClass = False,
    labels: o.Labels = None,
    min_class_size: o.MinClassSize = 100,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    scheduler: o.Scheduler = None,
    scheduler_file: o.SchedulerFile = None,
    workers: o.Workers = None,
    shard: o.ShardOf = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> Work:
    """Fit a background: a histogram of every node, some 300 bytes."""
    return _work("fit", "fit", locals())


@app.command(epilog="Example: hpv merge monday.zarr tuesday.zarr -o both.zarr")
def merge(
    parts: Annotated[
        list[str],
        Argument(
            metavar="PART...",
            help="Backgrounds with the same edges, or all shards of a score; or, without -o, the output of shards.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None, Option("-o", "--out", metavar="OUT", help="Store to write. Default: in place of the shards.")
    ] = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> Work:
    """Add up backgrounds with the same edges, or all shards.

    Of backgrounds that are no shards, those after the first are made with hpv fit --edges.
    """
    return _work("merge", "merge", locals())


@app.command(epilog="Example: hpv score background.zarr new.zarr -o scores.zarr --tail two-sided --tail left")
def score(
    background: o.BackgroundPath,
    activations: o.Activations,
    out: Annotated[str, Option("-o", "--out", metavar="OUT", help="Score store to write.", show_default=False)],
    tail: o.Tails = None,
    statistic: o.Statistics = None,
    form: o.Forms = None,
    alphas: o.Alphas = "grid",
    alpha_max: o.AlphaMax = 0.5,
    layer: o.Layers = None,
    labels: o.Labels = None,
    against: o.Against = None,
    keep: o.Keep = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    scheduler: o.Scheduler = None,
    scheduler_file: o.SchedulerFile = None,
    workers: o.Workers = None,
    shard: o.ShardOf = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> Work:
    """Score samples against a background; higher is more anomalous."""
    return _work("score", "score", locals())


@plan_app.command("fit", epilog="Example: hpv plan fit activations.zarr --memory 512MiB")
def plan_fit(
    context: typer.Context,
    activations: o.Activations,
    bins: o.Bins = 32,
    binning: o.Binning = "balanced",
    modal_fraction: o.ModalFraction = "1/10",
    pilot: o.Pilot = "auto",
    edges: o.Edges = None,
    by_class: o.ByClass = False,
    labels: o.Labels = None,
    min_class_size: o.MinClassSize = 100,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    json: o.Json = False,
) -> Work:
    """What hpv fit with these options would read, write and need."""
    return _work("plan", "plan_fit", locals())


@plan_app.command("score", epilog="Example: hpv plan score background.zarr new.zarr --keep codes,ranges")
def plan_score(
    background: o.BackgroundPath,
    activations: o.Activations,
    tail: o.Tails = None,
    statistic: o.Statistics = None,
    form: o.Forms = None,
    alphas: o.Alphas = "grid",
    alpha_max: o.AlphaMax = 0.5,
    layer: o.Layers = None,
    labels: o.Labels = None,
    against: o.Against = None,
    keep: o.Keep = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    json: o.Json = False,
) -> Work:
    """What hpv score with these options would read, write and need."""
    return _work("plan", "plan_score", locals())


@slurm_app.command(
    "fit", epilog="Example: hpv slurm fit activations.zarr -o background.zarr --shards 16 > fit.sh; bash fit.sh"
)
def slurm_fit(
    context: typer.Context,
    activations: o.Activations,
    out: Annotated[str, Option("-o", "--out", metavar="OUT", help="Background to write.", show_default=False)],
    shards: o.Shards,
    bins: o.Bins = 32,
    binning: o.Binning = "balanced",
    modal_fraction: o.ModalFraction = "1/10",
    pilot: o.Pilot = "auto",
    edges: o.Edges = None,
    by_class: o.ByClass = False,
    labels: o.Labels = None,
    min_class_size: o.MinClassSize = 100,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    time: o.Time = "04:00:00",
    partition: o.Partition = None,
    json: o.Json = False,
) -> Work:
    """Print the script of hpv fit with these options; bash submits it."""
    return _slurm("fit", locals())


@slurm_app.command(
    "score", epilog="Example: hpv slurm score background.zarr new.zarr -o scores.zarr --shards 16 > score.sh"
)
def slurm_score(
    context: typer.Context,
    background: o.BackgroundPath,
    activations: o.Activations,
    out: Annotated[str, Option("-o", "--out", metavar="OUT", help="Score store to write.", show_default=False)],
    shards: o.Shards,
    tail: o.Tails = None,
    statistic: o.Statistics = None,
    form: o.Forms = None,
    alphas: o.Alphas = "grid",
    alpha_max: o.AlphaMax = 0.5,
    layer: o.Layers = None,
    labels: o.Labels = None,
    against: o.Against = None,
    keep: o.Keep = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    backend: o.Backend = "auto",
    time: o.Time = "04:00:00",
    partition: o.Partition = None,
    json: o.Json = False,
) -> Work:
    """Print the script of hpv score with these options; bash submits it."""
    return _slurm("score", locals())


@app.command(epilog="Example: hpv top scores.zarr --n 5 --tail left --nodes")
def top(
    scores: o.ScoresPath,
    n: Annotated[int, Option("--n", "-n", metavar="N", help="How many samples.")] = 20,
    tail: o.Tail = None,
    form: o.Form = None,
    statistic: o.Statistic = None,
    nodes: Annotated[bool, Option("--nodes", help="Which nodes are anomalous, layer by layer.")] = False,
    background: Annotated[
        str | None,
        Option("--background", metavar="BACKGROUND", help="For --nodes. Default: where it was when it was used."),
    ] = None,
    json: o.Json = False,
) -> Work:
    """Show the highest scores, and the nodes behind them."""
    return _work("top", "top", locals())


@app.command(epilog="Example: hpv info background.zarr")
def info(
    store: Annotated[str, Argument(metavar="STORE", help="Any store of hpv, Zarr or .npy.", show_default=False)],
    json: o.Json = False,
) -> Work:
    """Say what a store holds, also an incomplete one."""
    return _work("info", "info", locals())


@app.command(epilog="Example: hpv export scores.zarr -o scores.csv")
def export(
    scores: o.ScoresPath,
    out: Annotated[str, Option("-o", "--out", metavar="FILE", help="FILE.csv or FILE.parquet.", show_default=False)],
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> Work:
    """Write scores as a table, a row per sample."""
    return _work("export", "export", locals())


@app.command(epilog="Example: hpv demo --seeds 5")
def demo(
    seeds: Annotated[int, Option("--seeds", metavar="N", help="Networks to train and average over.")] = 1,
    out: Annotated[str, Option("-o", "--out", metavar="FOLDER", help="Where its stores are left.")] = "hpv-demo",
    json: o.Json = False,
) -> Work:
    """Find anomalies among handwritten digits, from start to end."""
    return _work("demo", "demo", locals())
