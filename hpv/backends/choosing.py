"""Which backend does the work, and what one lacks."""

from __future__ import annotations

from importlib.util import find_spec

from hpv.backends.protocol import Backend
from hpv.base.errors import InputError

WORTH_A_GPU = 2**26
"""Values of this machine's memory or disks, from which on a GPU is used by itself: before, it is not yet warm."""


def get_backend(name: str = "auto", values: int = 0, on_device: bool = False) -> Backend:
    """The backend of this name; ``InputError`` if it is not there.

    ``auto``: that of the device where the activations are; for those of this machine the GPU, if there is one and
    ``values`` are so many that it pays, else the CPU.
    """
    check_name(name)
    if name == "auto":
        name = "cuda" if on_device or (values >= WORTH_A_GPU and _has_gpu()) else "cpu"
    if name == "cpu":
        from hpv.backends import cpu

        return cpu
    from hpv.backends import cuda

    cuda.check()
    return cuda


def check_name(name: str) -> None:
    """``InputError`` for what is the name of no backend."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"backend={name!r}: give auto, cpu or cuda.")


def lacks(name: str) -> str | None:
    """What a backend lacks here, and the next step; None where it can work, as ``auto`` always can."""
    if name != "cuda":
        return None
    from hpv.backends import cuda

    return cuda.missing()


def gpus_for(name: str) -> list[str]:
    """GPUs of this machine that `get_backend` would use for much data, as CUDA_VISIBLE_DEVICES names them."""
    if get_backend(name, WORTH_A_GPU).name == "cpu":
        return []
    from hpv.backends import gpu

    return gpu.visible()


def _has_gpu() -> bool:
    """Whether ``backend="cuda"`` would work; asks the driver only where the package for it is installed."""
    return find_spec("numba_cuda") is not None and lacks("cuda") is None
