"""Every snippet of the README and of docs/ is run, or read as far as the program reads it before hours of training.

The rule: blocks of Python and YAML that begin with a file's name are written to that file, and scripts among them run.
A YAML block without a name is a whole config, and trains for 400 decisions. A ``python -m cdrl_pl`` line over such
files runs as it stands; over shipped configs it is resolved (``--print_config``), since it would take minutes to days.
Experiments run with every option of their line, over a stand-in for training; the reports after them are of that. What
else stands there is listed below, with the reason; a line that is of no kind is an error.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import command_line
import pytest
import yaml
from command_line import REPOSITORY, Run, call, environment
from experiments import FAKE

from cdrl_pl.cli import doctor, experiment, importing, report, tune
from cdrl_pl.experiment import driver

run = command_line.run
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EVERY_PAGE = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
PAGES = [path for path in EVERY_PAGE if path.parent.name != "report" and BLOCK.search(path.read_text())]
NOT_RUN = {
    "pip install": "the gate makes an environment by it",
    "python -m pytest": "this is it",
    "tensorboard": "a server",
    "torchrun": "tests/training/test_ddp.py starts it",
}
SHIPPED = ("configs", "teachers", "alignments")
RESOLVED, RUN, EXPERIMENT, REPORT, DOCTOR, TUNE = "resolved", "run", "experiment", "report", "doctor", "tune"
IMPORT = "import"
# The file that a page names, and what stands for it.
IMPORTED = {"ppo-CartPole-v1.zip": REPOSITORY / "tests" / "data" / "sb3" / "ppo.zip"}
PASSED_OVER = "not run"


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def lines(text: str) -> Iterator[str]:
    """Every command of a block, those joined by && one by one."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield from line.split(" && ")


def kind_of(line: str) -> str:
    """Which way a line takes; one that is of no kind is an error, so that none is passed over."""
    if line.startswith(tuple(NOT_RUN)):
        return PASSED_OVER
    words = shlex.split(line, comments=True)
    assert words[:3] == ["python", "-m", "cdrl_pl"], line
    if words[3] in (EXPERIMENT, REPORT, DOCTOR, IMPORT, TUNE):
        return words[3]
    return RESOLVED if any(word.startswith(SHIPPED) for word in words) else RUN


