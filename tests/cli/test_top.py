"""hpv top."""

from __future__ import annotations

from pathlib import Path

import hpv
from commands import done, refused
from data import NODES, CommandData


def test_top(data: CommandData) -> None:
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


def test_top_shows_the_nodes_behind_a_score(data: CommandData, tmp_path: Path) -> None:
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


def test_top_without_codes_or_background(data: CommandData, tmp_path: Path) -> None:
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
