"""What the CUDA kernels take of a device, found without one: python tests/support/assembling.py [all]

Every kernel is compiled and assembled by NVIDIA's own compiler and linker, which come with numba-cuda. Prints a table;
ends with 1 where a kernel keeps anything in local memory, which is as far away as the device's main memory.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

from cuda.core import Linker, LinkerOptions, ObjectCode
from numba import float32, float64, int16, int32, int64, uint8, uint16

from hpv.kernels.cuda import counting, encoding, ranging, tallying
from hpv.kernels.cuda.device import Kernel
from hpv.kernels.cuda.searching import CAPACITIES

DEVICES = ((8, 0), (9, 0))
BITS = (int16, int32, int64)
# Of 32 bins, and of as many edges as there can be.
USUAL = (40, 254)
MOST_SHARED = 48 * 1024 + 1024
"""Bytes of a block, with the kilobyte that the system keeps for itself on newer devices."""


class Variant(NamedTuple):
    """One kernel: which factory makes it of what."""

    family: str
    what: tuple

    def make(self) -> Kernel:
        made = {
            "encode": encoding.encoder,
            "count": counting.counter,
            "ranges": ranging.ranger,
            "tally": tallying.tallier,
            "tally codes": tallying.code_tallier,
            "clear": tallying.clearer,
            "add": tallying.adder,
        }[self.family](*self.what)
        return made[0] if isinstance(made, tuple) else made


class Resources(NamedTuple):
    """Of a thread, but the shared memory, which is the block's; bytes."""

    registers: int
    local: int
    shared: int
    spilled: int

    @property
    def fit(self) -> bool:
        return self.registers > 0 and self.local == self.spilled == 0 and self.shared <= MOST_SHARED


def variants(every: bool) -> Iterator[Variant]:
    """All kernels that a run may use, or those that stand for the others."""
    flags = (False, True) if every else (True,)
    for capacity in CAPACITIES if every else USUAL:
        few = not every and capacity != USUAL[0]
        for bits in (int64,) if few else BITS:
            yield Variant("encode", (bits, capacity))
            yield from (Variant("count", (bits, capacity, chosen)) for chosen in flags)
            tails = (1, 2, 3) if every else (3,) if few else (1, 3)
            yield from (Variant("tally", (bits, capacity, v, *more)) for v, *more in product(tails, flags, flags))
        kinds = product((*BITS, uint8), (float32, float64)) if every else ((int32, float32), (int64, float64))
        for bits, kind in kinds:
            yield Variant("ranges", (bits, capacity, kind, False, True))
            yield from (Variant("ranges", (bits, capacity, kind, True, one)) for one in flags if every)
    yield Variant("ranges", (uint8, 40, float32, True, True))
    yield from (Variant("tally codes", (levels,)) for levels in (uint16, int32))
    yield from (Variant("clear", (item,)) for item in (int32, int64))
    yield Variant("add", ())


def assemble(variant: Variant, device: tuple[int, int]) -> Resources:
    """Compile and assemble for a device that is not there; numba-cuda would ask the present one what it can do."""
    from numba import cuda, types

    kernel, arch = variant.make(), "sm_{}{}".format(*device)
    present = SimpleNamespace(compute_capability=device)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=present):
        ptx, _ = cuda.compile_ptx(
            kernel.function, types.void(*kernel.arguments), cc=device, launch_bounds=kernel.bounds
        )
    options = LinkerOptions(arch=arch, verbose=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    linker.link("cubin")
    return parse(linker.get_info_log())


def parse(log: str) -> Resources:
    """Of the assembler's report; what it does not name is 0."""

    def number(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, log)))

    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return Resources(
        number(r"Used (\d+) registers"), number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes smem"), spilled
    )


def main() -> int:
    jobs = list(product(variants("all" in sys.argv[1:]), DEVICES))
    print(f"{'kernel':50} {'device':6} {'threads':>8} registers local shared spilled")
    bad = 0
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for (variant, device), found in zip(jobs, pool.map(assemble, *zip(*jobs, strict=True)), strict=True):
            name = f"{variant.family} {', '.join(map(str, variant.what))}"
            threads = "x".join(map(str, variant.make().threads))
            print(
                f"{name:50} sm_{device[0]}{device[1]}  {threads:>8} {found.registers:9} {found.local:5} "
                f"{found.shared:6} {found.spilled:7}{'' if found.fit else '  <- too much'}",
                flush=True,
            )
            bad += not found.fit
    print(f"{len(jobs)} kernels, {bad} of them take too much")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
