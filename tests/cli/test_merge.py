"""hpv merge."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hpv
from commands import done, refused
from data import CommandData


def test_merge_of_parts_is_the_fit_of_all(data: CommandData, tmp_path: Path) -> None:
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
