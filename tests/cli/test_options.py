"""Options of one family are the same wherever they are; lists take commas; patterns choose layers."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import hpv
from commands import ROOT, done, refused, run
from data import CommandData
from hpv.cli import options as o
from hpv.cli.app import command
from hpv.cli.command import command as as_command
from hpv.cli.commands import prepared
from hpv.cli.spelling import spell

FAMILIES = {
    prepared.fit_job: ("fit", "plan fit", "slurm fit"),
    prepared.score_job: ("score", "plan score", "slurm score"),
}
OWN = {
    "fit": {"out", "scheduler", "scheduler_file", "workers", "shard", "overwrite"},
    "plan": set(),
    "slurm": {"out", "shards", "time", "partition"},
}


def parameters(name: str) -> dict[str, Any]:
    """Parameters of a command, as the parser has them."""
    found = command()
    for part in name.split():
        found = found.commands[part]
    return {parameter.name: parameter for parameter in found.params}


def every_command(found: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    inner = getattr(found, "commands", {})
    for name in inner:
        yield from every_command(inner[name], (*names, name))
    if not inner:
        yield " ".join(names), found


COMMANDS = dict(every_command(command()))
LISTS = [
    (name, parameter.name)
    for name, found in COMMANDS.items()
    for parameter in found.params
    if parameter.param_type_name == "option" and parameter.multiple
]


# --- families ---


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_the_commands_of_a_family_cannot_differ(family: Any) -> None:
    options = [
        one.name for one in inspect.signature(family).parameters.values() if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    first, *others = FAMILIES[family]
    for name in (first, *others):
        there = parameters(name)
        kind = name.split()[0] if name.split()[0] in OWN else "fit"
        assert set(there) == {*options, "json"} | OWN[kind]
        for option in options:
            expected, found = parameters(first)[option], there[option]
            assert (found.opts, found.help, found.default, found.multiple, found.required, found.metavar) == (
                expected.opts, expected.help, expected.default, expected.multiple, expected.required, expected.metavar,
            )  # fmt: skip


def test_options_are_parameters_of_the_library() -> None:
    """Under the same names, but for ``--layer``, which is the list ``layers``."""
    for family, call, positional in (
        (prepared.fit_job, hpv.fit, {"given"}),
        (prepared.score_job, hpv.score, {"out", "overwrite", "shard", "progress"}),
    ):
        theirs = {"layer" if name == "layers" else name for name in inspect.signature(call).parameters}
        assert set(inspect.signature(family).parameters) - {"given"} == theirs - positional - {"progress"}
        for name, parameter in inspect.signature(family).parameters.items():
            expected = inspect.signature(call).parameters.get(name, parameter).default
            if parameter.default is not None and name != "modal_fraction":
                assert parameter.default == expected, name


def test_a_command_of_ones_own() -> None:
    """Its options, those of its family with their values, and what was given, in the order of a command line."""
    seen: list[Any] = []

    def family(given: Any, *, threads: o.Threads = None, memory: o.Memory = None) -> Any:
        return threads, memory, dict(given)

    @as_command("hpv own x", ask=family)
    def own(terminal: Any, ask: Any, *, store: o.ScoresPath, overwrite: o.Overwrite = False) -> None:
        """Say what was asked."""
        seen.extend([terminal, ask(memory="7B"), ask.keywords["threads"], store, overwrite])

    app = typer.Typer()
    own.register(app)
    work = typer.main.get_command(app).main(["--threads", "3", "x.zarr", "--overwrite"], standalone_mode=False)
    work("a terminal")
    given = {"store": ["x.zarr"], "threads": ["--threads", "3"], "overwrite": ["--overwrite"]}
    assert seen == ["a terminal", (3, "7B", given), 3, "x.zarr", True]


def test_importing_the_commands_imports_none_of_their_work() -> None:
    code = """
