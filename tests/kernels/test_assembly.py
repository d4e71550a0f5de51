"""The CUDA kernels compile for real devices, and keep nothing in local memory; no device is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def test_kernels_assemble_without_local_memory() -> None:
    """In a process of its own, which pretends to have a device."""
    every = ["all"] if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else []
    result = subprocess.run(
        [sys.executable, "tests/support/assembling.py", *every],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=3600 if every else 1200,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
