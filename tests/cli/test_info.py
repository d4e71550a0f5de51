"""hpv info."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hpv
from commands import done, refused
from data import NODES, CommandData
from hpv.cli import describing


def test_info_of_a_background(data: CommandData) -> None:
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


def test_modal_nodes_are_counted_in_tiles(data: CommandData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = done("info", data.background, "--json").json
    monkeypatch.setattr(describing, "TILE_VALUES", 1)
    assert done("info", data.background, "--json").json == whole


def test_info_of_activations(data: CommandData) -> None:
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


def test_info_of_scores(data: CommandData) -> None:
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


def test_a_newer_store(data: CommandData, tmp_path: Path) -> None:
    done("fit", data.bare, "-o", tmp_path / "b.zarr")
    file = tmp_path / "b.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["version"] = 99
    file.write_text(json.dumps(metadata))
    for command in ("info", "top"):
        assert "version 99 of hpv-background" in refused(command, tmp_path / "b.zarr")
