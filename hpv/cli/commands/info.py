"""hpv info."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from hpv.base.words import human, quantity
from hpv.cli.command import command
from hpv.cli.commands.prepared import open_scores
from hpv.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType


@command("hpv info background.zarr")
def info(
    terminal: Terminal,
    *,
    store: Annotated[str, Argument(metavar="STORE", help="Any store of hpv, Zarr or .npy.", show_default=False)],
) -> None:
    """Say what a store holds, also an incomplete one."""
    from hpv.activations.opening import open_activations
    from hpv.api.background import Background
    from hpv.cli.describing import (
        activation_facts,
        activation_summary,
        background_facts,
        background_layers,
        background_summary,
        bytes_on_disk,
        modal_counts,
        request_text,
        request_words,
        scores_facts,
        scores_summary,
        summary_header,
    )
    from hpv.fitting.stored import open_background

    header = summary_header(store)
    if header is not None and header.get("complete") is not True:
        _show_incomplete(terminal, store, header)
        return
    shown: list[RenderableType]
    if header is not None and header["format"] == "hpv-background":
        background = Background.of(open_background(store))
        document = {**background_facts(background), **modal_counts(background)}
        shown = [*background_summary(document), background_layers(document)]
    elif header is not None and header["format"] == "hpv-scores":
        document = scores_facts(open_scores(store))
        shown = scores_summary(document)
    else:
        document = activation_facts(open_activations(store))
        shown = activation_summary(document)
    ours = "" if header is None else f", hpv format version {header['version']}"
    size = bytes_on_disk(store)
    document = {"store": store, "kind": document.pop("kind"), "complete": True, "bytes_on_disk": size, **document}
    heading = f"{store}: {document['kind']}{'' if size is None else f', {human(size)} on disk'}{ours}"
    made = request_text(header)
    terminal.result(
        {**document, "request": made}, heading, *shown, *([f"made by {request_words(made)}"] if made else [])
    )


def _show_incomplete(terminal: Terminal, store: str, header: Mapping[str, Any]) -> None:
    from hpv.cli.describing import KINDS, bytes_on_disk, request_text, request_words
    from hpv.store.shards import shard_state, shards_of

    kind, made = KINDS[header["format"]], request_text(header)
    steps = list(_steps(header))
    document = {"store": store, "kind": kind, "complete": False, "bytes_on_disk": bytes_on_disk(store),
                "progress": header.get("progress", {}), "request": made}  # fmt: skip
    of = shards_of(header)
    if of is not None:
        state = shard_state(store, of)
        document["shards"] = {"of": of, "missing": state.missing, "unfinished": state.unfinished}
        lines = [f"{store}: {kind}, incomplete: {state} {store}."]
    else:
        lines = [f"{store}: {kind}, incomplete: run the command that was writing it again, it continues."]
        lines += [f"so far: {'; '.join(steps) or 'nothing that survives a stop'}"]
    terminal.result(document, *lines, *([f"begun by {request_words(made)}"] if made else []))


def _steps(header: Mapping[str, Any]) -> Iterator[str]:
    """How far the run was that wrote the store."""
    progress = header.get("progress", {})
    if progress.get("stored"):
        yield f"{quantity(progress['stored'], 'sample')} of all layers"
    if progress.get("samples"):
        layers = header.get("request", {}).get("activations", {}).get("layers", {})
        of = next((f" of {layer['shape'][0]:,}" for layer in layers.values() if layer.get("shape")), "")
        yield f"scored samples: {progress['samples']:,}{of}"
    states = progress.get("states", {})
    for layer, edges in progress.get("edges", {}).items():
        yield f"edges of {quantity(edges['nodes'], 'node')} of {layer}"
    for layer, state in states.items():
        samples = quantity(state["samples"], "sample")
        yield f"{samples} of {layer} counted in tile {state['tile'] + 1} of {state['walk']}"
