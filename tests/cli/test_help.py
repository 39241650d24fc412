"""The help of every option: that there is one, that it can be asked for, and that docstrings, its source, hold it."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.cli import LightningCLI

import callbacks
from cdrl_pl import __main__
from cdrl_pl.cli import experiment, help, options, report, tune
from cdrl_pl.cli import main as cli
from cdrl_pl.cli.errors import Parser

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("cdrl_pl", "callbacks") for path in (REPOSITORY / folder).rglob("*.py"))
COMMANDS = ("fit", "validate", "test", "predict")
NESTED = help.nested()
ASKED = (  # what must have a help of its own; the package's own list may have more
    "model", "data", "model.agents", "model.agents.env", "model.agents.network", "model.agents.learner",
    "model.agents.teacher_weights", "model.transfers", "model.transfers.weight", "model.transfers.alignment",
    "model.transfers.alarm", "model.preset_overrides", "data.pool",
)  # fmt: skip


class Stopped(Exception):  # noqa: N818 - it is no error
    """A command line whose parser is complete."""


def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
    raise Stopped(parser)


def made(start: Callable[[], Any]) -> Any:
    """The parser that a command line makes."""
    with pytest.raises(Stopped) as stopped:
        start()
    return stopped.value.args[0]


@pytest.fixture(scope="module")
def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli.CLI, "parse_arguments", lambda self, parser, args: stop(parser))
        patched.setattr("sys.argv", ["cdrl_pl", "fit"])
        found = dict(made(cli.CLI)._subcommands_action.choices)
        patched.setattr(options.OptionParser, "read", stop)
        plain = {"experiment": experiment, "report": report, "tune": tune}
        return {**found, **{name: made(lambda: module.main([])) for name, module in plain.items()}}  # noqa: B023


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for group in parser._action_groups for action in group._group_actions]


def unsaid(parser: argparse.ArgumentParser) -> list[str]:
    """The options whose help says nothing but type and default."""
    wrong = []
    for action in shown(parser):
        text = "" if action.help in (None, argparse.SUPPRESS) else str(action.help)
        if len(re.sub(r"\((required, )?(type|default).*", "", text, flags=re.DOTALL).split()) < 2:
            wrong.append("/".join(action.option_strings) or action.dest)
    return wrong


@pytest.fixture(autouse=True)
def own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command line leaves in sys.argv ends with its test."""
    monkeypatch.setattr("sys.argv", ["cdrl_pl"])


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command line that only says something, and what it says."""
    with pytest.raises(SystemExit) as end:
        cli.run(list(arguments))
    said = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, " ".join((said.out + said.err).split())


# Every option says something


@pytest.mark.parametrize(
    ("command", "least"), [*((name, 75) for name in COMMANDS), ("experiment", 6), ("tune", 6), ("report", 7)]
)
def test_every_option_of_a_command_has_a_help(
    command: str, least: int, commands: dict[str, argparse.ArgumentParser]
) -> None:
    assert unsaid(commands[command]) == [] and len(shown(commands[command])) >= least


@pytest.mark.parametrize("name", NESTED)
def test_every_nested_option_has_a_help(name: str) -> None:
    parser = help.nested_parser(name, NESTED[name])
    assert unsaid(parser) == [] and len(shown(parser)) > len(inspect.signature(NESTED[name]).parameters)


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_option_of_a_callback_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, parser = getattr(callbacks, name), Parser(add_help=False)
    parser.add_class_arguments(kind, name)
    wanted = {f"--{name}.{option}" for option in inspect.signature(kind).parameters}
    assert unsaid(parser) == [] and wanted <= {option for a in shown(parser) for option in a.option_strings}
    code, said = ask(capsys, "fit", f"--trainer.callbacks.help=callbacks.{name}")
    assert code == 0 and all(option.removeprefix(f"--{name}.") in said for option in wanted)


def test_an_option_without_a_help_is_seen() -> None:
    @dataclass
    class Some:
        """Something.

        Attributes:
            said: A number of decisions.
        """

        said: int = 1
        unsaid: int = 2

    parser = Parser(add_help=False)
    parser.add_class_arguments(Some, "some")
    assert unsaid(parser) == ["--some.unsaid"]


def test_what_is_said_instead_of_lightnings_text_is_of_options_that_there_are(
    commands: dict[str, argparse.ArgumentParser],
) -> None:
    for command in COMMANDS:
        helps = {action.dest: action.help for action in shown(commands[command])}
        assert {option: helps[option] for option in help.INSTEAD} == help.INSTEAD


def test_the_help_of_the_trainers_callbacks_names_every_one_of_this_project() -> None:
    assert set(re.findall(r"\w+", options.TRAINER["callbacks"])) >= set(callbacks.__all__)


# Short options


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_begins_with_the_short_options(
    command: str, commands: dict[str, argparse.ArgumentParser]
) -> None:
    said = commands[command].format_help()
    before, title, after = said.partition("what people change most:\n")
    listed, _, _ = after.partition("\n\n")
    assert title and not re.search(r"^  --(trainer|model|data)", before, re.MULTILINE)
    assert re.findall(r"^  (--\w+)", listed, re.MULTILINE) == list(options.SHORT)
    words = " ".join(listed.split())
    assert [name for name, short in options.SHORT.items() if f"{name} {short.value} {short.help}" not in words] == []


def test_the_top_help_has_every_short_option_and_how_to_ask_for_nested_ones() -> None:
    words = " ".join(__main__.help_text().split())
    wanted = [f" {name} {short.value} {short.help}" for name, short in options.SHORT.items()]
    assert [text for text in [*wanted, options.NESTED, options.CKPT_PATH] if text not in words] == []
    assert max(map(len, __main__.help_text().splitlines())) <= 120


def test_a_short_option_stands_for_one_that_there_is(commands: dict[str, argparse.ArgumentParser]) -> None:
    known = {option for action in shown(commands["fit"]) for option in action.option_strings}
    known |= {f"--data.pool.{option}" for option in inspect.signature(NESTED["data.pool"]).parameters}
    spelled_out = {short.stands_for for short in options.SHORT.values()} - {None}
    assert len(spelled_out) == 10 and spelled_out <= known


@pytest.mark.parametrize("key", ["T1", "seed", "env"])
def test_a_short_option_is_no_option_of_a_config(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it would be if the parser knew it: the config's value would then be dropped in silence."""
    monkeypatch.setattr(cli.CLI, "_run_subcommand", lambda self, subcommand: None)
    config = {key: 5, "model": {"agents": {"a": {"env": {"id": "CartPole-v1"}}}}, "trainer": {"logger": False}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    code, said = ask(capsys, "fit", "--config", str(file))
    assert code == 2 and f"there is no option {key}" in said


# Nested options


def test_every_class_of_a_config_is_found() -> None:
    assert set(NESTED) >= set(ASKED)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("model.agents.env.view", "--model.agents.NAME.env.view.size SIZE +Side of the square"),
        ("model.agents.learner", r"--model.agents.NAME.learner.lr LR .* \(type: float, default: 0.0001\)"),
        ("model.agents.pong.learner", "--model.agents.NAME.learner.gamma GAMMA Discount per decision"),
        ("model.transfers.weight", r"--model.transfers.weight.shape \{constant,linear,cosine,wean\}"),
        ("model.transfers.alarm", "--model.transfers.alarm.every EVERY Gradient steps of the student"),
        ("data.pool", "--data.pool.stall_timeout STALL_TIMEOUT Seconds without any rollout"),
    ],
)
def test_nested_help_can_be_asked_for(
    option: str, wanted: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ask(capsys, command, f"--{option}.help")
    assert code == 0 and re.search(wanted, said) and "error:" not in said


@pytest.mark.parametrize("name", ASKED)
def test_nested_help_is_the_same_from_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {ask(capsys, command, f"--{name}.help") for command in COMMANDS}
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("model.agents.evn", "model.agents.env"),
        ("model.transfers.wieght", "model.transfers.weight"),
        ("alarm", "model.transfers.alarm"),
        ("model.transfer", "model.transfers"),
        ("data.pol", "data.pool"),
        ("trainer.calbacks", "trainer.callbacks"),
    ],
)
def test_an_unknown_nested_help_names_the_nearest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ask(capsys, "test", f"--{typed}.help")
    assert code == 2
    assert said.startswith(f"error: there is no option --{typed}.help; did you mean --{meant}.help?")


