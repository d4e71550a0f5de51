"""Memory and processors that this process may use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpv
from data import plain_machine
from hpv.base.machine import available_memory, bytes_of, thread_count
from hpv.base.words import GIB, MIB, human


@pytest.mark.parametrize(
    ("given", "size"),
    [("64MiB", 64 * MIB), ("2GiB", 2 * GIB), ("2 GB", 2 * 10**9), ("1.5g", GIB * 3 // 2), ("100000000", 10**8),
     (" 70M ", 70 * MIB), ("65536KiB", 64 * MIB), ("0.5TB", 5 * 10**11), (10**8, 10**8), (1e8, 10**8),
     (np.int64(10**8), 10**8)],
)  # fmt: skip
def test_bytes(given, size):
    assert bytes_of(given) == size


@pytest.mark.parametrize(
    "wrong", ["", "GiB", "2 GiBs", "-2GiB", "1.2.3GB", "2 G B", True, [1], float("nan"), float("inf")]
)
def test_bytes_that_are_none(wrong):
    with pytest.raises(hpv.InputError, match=r"memory=.*give bytes, or text such as 512MiB or 2GB"):
        bytes_of(wrong)


@pytest.mark.parametrize("little", [0, 1, -5, "63MiB", 64 * MIB - 1])
def test_too_few_bytes(little):
    with pytest.raises(hpv.InputError, match=rf"memory={little!r}: give at least 64MiB"):
        bytes_of(little)


def test_bytes_for_people():
    assert [human(size) for size in (0, 1023, 1024, 1536, 5 * MIB, 3 * GIB, 2**40 * 7)] == [
        "0 B", "1023 B", "1 KiB", "1.5 KiB", "5 MiB", "3 GiB", "7 TiB",
    ]  # fmt: skip


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB available, no groups, no SLURM."""
    return plain_machine(tmp_path, monkeypatch)


def make_group(folder: Path, limit: Any, used: int, cache: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    line = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon {used}\n{line} {cache}\nactive_file 77\n")


def test_memory_of_a_plain_machine(machine):
    assert available_memory() == 8 * GIB
    assert bytes_of(None) == 2 * GIB
    (machine / "meminfo").unlink()
    assert available_memory() == 4 * GIB


def test_memory_of_a_group(machine):
    """What files left in memory counts as free; a group above that leaves less decides."""
    (machine / "membership").write_text("0::/slurm/job_7/step_0\n")
    make_group(machine / "groups" / "slurm" / "job_7" / "step_0", "max", GIB, 0)
    make_group(machine / "groups" / "slurm" / "job_7", 6 * GIB, 3 * GIB, 2 * GIB)
    assert available_memory() == 5 * GIB
    make_group(machine / "groups" / "slurm", 4 * GIB, 3 * GIB, 0)
    assert available_memory() == GIB
    make_group(machine / "groups" / "slurm", 4 * GIB, 5 * GIB, 0)
    assert available_memory() == 0
    assert bytes_of(None) == 256 * MIB


def test_memory_of_a_group_of_version_one(machine):
    (machine / "membership").write_text("9:cpu:/\n4:memory:/docker/abc\n0::/\n")
    make_group(machine / "groups" / "memory" / "docker" / "abc", 3 * GIB, GIB, GIB // 2, version=1)
    assert available_memory() == 5 * GIB // 2


def test_memory_in_a_container_that_sees_its_own_group_as_the_root(machine):
    (machine / "membership").write_text("0::/\n")
    make_group(machine / "groups", 2 * GIB, GIB, 0)
    assert available_memory() == GIB


def test_memory_in_slurm(machine, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "3072")
    assert available_memory() == 3 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    assert available_memory() == 8 * GIB
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1024")
    assert available_memory() == GIB
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "5")
    assert available_memory() == 5 * GIB


def test_threads(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert thread_count(None) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert thread_count(None) == 2
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert thread_count(None) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "many")
    assert thread_count(None) == 3
    assert thread_count(7) == 7
    assert thread_count(np.int32(2)) == 2
    for wrong in (0, -1, 1.5, 2.0, "2", True, [1]):
        with pytest.raises(hpv.InputError, match=rf"threads={re.escape(repr(wrong))}: give a whole number from 1 on"):
            thread_count(wrong)
