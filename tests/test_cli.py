"""Every command, its exit codes and its messages; what is at the output already; most of it in this process."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpv
from hpv.activations import stored
from hpv.activations.layers import Layer
from hpv.activations.writing import save_activations
from hpv.api import table as table_module
from hpv.cli import describing, main, progress
from hpv.cli.commands import demo as demo_command
from hpv.cli.progress import Bar, Lines, Meter
from hpv.cli.terminal import Terminal
from hpv.scoring import tallying
from hpv.store.output import Output
from hpv.walking import keeping, tiling

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "capture",
    "fit",
    "merge",
    "score",
    "plan fit",
    "plan score",
    "slurm fit",
    "slurm score",
    "top",
    "info",
    "export",
    "demo",
)
NODES = {"conv": 12, "hidden": 5}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object) -> Outcome:
    """``hpv`` with these arguments, in this process and without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*arguments: object, code: int = 2) -> str:
    """The one line that says why."""
    outcome = run(*arguments)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """``python -m hpv`` as a process of its own."""
    command = [sys.executable, "-m", "hpv", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


@dataclass(frozen=True)
class Data:
    """Stores that tests read and do not change."""

    normal: Path
    """Activations of 600 samples in three classes, two layers, one NaN."""
    new: Path
    """40 samples with ids; the first ones have larger values."""
    bare: Path
    """An .npy file with the first layer of ``normal``."""
    background: Path
    scores: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    found = Data(*(folder / name for name in ("normal.zarr", "new.zarr", "bare.npy", "background.zarr", "scores.zarr")))
    random = np.random.default_rng(5)

    def layers(samples: int) -> dict[str, np.ndarray]:
        made = {name: random.normal(size=(samples, nodes)).astype(np.float32) for name, nodes in NODES.items()}
        made["conv"] = np.maximum(made["conv"], 0)
        return made

    normal, new = layers(600), layers(40)
    normal["hidden"][7, 1] = np.nan
    for values in new.values():
        values[:3] += 4
    origin = {"model": "Net", "weights": "a" * 64}
    save_activations(found.normal, normal, labels=np.arange(600) % 3, attributes=origin)
    ids = [f"picture {i}" for i in range(40)]
    save_activations(found.new, new, labels=np.arange(40) % 4, ids=ids, attributes=origin)
    np.save(found.bare, normal["conv"])
    done("fit", found.normal, "-o", found.background)
    done("score", found.background, found.new, "-o", found.scores)
    return found


# --- help, versions, the parser ---


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_the_command(command: str) -> None:
    text = done(*command.split(), "--help").out
    assert f"Example: hpv {command}" in text
    assert "--json" in text


def test_root_help_lists_every_command() -> None:
    text = done("--help").out
    assert all(f"\n  {command.split()[0]} " in text for command in COMMANDS)
    assert text.count("...") == 1, "a line of help is cut off"
    assert "75" in text
    assert done("-h").out == text


@pytest.mark.parametrize("arguments", [(), ("plan",)])
def test_no_command_shows_the_help(arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("Usage: hpv")


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from hpv.cli import main
for command in {COMMANDS!r}:
    assert main([*command.split(), "--help"]) == 0
heavy = {{"numpy", "numba", "zarr", "dask", "torch", "sklearn", "pyarrow"}}
sys.exit(f"imported {{heavy & set(sys.modules)}}" if heavy & set(sys.modules) else 0)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr


def test_version() -> None:
    assert done("--version").out.strip() == hpv.__version__
    assert process("--version").stdout.strip() == hpv.__version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("fit",), "ACTIVATIONS"),
        (("fit", "x.npy"), "'-o'"),
        (("fit", "x.npy", "-o", "y", "--bins", "many"), "'--bins'"),
        (("fit", "x.npy", "-o", "y", "--colour", "red"), "No such option"),
        (("score", "b.zarr", "-o", "y"), "ACTIVATIONS"),
        (("plan", "merge"), "No such command 'merge'"),
    ],
)
def test_usage(arguments: tuple[str, ...], words: str) -> None:
    message = refused(*arguments)
    assert words.lower() in message.lower()
    assert message.endswith("--help.")
    outcome = run(*arguments, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert json.loads(outcome.err)["kind"] == "UsageError"


# --- fit, merge, plan ---


def test_fit(data: Data, tmp_path: Path) -> None:
    outcome = done("fit", data.normal, "-o", tmp_path / "b.zarr", "--by-class", "--min-class-size", 150)
    assert "b.zarr is complete." in outcome.out
    assert "600" in outcome.out
    assert "3 (0: 200, 1: 200, 2: 200)" in outcome.out
    assert "1 in hidden, not counted" in outcome.out
    assert "fit: " in outcome.err
    assert "/s" in outcome.err
    background = hpv.open(tmp_path / "b.zarr")
    assert background.fingerprint in outcome.out
    assert background.fingerprint == hpv.fit(data.normal, by_class=True, min_class_size=150).fingerprint


def test_fit_options_are_those_of_the_library(data: Data, tmp_path: Path) -> None:
    labels = np.arange(600) % 2
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "labels.txt").write_text("\n".join(map(str, labels)) + "\n")
    expected = hpv.fit(
        data.normal, bins=10, binning="uniform", modal_fraction="1/5", pilot=None, labels=labels, min_class_size=301
    )
    for number, name in enumerate(("labels.npy", "labels.txt")):
        outcome = done(
            "fit", data.normal, "-o", tmp_path / f"{number}.zarr", "--bins", 10, "--binning", "uniform", "--json",
            "--modal-fraction", "1/5", "--pilot", "all", "--labels", tmp_path / name, "--min-class-size", 301,
            "--memory", "256MiB", "--threads", 1, "--backend", "cpu",
        )  # fmt: skip
        assert outcome.json["fingerprint"] == expected.fingerprint
        assert outcome.json["classes"] == {"0": 300, "1": 300}
        assert outcome.json["pooled_classes"] == [0, 1]
        assert outcome.err == ""