class Reader:
    """Does what a page says, in a folder of its own.

    Args:
        folder: with copies of what the project ships.
        run: a command line, in this process.
        printed: what was printed since it was last asked.
    """

    def __init__(self, folder: Path, run: Run, printed: Callable[[], str]) -> None:
        self.folder, self.printed = folder, printed
        self.done: list[str] = []
        self._run = run
        for name in SHIPPED:
            shutil.copytree(REPOSITORY / name, folder / name)

    def block(self, language: str, text: str) -> None:
        if language == "sh":
            for line in lines(text):
                self.line(line)
        elif language in ("python", "yaml"):
            named = re.match(r"# (\S+\.(?:py|yaml))\n", text)
            path = self.folder / (named[1] if named else "whole.yaml")
            path.write_text(text)
            if not named:
                assert language == "yaml", "a script's first line is its name"
                self.own_process("fit", "--config", path.name, "--T_max=400", "--T1=100", "--T2=200")
            elif "optuna_integration" in text and find_spec("optuna_integration") is None:
                self.done.append(PASSED_OVER)  # with `lightning` it needs two packages; tests/training/test_pruning.py
            elif "import cdrl_pl" in text or "from cdrl_pl import" in text:
                self.script(path)
        else:
            assert language == "" and "python -m" not in text, "a drawing has no commands"

    def line(self, line: str) -> None:
        kind, words = kind_of(line), shlex.split(line, comments=True)[3:]
        self.done.append(kind)
        if kind == RESOLVED:
            self.resolve(words)
        elif kind == RUN and RUN in self.done[:-1]:
            self._run(*words)
        elif kind == RUN:  # the first of a page, as a person types it
            self.own_process(*words)
        elif kind == EXPERIMENT:
            self.experiment(words[1:])
        elif kind == TUNE:
            self.tune(words[1:])
        elif kind == DOCTOR:
            assert doctor.main(words[1:]) == 0
        elif kind == IMPORT:
            shutil.copy(IMPORTED[words[2]], self.folder / words[2])
            assert importing.main([*words[1:], "--episodes=4"]) == 0
        elif kind == REPORT:
            assert report.main(words[1:]) == 0

    def resolve(self, words: list[str]) -> None:
        if "--ckpt_path" in words:
            at = words.index("--ckpt_path")
            assert re.fullmatch(r"runs/version_\d+", words[at + 1])  # of a run that took minutes
            del words[at : at + 2]
        self.printed()
        with pytest.raises(SystemExit) as end:
            self._run(*words, "--print_config")
        assert end.value.code == 0
        assert "agents" in yaml.safe_load(self.printed())["model"]

    def experiment(self, words: list[str]) -> None:
        """The line's own options, over its own file; what it trains stands for that, and has one agent, ``pole``."""
        path = self.folder / words[0]
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**content, "agent": "pole", "T_max": 40}, sort_keys=False))
        assert experiment.main(words, FAKE) == 0

    def tune(self, words: list[str]) -> None:
        """As of an experiment; what it trains stands for the page's, and has one agent, ``pole``."""
        pytest.importorskip("optuna", reason="sweeps need the extra tune")
        path = self.folder / words[0]
        content = yaml.safe_load(path.read_text())
        changes = {"metric": "return/pole", "T_max": 40, "pruner": {**content["pruner"], "every": 10}}
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        assert tune.main(words, FAKE) == 0

    def own_process(self, *words: str) -> None:
        answer = call(*words, cwd=self.folder)
        assert answer.returncode == 0, (words, answer.stderr[-3000:])

    def script(self, path: Path) -> None:
        answer = subprocess.run(
            [sys.executable, path.name],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        self.done.append("script")


@pytest.fixture
def reader(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Reader]:
    modules = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(driver, "POLL", 0.01)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    yield Reader(tmp_path, run, lambda: capsys.readouterr().out)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_snippet_does_what_it_says(page: Path, reader: Reader) -> None:
    for language, text in blocks(page):
        reader.block(language, text)


def test_every_kind_of_snippet_is_there() -> None:
    texts = [text for page in PAGES for language, text in blocks(page) if language == "sh"]
    kinds = {kind_of(line) for text in texts for line in lines(text)}
    assert kinds == {RESOLVED, RUN, EXPERIMENT, REPORT, DOCTOR, IMPORT, TUNE, PASSED_OVER}
    first = {next(word for word in NOT_RUN if line.startswith(word)) for text in texts for line in lines(text)
             if kind_of(line) == PASSED_OVER}  # fmt: skip
    assert first == set(NOT_RUN), "what is listed as not run must be there"


# What is wrong is caught


def test_a_line_of_another_program_is_an_error() -> None:
    with pytest.raises(AssertionError):
        kind_of("rm -r runs")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python -m cdrl_pl fit --config configs/quickstart.yaml --T_mx 5", "no option --T_mx"),
        ("python -m cdrl_pl fit --config configs/paper/nowhere.yaml", "nowhere.yaml"),
        ("python -m cdrl_pl test --teacher teachers/pong --envv Bowling-2017", "no option --envv"),
        ("python -m cdrl_pl predict --teacher teachers/pong --model.wight 1", "no option --model.wight"),
        ("python -m cdrl_pl experiment configs/experiments/cartpole.yaml --jbs 2", "no option --jbs"),
        ("python -m cdrl_pl tune configs/tuning/cartpole.yaml --jbs 2", "no option --jbs"),
        ("python -m cdrl_pl experiment configs/experiments/nowhere.yaml", "nowhere.yaml"),
        ("python -m cdrl_pl report configs --tabel results", "no option --tabel"),
        ("python -m cdrl_pl report runs/experiments/nowhere", "nowhere"),
    ],
)
def test_a_wrong_word_in_a_line_is_caught(
    line: str, said: str, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, AssertionError, FileNotFoundError)) as wrong:
        reader.line(line)
    assert said in capsys.readouterr().err + str(wrong.value)


# What prose names


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_files_and_modules_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(
        r"(?<![\w/.<>-])((?:configs|docs|tests|cdrl_pl|callbacks|benchmarks|teachers|alignments)/[\w/.*-]*)", text
    )
    for path in {path.rstrip(".") for path in paths}:
        assert list(REPOSITORY.glob(path.rstrip("/"))), f"{path} is nowhere"
    for module in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert (REPOSITORY / "benchmarks" / f"{module}.py").is_file(), module
