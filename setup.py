"""What ``pyproject.toml`` cannot say: configs, teachers and alignments go into the wheel for ``shipped.py`` looks."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "teachers", "alignments")


class BuildWithShipped(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # there, they are found in the checkout
            for name in SHIPPED:
                copytree(name, Path(self.build_lib, "cdrl_pl", "shipped", name), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithShipped})