def test_small_classes_are_reported(data: Data, tmp_path: Path) -> None:
    outcome = done("fit", data.normal, "-o", tmp_path / "b.zarr", "--by-class", "--min-class-size", 201)
    assert "classes 0, 1, 2: fewer than 201 samples" in outcome.out


def test_merge_of_parts_is_the_fit_of_all(data: Data, tmp_path: Path) -> None:
    values = np.load(data.bare)
    np.save(tmp_path / "first.npy", values[:250])
    np.save(tmp_path / "second.npy", values[250:])
    first, second, both = (tmp_path / name for name in ("1.zarr", "2.zarr", "both.zarr"))
    done("fit", tmp_path / "first.npy", "-o", first)
    done("fit", tmp_path / "second.npy", "-o", second, "--edges", first)
    document = done("merge", first, second, "-o", both, "--json").json
    assert (document["samples"], document["already_complete"]) == (600, False)
    assert hpv.open(both).fingerprint == hpv.fit(values, edges=hpv.open(first)).fingerprint

    again = done("merge", second, first, "-o", both)
    assert "was complete already" in again.out
    assert "given twice" in refused("merge", first, first, "-o", both)
    assert "another path" in refused("merge", first, "-o", both)
    assert hpv.open(both).samples.sum() == 600
    done("merge", first, "-o", both, "--overwrite")
    assert hpv.open(both).samples.sum() == hpv.open(first).samples.sum()
    assert "other edges" in refused("merge", first, data.background, "-o", tmp_path / "x.zarr").replace(
        "has the layers", "has other edges"
    )
    assert not (tmp_path / "x.zarr").exists()


def test_plan_reads_nothing_and_writes_nothing(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Layer, "read", lambda *_: pytest.fail("a plan reads no values"))
    document = done("plan", "fit", data.normal, "--memory", "512MiB", "--threads", 2, "--json").json
    assert document["kind"] == "fit"
    assert (document["memory"], document["threads"]) == (512 * 2**20, 2)
    assert document["bytes_read"] == 2 * 600 * sum(NODES.values()) * 4
    text = done("plan", "fit", data.normal, "--pilot", 64).out
    assert "conv: 600 x 12" in text
    assert "pilot of 64" in text
    assert list(tmp_path.iterdir()) == []


def test_plan_score_counts_what_is_kept(data: Data) -> None:
    values = 40 * sum(NODES.values())
    for keep, size in (("none", 0), ("codes", values), ("codes,ranges", values * 9)):
        document = done("plan", "score", data.background, data.new, "--tail", "left", "--form", "whole",
                        "--statistic", "berk_jones", "--keep", keep, "--json").json  # fmt: skip
        assert (document["kind"], document["bytes_written"]) == ("score", size + 40 * 24)
    text = done("plan", "score", data.background, data.new).out
    assert "conv: 40 x 12, 1 tile of nodes" in text
    assert "pilot" not in text


# --- score, top, export ---


def test_score_options_are_those_of_the_library(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    document = done(
        "score", data.background, data.new, "-o", out, "--tail", "left,right", "--statistic", "kolmogorov_smirnov",
        "--form", "whole", "--alphas", "all", "--alpha-max", 0.3, "--layer", "hidden", "--keep", "none", "--json",
    ).json  # fmt: skip
    assert document["kinds"] == [
        {"tail": tail, "form": "whole", "statistic": "kolmogorov_smirnov"} for tail in ("left", "right")
    ]
    assert document["layers"] == ["hidden"]
    expected = hpv.open(data.background).scan(
        data.new, statistic="kolmogorov_smirnov", tail="right", form="whole", alphas="all", alpha_max=0.3,
        layers=["hidden"],
    )  # fmt: skip
    np.testing.assert_array_equal(hpv.open(out).get("right", "whole", "kolmogorov_smirnov").score, expected.score)


def test_score_against_classes(data: Data, tmp_path: Path) -> None:
    background = tmp_path / "b.zarr"
    done("fit", data.normal, "-o", background, "--by-class")
    outcome = done("score", background, data.new, "-o", tmp_path / "own.zarr", "--tail", "two-sided")
    # Every fourth sample has the class 3, which the background has never seen.
    assert "warning: 10 of 40 samples have a label that the background was not fitted with" in outcome.err
    rows = done("top", tmp_path / "own.zarr", "--n", 40, "--json").json["top"]
    assert {row["class"] for row in rows} == {0, 1, 2, None}
    assert all((row["class"] is None) == (row["sample"] % 4 == 3) for row in rows)
    assert "pooled" in done("top", tmp_path / "own.zarr", "-n", 40).out
    names = csv.reader(io.StringIO(_exported(tmp_path / "own.zarr", tmp_path / "own.csv")))
    assert "two-sided/subset/berk_jones/label" in next(names)


def test_top(data: Data) -> None:
    document = done("top", data.scores, "--n", 5, "--json").json
    assert (document["tail"], document["form"], document["statistic"]) == ("two-sided", "subset", "higher_criticism")
    found = hpv.open(data.scores).get("two-sided", "subset", "higher_criticism")
    rows = document["top"]
    assert {row["sample"] for row in rows[:3]} == {0, 1, 2}
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["score"] for row in rows] == sorted(found.score, reverse=True)[:5]
    for row in rows:
        assert row["id"] == f"picture {row['sample']}"
        assert (row["score"], row["size"]) == (found.score[row["sample"]], found.size[row["sample"]])
    text = done("top", data.scores, "--n", 5, "--tail", "left", "--form", "whole", "--statistic", "berk_jones").out
    assert "5 highest of 40 scores: berk_jones, left, all nodes" in text
    assert text.count("picture") == 5


