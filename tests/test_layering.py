"""Who may import whom, read from the source; what must stay light; and that no file names a machine's own folders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import REPOSITORY

from cdrl_pl.storage.fingerprint import NOT_PART_OF_A_RUN

# The rooms, from the ground up: a module imports from rooms before its own, and from its own room without a circle.
# The root comes first: what everything speaks in. ``__main__`` comes last.
ROOMS = (
    "", "envs", "system", "storage", "onnx", "rollouts", "evaluation", "agents", "importing", "transfer", "training",
    "executors", "experiment", "tuning", "report", "cli",
)  # fmt: skip
PACKAGE = REPOSITORY / "cdrl_pl"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    for path in PACKAGE.rglob("*.py")
)


def room(module: str) -> int:
    if module == "__main__":
        return len(ROOMS)
    if module == "callbacks":
        return ROOMS.index("cli")  # over everything but the command line
    first, dot, _ = module.partition(".")
    return ROOMS.index(first if dot or first in ROOMS else "")


TORCH, LIGHTNING = "torch", ("pytorch_lightning", "lightning_fabric", "lightning_utilities", "lightning")


def source(module: str) -> Path:
    path = REPOSITORY.joinpath("cdrl_pl", *filter(None, module.split(".")))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def names(text: str) -> Iterator[str]:
    """The full name of everything that a source imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, "a relative import is of the file beside it, as only callbacks have it"
            yield from (f"cdrl_pl.callbacks.{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(text: str) -> set[str]:
    """The modules of the package that a source imports, by their names within it."""
    found = set()
    for name in names(text):
        first, *rest = name.split(".")
        if first == "cdrl_pl":
            found.add(next(m for end in range(len(rest), -1, -1) if (m := ".".join(rest[:end])) in MODULES))
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


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}
    assert folders == set(ROOMS) - {""}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_room_and_those_below(module: str) -> None:
    assert {other for other in own(source(module).read_text()) if room(other) > room(module)} == set()


@pytest.mark.parametrize("name", ROOMS)
def test_no_room_imports_in_a_circle(name: str) -> None:
    left = {m: own(source(m).read_text()) - {m} for m in MODULES if room(m) == ROOMS.index(name)}
    while free := [m for m, imported in left.items() if not imported & left.keys()]:
        for m in free:
            del left[m]
    assert left == {}


def test_the_reader_of_imports_sees_every_spelling() -> None:
    text = "import cdrl_pl.cli.main\nfrom cdrl_pl import losses as x\ndef f():\n    from cdrl_pl.envs.gym import A, b\n"
    assert own(text + "from cdrl_pl import __version__\nimport torch.nn as nn") == {
        "cli.main",
        "losses",
        "envs.gym",
        "",
    }
    assert others("import torch.nn as nn\nfrom numpy import *") == {"torch", "numpy"}


@pytest.mark.parametrize("module", MODULES)
def test_the_package_never_imports_the_callbacks_the_tests_or_the_benchmarks(module: str) -> None:
    named = {"callbacks"} if module == "callbacks" else set()  # where they get the package's name
    assert others(source(module).read_text()) & {"callbacks", "tests", "benchmarks"} == named


@pytest.mark.parametrize("path", python_files("callbacks"), ids=lambda path: path.stem)
def test_callbacks_do_not_know_the_command_line(path: Path) -> None:
    assert own(path.read_text()) & {"cli", "__main__"} == set()


@pytest.mark.parametrize("path", python_files("callbacks"), ids=lambda path: path.stem)
def test_every_public_hook_of_a_callback_says_what_it_does(path: Path) -> None:
    kinds = (ast.ClassDef, ast.FunctionDef)
    public = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", ["envs", "system.fork_server", "metric_names"])
def test_environments_and_the_fork_server_import_neither_torch_nor_lightning(module: str) -> None:
    imported = set().union(*(others(source(m).read_text()) for m in reach(module)))
    assert imported and imported & {TORCH, *LIGHTNING} == set()


@pytest.mark.parametrize("command", ["cli.experiment", "cli.tune", "cli.report"])
def test_experiments_and_reports_import_neither_torch_nor_lightning(command: str) -> None:
    imported = set().union(*(others(source(m).read_text()) for m in reach(command)))
    assert "yaml" in imported and imported & {TORCH, *LIGHTNING} == set()


def test_what_a_fingerprint_leaves_out_is_imported_by_no_run() -> None:
    imported = {source(m).relative_to(REPOSITORY).as_posix() for m in reach("cli.main")}
    assert {path for path in imported if path.startswith(NOT_PART_OF_A_RUN)} == set()


def test_a_worker_process_imports_no_lightning() -> None:
    imported = set().union(*(others(source(m).read_text()) for m in reach("rollouts.worker")))
    assert TORCH in imported and imported & set(LIGHTNING) == set()


def test_nothing_is_imported_on_the_way_to_the_help() -> None:
    at_the_top = "\n".join(line for line in source("__main__").read_text().splitlines() if not line.startswith(" "))
    assert set(re.findall(r"^(?:from|import) (\w+)", at_the_top, re.MULTILINE)) == {"__future__", "sys"}


FOLDERS = ("cdrl_pl", "callbacks", "configs", "tests", "benchmarks", "docs", "teachers", "alignments", ".ci")
TEXT = (".py", ".yaml", ".toml", ".txt", ".md", ".json", "run")
FILES = [p for f in FOLDERS for p in (REPOSITORY / f).rglob("*") if p.is_file() and p.name.endswith(TEXT)]
FILES += [p for p in REPOSITORY.iterdir() if p.is_file() and p.name.endswith(TEXT)]
OWN_FOLDER = re.compile(r"(?<![\w.}/])/(?:work|root|home|Users|tmp|var|opt|mnt)/")


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_names_a_folder_of_some_machine(path: Path) -> None:
    named = [line for line in path.read_text().splitlines() if OWN_FOLDER.search(line)]
    assert [line for line in named if not line.startswith("OWN_FOLDER")] == []


def test_the_search_for_folders_finds_them() -> None:
    assert OWN_FOLDER.search("open('" + "/".join(["", "home", "me"]) + "')")
