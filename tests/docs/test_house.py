"""The drawing of the house in CONTRIBUTING.md is true to the code; faults and metadata as well."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from command_line import REPOSITORY

import cdrl_pl

PACKAGE = REPOSITORY / "cdrl_pl"


def test_the_drawing_has_every_room_and_no_other() -> None:
    drawing = re.search(r"```\n(cdrl_pl/.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert drawing
    rooms = set(re.findall(r"^  (\w+)/", drawing[1], re.MULTILINE))
    assert rooms == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    for line in drawing[1].splitlines():
        if match := re.match(r"  (\w+)/ +(.*)", line):
            named = {word.strip() for word in match[2].split(":")[-1].split(",")}
            found = {path.stem for path in (PACKAGE / match[1]).glob("*.py")} - {"__init__"}
            assert named == found, match[1]


def test_files_that_the_walk_names_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:cdrl_pl|callbacks|docs|tests|configs)/[\w/.]+\.(?:py|md|yaml))`", text)
    assert named and [name for name in named if not (REPOSITORY / name).is_file()] == []


def test_the_tests_that_the_faults_name_exist() -> None:
    table = (REPOSITORY / "docs" / "reliability.md").read_text().partition("## Faults there once were")[2]
    rows = [line for line in table.partition("\n## ")[0].splitlines() if line.startswith("| ") and "---" not in line][
        1:
    ]
    assert len(rows) > 30
    for row in rows:
        files = re.findall(r"`((?:\w+/)+\w+\.py)`", row)
        texts = "".join((REPOSITORY / file).read_text() for file in files)
        named = re.findall(r"`(\w{12,})(?:\[\w+\])?`", row)
        assert (files and named) or "any history" in row, row
        assert [name for name in named if f"def test_{name}(" not in texts] == [], row


FAULT = re.compile(r"test_fault_(\d\d)_")


def files_by_fault() -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for number in FAULT.findall(path.read_text()):
            found.setdefault(int(number), set()).add(path.relative_to(REPOSITORY).as_posix())
    return found


def test_every_fault_that_a_test_is_named_after_is_a_row_and_every_row_names_its_tests() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (REPOSITORY / "docs" / "reliability.md").read_text(), re.MULTILINE)
    listed = {int(number): set(re.findall(r"`(tests/[\w/]+\.py)`", files)) for number, files in rows}
    assert {n: files for n, files in listed.items() if files} == files_by_fault()
    assert list(listed) == list(range(1, 35))


def imports(*paths: Path) -> set[str]:
    """The top-level names of everything that sources import which is not Python's own, nor this project's."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"cdrl_pl", "callbacks"}


def undeclared(imported: set[str], declared: list[str]) -> set[str]:
    """Imports that none of the declared distributions brings, by what is installed, or else by their names."""
    names = {canonical(re.split(r"[\[><=; ]", entry)[0]) for entry in declared}
    brought_by = packages_distributions()
    return {name for name in imported if not names & {canonical(d) for d in brought_by.get(name, [name])}}


def canonical(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_every_import_is_declared_and_what_is_imported_without_an_extra_is_a_dependency() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed, extras = project["dependencies"], project["optional-dependencies"]
    sources = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "callbacks").rglob("*.py")]
    drawing = [path for path in sources if "report" in path.relative_to(REPOSITORY).as_posix()]
    tuning = [path for path in sources if "tuning" in path.relative_to(REPOSITORY).as_posix()]
    plain = [path for path in sources if path not in (*drawing, *tuning)]
    assert undeclared(imports(*plain), needed + extras["ray"] + extras["trackio"]) == set()
    assert undeclared(imports(*plain), needed) == {"ray", "trackio"}
    assert undeclared(imports(*tuning), needed + extras["plot"] + extras["tune"]) == set()
    assert undeclared(imports(*tuning), needed) == {"matplotlib", "optuna"}
    assert undeclared(imports(*drawing), needed + extras["plot"]) == set()
    assert undeclared(imports(*drawing), needed) == {"matplotlib"}
    made_elsewhere = REPOSITORY / "tests" / "data" / "sample_factory"  # by a library that needs an older gymnasium
    tests = [path for path in (REPOSITORY / "tests").rglob("*.py") if made_elsewhere not in path.parents]
    tests += (REPOSITORY / "docs").rglob("*.py")
    helpers = {path.stem for path in (REPOSITORY / "tests" / "support").glob("*.py")} | {"benchmarks"}
    skipped = extras["ray"]  # whose tests say so where it is not installed
    assert undeclared(imports(*tests) - helpers, needed + extras["test"] + skipped) == set()


def test_an_undeclared_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import psutil, json\nfrom yaml import safe_load\nimport lightning_fabric.x\n")
    assert undeclared(imports(tmp_path / "a.py"), ["PyYAML>=6", "pytorch-lightning"]) == {"psutil"}


def test_the_version_is_the_same_wherever_it_stands() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == cdrl_pl.__version__
    assert f"## {cdrl_pl.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_links_lead_somewhere() -> None:
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert Path(page.parent / link).exists(), (page.name, link)
