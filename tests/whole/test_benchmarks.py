"""The benchmarks at toy size: what they time gives the right answers, and their tables are complete. No times."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import hpv
from benchmarks import __main__ as command
from benchmarks import child, cuda, kernels, library, measuring, peers, scaling, soak, startup, streaming
from benchmarks.measuring import Options, Table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOY = Options(rounds=1, threads=1, samples=300, nodes=48, peer_nodes=40, peer_samples=50, scale=64, cold=False)


def check(table: Table, missing: tuple[str, ...] = ()) -> None:
    """Every row has finite figures that are above zero, and it can be printed and stored."""
    assert table.rows
    for row in table.rows:
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert math.isfinite(value), (name, row)
                assert value >= 0, (name, row)
            elif value is None:
                assert name in missing, (name, row)
    text = io.StringIO()
    measuring.show(table, Console(file=text, width=250))
    assert table.rows[0][table.columns[0]] in text.getvalue()
    assert json.loads(json.dumps(table.as_json()))["rows"] == table.rows


def test_library() -> None:
    (table,) = library.measure(TOY)
    check(table, ("most", "met", "threads", "gain", "least_gain", "gain_met"))
    assert {row["call"] for row in table.rows} == {"copy", "scan, all alphas, 32 bins", *library.TARGETS}
    for row in table.rows:
        if row["most"] is not None:
            assert row["met"] == (row["copies"] <= row["most"])


def test_kernels() -> None:
    (table,) = kernels.measure(TOY)
    check(table, ("most", "met"))
    assert {row["kernel"] for row in table.rows} >= {"copy", *kernels.TARGETS}


def test_library_gains_of_two_threads() -> None:
    if measuring.processor_count() < 2:
        (table,) = library.measure(TOY)
        assert any("no gain" in note for note in table.notes)
        return
    (table,) = library.measure(Options(rounds=1, threads=2, samples=300, nodes=48))
    check(table, ("most", "met", "least_gain", "gain_met"))
    assert all(row["threads"] == 2 for row in table.rows)


def test_threads_share_the_copy() -> None:
    source = np.arange(35.0).reshape(7, 5)
    target = np.zeros_like(source)
    measuring.copy_in_threads(source, target, 3)
    assert np.array_equal(source, target)
    assert measuring.halves(2, 3) == [slice(0, 1), slice(1, 2)]


def test_an_error_in_a_thread_is_not_lost() -> None:
    def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        measuring.together([fail, lambda: None])


@pytest.mark.filterwarnings("default")
def test_peers() -> None:
    tables = peers.measure(TOY)
    assert [table.name for table in tables] == ["ranges", "counting", "scanning"]
    for table in tables:
        absent = [row for row in table.rows if str(row["system"]).endswith("not installed")]
        assert sum("was not compared" in note for note in table.notes) == len(absent)
        check(table, ("least", "met") if not absent else table.columns)
        assert sum(row["least"] is not None for row in table.rows) == 1 - len(absent)


def test_peers_give_the_same_ranges() -> None:
    background, values = measuring.gaussian(400, 8), measuring.gaussian(60, 8, seed=1)
    cases, left = peers.ranges_cases(background, values)
    for case in cases.values():
        case()
    # Gaussian values do not tie: those at or above a value are those not below it.
    exact = (400 - left["numpy"].T + 1) / 401
    pmin, pmax = left["ours"]
    assert (pmin <= exact).all()
    assert (exact <= pmax).all()
    assert np.abs(pmax - exact).max() < 0.02
    if "torch" in left:
        assert np.abs(left["torch"].numpy().T - exact).max() < 0.02


def test_peers_count_the_same() -> None:
    background = measuring.gaussian(500, 6)
    cases, left = peers.counts_cases(background)
    for case in cases.values():
        case()
    counted = left["background"].layers["activations"].survivors[0]
    assert np.array_equal(counted, (background[:, :, None] >= left["edges"]).sum(axis=0))
    if "counts" in left:
        # It multiplies to find the bin: a value next to an edge may fall on the other side.
        theirs = 500 - np.cumsum(left["counts"], axis=1)[:, :-1]
        assert np.abs(counted - theirs).max() <= 1


@pytest.mark.filterwarnings("default")
def test_peers_scan_the_same() -> None:
    background = measuring.gaussian(200, 50)
    # With an edge for every distinct value the ranges of these values are exact.
    values = np.random.default_rng(0).permuted(background, axis=0)[:30]
    cases, left = peers.scans_cases(background, values, bins=254)
    for case in cases.values():
        case()
    assert (left["grid"] <= left["all"] * (1 + 1e-12)).all()
    if "detector" in left:
        assert np.allclose(left["all"], left["detector"], rtol=1e-9, atol=0)


def test_a_peer_that_is_not_installed_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_import", lambda name: f"No module named {name!r}")
    tables = peers.measure(TOY)
    for table in tables:
        assert sum(str(row["system"]).endswith(": not installed") for row in table.rows) == 1
        assert any("pip install 'hpv[bench]'" in note for note in table.notes)


def test_streaming(tmp_path: Path) -> None:
    toy = Options(rounds=1, threads=2, store_bytes=8_000_000, streamed=("fit",), cold=False, folder=str(tmp_path))
    (table,) = streaming.measure(toy)
    check(table)
    (row,) = table.rows
    assert row["in_time"] == (row["ratio"] <= streaming.MOST_TIME)
    assert row["budget_MiB"] == 512
    assert not list(tmp_path.iterdir())


def test_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "IN_MEMORY", 2_000_000)
    monkeypatch.setattr(soak, "empty_page_cache", lambda: False)
    monkeypatch.setattr(soak, "settle", lambda: None)
    (table,) = soak.measure(Options(soak_bytes=4_000_000, soak_memory="256MiB", threads=1, folder=str(tmp_path)))
    check(table, ("first_MiB", "median_MiB", "max_MiB", "last_MiB", "in_budget"))  # too quick to be seen
    assert [(row["what"], row["page_cache"]) for row in table.rows] == [("fit", "advised"), ("score", "advised")]
    assert not list(tmp_path.iterdir())


def test_a_soak_is_as_large_as_fits() -> None:
    assert soak.fitting_size(20_000_000_000, 100_000_000_000) == 20_000_000_000
    assert soak.fitting_size(20_000_000_000, 12_000_000_000) == 4_000_000_000
    with pytest.raises(RuntimeError, match="5 GB are free: too little"):
        soak.fitting_size(20_000_000_000, 5_000_000_000)


def test_memory_of_a_command_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "INTERVAL", 0.05)
    monkeypatch.setattr(soak, "READING", 10_000_000)
    code = "import time; open('/dev/zero', 'rb').read(50_000_000); x = bytearray(b'1') * 50_000_000; time.sleep(0.5)"
    took, memory = soak.watch([sys.executable, "-c", code])
    assert took > 0.5
    assert max(memory) > 50_000_000
    with pytest.raises(RuntimeError, match="ended with 3"):
        soak.watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_streaming_leaves_nothing_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "Child", None)
    with pytest.raises(TypeError):
        streaming.measure(Options(rounds=1, store_bytes=1, cold=False, folder=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def run_job(name: str, **arguments: object) -> dict[str, object]:
    """All that a job of a child finds, here."""
    found: dict[str, object] = {}
    for step in child.JOBS[name](**arguments):
        found |= step
    return found


def test_jobs_do_the_same_work(tmp_path: Path) -> None:
    store = tmp_path / "activations"
    assert streaming.write_store(store, 5_000_000) == 305
    layer = next(iter(hpv.open(store).layers.values()))
    assert np.array_equal(child.whole(str(store), 2), layer.read(slice(0, 305), slice(0, streaming.NODES)))
    job = {"store": str(store), "memory": "512MiB", "threads": 2}
    fitted = run_job("fit", **job, out=str(tmp_path / "b"))
    assert run_job("fit_in_memory", **job)["found"] == fitted["found"]
    score = {**job, "background": str(tmp_path / "b")}
    scored = run_job("score", **score, out=str(tmp_path / "s"))
    assert run_job("score_in_memory", **score)["found"] == pytest.approx(scored["found"], rel=1e-12)
    # 305 samples in chunks of 256: two files, both of them the pilot's, too.
    read = run_job("read", **job, pilot=True)
    assert read["chunks"] == 4
    assert read["bytes"] == 4 * (256 * streaming.NODES * 4 + 4)
    copied = run_job("read", **job, pilot=False, write=str(tmp_path / "bytes"))
    assert copied["chunks"] == 2
    assert [file.stat().st_size for file in (tmp_path / "bytes").iterdir()] == [256 * streaming.NODES + 1] * 2


def test_the_bare_loop_writes_a_byte_per_value(tmp_path: Path) -> None:
    (tmp_path / "chunk").write_bytes(bytes(range(100)))
    names = [(str(tmp_path / "chunk"), 0), (str(tmp_path / "chunk"), 25), (str(tmp_path / "chunk"), 25)]
    child.bare_loop(names, 100, 2, str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["1", "2"]
    assert (tmp_path / "out" / "2").read_bytes() == bytes(range(25))


def test_startup(tmp_path: Path) -> None:
    # With the kernels of this test run: compiling them again would take longer than all other tests.
    (table,) = startup.measure(Options(rounds=1, folder=str(tmp_path), kernel_cache=os.environ["NUMBA_CACHE_DIR"]))
    check(table, ("most", "met"))
    assert [row["most"] for row in table.rows if row["most"]] == [0.3, 0.5, 20, 3]
    assert not list(tmp_path.iterdir())


def test_scaling(tmp_path: Path) -> None:
    tables = scaling.measure(Options(rounds=1, threads=1, scale=64, folder=str(tmp_path)))
    assert [[row[name] for row in table.rows] for table, name in zip(tables, ("samples", "nodes"), strict=True)] == [
        [64 * step for step in scaling.STEPS]
    ] * 2
    for table in tables:
        for row in table.rows:
            assert row["fit_ms"] > 0
            assert row["score_ns_per_value"] > 0


def test_the_command_chooses_parts_and_sizes() -> None:
    parts, options, _ = command.parse([])
    assert parts == list(command.PARTS)
    assert (options.samples, options.nodes, options.store_bytes) == (20_000, 4_096, 4_000_000_000)
    parts, options, chosen = command.parse(["peers", "--rounds", "2", "--store-bytes", "1e8", "--json", "x.json"])
    assert (parts, options.rounds, options.store_bytes, chosen.json) == (["peers"], 2, 100_000_000, "x.json")


def test_the_command_says_why_there_are_no_figures_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "missing", lambda: "no GPU that can be used")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "cuda"])
    assert command.main() == 2
    assert capsys.readouterr() == ("", "The part cuda: no GPU that can be used.\n")
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    monkeypatch.setattr(command, "run", lambda parts, *_: [Table(part, part, ()) for part in parts if part == "cuda"])
    assert command.main() == 0
    assert capsys.readouterr().out.startswith("The part cuda is left out: no GPU that can be used.\n")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of another machine: ssh goes there, and make does what the file ``answer`` says."""
    here, home = tmp_path / "bin", tmp_path / "home"
    for folder in (here, home / "bin"):
        folder.mkdir(parents=True)
    (here / "ssh").write_text(f'#!/bin/sh\necho "$1" > {home}/host; cd {home}; PATH={home}/bin:$PATH exec sh -c "$2"\n')
    (home / "bin" / "make").write_text(f'#!/bin/sh\necho "$@" > {home}/asked; echo progress; . {home}/answer\n')
    for program in (here / "ssh", home / "bin" / "make"):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=os.pathsep)
    return home