def test_every_command_is_one_of_lightnings() -> None:
    assert set(COMMANDS) == set(LightningCLI.subcommands())


# Docstrings, from which the help is read

Node = ast.FunctionDef | ast.ClassDef


def entries(docstring: str) -> dict[str, dict[str, str]]:
    """What the sections Args and Attributes of a docstring say, by name."""
    found: dict[str, dict[str, str]] = {}
    section, name = "", ""
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            section, name = line.removesuffix(":") if line in ("Args:", "Attributes:") else "", ""
            if section:
                found[section] = {}
        elif section and (match := re.match(r"    (\S[^:]*): (.*)", line)):
            name = match[1]
            found[section][name] = match[2]
        elif section and name:
            found[section][name] += f" {line.strip()}"
    return found


def arguments(node: Node) -> set[str]:
    """The arguments of a function, or of a class's constructor."""
    functions = [node] if isinstance(node, ast.FunctionDef) else [m for m in methods(node) if m.name == "__init__"]
    names = set()
    for function in functions:
        a = function.args
        names |= {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None}
    return names - {"self", "cls"}


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [member for member in node.body if isinstance(member, ast.FunctionDef)]


def fields(node: Node) -> set[str]:
    """The fields that a class declares."""
    targets = [member.target for member in node.body if isinstance(member, ast.AnnAssign)]
    return {t.id for t in targets if isinstance(t, ast.Name)} if isinstance(node, ast.ClassDef) else set()


