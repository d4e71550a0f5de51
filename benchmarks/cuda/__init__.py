"""The CUDA backend on the device that is there: kernels beside a device copy, whole calls, other libraries.

Needs an NVIDIA GPU with its driver, numba-cuda, and for the peers a build of torch for CUDA, as PyPI's for Linux is:
``pip install -e '.[bench,cuda]'``, with ``cuda12`` for drivers of CUDA 12. ``make bench-cuda`` sets that up and runs
this part alone, with ``HOST=user@machine`` on that machine.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measuring import Options, Table


def missing() -> str | None:
    """Why this part cannot be measured here; None if it can."""
    from hpv.backends.choosing import lacks as lacking
    from hpv.kernels.cuda.device import SIMULATED

    return "the simulator tells no times" if SIMULATED else lacking("cuda")


def measure(options: Options) -> Iterator[Table]:
    """Kernels on values that are on the device, whole calls, and other libraries on the same device."""
    from benchmarks.cuda import calls, device, kernels, peers

    for part in (kernels, calls, peers):
        for table in part.measure(options):
            table.title += f"; {device.describe(device.facts())}"  # clocks as they are after work
            yield table
