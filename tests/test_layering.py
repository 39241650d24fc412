"""Who may import whom, read from the source; what must stay light; and that no file names a machine's own folders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import REPOSITORY

from cdrl_pl.fingerprint import ONLY_READS_OR_STARTS_RUNS

# Every module of the package, from the ground up; each imports only from the lines above its own.
LEVELS = [
    ["", "rollouts", "rollouts.frozen", "types", "files", "fingerprint"],
    ["schedule", "reading", "losses", "returns", "meter"],
    ["imports", "checkpoints"],
    ["envs.config"],
    ["envs.games"],
    ["envs.atari", "envs.gym"],
    ["envs"],
    ["machine", "journal", "storage", "networks", "guidance", "rollouts.slots", "options"],
    ["advice", "alignment", "student", "rollouts.actor"],
    ["rollouts.worker", "rollouts.config"],
    ["processes", "rollouts.crew"],
    ["evaluation"],
    ["certificate", "video", "rollouts.pool"],
    ["teacher"],
    ["transfer"],
    ["graph"],
    ["steps", "frozen_play"],
    ["collaboration"],
    ["dataset"],
    ["mistakes"],
    ["cli"],
    ["experiment", "report"],
    ["experiment.plan", "experiment.folder", "report.statistics"],
    ["experiment.run", "report.run_data"],
    ["experiment.display", "report.folders", "report.run_table"],
    ["experiment.driver", "report.runs"],
    ["experiment.command", "report.figures"],
    ["report.tables"],
    ["report.page"],
    ["report.command"],
    ["__main__"],
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
TORCH, LIGHTNING = "torch", ("pytorch_lightning", "lightning_fabric", "lightning_utilities", "lightning")


def source(module: str) -> Path:
    path = REPOSITORY.joinpath("cdrl_pl", *filter(None, module.split(".")))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def names(text: str) -> Iterator[str]:
    """The full name of everything that a source imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(text: str) -> set[str]:
    """The modules of the package that a source imports, by their names within it."""
    found = set()
    for name in names(text):
        first, *rest = name.split(".")
        if first == "cdrl_pl":
            found.add(next(m for end in range(len(rest), -1, -1) if (m := ".".join(rest[:end])) in LEVEL))
    return found


def others(text: str) -> set[str]:
    return {name.split(".")[0] for name in names(text)} - {"cdrl_pl"}


def reach(module: str) -> set[str]:
    """The module and everything of the package that importing it imports."""
    reached, new = set(), {module}
    while new:
        reached |= new
        new = set().union(*(own(source(m).read_text()) for m in new)) - reached
    return reached


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def test_the_table_has_every_module_and_no_other() -> None:
    assert {source(module) for module in LEVEL} == set(python_files("cdrl_pl"))
    assert len(LEVEL) == sum(map(len, LEVELS))


@pytest.mark.parametrize("module", LEVEL)
def test_a_module_imports_only_from_lower_levels(module: str) -> None:
    assert {other: LEVEL[other] for other in own(source(module).read_text()) if LEVEL[other] >= LEVEL[module]} == {}


def test_the_reader_of_imports_sees_every_spelling() -> None:
    text = (
        "import cdrl_pl.cli\nfrom cdrl_pl import losses as x\ndef f():\n    from cdrl_pl.rollouts.pool import Pool, a\n"
    )
    assert own(text + "from cdrl_pl import __version__\nimport torch.nn as nn") == {
        "cli",
        "losses",
        "rollouts.pool",
        "",
    }
    assert others("import torch.nn as nn\nfrom numpy import *") == {"torch", "numpy"}


@pytest.mark.parametrize("module", LEVEL)
def test_the_package_never_imports_the_callbacks_the_tests_or_the_benchmarks(module: str) -> None:
    assert others(source(module).read_text()) & {"callbacks", "tests", "benchmarks"} == set()


@pytest.mark.parametrize("path", python_files("callbacks"), ids=lambda path: path.stem)
def test_callbacks_do_not_know_the_command_line(path: Path) -> None:
    assert own(path.read_text()) & {"cli", "__main__"} == set()


@pytest.mark.parametrize("path", python_files("callbacks"), ids=lambda path: path.stem)
def test_every_public_hook_of_a_callback_says_what_it_does(path: Path) -> None:
    kinds = (ast.ClassDef, ast.FunctionDef)
    public = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", ["envs", "rollouts.slots"])
def test_environments_and_slots_import_neither_torch_nor_lightning(module: str) -> None:
    imported = set().union(*(others(source(m).read_text()) for m in reach(module)))
    assert "numpy" in imported and imported & {TORCH, *LIGHTNING} == set()


@pytest.mark.parametrize("command", ["experiment.command", "report.command"])
def test_experiments_and_reports_import_neither_torch_nor_lightning(command: str) -> None:
    imported = set().union(*(others(source(m).read_text()) for m in reach(command)))
    assert "yaml" in imported and imported & {TORCH, *LIGHTNING} == set()


def test_what_a_fingerprint_leaves_out_is_imported_by_no_run() -> None:
    assert {m.split(".")[0] for m in reach("cli")} & set(ONLY_READS_OR_STARTS_RUNS) == set()


def test_a_worker_process_imports_no_lightning() -> None:
    imported = set().union(*(others(source(m).read_text()) for m in reach("rollouts.worker")))
    assert TORCH in imported and imported & set(LIGHTNING) == set()


def test_nothing_is_imported_on_the_way_to_the_help() -> None:
    at_the_top = "\n".join(line for line in source("__main__").read_text().splitlines() if not line.startswith(" "))
    assert set(re.findall(r"^(?:from|import) (\w+)", at_the_top, re.MULTILINE)) == {"__future__", "sys"}


FOLDERS = ("cdrl_pl", "callbacks", "configs", "tests", "benchmarks", ".ci")
TEXT = (".py", ".yaml", ".toml", ".txt", "run")
FILES = [p for f in FOLDERS for p in (REPOSITORY / f).rglob("*") if p.is_file() and p.name.endswith(TEXT)]
FILES += [p for p in REPOSITORY.iterdir() if p.is_file() and p.name.endswith(TEXT)]
OWN_FOLDER = re.compile(r"(?<![\w.}/])/(?:work|root|home|Users|tmp|var|opt|mnt)/")


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_names_a_folder_of_some_machine(path: Path) -> None:
    named = [line for line in path.read_text().splitlines() if OWN_FOLDER.search(line)]
    assert [line for line in named if not line.startswith("OWN_FOLDER")] == []


def test_the_search_for_folders_finds_them() -> None:
    assert OWN_FOLDER.search("open('" + "/".join(["", "home", "me"]) + "')")
