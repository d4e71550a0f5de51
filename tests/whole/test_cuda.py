"""The CUDA kernels without a device: the tests in tests/simulated/, in a process where Numba simulates one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def test_kernels_in_the_simulator() -> None:
    """The switch is read when Numba is imported, so the process must be a new one."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/simulated"],
        cwd=ROOT,
        env=dict(os.environ, NUMBA_ENABLE_CUDASIM="1"),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-20_000:]
