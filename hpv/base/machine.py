"""What this process may use: the memory that is left to it, and its processors."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterator
from numbers import Real
from pathlib import Path

from hpv.base.errors import InputError
from hpv.base.words import GIB, KIB, MIB

UNLIMITED = 2**60
"""What version 1 of cgroups writes where there is no limit is more than that."""
MEMINFO, MEMBERSHIP, CGROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 2**40, "K": KIB, "M": MIB, "G": GIB, "T": 2**40}  # fmt: skip


def bytes_of(memory: int | str | None) -> int:
    """A number of bytes, or text such as 512MiB or 2GB; ``None``: a quarter of what this process may still use."""
    if memory is None:
        return max(available_memory() // 4, 256 * MIB)
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", memory)
        try:
            if match is None:
                raise ValueError
            size = int(float(match[1]) * _UNITS[match[2].upper()])
        except (ValueError, KeyError):
            raise InputError(f"memory={memory!r}: give bytes, or text such as 512MiB or 2GB.") from None
    elif isinstance(memory, Real) and not isinstance(memory, bool) and math.isfinite(memory):
        size = int(memory)
    else:
        raise InputError(f"memory={memory!r}: give bytes, or text such as 512MiB or 2GB.")
    if size < 64 * MIB:
        raise InputError(f"memory={memory!r}: give at least 64MiB.")
    return size


def available_memory() -> int:
    """Bytes that this process may still use: the least of what the system, its cgroup and SLURM leave."""
    limits = [limit - used for limit, used in _cgroups()]
    if MEMINFO.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
        if found:
            limits.append(int(found[1]) * KIB)
    per_node, per_cpu = (_slurm_number(f"SLURM_MEM_PER_{what}") for what in ("NODE", "CPU"))
    if per_node or per_cpu:  # MiB; 0 stands for all of the node's
        limits.append((per_node or per_cpu * max(_slurm_number("SLURM_CPUS_ON_NODE"), 1)) * MIB)
    return max(min(limits, default=4 * GIB), 0)


def _cgroups() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each group that limits the memory of this process, version 1 or 2."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        names = ("memory.max", "memory.current") if not kinds else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            folder = CGROUPS / kinds / group
            try:
                limit = int((folder / names[0]).read_text())
                if limit > UNLIMITED:
                    continue
                used = int((folder / names[1]).read_text())
                cache = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
            except (OSError, ValueError):
                continue  # not visible from here, or no limit ("max")
            # What files left in memory is given back when it is needed.
            yield limit, used - (int(cache[1]) if cache else 0)


def _slurm_number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else 0


def thread_count(threads: int | None) -> int:
    """``threads``, or the processors that this process may use (its affinity, or SLURM's allotment)."""
    if threads is not None:
        try:
            count = 0 if isinstance(threads, bool) else operator.index(threads)
        except TypeError:
            count = 0
        if count < 1:
            raise InputError(f"threads={threads!r}: give a whole number from 1 on.")
        return count
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _slurm_number("SLURM_CPUS_PER_TASK") or allowed)