def attributes(node: Node) -> set[str]:
    """The fields of a class, and what its methods set."""
    inner = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    return fields(node) | {n.attr for n in inner if isinstance(n.value, ast.Name) and n.value.id == "self"}


def faults(source: str) -> Iterator[str]:
    """What is wrong with the sections Args and Attributes of a source file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Node) or not (docstring := ast.get_docstring(node)):
            continue
        found, names = entries(docstring), arguments(node) | attributes(node)
        for section, known, wanted in (
            ("Args", arguments(node), arguments(node)),
            ("Attributes", attributes(node), fields(node)),
        ):
            if section not in found:
                continue
            said = {name.lstrip("*"): text for name, text in found[section].items()}
            for name, text in said.items():
                another = [other for other in names if re.search(rf"[.;,] (\w+, )*{other}(, \w+)*: ", f" . {text}")]
                if another or re.search(r"[\s,]", name):
                    yield f"{node.name}: {name} shares its lines with another argument"
                elif name not in known:
                    yield f"{node.name}: {name} is not there"
                elif not text.strip():
                    yield f"{node.name}: {name} says nothing"
            if left := {name for name in wanted - set(said) if not name.startswith("_")}:
                yield f"{node.name}: {', '.join(sorted(left))} not documented"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_docstrings_have_every_argument_and_one_on_a_line(path: Path) -> None:
    assert list(faults(path.read_text())) == []


def test_faults_of_docstrings_are_seen() -> None:
    def fault(args: str, section: str = "Args") -> list[str]:
        body = f'    """Some.\n\n    {section}:\n{args}    """\n'
        return list(faults(f"def f(a, b, c=1):\n{body}" if section == "Args" else f"class f:\n{body}    a: int\n"))

    good = "        a: one.\n        b: two: [T, B].\n        c: three,\n            in two lines.\n"
    assert fault(good) == []
    assert fault("        a: one. b: two.\n        c: three.\n") == [
        "f: a shares its lines with another argument",
        "f: b not documented",
    ]
    assert "f: a, b shares its lines with another argument" in fault("        a, b: both.\n        c: three.\n")
    assert fault(good + "        d: old.\n") == ["f: d is not there"]
    assert fault(good.replace("        b: two: [T, B].\n", "")) == ["f: b not documented"]
    assert fault("        a: one.\n", "Attributes") == []
    assert fault("        b: one.\n", "Attributes") == ["f: b is not there", "f: a not documented"]
