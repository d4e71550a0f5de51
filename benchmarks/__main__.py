"""``python -m benchmarks``: all parts or some, as tables and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import import_module

from rich.console import Console

from benchmarks.measuring import Options, Table, machine, processor_count, show

PARTS = {
    "library": "hpv's calls as multiples of a copy",
    "peers": "hpv beside other libraries",
    "streaming": "stores on disk: time and memory",
    "soak": "the commands on a store many times as large as the memory",
    "startup": "the command line, cold and warm",
    "kernels": "compiled loops as multiples of a copy",
    "scaling": "time against samples and nodes",
    "cuda": "the CUDA backend on a GPU, beside a copy there",
}


BYTES = ("store_bytes", "soak_bytes", "gpu_bytes", "pinned_bytes")


def parse(arguments: Sequence[str] | None = None) -> tuple[list[str], Options, argparse.Namespace]:
    """Parts to run, sizes, and the other settings."""
    listed = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    parser = argparse.ArgumentParser("python -m benchmarks", description=f"Benchmarks of hpv. Parts: {listed}.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    default = Options(threads=processor_count())
    parser.add_argument("--rounds", type=int, default=default.rounds, help="every figure is the least of so many")
    parser.add_argument("--threads", type=int, default=default.threads, help="of streaming and of gains")
    parser.add_argument("--store-bytes", type=float, default=default.store_bytes, help="of the streamed store")
    parser.add_argument("--soak-bytes", type=float, default=default.soak_bytes, help="of the store of the soak")
    parser.add_argument("--soak-memory", default=default.soak_memory, help="budget of the soak")
    parser.add_argument("--gpu-bytes", type=float, default=default.gpu_bytes, help="of values on the GPU")
    parser.add_argument("--pinned-bytes", type=float, default=default.pinned_bytes, help="of values on their way there")
    parser.add_argument("--memory", default=default.memory, help="budget of the streaming part")
    parser.add_argument("--folder", help="where temporary stores are made")
    parser.add_argument("--warm-only", dest="cold", action="store_false", help="never empty the page cache")
    chosen = parser.parse_args(arguments)
    wrong = [part for part in chosen.parts if part not in PARTS]
    if wrong:
        parser.error(f"no part {wrong[0]}; choose from {', '.join(PARTS)}")
    for name in ("rounds", "threads", *BYTES):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is a number from 1 on")
    for name in BYTES:
        setattr(chosen, name, int(getattr(chosen, name)))
    named = {one.name for one in fields(Options)}
    options = replace(default, **{name: value for name, value in vars(chosen).items() if name in named})
    return chosen.parts or list(PARTS), options, chosen


def run(parts: Sequence[str], options: Options, console: Console) -> list[Table]:
    """Measure parts and print each as it is done."""
    tables = []
    for part in parts:
        for table in import_module(f"benchmarks.{part}").measure(options):
            show(table, console)
            tables.append(table)
    return tables


def main() -> int:
    """The command."""
    parts, options, chosen = parse()
    console = Console() if sys.stdout.isatty() else Console(width=180)
    lacking = import_module("benchmarks.cuda").missing() if "cuda" in parts else None
    if lacking and chosen.parts:
        print(f"The part cuda: {lacking}.", file=sys.stderr)
        return 2
    if lacking:
        parts.remove("cuda")
        console.print(f"The part cuda is left out: {lacking}.", highlight=False)
    facts = machine()
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    tables = run(parts, options, console)
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump({"machine": facts, "tables": [table.as_json() for table in tables]}, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