def carry(figures: Path) -> subprocess.CompletedProcess[str]:
    options = ["HOST=me@gpu", "CUDA=cuda12", "ARGS=--rounds 2", f"FIGURES={figures}"]
    command = ["make", "-C", str(ROOT), "bench-cuda", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_command_carries_the_part_to_a_machine_with_a_gpu(elsewhere: Path, tmp_path: Path) -> None:
    (elsewhere / "hpv-bench" / "kernels").mkdir(parents=True)
    (elsewhere / "hpv-bench" / "kernels" / "old.py").touch()  # of another run
    (elsewhere / "answer").write_text("echo '{}' > cuda.json\n")
    done = carry(tmp_path / "cuda.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cuda.json").read_text() == "{}\n"
    assert "progress" in done.stderr
    assert (elsewhere / "host").read_text() == "me@gpu\n"
    assert (elsewhere / "asked").read_text() == "bench-cuda CUDA=cuda12 ARGS=--rounds 2\n"
    carried = {str(path.relative_to(elsewhere / "hpv-bench")) for path in (elsewhere / "hpv-bench").rglob("*.*")}
    assert {"benchmarks/__main__.py", "hpv/__init__.py", "kernels/cuda/counting.py", "pyproject.toml"} <= carried
    assert not {path for path in carried if path.endswith("/old.py") or "__pycache__" in path}


def test_no_figures_come_back_from_a_machine_without_a_gpu(elsewhere: Path, tmp_path: Path) -> None:
    (elsewhere / "answer").write_text("echo 'The part cuda: no GPU.' >&2; exit 2\n")
    done = carry(tmp_path / "cuda.json")
    assert done.returncode == 2
    assert "The part cuda: no GPU." in done.stderr
    assert not (tmp_path / "cuda.json").exists()


@pytest.mark.parametrize("wrong", [["fits"], ["--rounds", "0"]])
def test_the_command_refuses_what_it_does_not_know(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse(wrong)
    assert stopped.value.code == 2


def test_the_command_prints_and_stores_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "library", "--json", str(tmp_path / "figures.json")])
    monkeypatch.setattr(library, "measure", lambda options: [Table("library", "Toy", ("call",), [{"call": "copy"}])])
    assert command.main() == 0
    stored = json.loads((tmp_path / "figures.json").read_text())
    assert stored["tables"][0]["rows"] == [{"call": "copy"}]
    assert stored["machine"]["processors"] >= 1


def test_the_command_runs_from_a_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert all(part in done.stdout for part in command.PARTS)
