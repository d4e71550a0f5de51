"""One fresh cache of compiled kernels per test run, shared with the processes that tests start; hypothesis profiles."""

from __future__ import annotations

import os
import shutil
import tempfile

from hypothesis import settings

# Tests of CUDA kernels need a process of their own, where the simulator runs them: test_cuda.py starts it.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore = [] if SIMULATED else ["simulated"]

# Before anything imports numba: kernels of another run or another checkout must not answer.
OURS = not (SIMULATED and "NUMBA_CACHE_DIR" in os.environ)
if OURS:
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="hpv-numba-")

settings.register_profile("default", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_unconfigure() -> None:
    if OURS:
        shutil.rmtree(os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)
