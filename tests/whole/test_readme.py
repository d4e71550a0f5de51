"""The README's example runs, and says what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import hpv

pytestmark = pytest.mark.slow

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def examples():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, cluster = examples()
    compile(cluster, "README.md", "exec")  # its paths are those of a cluster; tests/walking/test_cluster.py has it run
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].score.argmax() == 3
    nodes = names["result"].nodes(3)["activations"]
    assert sum(100 <= node < 130 for node in nodes) > len(nodes) / 2
    assert names["pmin"].shape == names["pmax"].shape == (10, 300)
    assert names["scores"].samples == 10


def test_monitor_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"features": nn.Sequential(nn.Linear(6, 12), nn.ReLU()), "head": nn.Linear(12, 2)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    normal, new = list(torch.randn(2, 300, 6)), torch.randn(2, 5, 6)
    names = {"hpv": hpv, "model": model.eval(), "normal_batches": normal, "loader": new}
    exec(compile(examples()[1], "README.md", "exec"), names)
    assert names["anomalous"].shape == (5,)
    assert names["pmin"].shape == names["pmax"].shape == (5, 2)
    assert names["found"].layers == ["features.0", "features.1", "head"]
