"""Imports go one way, and every large library has one module that knows it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from its own line and the lines above it.
FLOORS = (
    {"hpv.errors", "hpv.addresses"},
    {"hpv.floats", "hpv.kernels", "hpv.resources", "hpv.buffers"},
    {"hpv.backends", "hpv.store", "hpv.pvalues"},
    {"hpv.layers"},
    {"hpv.sources", "hpv.pilot", "hpv.windows"},
    {"hpv.tiling"},
    {"hpv.background", "hpv.planning"},
    {"hpv.scanning"},
    {"hpv.streaming"},
    {"hpv.blocks"},
    {"hpv.proposing"},
    {"hpv.fitting"},
    {"hpv.scoring", "hpv.opening"},
    {"hpv.cluster"},
    {"hpv.scores"},
    {"hpv.sharding"},
    {"hpv.querying", "hpv.capturing"},
    {"hpv.exporting"},
    {"hpv", "hpv.demo"},
    {"hpv.cli"},
    {"hpv.__main__"},
)
# Modules with public faces of what is built above them: those functions import it when they are called.
FACES = {
    "hpv.background": {"hpv.querying", "hpv.opening", "hpv.sharding"},
    "hpv.planning": {"hpv.fitting", "hpv.scoring"},
    "hpv.opening": {"hpv.scores"},
    "hpv.scoring": {"hpv.scores", "hpv.cluster", "hpv.sharding"},
    "hpv.fitting": {"hpv.cluster"},
}
# Who may import what; numpy, numba and the standard library are spoken of below.
OWNERS = {
    "zarr": {"hpv.store"},
    "zarrs": {"hpv.store"},
    "awscrt": {"hpv.store"},
    "fsspec": {"hpv.store"},
    "torch": {"hpv.capturing", "hpv.cli.capturing", "hpv.demo"},
    "dask": {"hpv.streaming"},
    "distributed": {"hpv.streaming", "hpv.cluster", "hpv.cli.clusters"},
    "sklearn": {"hpv.demo"},
    "pyarrow": {"hpv.exporting"},
    "typer": {"hpv.cli"},
    "rich": {"hpv.cli", "hpv.demo"},
    "numba": {"hpv.kernels"},
    "llvmlite": {"hpv.kernels"},
    "cuda": {"hpv.backends.gpu"},
}


def modules() -> dict[str, Path]:
    """Import name -> source file."""
    found = {}
    for folder, package in ((ROOT / "hpv", "hpv"), (ROOT / "kernels", "hpv.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


def run_time_nodes(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``, with or without those in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if inside_functions or not isinstance(child, ast.FunctionDef):
            yield child
            yield from run_time_nodes(child, inside_functions)


def imports(name: str, *, inside_functions: bool = True) -> set[str]:
    """Full names of the modules that a module imports."""
    path, found = MODULES[name], set()
    package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    for node in run_time_nodes(ast.parse(path.read_text()), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            full = {alias.name: f"{source}.{alias.name}" for alias in node.names}
            found |= {full[alias] if full[alias] in MODULES else source for alias in full}
    return found


def place(name: str) -> str:
    """The module or package of ``hpv`` that a module belongs to."""
    return ".".join(name.split(".")[:2])


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if place(name) in names)


def test_every_module_has_a_floor() -> None:
    assert {place(name) for name in MODULES} - set().union(*FLOORS) == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_directions(name: str) -> None:
    upward = {place(other) for other in imports(name) & set(MODULES) - {"hpv"} if floor(other) > floor(name)}
    assert upward - FACES.get(name, set()) == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_owners(name: str) -> None:
    libraries = {other.split(".")[0] for other in imports(name)} - {"hpv", "numpy"} - set(sys.stdlib_module_names)
    assert {library for library in libraries if not {name, place(name)} & OWNERS.get(library, set())} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if place(name) == "hpv.kernels"))
def test_kernels_know_nothing_of_hpv(name: str) -> None:
    assert {place(other) for other in imports(name) if other.startswith("hpv")} <= {"hpv.kernels"}


def test_kernels_have_no_other_name() -> None:
    assert {name for name in MODULES if any(other.split(".")[0] == "kernels" for other in imports(name))} == set()


def test_no_cycles() -> None:
    """Of imports that happen when a module is loaded; a package's own ``__init__`` stands for its public names."""
    waiting = {name: imports(name, inside_functions=False) & set(MODULES) - {name, "hpv"} for name in MODULES}
    while free := {name for name, needs in waiting.items() if not needs & set(waiting)}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert waiting == {}


def test_one_module_knows_the_cuda_of_numba() -> None:
    """Numba's CUDA is in maintenance only: what follows it is to be met in one place."""
    takers = {name for name in MODULES for other in imports(name) if other.startswith(("numba.cuda", "numba_cuda"))}
    named = {name for name, path in MODULES.items() if _takes_cuda(path)}
    assert takers | named == {"hpv.kernels.cuda.device"}


def _takes_cuda(path: Path) -> bool:
    froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return any(node.module == "numba" and "cuda" in {alias.name for alias in node.names} for node in froms)
