"""hpv demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commands import done
from hpv.cli.commands import demo as demo_command


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        def summary(self) -> dict[str, Any]:
            return {"folder": "seed-0", "rows": [{"area": float("nan")}]}

    def pretend(out: str, *, seeds: int, console: Any) -> Result:
        console.print(f"{seeds} seeds in {out}")
        return Result()

    monkeypatch.setattr(demo_command, "run", pretend)
    outcome = done("demo", "--seeds", 3, "--out", tmp_path)
    assert outcome.out.strip() == f"3 seeds in {tmp_path}"
    outcome = done("demo", "--seeds", 3, "--out", tmp_path, "--json")
    assert outcome.json == {"command": "demo", "folder": "seed-0", "rows": [{"area": None}]}
    assert outcome.err.strip() == f"3 seeds in {tmp_path}"
