"""``import hpv`` works as a wheel, as an editable installation, in a checkout and through PYTHONPATH, and is light.

From every folder, the one that holds a clone named ``hpv`` above all: Python might take the clone for the package.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import hpv

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "numba", "zarr", "fsspec", "dask", "torch", "typer", "rich", "sklearn")
ASK = "import hpv, hpv.kernels; hpv.HpvError; print(hpv.__file__, hpv.kernels.__file__, sep='\\n')"


def run(python: Path | str, *arguments: str, cwd: Path, **environment: str) -> str:
    base = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=base | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def locations(python: Path | str, cwd: Path, **environment: str) -> tuple[Path, Path]:
    """Where hpv and hpv.kernels were found."""
    package, kernels = run(python, "-c", ASK, cwd=cwd, **environment).splitlines()
    return Path(package).resolve().parent, Path(kernels).resolve().parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build needs, so that it leaves nothing in the real checkout; it is named as a clone is."""
    copy = tmp_path_factory.mktemp("above") / "hpv"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("editable", "hpv", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def installed(where: Path, *what: str) -> Path:
    """The Python of a new environment with hpv; dependencies are those of this one, nothing is downloaded."""
    venv.create(where, with_pip=False, symlinks=True)
    python = where / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(where), "platbase": str(where)})
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = ("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-build-isolation")
    run(sys.executable, *pip, "--force-reinstall", *what, cwd=where, PIP_DISABLE_PIP_VERSION_CHECK="1")
    return python


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with a wheel of the checkout."""
    return installed(tmp_path_factory.mktemp("wheel"), str(checkout))


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with an editable installation of the checkout."""
    return installed(tmp_path_factory.mktemp("editable"), "--editable", str(checkout))


def test_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    environment = wheel.parent.parent
    package, kernels = locations(wheel, tmp_path)
    assert package.is_relative_to(environment)
    assert kernels == package / "kernels"
    assert {path.relative_to(package) for path in package.rglob("*.py")} == {
        path.relative_to(checkout / "hpv") for path in (checkout / "hpv").rglob("*.py")
    } | {"kernels" / path.relative_to(checkout / "kernels") for path in (checkout / "kernels").rglob("*.py")}
    assert (package / "py.typed").is_file()
    assert {path.name for path in package.parent.iterdir() if path.is_dir()} & {"kernels", "editable"} == set()
    assert (environment / "bin" / "hpv").is_file()


@pytest.mark.parametrize("folder", [".", "..", "hpv", "kernels", "/"])
@pytest.mark.parametrize("way", ["wheel", "editable", "PYTHONPATH"])
def test_from_every_folder(way: str, folder: str, checkout: Path, request: pytest.FixtureRequest) -> None:
    """In the root of a checkout its own code is imported, whatever is installed: that is Python's rule."""
    python = sys.executable if way == "PYTHONPATH" else request.getfixturevalue(way)
    environment = {"PYTHONPATH": str(checkout)} if way == "PYTHONPATH" else {}
    package, kernels = locations(python, checkout / folder, **environment)
    if way == "wheel" and folder != ".":
        assert package.is_relative_to(Path(python).parent.parent)
        assert kernels == package / "kernels"
    else:
        assert (package, kernels) == (checkout / "hpv", checkout / "kernels")
    told = run(python, "-m", "hpv", "--version", cwd=checkout / folder, **environment)
    assert told.strip() == hpv.__version__


def test_editable_installation_of_a_clone_with_another_name(checkout: Path, tmp_path: Path) -> None:
    clone = shutil.copytree(checkout, tmp_path / "another name")
    python = installed(tmp_path / "environment", "--editable", str(clone))
    for folder in (".", "..", "hpv"):
        assert locations(python, clone / folder) == (clone / "hpv", clone / "kernels")