def test_top_shows_the_nodes_behind_a_score(data: Data, tmp_path: Path) -> None:
    rows = done("top", data.scores, "--n", 3, "--nodes", "--json").json["top"]
    for row in rows:
        assert row["nodes"].keys() == NODES.keys()
        assert sum(len(nodes) for nodes in row["nodes"].values()) == row["size"]
    text = done("top", data.scores, "--n", 3, "--nodes").out
    assert "conv" in text
    hidden = rows[0]["nodes"]["hidden"]
    assert f"  hidden, {len(hidden)} node{'s' if len(hidden) > 1 else ''}: {hidden[0]}" in text
    assert text.index("sample ") < text.index("  hidden, ")
    other = tmp_path / "other.zarr"
    done("fit", data.new, "-o", other)
    assert "another background" in refused("top", data.scores, "--nodes", "--background", other)


def test_top_without_codes_or_background(data: Data, tmp_path: Path) -> None:
    background, scores = tmp_path / "b.zarr", tmp_path / "s.zarr"
    done("fit", data.normal, "-o", background)
    done("score", background, data.new, "-o", scores, "--keep", "none")
    assert done("top", scores).code == 0
    assert "codes were not kept" in refused("top", scores, "--nodes")
    background.rename(tmp_path / "moved.zarr")
    message = refused("top", scores, "--nodes")
    assert f"its background is not where it was when it was used: {background} does not exist" in message
    assert "If it was moved, give its path" in message
    assert "--background PATH" in message
    assert "x.zarr does not exist; check the path" in refused("top", scores, "--nodes", "--background", "x.zarr")
    assert "codes were not kept" in refused("top", scores, "--nodes", "--background", tmp_path / "moved.zarr")


def _exported(scores: Path, out: Path, *options: str) -> str:
    done("export", scores, "-o", out, *options)
    return out.read_text()


