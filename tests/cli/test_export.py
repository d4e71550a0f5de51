"""hpv export."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest

import hpv
from commands import done, exported, refused
from data import CommandData
from hpv.api import table as table_module
from hpv.cli import progress


def test_export_csv(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BLOCK", 16)
    rows = list(csv.DictReader(io.StringIO(exported(data.scores, tmp_path / "deep" / "s.csv"))))
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


def test_export_parquet(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_export_tells_how_far_it_is(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BLOCK", 16)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = done("export", data.scores, "-o", tmp_path / "s.csv").err.splitlines()
    for line, samples in zip(lines[1:], (16, 32, 40), strict=False):
        assert line.startswith(f"export: {samples} samples of 40 samples, ")
    assert lines[-1].startswith("export: 40 samples in ")


def test_export_refuses(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.csv"
    out.write_text("mine")
    assert "s.csv exists" in refused("export", data.scores, "-o", out)
    assert out.read_text() == "mine"
    assert exported(data.scores, out, "--overwrite").startswith("sample,id,")
    assert ".csv or .parquet" in refused("export", data.scores, "-o", tmp_path / "s.xlsx")
    assert "a score store" in refused("export", data.background, "-o", tmp_path / "b.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'hpv[parquet]'" in refused("export", data.scores, "-o", tmp_path / "s.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_no_space_left(data: CommandData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_module.os, "replace", full)
    assert "no space left" in refused("export", data.scores, "-o", tmp_path / "s.csv", code=3)
    assert list(tmp_path.iterdir()) == []
