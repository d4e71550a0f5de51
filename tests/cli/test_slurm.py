"""The script of hpv slurm, without a SLURM (tests/slurm has one)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hpv
from commands import ROOT
from hpv.cli.main import main
from hpv.fitting.stored import open_background
from sharding import make_whole

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*NaN has the range:hpv.HpvWarning")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Activations, their background and scores, each made in one run."""
    return make_whole(tmp_path_factory.mktemp("data"))


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_script_says_what_it_needs(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    given = ("slurm", "fit", data.source, "-o", "it's", "--shards", 7, "--bins", 20, "--threads", 3, "--time", "9:00")
    assert run(*given, "--partition", "long", "--memory", "1GiB", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == [sys.executable, "-m", "hpv", "fit", data.source, "--out", "it's", "--bins", "20",
                               "--memory", "1GiB", "--shard", "I/7"]  # fmt: skip
    assert document["merge"] == [sys.executable, "-m", "hpv", "merge", "it's"]
    assert {name: document[name] for name in ("array", "cpus", "mem", "time")} == {
        "array": "1-7", "cpus": 3, "mem": "1792M", "time": "9:00"}  # fmt: skip
    head = document["script"].split("set -euo")[0].splitlines()
    for line in ("job-name=hpv-fit", "array=1-7", "cpus-per-task=3", "mem=1792M", "time=9:00", "partition=long",
                 f'chdir="{tmp_path / "a b"}"', "requeue", "signal=B:USR1@120"):  # fmt: skip
        assert f"#SBATCH --{line}" in head
    assert run("slurm", "score", data.folder / "background", data.source, "-o", "s", "--shards", 2, "--tail", "left",
               "--tail", "right", "--against", "pooled") == 0  # fmt: skip
    script = capsys.readouterr().out
    assert f"{data.source} --out s --tail left --tail right --against pooled --memory 2GiB --shard" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_script_asks_for_a_gpu_where_the_nodes_are_to_have_one(
    data: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node that prints the script need not have one."""
    given = ("slurm", "score", data.folder / "background", data.source, "-o", "s", "--shards", 2, "--against", "pooled")
    assert run(*given, "--backend", "cuda") == 0
    script = capsys.readouterr().out
    assert 'array=$(sbatch --parsable --gres=gpu:1 "$0")' in script  # not the merger
    assert "--backend cuda --memory 2GiB --shard" in script
    assert run(*given) == 0
    assert "gres" not in capsys.readouterr().out
    assert run(*given, "--backend", "gpu") == 2
    assert "backend gpu: give auto, cpu or cuda" in capsys.readouterr().err.replace("--backend='gpu'", "backend gpu")


def test_the_script_runs_its_shards_and_merges_them(
    data: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a ``sbatch`` that says yes, and tasks that are started by hand."""
    monkeypatch.chdir(tmp_path)
    arguments = ("slurm", "fit", data.source, "-o", "it's", "--shards", 1, "--threads", 1, "--memory", "128MiB")
    assert run(*arguments) == 0
    (tmp_path / "job.sh").write_text(capsys.readouterr().out)
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "sbatch"
    stub.write_text('#!/bin/bash\necho "$@" >> asked\necho "41;east"\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / f"hpv-{os.getuid()}").symlink_to(os.environ["NUMBA_CACHE_DIR"])
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                                "TMPDIR": str(scratch)}  # fmt: skip

    def bash(**more: str) -> None:
        subprocess.run(["bash", "job.sh"], check=True, env=environment | more, capture_output=True)

    bash()
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first == "--parsable job.sh"
    assert second.split()[:3] == ["--array=0", "--job-name=hpv-merge", "--dependency=afterok:41"]
    assert (tmp_path / "hpv-logs").is_dir()
    for task in ("1", "0"):
        bash(SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1")
    assert open_background(tmp_path / "it's").fingerprint == hpv.fit(data.source).fingerprint
