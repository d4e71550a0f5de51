"""One fresh cache of compiled kernels per test run, shared with the processes that tests start; hypothesis profiles."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("checks")

# Before anything imports numba: kernels of another run or another checkout must not answer. The processes of one run
# have the one that the first of them made.
OURS = "HPV_TEST_CACHE" not in os.environ
if OURS:
    os.environ["HPV_TEST_CACHE"] = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="hpv-numba-")

# Tests of CUDA kernels need a process of their own, where the simulator runs them: test_cuda.py starts it.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore = [] if SIMULATED else ["simulated"]

settings.register_profile("default", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_unconfigure() -> None:
    if OURS:
        shutil.rmtree(os.environ["HPV_TEST_CACHE"], ignore_errors=True)