import sys
import hpv.cli.app
light = ("hpv.base", "hpv.cli", "hpv.demo")
print(sorted(name for name in sys.modules if name.startswith("hpv.") and not name.startswith(light)))
print(sorted({"numpy", "numba", "zarr", "torch", "dask", "rich"} & set(sys.modules)))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert found.stdout.split("\n")[0] == "[]", found.stderr
    assert "numpy" not in found.stdout
    assert "zarr" not in found.stdout


# --- commas ---


def test_there_are_lists() -> None:
    assert {option for _, option in LISTS} == {"tail", "statistic", "form", "layer", "keep", "reduce"}
    assert len(LISTS) > 15


@pytest.mark.parametrize(("name", "option"), LISTS)
def test_every_list_takes_commas(name: str, option: str) -> None:
    found = COMMANDS[name]
    parameter = next(one for one in found.params if one.name == option)
    context = found.context_class(found)
    assert parameter.process_value(context, ["b, a", "c", "a,"]) == ["b", "a", "c"]
    with pytest.raises(Exception, match="no name is given; give one, or leave the option out"):
        parameter.process_value(context, [" ,"])


def test_commas_or_again_is_the_same(data: CommandData, tmp_path: Path) -> None:
    out = ("score", data.background, data.new, "-o", tmp_path / "s.zarr", "--json")
    commas = done(*out, "--tail", "left,right", "--form", "whole, subset", "--statistic",
                  "berk_jones,kolmogorov_smirnov", "--layer", "con*,hidden", "--keep", "codes,ranges").json  # fmt: skip
    again = done(*out, "--tail", "left", "--tail", "right", "--form", "whole", "--form", "subset", "--statistic",
                 "berk_jones", "--statistic", "kolmogorov_smirnov", "--layer", "con*", "--layer", "hidden", "--keep",
                 "codes", "--keep", "ranges").json  # fmt: skip
    assert (commas["already_complete"], again["already_complete"]) == (False, True)
    assert len(again["kinds"]) == 8
    assert again["layers"] == ["conv", "hidden"]


def test_an_empty_list_is_refused(data: CommandData, tmp_path: Path) -> None:
    message = refused("score", data.background, data.new, "-o", tmp_path / "s", "--layer", "")
    assert "'--layer': no name is given; give one, or leave the option out. See hpv score --help." in message


def test_commas_in_a_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\n"
        "def load():\n"
        "    layers = torch.nn.Conv1d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(12, 2)\n"
        "    return torch.nn.Sequential(*layers), [torch.rand(5, 1, 6)]\n"
    )
    document = done("capture", "net.py:load", "-o", "a", "--layer", "[01],3", "--reduce", "0=mean,1=max", "--json").json
    assert [(layer["name"], layer["nodes"]) for layer in document["layers"]] == [("0", 4), ("1", 4), ("3", 2)]
    assert "no module of the model is called '7'" in refused("capture", "net.py:load", "-o", "b", "--layer", "3,7")


# --- layers and kinds ---


