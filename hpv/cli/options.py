"""The options of the command line, each with its unit and meaning; names are those of the Python parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from typer import Argument, BadParameter, Option


def separate(values: Sequence[str] | None) -> list[str] | None:
    """Names that were given one by one or with commas, each once; ``?`` stands for a comma that is part of a name."""
    if not values:
        return None
    names = list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))
    if not names:
        raise BadParameter("no name is given; give one, or leave the option out.")
    return names


def several(option: str, metavar: str, help: str, **more: Any) -> Any:
    """An option that can be given again, and that takes commas: a list of all names."""
    return Option(option, metavar=metavar, help=help, callback=separate, **more)


def out(help: str, metavar: str = "OUT") -> Any:
    """Where a command writes."""
    return Option("-o", "--out", metavar=metavar, help=help, show_default=False)


Activations = Annotated[
    str,
    Argument(metavar="ACTIVATIONS", help="Activation store, Zarr array or group, or .npy file.", show_default=False),
]
BackgroundPath = Annotated[str, Argument(metavar="BACKGROUND", help="Made by hpv fit or merge.", show_default=False)]
ScoresPath = Annotated[str, Argument(metavar="SCORES", help="Made by hpv score.", show_default=False)]

# What every command has
Json = Annotated[bool, Option("--json", help="One JSON document on stdout, errors as JSON on stderr.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace what is at the output, once the new one is complete.")]
Memory = Annotated[
    str | None,
    Option("--memory", metavar="SIZE", help="Most to use above the imports, as 512MiB or 2GiB. "
           "Default: a quarter of what is free."),
]  # fmt: skip
Threads = Annotated[int | None, Option("--threads", metavar="N", help="Default: all processors allowed.")]
Backend = Annotated[
    str, Option("--backend", metavar="auto|cpu|cuda", help="What does the counting; auto: a GPU if it pays.")
]

# Where fit and score compute
Scheduler = Annotated[
    str | None, Option("--scheduler", metavar="ADDRESS", help="Compute on this Dask cluster, as tcp://host:8786.")
]
SchedulerFile = Annotated[
    str | None, Option("--scheduler-file", metavar="FILE", help="The same, by the file that its scheduler wrote.")
]
Workers = Annotated[int | None, Option("--workers", metavar="N", help="Compute in so many processes of this machine.")]

# fit, score and capture
Layers = Annotated[
    list[str] | None,
    several("--layer", "PATTERN", "Names of layers, or patterns with * and ?; again or with commas. Default: all."),
]

# shards
ShardOf = Annotated[
    str | None,
    Option("--shard", metavar="I/N", help="Do part I of N, beneath the same OUT; then hpv merge OUT."),
]
Shards = Annotated[int, Option("--shards", metavar="N", help="Tasks of the array.", show_default=False)]
Time = Annotated[str, Option("--time", metavar="TIME", help="Limit of a task; it goes on in a new one.")]
Partition = Annotated[str | None, Option("--partition", metavar="NAME", help="Default: that of the cluster.")]

# fit
Bins = Annotated[int, Option("--bins", metavar="N", help="Ordinary bins per node, 1 to 254.")]
Binning = Annotated[
    str, Option("--binning", metavar="balanced|uniform|quantile", help="Where edges go; uniform is the paper's rule.")
]
ModalFraction = Annotated[
    str, Option("--modal-fraction", metavar="SHARE", help="A value with more of its node gets a bin of its own.")
]
Pilot = Annotated[str, Option("--pilot", metavar="auto|all|N", help="Samples that edges are found by; counts use all.")]
Edges = Annotated[
    str | None, Option("--edges", metavar="BACKGROUND", help="Count at the edges of this background, to merge with it.")
]
ByClass = Annotated[bool, Option("--by-class", help="Counts for every class, by the labels of the activations.")]
Labels = Annotated[
    str | None,
    Option("--labels", metavar="FILE", help="Other labels: .npy, or text with an integer per line and sample."),
]
MinClassSize = Annotated[
    int, Option("--min-class-size", metavar="N", help="Classes with fewer samples use the counts of all.")
]

# score
Tails = Annotated[
    list[str] | None,
    several("--tail", "TAIL", "right, left, two-sided; again or with commas for several. Default: all."),
]
Statistics = Annotated[
    list[str] | None,
    several("--statistic", "NAME", "berk_jones, higher_criticism, kolmogorov_smirnov. Default: the first two."),
]
Forms = Annotated[
    list[str] | None,
    several("--form", "FORM", "subset (the best nodes), whole (the sample). Default: both."),
]
Alphas = Annotated[str, Option("--alphas", metavar="grid|all", help="255 thresholds, or every p-value there is.")]
AlphaMax = Annotated[float, Option("--alpha-max", metavar="ALPHA", help="Largest threshold, above 0 and up to 1.")]
Against = Annotated[
    str | None,
    Option("--against", metavar="own|lowest|pooled", help="Class whose counts answer. Default: own where there are "
           "classes."),
]  # fmt: skip
Keep = Annotated[
    list[str] | None,
    several("--keep", "WHAT", "codes (1 byte per value), ranges (8 per tail), none. Default: codes."),
]

# top: of several names the best that there is
Tail = Annotated[list[str] | None, several("--tail", "TAIL", "Default: two-sided, or what there is.")]
Form = Annotated[list[str] | None, several("--form", "FORM", "Default: subset, or what there is.")]
Statistic = Annotated[list[str] | None, several("--statistic", "NAME", "Default: higher_criticism, or what there is.")]
