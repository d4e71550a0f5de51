"""The page for contributors names files, folders and definitions that exist, and the wings as they are tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`([\w./-]+/[\w./-]*|[\w./-]+\.py)(?:: (\w+))?`", (ROOT / "ARCHITECTURE.md").read_text())
"""Paths, each with the definition that stands behind it, or with nothing."""


def definitions(path: Path) -> set[str]:
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_it_names_much() -> None:
    assert len(NAMED) > 40
    assert sum(bool(name) for _, name in NAMED) > 15


@pytest.mark.parametrize(("path", "name"), sorted({(path, name) for path, name in NAMED if path != "running.py"}))
def test_what_it_names_is_there(path: str, name: str) -> None:
    assert (ROOT / path).exists()
    assert not name or name in definitions(ROOT / path)


def test_every_wing_has_a_line() -> None:
    wings = {f"hpv/{folder.name}/" for folder in (ROOT / "hpv").iterdir() if (folder / "__init__.py").is_file()}
    assert wings - {path for path, _ in NAMED} == set()