def test_export_csv(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BLOCK", 16)
    rows = list(csv.DictReader(io.StringIO(_exported(data.scores, tmp_path / "deep" / "s.csv"))))
    scores = hpv.open(data.scores)
    assert [row["sample"] for row in rows] == [str(i) for i in range(40)]
    assert [row["id"] for row in rows] == scores.ids
    assert len(rows[0]) == 2 + 3 * len(scores.kinds)
    for kind in scores.kinds:
        found = scores.get(*kind)
        for row, score, alpha, size in zip(rows, found.score, found.alpha, found.size, strict=True):
            prefix = "/".join(kind)
            assert float(row[f"{prefix}/score"]) == score
            assert row[f"{prefix}/alpha"] == ("" if np.isnan(alpha) else repr(float(alpha)))
            assert int(row[f"{prefix}/size"]) == size
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["s.csv"]


def test_export_parquet(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(table_module, "BLOCK", 16)
    document = done("export", data.scores, "-o", tmp_path / "s.parquet", "--json").json
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet")
    assert document["rows"] == table.num_rows == 40
    assert document["columns"] == table.column_names
    expected = hpv.open(data.scores).get("left", "whole", "berk_jones")
    assert table["left/whole/berk_jones/score"].to_pylist() == expected.score.tolist()
    nothing = [value is None for value in table["left/whole/berk_jones/alpha"].to_pylist()]
    assert nothing == np.isnan(expected.alpha).tolist()


def test_export_tells_how_far_it_is(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BLOCK", 16)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = done("export", data.scores, "-o", tmp_path / "s.csv").err.splitlines()
    for line, samples in zip(lines[1:], (16, 32, 40), strict=False):
        assert line.startswith(f"export: {samples} samples of 40 samples, ")
    assert lines[-1].startswith("export: 40 samples in ")


def test_export_refuses(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.csv"
    out.write_text("mine")
    assert "s.csv exists" in refused("export", data.scores, "-o", out)
    assert out.read_text() == "mine"
    assert _exported(data.scores, out, "--overwrite").startswith("sample,id,")
    assert ".csv or .parquet" in refused("export", data.scores, "-o", tmp_path / "s.xlsx")
    assert "a score store" in refused("export", data.background, "-o", tmp_path / "b.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'hpv[parquet]'" in refused("export", data.scores, "-o", tmp_path / "s.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_no_space_left(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_module.os, "replace", full)
    assert "no space left" in refused("export", data.scores, "-o", tmp_path / "s.csv", code=3)
    assert list(tmp_path.iterdir()) == []


# --- info ---


def test_info_of_a_background(data: Data) -> None:
    document = done("info", data.background, "--json").json
    background = hpv.open(data.background)
    assert (document["kind"], document["complete"], document["samples"]) == ("background", True, 600)
    assert document["fingerprint"] == background.fingerprint
    assert document["origin"] == {"model": "Net", "weights": "a" * 64}
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert {name: layer["nodes"] for name, layer in layers.items()} == NODES
    # Every node after a ReLU has the modal value 0, which half of the samples have.
    assert (layers["conv"]["modal_nodes"], layers["hidden"]["modal_nodes"]) == (12, 0)
    assert (layers["conv"]["nan"], layers["hidden"]["nan"]) == (0, 1)
    assert sum(layer["nodes"] * layer["bytes_per_node"] for layer in layers.values()) == background.state_bytes
    assert document["request"]["bins"] == 32
    text = done("info", data.background).out
    assert "background" in text
    assert "32 balanced bins" in text
    assert f"hpv fit of {data.normal}" in text


def test_modal_nodes_are_counted_in_tiles(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = done("info", data.background, "--json").json
    monkeypatch.setattr(describing, "TILE_VALUES", 1)
    assert done("info", data.background, "--json").json == whole


def test_info_of_activations(data: Data) -> None:
    document = done("info", data.new, "--json").json
    assert (document["kind"], document["samples"], document["ids"]) == ("activations", 40, True)
    assert document["classes"] == {"0": 10, "1": 10, "2": 10, "3": 10}
    assert [layer["bytes"] for layer in document["layers"]] == [40 * nodes * 4 for nodes in NODES.values()]
    text = done("info", data.new).out
    assert "40 with ids" in text
    assert "Net, weights aaaaaaaaaaaa" in text
    bare = done("info", data.bare, "--json").json
    assert bare["layers"][0] | {"name": "activations", "nodes": 12, "dtype": "float32"} == bare["layers"][0]
    assert bare["bytes_on_disk"] == data.bare.stat().st_size


def test_edges_are_given_or_proposed(data: Data, tmp_path: Path) -> None:
    message = refused("fit", data.bare, "-o", tmp_path / "b.zarr", "--edges", data.background, "--bins", 5)
    assert "the edges are given, leave out --bins" in message


def test_info_of_scores(data: Data) -> None:
    document = done("info", data.scores, "--json").json
    assert (document["kind"], document["samples"], document["layers"]) == ("scores", 40, list(NODES))
    assert len(document["kinds"]) == 12
    text = done("info", data.scores).out
    assert "right, left, two-sided" in text
    assert str(data.background) in text


def test_info_of_a_foreign_store_reports_missing_chunks(tmp_path: Path) -> None:
    import zarr

    array = zarr.create_array(tmp_path / "z", shape=(20, 4), chunks=(5, 4), dtype="f4")
    array[:10] = 1
    assert "2 chunks of activations without a file" in done("info", tmp_path / "z").out
    outcome = done("fit", tmp_path / "z", "-o", tmp_path / "b.zarr")
    assert "2 chunks without a file, read as the fill value" in outcome.err


# --- what is at the output already ---


def fit_command(data: Data, bins: int = 32) -> list[object]:
    return ["fit", data.normal, "--bins", bins, "--threads", 1]


def score_command(data: Data, alpha_max: float = 0.5) -> list[object]:
    return ["score", data.background, data.new, "--alpha-max", alpha_max, "--threads", 1]


def capture_command(data: Data, layer: str = "0") -> list[object]:
    source = data.normal.with_name("network.py")
    source.write_text(
        "import torch\n"
        "def load():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))\n"
        "    return model, torch.randn(90, 6).split(30), [f'row {i}' for i in range(90)]\n"
    )
    return ["capture", f"{source}:load", "--layer", layer]


PAIRS = {
    "fit": (fit_command, 32, 16, "--bins 32 there and --bins 16 here"),
    "score": (score_command, 0.5, 0.25, "--alpha-max 0.5 there and --alpha-max 0.25 here"),
    "capture": (capture_command, "0", "2", "layer 0 (4, float32, flatten) there and no layer 0 here"),
}


@pytest.fixture(params=list(PAIRS))
def pair(
    request: pytest.FixtureRequest, data: Data, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[object], list[object], str]:
    """A command, another one for the same output, and the difference as it is named."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    command, first, second, difference = PAIRS[request.param]
    return command(data, first), command(data, second), difference


def interrupted_after(blocks: int, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    """The next command meets this exception after some blocks; the one after it does not."""
    advance, left = Meter.advance, [blocks]

    def stop(self: Meter, amount: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            monkeypatch.setattr(Meter, "advance", advance)
            raise kind
        advance(self, amount)

    monkeypatch.setattr(Meter, "advance", stop)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_complete_output(pair: tuple[list[object], list[object], str], tmp_path: Path) -> None:
    same, other, difference = pair
    out = tmp_path / "out.zarr"
    assert done(*same, "-o", out, "--json").json["already_complete"] is False
    before = snapshot(out)

    again = done(*same, "-o", out)
    assert "was complete already: nothing to do" in again.out
    assert done(*same, "-o", out, "--json").json["already_complete"] is True
    message = refused(*other, "-o", out)
    assert difference in message
    assert "another path, or give --overwrite" in message
    assert json.loads(run(*other, "-o", out, "--json").err.splitlines()[-1])["kind"] == "OutputExistsError"
    assert snapshot(out) == before

    assert done(*other, "-o", out, "--overwrite", "--json").json["already_complete"] is False
    assert snapshot(out) != before
    assert done(*other, "-o", out, "--json").json["already_complete"] is True


def test_incomplete_output(
    pair: tuple[list[object], list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, difference = pair
    out = tmp_path / "out.zarr"
    done(*same, "-o", tmp_path / "undisturbed.zarr")
    interrupted_after(1, monkeypatch, KeyboardInterrupt)
    assert "interrupted; run the same command again" in refused(*same, "-o", out, code=130)

    info = done("info", out, "--json").json
    assert (info["complete"], info["store"]) == (False, str(out))
    assert "incomplete: run the command that was writing it again" in done("info", out).out
    reader = {"fit": ["merge", out, "-o", "x"], "score": ["top", out], "capture": ["fit", out, "-o", "x"]}
    assert "is incomplete: run the command that was writing it again" in refused(*reader[str(same[0])])
    assert difference in refused(*other, "-o", out)

    assert done(*same, "-o", out, "--json").json["already_complete"] is False
    arrays = [{name: part for name, part in snapshot(folder).items() if not name.endswith("zarr.json")}
              for folder in (out, tmp_path / "undisturbed.zarr")]  # fmt: skip
    assert arrays[0] == arrays[1]


def test_info_says_how_far_an_incomplete_one_is(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tallying, "segment_length", lambda _: 10)
    monkeypatch.setattr(stored, "CHUNK_ROWS", (16, 16))
    # Two blocks a layer: pilot and counts, or the first ten samples of both layers; two of the three batches.
    for command, blocks, words in (
        (fit_command(data), 2, "so far: edges of 12 nodes of conv"),
        (score_command(data), 2, "so far: scored samples: 10 of 40"),
        (capture_command(data), 1, "so far: 60 samples of all layers"),
    ):
        out = tmp_path / f"{command[0]}.zarr"
        interrupted_after(blocks, monkeypatch, KeyboardInterrupt)
        assert run(*command, "-o", out).code == 130
        text = done("info", out).out
        assert words in text
        assert f"begun by hpv {command[0]}" in text
        assert done(*command, "-o", out).code == 0


def test_overwriting_an_incomplete_output(
    pair: tuple[list[object], list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, _ = pair
    out = tmp_path / "out.zarr"
    interrupted_after(1, monkeypatch, KeyboardInterrupt)
    assert run(*same, "-o", out).code == 130
    done(*other, "-o", out, "--overwrite")
    assert done("info", out, "--json").json["complete"] is True


def test_overwriting_keeps_the_old_one_until_the_new_one_is_complete(
    pair: tuple[list[object], list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other, _ = pair
    out = tmp_path / "out.zarr"
    done(*same, "-o", out)
    before = snapshot(out)
    interrupted_after(1, monkeypatch, KeyboardInterrupt)
    assert run(*other, "-o", out, "--overwrite").code == 130
    assert snapshot(out) == before
    done(*other, "-o", out, "--overwrite")
    assert done(*other, "-o", out, "--json").json["already_complete"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_two_runs_on_one_output(data: Data, tmp_path: Path) -> None:
    from hpv.store.headers import BACKGROUND

    with Output.begin(tmp_path / "b.zarr", BACKGROUND, {"command": "fit"}):
        message = refused(*fit_command(data), "-o", tmp_path / "b.zarr", "--overwrite")
    assert f"is being written by process {os.getpid()} on " in message


# --- bad input ---


BAD = {
    "missing path": (("fit", "nowhere.npy", "-o", "x"), "nowhere.npy does not exist"),
    "text file": (("fit", "note.txt", "-o", "x"), "note.txt is a file; give a Zarr store"),
    "empty folder": (("info", "empty"), "empty is empty"),
    "no store": (("info", "full"), "full is not a Zarr store"),
    "bins": (("fit", "{bare}", "-o", "x", "--bins", "255"), "--bins 255: give a whole number from 1 to 254"),
    "binning": (("fit", "{bare}", "-o", "x", "--binning", "round"), "--binning round"),
    "pilot": (("fit", "{bare}", "-o", "x", "--pilot", "-3"), "--pilot -3: give a number of samples, auto or all"),
    "memory": (("fit", "{bare}", "-o", "x", "--memory", "lots"), "--memory lots"),
    "threads": (("fit", "{bare}", "-o", "x", "--threads", "0"), "--threads 0"),
    "backend": (("fit", "{bare}", "-o", "x", "--backend", "abacus"), "--backend abacus"),
    "no labels": (("fit", "{bare}", "-o", "x", "--by-class"), "carry no labels"),
    "labels gone": (("fit", "{bare}", "-o", "x", "--labels", "gone"), "--labels gone does not exist"),
    "labels of words": (("fit", "{bare}", "-o", "x", "--labels", "note.txt"), "line 2 is 'two'"),
    "few labels": (("fit", "{bare}", "-o", "x", "--labels", "few.txt"), "--labels: shape (2,) for 600 samples"),
    "edges": (("fit", "{bare}", "-o", "x", "--edges", "{scores}"), "is a score store; this needs a background"),
    "no samples": (("fit", "none.npy", "-o", "x"), "there are no samples"),
    "integers": (("fit", "integers.npy", "-o", "x"), "int64"),
    "existing folder": (("fit", "{bare}", "-o", "full"), "full exists and is not a store of hpv"),
    "background": (("score", "{scores}", "{new}", "-o", "x"), "is a score store; this needs a background"),
    "activations": (("score", "{background}", "{background}", "-o", "x"), "is a background"),
    "width": (("score", "{background}", "{bare}", "-o", "x"), "the activations have no layer conv, hidden"),
    "tail": (("score", "{background}", "{new}", "-o", "x", "--tail", "both"), "--tail both"),
    "form": (("score", "{background}", "{new}", "-o", "x", "--form", "half"), "--form half"),
    "statistic": (("score", "{background}", "{new}", "-o", "x", "--statistic", "t"), "give one of berk_jones"),
    "alpha": (("score", "{background}", "{new}", "-o", "x", "--alpha-max", "1.5"), "--alpha-max 1.5"),
    "alphas": (("score", "{background}", "{new}", "-o", "x", "--alphas", "few"), "--alphas few"),
    "layer": (("score", "{background}", "{new}", "-o", "x", "--layer", "fc9"), "choose one or more of conv, hidden"),
    "against": (("score", "{background}", "{new}", "-o", "x", "--against", "own"), "the background has no classes"),
    "keep": (("score", "{background}", "{new}", "-o", "x", "--keep", "all"), "--keep all"),
    "n": (("top", "{scores}", "--n", "0"), "--n 0: give a whole number from 1 on"),
    "kind": (("top", "{scores}", "--statistic", "t"), "it has right, left, two-sided; subset, whole; berk_jones"),
    "top of what": (("top", "{background}"), "is a background; this needs a score store"),
    "parts": (("merge", "{background}", "gone", "-o", "x"), "gone does not exist"),
    "seeds": (("demo", "--seeds", "0"), "seeds is 0"),
    "demo folder": (("demo", "--out", "full"), "full holds something that no demo made"),
}


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with things that are not what they should be."""
    folder = tmp_path_factory.mktemp("corner")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "thing").write_text("mine")
    (folder / "note.txt").write_text("1\ntwo\n")
    (folder / "few.txt").write_text("1\n2\n")
    np.save(folder / "none.npy", np.zeros((0, 3)))
    np.save(folder / "integers.npy", np.zeros((4, 3), np.int64))
    return folder


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input(case: str, data: Data, corner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corner)
    before = snapshot(corner)
    arguments, words = BAD[case]
    filled = [part.format(**vars(data)) for part in arguments]
    assert words in refused(*filled)
    outcome = run(*filled, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    document = json.loads(outcome.err.splitlines()[-1])
    assert words in document["error"]
    assert document["kind"] in ("InputError", "StoreError", "OutputExistsError")
    assert snapshot(corner) == before
    assert not (corner / "x").exists()


def test_other_weights_are_a_warning(data: Data, tmp_path: Path) -> None:
    save_activations(tmp_path / "a.zarr", {name: np.ones((5, n), np.float32) for name, n in NODES.items()},
                     attributes={"model": "Net", "weights": "b" * 64})  # fmt: skip
    outcome = done("score", data.background, tmp_path / "a.zarr", "-o", tmp_path / "s.zarr")
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert "weights bbbbbbbbbbbb" in line
    assert "aaaaaaaaaaaa" in line
    outcome = done("score", data.background, tmp_path / "a.zarr", "-o", tmp_path / "s.zarr", "--json")
    assert "bbbbbbbbbbbb" in json.loads(outcome.err)["warning"]
    assert outcome.json["already_complete"] is True


def test_a_newer_store(data: Data, tmp_path: Path) -> None:
    done("fit", data.bare, "-o", tmp_path / "b.zarr")
    file = tmp_path / "b.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["version"] = 99
    file.write_text(json.dumps(metadata))
    for command in ("info", "top"):
        assert "version 99 of hpv-background" in refused(command, tmp_path / "b.zarr")


# --- what fails while running ---


def damaged(data: Data, folder: Path) -> Path:
    """A copy of the normal activations with one byte changed."""
    save_activations(folder / "a.zarr", {"conv": np.load(data.bare)})
    (chunk,) = [path for path in (folder / "a.zarr" / "layers" / "conv" / "c").rglob("*") if path.is_file()]
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    return folder / "a.zarr"


def test_a_corrupt_chunk(data: Data, tmp_path: Path) -> None:
    broken = damaged(data, tmp_path)
    message = refused("fit", broken, "-o", tmp_path / "b.zarr", code=3)
    assert "chunk (0, 0)" in message
    assert "layers/conv" in message
    outcome = run("fit", broken, "-o", tmp_path / "b.zarr", "--json")
    assert (outcome.code, outcome.out, json.loads(outcome.err)["kind"]) == (3, "", "DataError")
    found = process("fit", broken, "-o", tmp_path / "b.zarr")
    assert (found.returncode, found.stdout) == (3, "")
    assert "Traceback" not in found.stderr
    assert done("info", tmp_path / "b.zarr", "--json").json["complete"] is False


def test_a_bug_shows_its_traceback(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake of hpv")

    monkeypatch.setattr(describing, "background_facts", broken)
    outcome = run("info", data.background)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "this is a bug in hpv" in outcome.err.splitlines()[-1]


def test_out_of_memory(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(describing, "background_facts", greedy)
    message = refused("info", data.background, code=3)
    assert message == "out of memory (Unable to allocate 3 TiB); give less --memory or fewer --threads."


def merge_command(data: Data) -> list[object]:
    values, folder = np.load(data.bare), data.normal.parent
    for number, part in enumerate((values[:250], values[250:400], values[400:])):
        if not (folder / f"{number}.zarr").exists():
            hpv.fit(part, edges=[0.5]).save(folder / f"{number}.zarr")
    return ["merge", *(folder / f"{number}.zarr" for number in range(3))]


WRITING = {"fit": fit_command, "score": score_command, "capture": capture_command, "merge": merge_command}


@pytest.fixture(params=list(WRITING))
def writing(request: pytest.FixtureRequest, data: Data, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A command that writes a store, in many steps, each kept as it is done."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(keeping, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(tiling, "LARGEST_BLOCK", 4096)
    monkeypatch.setattr(tiling, "KEPT_CHUNK", 1)
    command: list[object] = WRITING[request.param](data)
    return command


def same_arrays(first: Path, second: Path) -> bool:
    """Less the roots, which have an identity each."""
    one, other = ({name: part for name, part in snapshot(path).items() if name != "zarr.json"}
                  for path in (first, second))  # fmt: skip
    return len(one) > 2 and one == other


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("steps", [0, 1])
def test_told_to_end(
    writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, steps: int
) -> None:
    command = [*writing, "--threads", threads] if writing[0] in ("fit", "score") else writing
    done(*command, "-o", tmp_path / "undisturbed")
    advance, left = Meter.advance, [steps]

    def advance_and_be_killed(self: Meter, amount: int) -> None:
        left[0] -= 1
        if left[0] == -1:
            time.sleep(0.1)  # the main thread waits by then; a signal just before that would be seen after it
            os.kill(os.getpid(), signal.SIGTERM)
            assert self._stop.wait(10)
        advance(self, amount)

    monkeypatch.setattr(Meter, "advance", advance_and_be_killed)
    handler = signal.getsignal(signal.SIGTERM)
    message = refused(*command, "-o", tmp_path / "b.zarr", code=75)
    assert f"{writing[0]} was stopped" in message
    assert "run the same command again" in message
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.setattr(Meter, "advance", advance)
    if writing[0] == "capture":  # the batch at work is finished and written
        assert f"so far: {30 * (steps + 1)} samples" in done("info", tmp_path / "b.zarr").out
    assert done(*command, "-o", tmp_path / "b.zarr").code == 0
    assert same_arrays(tmp_path / "b.zarr", tmp_path / "undisturbed")


def test_a_full_disk(writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write finds no space: the message says so, and the same command goes on when there is some."""
    import zarr.storage._local as local

    writev, put, left = os.writev, local._put, [10**6]

    def limited(write: Any) -> Any:
        def attempt(*given: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*given, **options)

        return attempt

    monkeypatch.setattr(os, "writev", limited(writev))
    monkeypatch.setattr(local, "_put", limited(put))
    done(*writing, "-o", tmp_path / "undisturbed")
    writes = 10**6 - left[0]
    assert writes > 3
    for place in sorted({0, 1, writes // 3, writes // 2, writes - 2, writes - 1}):
        out = tmp_path / f"{place}"
        left[0] = place
        assert "no space left; free some and run the same command again" in refused(*writing, "-o", out, code=3)
        if out.exists():
            with pytest.raises(hpv.StoreError, match="incomplete|not a Zarr store"):
                hpv.open(out)
        left[0] = 10**6
        done(*writing, "-o", out)
        assert same_arrays(out, tmp_path / "undisturbed")


def test_a_place_that_cannot_be_written(writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    message = refused(*writing, "-o", tmp_path / "deep" / "b.zarr")
    assert message == f"{tmp_path}/deep/b.zarr cannot be written: Read-only file system; use another path."
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_on_the_same_output(
    writing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the first one does not notice."""
    done(*writing, "-o", tmp_path / "undisturbed")
    write, seconds = Output.write, []

    def write_beside_another(self: Output, *given: Any) -> None:
        if not seconds:
            seconds.append(None)
            seconds[0] = refused(*writing, "-o", tmp_path / "b.zarr")
        write(self, *given)

    monkeypatch.setattr(Output, "write", write_beside_another)
    done(*writing, "-o", tmp_path / "b.zarr")
    assert f"b.zarr is being written by process {os.getpid()} on " in seconds[0]
    assert same_arrays(tmp_path / "b.zarr", tmp_path / "undisturbed")


def test_told_to_end_twice() -> None:
    with Meter("fit", 10, "byte"):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(hpv.StoppedError, match="run the same command again"):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_that_has_seen_enough(data: Data, form: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hpv", "info", str(data.new), *form]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert (found.returncode, found.stderr) == (0, "")


# --- progress ---


def test_lines_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Lines("fit", 4096, "byte") as meter:
        meter.start("fit conv", 4096)
        meter.advance(1024)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "fit conv: 0 B of 4 KiB"
    assert second.startswith("fit conv: 1 KiB of 4 KiB, ")
    assert second.endswith(" left")
    assert last.startswith("fit: 1 KiB in ")


def test_the_rate_is_that_of_the_last_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = Meter("fit", 10_000, "sample")
    now[0] += 60  # compiling
    for _ in range(30):
        now[0] += 1
        meter.advance(100)
    assert meter.rate == pytest.approx(100)
    assert meter.describe() == "3,000 samples of 10,000 samples, 100 samples/s, 1 min 10 s left"
    assert meter.summary() == "3,000 samples in 1 min 30 s, 33 samples/s"


def test_what_an_earlier_run_did_is_done_and_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = Meter("score", 10_000, "sample")
    meter.skip(6_000)
    for _ in range(10):
        now[0] += 1
        meter.advance(100)
    assert meter.describe() == "7,000 samples of 10,000 samples, 100 samples/s, 30 s left"
    assert meter.summary() == "1,000 samples in 10 s, 100 samples/s"


def test_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines("score", None, "byte") as meter:
        meter.start("score", 100)
        for _ in range(100):
            meter.advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (meter.done, meter.total) == (100, 100)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    meter = Terminal().meter("fit", 1000)
    assert isinstance(meter, Bar)
    with meter:
        meter.start("fit conv", 1000)
        meter.advance(500)
        meter._progress.refresh()
    shown = screen.getvalue()
    assert "fit conv" in shown
    assert "50%" in shown
    assert "500 B" in shown


def test_nothing_but_json(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    outcome = done("fit", data.normal, "-o", tmp_path / "b.zarr", "--json")
    assert outcome.err == ""
    assert outcome.json["out"] == str(tmp_path / "b.zarr")


# --- capture ---


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``network_of_a_user`` in the current folder."""
    (tmp_path / "network_of_a_user.py").write_text("""
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.head = torch.nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))

def load():
    torch.manual_seed(0)
    return Net(), torch.randn(20, 1, 8, 8).split(8)

def misfit():
    return Net(), [torch.randn(20, 2, 8, 8)]

def number():
    return 3

def no_model():
    return load, [1]

def failing():
    raise KeyError("weights.pt")

constant = 7
""")
    (tmp_path / "needs.py").write_text("import package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("network_of_a_user", None)


def test_capture(network: Path) -> None:
    outcome = done("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "c*", "--layer", "head")
    assert "20 samples" in outcome.out
    assert outcome.err.startswith("2 layers, 147 nodes, 588 bytes per sample")
    opened = hpv.open("a.zarr")
    assert {name: layer.shape for name, layer in opened.layers.items()} == {"conv": (20, 144), "head": (20, 3)}
    assert opened.labels is not None
    document = done("capture", "network_of_a_user.py:load", "-o", "b.zarr", "--layer", "conv", "--layer", "head",
                    "--reduce", "conv=mean", "--labels", "none", "--device", "cpu", "--json").json  # fmt: skip
    assert [(layer["name"], layer["nodes"]) for layer in document["layers"]] == [("conv", 4), ("head", 3)]
    assert hpv.open("b.zarr").labels is None
    assert document["samples"] == 20
    assert "mean" in done("info", "b.zarr").out


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        ("network_of_a_user", (), "give MODULE:FUNCTION"),
        ("nowhere:load", (), "there is no module nowhere"),
        ("nowhere.py:load", (), "nowhere.py does not exist"),
        ("network_of_a_user:save", (), "network_of_a_user has no save; it has Net, load, misfit"),
        ("network_of_a_user:constant", (), "is an int; name a function"),
        ("network_of_a_user:number", (), "returned an int; let it return (model, batches)"),
        ("network_of_a_user:no_model", (), "as its model; let it return a torch.nn.Module"),
        ("network_of_a_user:failing", (), "failing failed: KeyError: 'weights.pt' ("),
        ("needs:load", (), "needs failed: ModuleNotFoundError: No module named 'package_that_nobody_has'"),
        ("network_of_a_user:load", ("--layer", "cnov"), "conv"),
        ("network_of_a_user:load", ("--reduce", "median"), "median"),
        ("network_of_a_user:load", ("--reduce", "mean", "--reduce", "conv=max"), "give one for all layers"),
        ("network_of_a_user:load", ("--labels", "mine"), "--labels mine: give 'argmax', 'targets', or --labels none"),
    ],
)
def test_capture_refuses(network: Path, function: str, options: tuple[str, ...], words: str) -> None:
    layers = () if "--layer" in options else ("--layer", "conv")
    assert words in refused("capture", function, "-o", "a.zarr", *layers, *options)
    assert not (network / "a.zarr").exists()


def test_a_device_that_is_not_here(network: Path) -> None:
    for device, words in (("mtia", "mtia"), ("cuda:99", "cuda:99"), ("toaster", "toaster")):
        message = refused("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "conv", "--device", device)
        assert f"--device {words} cannot be used here: " in message
        assert "--device cpu, or leave it out" in message
    assert not (network / "a.zarr").exists()
    done("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "conv", "--device", "cpu")


def test_a_model_that_fails(network: Path) -> None:
    message = refused("capture", "network_of_a_user:misfit", "-o", "a.zarr", "--layer", "conv", code=3)
    assert "network_of_a_user:misfit: its model or its batches failed: RuntimeError" in message


def test_capture_without_torch(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused("capture", "network_of_a_user:load", "-o", "a.zarr", "--layer", "conv")
    assert "pip install 'hpv[torch]'" in message


# --- demo ---


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        def summary(self) -> dict[str, Any]:
            return {"folder": "seed-0", "rows": [{"area": float("nan")}]}

    def pretend(out: str, *, seeds: int, console: Any) -> Result:
        console.print(f"{seeds} seeds in {out}")
        return Result()

    monkeypatch.setattr(demo_command, "run", pretend)
    outcome = done("demo", "--seeds", 3, "--out", tmp_path)
    assert outcome.out.strip() == f"3 seeds in {tmp_path}"
    outcome = done("demo", "--seeds", 3, "--out", tmp_path, "--json")
    assert outcome.json == {"command": "demo", "folder": "seed-0", "rows": [{"area": None}]}
    assert outcome.err.strip() == f"3 seeds in {tmp_path}"


# --- as a process ---


def test_the_whole_way_as_processes(data: Data, tmp_path: Path) -> None:
    assert process("fit", data.bare, "-o", "b.zarr", cwd=tmp_path).returncode == 0
    again = process("fit", data.bare, "-o", "b.zarr", "--json", cwd=tmp_path)
    assert (again.returncode, json.loads(again.stdout)["already_complete"], again.stderr) == (0, True, "")
    other = process("fit", data.bare, "-o", "b.zarr", "--bins", 5, cwd=tmp_path)
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr == f"error: {tmp_path}/b.zarr holds something else: --bins 32 there and --bins 5 here. Use " \
                           "another path, or give --overwrite.\n"  # fmt: skip
    assert process("fit", cwd=tmp_path).returncode == 2
