"""Every snippet of README and docs is run, or read as far as the program reads it before hours of training.

The rule: Python and YAML blocks that begin with a file's name are written to it. A ``python -m cdrl_pl`` line over such
files runs as it stands; one over shipped configs is resolved (``--print_config``) or read. What else stands there is
listed below, with the reason.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import REPOSITORY, call, environment

from cdrl_pl.cli.report import main as report
from cdrl_pl.experiment.plan import read_experiment

PAGES = ["README.md", "docs/guide.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = {
    "pip install": "the gate makes an environment by it, and the quickstart takes minutes",
    "tensorboard": "a server",
    "torchrun": "tests/training/test_ddp.py starts it",
}
SHIPPED = ("configs", "teachers", "alignments")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    yield from BLOCK.findall((REPOSITORY / page).read_text())


def commands(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def kind_of(line: str) -> str:
    """Which of the test's ways a line takes; an unknown one is an error, so that none is passed over."""
    for word in NOT_RUN:
        if line.startswith(word):
            return "not run"
    words = shlex.split(line, comments=True)
    assert words[:3] == ["python", "-m", "cdrl_pl"], line
    if words[3] in ("experiment", "report"):
        return words[3]
    return "resolved" if any(word.startswith(SHIPPED) for word in words) else "run"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(page: str, tmp_path: Path) -> None:
    for name in SHIPPED:
        (tmp_path / name).symlink_to(REPOSITORY / name)
    ran = 0
    for language, text in blocks(page):
        if language in ("python", "yaml"):
            named = re.match(r"# (\S+\.(py|yaml))\n", text)
            path = tmp_path / (named[1] if named else "whole.yaml")
            path.write_text(text)
            if not named:
                finished(tmp_path, "fit", "--config", path.name, "--T_max", "400", "--T1", "100", "--T2", "200")
                ran += 1
            elif "__main__" in text:
                command = [sys.executable, path.name]
                script = subprocess.run(
                    command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
                )
                assert script.returncode == 0, script.stderr[-3000:]
                ran += 1
        elif language == "sh":
            for line in commands(text):
                ran += run_line(line, tmp_path)
        else:
            assert language == ""  # a drawing
    assert ran >= 5


def run_line(line: str, folder: Path) -> int:
    kind, words = kind_of(line), shlex.split(line, comments=True)[3:]
    if kind == "not run":
        return 0
    if kind == "experiment":
        read_experiment(REPOSITORY / words[1])
    elif kind == "report":
        with pytest.raises(SystemExit) as refused:  # there is no such experiment here; the words themselves are right
            report([*words[1:], "--baseline", "x"])
        assert refused.value.code == 2
    elif kind == "resolved":
        if "--ckpt_path" in words:
            del words[words.index("--ckpt_path") :][:2]
        assert "model" in yaml.safe_load(finished(folder, *words, "--print_config"))
    else:
        finished(folder, *words)
    return 1


def finished(folder: Path, *words: str) -> str:
    answer = call(*words, cwd=folder)
    assert answer.returncode == 0, (words, answer.stderr[-3000:])
    return answer.stdout


def test_no_line_is_passed_over() -> None:
    texts = [text for page in PAGES for language, text in blocks(page) if language == "sh"]
    kinds = {kind_of(line) for text in texts for line in commands(text)}
    assert kinds == {"run", "resolved", "experiment", "report", "not run"}


def test_a_line_of_another_program_is_an_error() -> None:
    with pytest.raises(AssertionError):
        kind_of("rm -r runs")
