"""Imports go one way, from the rooms above to those below, and every large library has one wing that knows it."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the ground up: a file imports from its own wing and from the wings above its line. ARCHITECTURE.md shows it.
FLOORS = (
    {"hpv.kernels"},
    {"hpv.base"},
    {"hpv.places", "hpv.histograms"},
    {"hpv.store"},
    {"hpv.backends"},
    {"hpv.activations", "hpv.scanning"},
    {"hpv.walking"},
    {"hpv.fitting", "hpv.scoring"},
    {"hpv.capturing"},
    {"hpv.api"},
    {"hpv"},
    {"hpv.demo"},
    {"hpv.cli"},
    {"hpv.__main__"},
)
# Lower floors that a wing has no business with.
STRANGERS = {
    "hpv.base": {"hpv.kernels"},
    "hpv.places": {"hpv.kernels"},
    "hpv.store": {"hpv.kernels", "hpv.histograms"},
    "hpv.backends": {"hpv.places", "hpv.store"},
    "hpv.activations": {"hpv.histograms", "hpv.kernels"},
    "hpv.scanning": {"hpv.places", "hpv.store"},
    "hpv.walking": {"hpv.histograms", "hpv.scanning", "hpv.kernels"},
    "hpv.fitting": {"hpv.scanning", "hpv.kernels"},
}
# Who may import what; numpy, numba and the standard library are spoken of below.
OWNERS = {
    "zarr": {"hpv.store", "hpv.places"},
    "zarrs": {"hpv.store"},
    "awscrt": {"hpv.store"},
    "fsspec": {"hpv.places"},
    "torch": {"hpv.capturing", "hpv.cli.commands.capture", "hpv.demo"},
    "dask": {"hpv.walking"},
    "distributed": {"hpv.walking", "hpv.fitting.on_cluster", "hpv.scoring.on_cluster", "hpv.cli.clusters"},
    "sklearn": {"hpv.demo"},
    "pyarrow": {"hpv.api.table"},
    "typer": {"hpv.cli"},
    "rich": {"hpv.cli", "hpv.demo"},
    "numba": {"hpv.kernels"},
    "llvmlite": {"hpv.kernels"},
    "cuda": {"hpv.backends.gpu"},
}
HEAVY = {
    "hpv.kernels",
    "hpv.backends.cpu",
    "hpv.backends.cuda",
    "hpv.backends.gpu",
    "hpv.backends.moving",
    "hpv.store",
    "hpv.demo.pipeline",
}
"""Our own that load Numba, CUDA, Zarr or torch."""
FEW = 13
"""Files of a folder that a reader still takes in at once."""
LONGEST = 400
"""Lines of a file."""


def modules() -> dict[str, Path]:
    """Import name -> source file."""
    found = {}
    for folder, package in ((ROOT / "hpv", "hpv"), (ROOT / "kernels", "hpv.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(name: str, tree: ast.AST | None = None) -> set[str]:
    """Full names of the modules that a module imports, in functions and for types as well."""
    path, found = MODULES[name], set()
    package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    for node in ast.walk(TREES[name] if tree is None else tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            full = {alias.name: f"{source}.{alias.name}" for alias in node.names}
            found |= {full[alias] if full[alias] in MODULES else source for alias in full}
    return found


def wing(name: str) -> str:
    """The wing of ``hpv`` that a module belongs to."""
    return ".".join(name.split(".")[:2])


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if wing(name) in names)


def is_upward(name: str, other: str) -> bool:
    """Whether an import leads up, to another wing of the same floor, or to a wing that is none of its business."""
    if wing(other) == wing(name):
        return False
    return floor(other) >= floor(name) or wing(other) in STRANGERS.get(wing(name), set())


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, or none."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_a_floor() -> None:
    assert {wing(name) for name in MODULES} - set().union(*FLOORS) == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_directions(name: str) -> None:
    """Also of imports that are made in functions, and for types."""
    ours = imports(name) & set(MODULES)
    assert {other for other in ours if is_upward(name, other) and not is_for_types_of_names(name)} == set()


def is_for_types_of_names(name: str) -> bool:
    """``hpv/__init__.py`` shows type checkers what its table loads."""
    return name == "hpv"


def test_no_circles() -> None:
    graph = {name: imports(name) & set(MODULES) - {name} for name in MODULES if name != "hpv"}
    assert " -> ".join(circle(graph)) == ""


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_in_functions(name: str) -> None:
    """Are for what is heavy: a library, or what loads one; and for the work of a command: its help does without."""
    if name.startswith("hpv.cli.commands."):
        return
    tree = TREES[name]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    late = set().union(*(imports(name, function) for function in functions))
    assert {other for other in late if other.startswith("hpv") and not {other, wing(other)} & HEAVY} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_owners(name: str) -> None:
    libraries = {other.split(".")[0] for other in imports(name)} - {"hpv", "numpy"} - set(sys.stdlib_module_names)
    assert {library for library in libraries if not {name, wing(name)} & OWNERS.get(library, set())} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if wing(name) == "hpv.kernels"))
def test_kernels_know_nothing_of_hpv(name: str) -> None:
    assert {wing(other) for other in imports(name) if other.startswith("hpv")} <= {"hpv.kernels"}


def test_kernels_have_no_other_name() -> None:
    assert {name for name in MODULES if any(other.split(".")[0] == "kernels" for other in imports(name))} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_private_names_stay_in_their_file(name: str) -> None:
    froms = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)]
    taken = {alias.name for node in froms if (node.module or "").startswith("hpv") for alias in node.names}
    assert {other for other in taken if other.startswith("_")} == set()


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_folders_are_small(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= FEW


@pytest.mark.parametrize("name", sorted(name for name in MODULES if wing(name) != "hpv.kernels"))
def test_files_are_short(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LONGEST


def test_one_module_knows_the_cuda_of_numba() -> None:
    """Numba's CUDA is in maintenance only: what follows it is to be met in one place."""
    takers = {name for name in MODULES for other in imports(name) if other.startswith(("numba.cuda", "numba_cuda"))}
    named = {name for name in MODULES if _takes_cuda(name)}
    assert takers | named == {"hpv.kernels.cuda.device"}


def _takes_cuda(name: str) -> bool:
    froms = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)]
    return any(node.module == "numba" and "cuda" in {alias.name for alias in node.names} for node in froms)
