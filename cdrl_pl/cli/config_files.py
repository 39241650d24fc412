"""The config files of a command line: read in order, checked, and merged to one config. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.import_guard import CONFIG_FILES
from cdrl_pl.cli.merging import ROOTS, Place, Tree, merged, normal
from cdrl_pl.shipped import config_file
from cdrl_pl.spelling import nearest_config
from cdrl_pl.storage.stored import Stored, is_stored
from cdrl_pl.yaml_file import load

OPTIONS = ("--config", "-c")


class ConfigFileError(ConfigError):
    """A config file that cannot be read, with the file, the line where there is one, and the reason."""


def take_files(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The config files that a command line names, in order, shipped ones by name too, and its words without them."""
    files: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if word.startswith("-c") and word[2:]:  # as every option of one letter: -cFILE, or -c=FILE
            files.append(word[2:].removeprefix("="))
        elif option not in OPTIONS:
            rest.append(word)
        elif equals or (value := next(words, "")):
            files.append(value)
        else:
            rest.append(word)  # without a value, which the parser says
    return [config_file(name) for name in files], rest


class ConfigFiles:
    """The config files of one command line.

    Attributes:
        looked_in: folders beside config files in which a teacher, a graph or a stored alignment was looked for in vain,
            by what the config says.
    """

    def __init__(self) -> None:
        self.looked_in: dict[str, list[Path]] = {}

    def as_one(self, arguments: Sequence[str]) -> list[str]:
        """The command line with all of its config files as one, before every other option: those hold over it.

        Args:
            arguments: of the command line, the command first.

        Raises:
            ConfigFileError: see there.
            YamlError: see there.
        """
        files, rest = take_files(arguments)
        if not files:
            return rest
        return [*rest[:1], f"--config={_text(merged(map(self.read, files)))}", *rest[1:]]

    def read(self, name: str) -> Tree:
        """The tree of a config file, with the files that it names found, and those that stand for options read.

        Args:
            name: path of the file, or - for the standard input, or the config itself: {model: ...}.

        Raises:
            ConfigFileError: see there.
            YamlError: see there.
        """
        try:
            if name.lstrip().startswith("{"):
                return self._options(load(name, "--config"), "--config", Path())
            path = Path(name).expanduser()
            return self._options(load(_content(path), str(path)), name, path.parent)
        except RecursionError:
            raise ConfigFileError(f"config file {name!r} refers to itself") from None

    def _options(self, tree: Any, name: str, folder: Path) -> Tree:
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            kind = "a list" if isinstance(tree, list) else repr(tree)[:40]
            raise ConfigFileError(f"{name} is {kind}; it must be a mapping of options ({', '.join(ROOTS)}, ...)")
        return {key: self._followed(value, folder, (key,)) for key, value in normal(tree).items()}

    def _followed(self, value: Any, folder: Path, place: Place) -> Any:
        """A value of a config in ``folder``, with what it says of files followed."""
        if isinstance(value, dict):
            return {key: self._followed(inner, folder, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._followed(inner, folder, place) for inner in value]
        if not isinstance(value, str) or place[0] not in ROOTS:
            return value
        if is_stored(place, value):
            return self._located(value, folder)
        if value.endswith(CONFIG_FILES) and (place[0] != "trainer" or len(place) == 1):
            path = folder / Path(value).expanduser()
            return self._followed(load(_content(path), str(path)), path.parent, place)
        return value

    def _located(self, value: str, folder: Path) -> str:
        """A path in the current folder or, where it is not there, beside the config file that names it."""
        if Path(value).exists() or not value:
            return value
        if (beside := folder / value).exists():
            return str(beside)
        self.looked_in.setdefault(value, []).append(folder)
        return value

    def check_found(self, named: Stored) -> None:
        """Refuses a path that leads nowhere.

        Args:
            named: the path, and where the config has it.

        Raises:
            ConfigFileError: naming the folders that were looked in.
        """
        if Path(value := named.path).exists():
            return
        folders = [] if Path(value).is_absolute() else [Path.cwd(), *self.looked_in.get(value, [])]
        unique = list({folder.resolve(): str(folder) for folder in reversed(folders)}.values())[::-1]
        places = f"; looked in {' and in '.join(unique)}, not shipped" if unique else ""
        raise ConfigFileError(f"{named.option}: {named.file} cannot be read: there is no {value!r}{places}")


def _text(tree: Tree) -> str:
    """The tree for the parser, on one line. Every text is quoted, so that none is taken for a number."""

    class Quoting(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
    text: str = yaml.dump(tree, Dumper=Quoting, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text


def _content(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except FileNotFoundError:
        raise ConfigFileError(f"config file {str(path)!r} does not exist{nearest_config(path)}") from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigFileError(f"config file {str(path)!r} cannot be read: {reason}") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigFileError(f"{path}, line {line}: this is no text in UTF-8") from None