def test_an_editable_installation_is_the_package_of_the_checkout(
    checkout: Path, editable: Path, tmp_path: Path
) -> None:
    """What leads there leaves no trace: all is as where Python finds the package without it."""
    code = "import hpv; print(hpv.__file__, hpv.__path__, hpv.__spec__.origin, hpv.__spec__.submodule_search_locations)"
    code += "; print(hpv.__loader__.path, hpv.__spec__.loader.path, sorted(vars(hpv)), hpv.__doc__)"
    assert run(editable, "-c", code, cwd=tmp_path) == run(editable, "-c", code, cwd=checkout)


def test_an_editable_installation_adds_no_other_name(editable: Path, tmp_path: Path) -> None:
    """``kernels`` is also the name of another project's package, whose presence many libraries look for."""
    code = "from importlib.util import find_spec; print([n for n in ('kernels', 'editable', 'setup') if find_spec(n)])"
    assert run(editable, "-c", code, cwd=tmp_path).strip() == "[]"


def test_jobs_from_the_folder_above_a_clone(checkout: Path, editable: Path) -> None:
    """What ``hpv slurm`` prints there starts all of hpv there; tests/cli/test_slurm.py tests what the jobs then do."""
    above = checkout.parent
    np.save(above / "activations.npy", np.zeros((100, 3)))
    asked = ("slurm", "fit", "activations.npy", "--out", "background", "--shards", "2", "--json")
    jobs = json.loads(run(editable.parent / "hpv", *asked, cwd=above))
    for job, command in (("run", "fit"), ("merge", "merge")):
        start = jobs[job][: jobs[job].index(command)]
        assert run(*start, "--version", cwd=above).strip() == hpv.__version__


def test_checkout() -> None:
    assert locations(sys.executable, ROOT) == (ROOT / "hpv", ROOT / "kernels")


def test_pythonpath(tmp_path: Path) -> None:
    assert locations(sys.executable, tmp_path, PYTHONPATH=str(ROOT)) == (ROOT / "hpv", ROOT / "kernels")


def test_a_folder_kernels_beside_an_installation_is_not_taken(tmp_path: Path) -> None:
    """``kernels`` is also the name of another project's package, which may lie beside an installed hpv."""
    shutil.copytree(ROOT / "hpv", tmp_path / "hpv")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    code = "import importlib.util, hpv; print(importlib.util.find_spec('hpv.kernels'))"
    assert run(sys.executable, "-S", "-c", code, cwd=tmp_path).strip() == "None"


def test_every_package_is_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    ours = [path.parent.relative_to(ROOT).parts for path in (ROOT / "hpv").rglob("__init__.py")]
    kernels = [("hpv", *path.parent.relative_to(ROOT).parts) for path in (ROOT / "kernels").rglob("__init__.py")]
    assert set(declared) == {".".join(parts) for parts in ours + kernels}


def test_import_is_light() -> None:
    code = f"import hpv, sys; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "[]"


def test_import_takes_less_than_300_ms() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        run(sys.executable, "-c", code, cwd=ROOT)
        return time.perf_counter() - start

    assert min(seconds("import hpv") for _ in range(5)) < 0.3


def test_public_names() -> None:
    """The table of names, ``__all__`` and what a type checker sees are the same, and every name resolves."""
    tree = ast.parse((ROOT / "hpv" / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: statement.module
        for statement in checked.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == hpv._MODULES
    assert sorted(hpv.__all__) == sorted(seen)
    for name, module in seen.items():
        assert getattr(hpv, name) is getattr(import_module(module), name)
        assert name in dir(hpv)


def test_no_module_hides_a_public_name() -> None:
    modules = {path.stem if path.suffix else path.name for path in (ROOT / "hpv").iterdir()} | {"kernels"}
    assert modules & set(hpv.__all__) == set()


def test_public_names_win_whatever_was_imported_before() -> None:
    modules = sorted({*hpv._MODULES.values(), "hpv.cli", "hpv.walking.threads", "hpv.store.output"})
    code = (
        f"import {', '.join(modules)}; import hpv, types; "
        "print([n for n in hpv.__all__ if isinstance(getattr(hpv, n), types.ModuleType)])"
    )
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "[]"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'hpv' has no attribute 'histogram'"):
        hpv.histogram  # noqa: B018
