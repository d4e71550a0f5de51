"""The README's example runs, and says what happens."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, cluster = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(cluster, "README.md", "exec")  # its paths are those of a cluster; tests/test_cluster.py has it run
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].score.argmax() == 3
    nodes = names["result"].nodes(3)["activations"]
    assert sum(100 <= node < 130 for node in nodes) > len(nodes) / 2
    assert names["pmin"].shape == names["pmax"].shape == (10, 300)
    assert names["scores"].samples == 10
