"""What pyproject.toml cannot say: an editable installation puts the folder ``editable/`` on Python's path.

Left alone, setuptools makes a hook that Python asks after its path, because ``kernels/`` is not inside ``hpv/``. In a
folder that holds a clone named ``hpv``, Python then takes that for a package without code, and never asks. A package
that lies further down the path wins over such a folder. The root of the checkout could be on the path as well, but then
``kernels``, ``benchmarks`` and ``tests`` would be found too, which are names of other people's packages.
"""

from __future__ import annotations

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel


class EditableWheel(editable_wheel):
    """An editable installation is the one package in ``editable/``, which leads to the checkout."""

    def finalize_options(self) -> None:
        """Show setuptools a project so plain that a line with its path is all it installs."""
        self.distribution.packages = ["hpv"]
        self.distribution.package_dir = {"": "editable"}
        super().finalize_options()


setup(cmdclass={"editable_wheel": EditableWheel})
