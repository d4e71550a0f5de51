"""``import hpv`` works as a wheel, as an editable installation, in a checkout and through PYTHONPATH, and is light."""

from __future__ import annotations

import ast
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

import pytest

import hpv

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "numba", "zarr", "fsspec", "dask", "torch", "typer", "rich", "sklearn")
ASK = "import hpv.base.errors, hpv.kernels; print(hpv.__file__, hpv.kernels.__file__, sep='\\n')"


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
    """A copy of what a build needs, so that it leaves nothing in the real checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("hpv", "kernels"):
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


def test_wheel(checkout: Path, tmp_path: Path) -> None:
    python = installed(tmp_path, str(checkout))
    package, kernels = locations(python, tmp_path)
    assert package.is_relative_to(tmp_path)
    assert kernels == package / "kernels"
    assert {path.relative_to(package) for path in package.rglob("*.py")} == {
        path.relative_to(checkout / "hpv") for path in (checkout / "hpv").rglob("*.py")
    } | {"kernels" / path.relative_to(checkout / "kernels") for path in (checkout / "kernels").rglob("*.py")}
    assert (package / "py.typed").is_file()
    assert [path.name for path in package.parent.iterdir() if path.is_dir() and path.name == "kernels"] == []
    assert (tmp_path / "bin" / "hpv").is_file()


def test_editable(checkout: Path, tmp_path: Path) -> None:
    python = installed(tmp_path, "--editable", str(checkout))
    assert locations(python, tmp_path) == (checkout / "hpv", checkout / "kernels")


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