def test_a_fit_of_some_layers(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = done("fit", data.normal, "-o", "b.zarr", "--layer", "hid*", "--by-class", "--json").json
    assert [layer["name"] for layer in document["layers"]] == ["hidden"]
    assert document["fingerprint"] == hpv.fit(data.normal, layers="hidden", by_class=True).fingerprint
    assert "complete already" in done("fit", data.normal, "-o", "b.zarr", "--layer", "hidden", "--by-class").out
    assert "layers hidden there" in refused("fit", data.normal, "-o", "b.zarr", "--by-class")
    plan = done("plan", "fit", data.normal, "--layer", "hidden", "--json").json
    assert [layer["name"] for layer in plan["layers"]] == ["hidden"]
    whole = done("plan", "fit", data.normal, "--layer", "hidden,c*", "--json").json
    assert whole["bytes_read"] == done("plan", "fit", data.normal, "--json").json["bytes_read"] > plan["bytes_read"]
    job = done("slurm", "fit", data.normal, "-o", "c.zarr", "--shards", 2, "--layer", "hid*,conv", "--json").json
    given = job["run"][job["run"].index("fit") + 1 :]
    assert given[:7] == [str(data.normal), "--out", "c.zarr", "--layer", "hid*", "--layer", "conv"]
    assert given[-2:] == ["--shard", "I/2"]


def test_a_shard_of_some_layers(data: CommandData, tmp_path: Path) -> None:
    out = tmp_path / "b.zarr"
    for part in ("1/2", "2/2"):
        done("fit", data.normal, "-o", out, "--layer", "hid*", "--shard", part)
    done("merge", out)
    assert hpv.open(out).fingerprint == hpv.fit(data.normal, layers="hidden").fingerprint


def test_layers_that_are_not_there(data: CommandData, tmp_path: Path) -> None:
    message = refused("fit", data.normal, "-o", tmp_path / "b", "--layer", "conv,hiden")
    assert (
        message
        == "--layer: no layer of the activations is called 'hiden'. Close to it: hidden. There are: conv, hidden."
    )
    message = refused("plan", "score", data.background, data.new, "--layer", "x*")
    assert message == "--layer: no layer of the background is called 'x*'. There are: conv, hidden."


def test_top_asks_as_the_library_does(data: CommandData) -> None:
    scores = hpv.open(data.scores)
    assert isinstance(scores, hpv.Scores)
    for options, asked in (
        ((), {}),
        (("--tail", "left"), {"tail": "left"}),
        (("--tail", "right,left", "--form", "whole"), {"tail": ["right", "left"], "form": "whole"}),
        (("--statistic", "berk_jones"), {"statistic": "berk_jones"}),
    ):
        document = done("top", data.scores, "--n", 40, "--nodes", "--json", *options).json
        expected = scores.get(**asked).score
        for row in document["top"]:
            assert row["score"] == expected[row["sample"]]
            nodes = scores.nodes(row["sample"], **asked)
            assert row["nodes"] == json.loads(json.dumps({name: found.tolist() for name, found in nodes.items()}))
    assert f"{data.scores} has no scores of up or down; it has right, left, two-sided;" in refused(
        "top", data.scores, "--tail", "up,down"
    )


# --- mistakes ---


@pytest.mark.parametrize("wrong", [("--tial", "left"), ("--tails", "left")])
def test_a_wrong_option_is_named_with_the_right_one(data: CommandData, wrong: tuple[str, str]) -> None:
    message = refused("score", data.background, data.new, "-o", "x", *wrong)
    assert f"No such option: {wrong[0]}" in message
    assert "--tail" in message.removeprefix(f"No such option: {wrong[0]}")


def test_edges_that_are_given_leave_no_choice(data: CommandData, tmp_path: Path) -> None:
    for kind in (("fit", data.normal, "-o", tmp_path / "b"), ("plan", "fit", data.normal),
                 ("slurm", "fit", data.normal, "-o", tmp_path / "b", "--shards", 2)):  # fmt: skip
        message = refused(*kind, "--edges", data.background, "--modal-fraction", "1/10")
        assert message == "--edges: the edges are given, leave out --modal-fraction."
    assert "--layer: " in spell("layers: none given", command)


def test_a_mistake_of_hpv_in_a_capture_is_no_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from hpv.capturing import storing

    (tmp_path / "net.py").write_text(
        "import torch\ndef load():\n    return torch.nn.Sequential(torch.nn.ReLU()), [torch.rand(5, 6)]\n"
    )
    monkeypatch.setattr(storing, "weights_hash", lambda model: storing.quantity(3, None))
    outcome = run("capture", f"{tmp_path / 'net.py'}:load", "-o", tmp_path / "a", "--layer", "0")
    assert outcome.code == 1
    assert "this is a bug in hpv" in outcome.err
