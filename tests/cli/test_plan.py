"""hpv plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import done
from data import NODES, CommandData
from hpv.activations.layers import Layer


def test_plan_reads_nothing_and_writes_nothing(
    data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_plan_score_counts_what_is_kept(data: CommandData) -> None:
    values = 40 * sum(NODES.values())
    for keep, size in (("none", 0), ("codes", values), ("codes,ranges", values * 9)):
        document = done("plan", "score", data.background, data.new, "--tail", "left", "--form", "whole",
                        "--statistic", "berk_jones", "--keep", keep, "--json").json  # fmt: skip
        assert (document["kind"], document["bytes_written"]) == ("score", size + 40 * 24)
    text = done("plan", "score", data.background, data.new).out
    assert "conv: 40 x 12, 1 tile of nodes" in text
    assert "pilot" not in text
