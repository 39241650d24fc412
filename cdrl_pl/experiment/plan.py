"""Experiment files: arms, seeds, one budget for all, and how the final policies are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdrl_pl.checks import MAX_SEED, ConfigError, is_seed, whole
from cdrl_pl.executors.choose import EXECUTORS, LOCAL, check_executor
from cdrl_pl.shipped import config_file, located
from cdrl_pl.spelling import nearest, nearest_config
from cdrl_pl.yaml_file import YamlError, load

DECIDED = (
    "--T_max", "--model.T_max", "--seed", "--seed_everything", "--data.seed", "--ckpt_path", "--config", "--episodes",
    "--trainer.default_root_dir", "--trainer.logger", "--data.evaluation_episodes", "--data.evaluation_agents",
)  # fmt: skip


class ExperimentError(ConfigError):
    """An experiment that cannot be run or read, with the reason and what is allowed."""


@dataclass(frozen=True)
class Arm:
    """One way to train: ``config`` files, later ones over earlier ones, then ``overrides`` (``--option=value``).

    Attributes:
        name: of the arm, and of its folder.
        config: config files, later ones over earlier ones.
        overrides: further options of the command line.
        title: for people; empty where there is none.
    """

    name: str
    config: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Published:
    """A published number to show beside an arm's, with how it was measured, since protocols differ.

    Attributes:
        arm: beside which the number is shown.
        value: mean return, in points.
        protocol: how the number was measured.
        spread: of the number, in points; null where none was published.
        source: where it was published.
    """

    arm: str
    value: float
    protocol: str
    spread: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Experiment:
    """Arms that are compared, each with every seed and the same number of decisions.

    Attributes:
        name: for people.
        folder: where runs go, ``FOLDER/<arm>/seed-<n>/``.
        agent: name of the agent that is measured.
        baseline: name of the arm that the others are compared with.
        arms: in the order shown.
        seeds: of every arm, without unit.
        T_max: decisions of every run.
        episodes: number of episodes of each evaluation of a final policy.
        noop_max: most random no-op actions at the start of an episode of that evaluation; Atari only.
        threshold: mean training return, in points, whose first crossing is timed; null: none.
        floor: return, in points, of a policy that knows nothing, from which areas under curves are counted.
        paper: published numbers.
        question: for people, what the arms are compared for, in one sentence; the report begins with it.
        executor: where runs are started; one of ``cdrl_pl.executors.choose.EXECUTORS``.
        executor_options: of each executor, by its name.
    """

    name: str
    folder: Path
    agent: str
    baseline: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    T_max: int
    episodes: int = 100
    noop_max: int = 30
    threshold: float | None = None
    floor: float = 0.0
    paper: tuple[Published, ...] = ()
    question: str = ""
    executor: str = LOCAL
    executor_options: dict[str, Any] = field(default_factory=dict)

    def options(self, arm: Arm) -> list[str]:
        """What every command line of a run of this arm begins with, whatever its seed."""
        configs = [word for path in arm.config for word in ("--config", path)]
        return [*configs, *arm.overrides, f"--T_max={self.T_max}"]


# What a file, an arm and a published number may say: option -> (type, whether it must be there).
FILE: dict[str, tuple[Any, bool]] = {
    "name": (str, True), "folder": (str, True), "agent": (str, True), "baseline": (str, True), "arms": (dict, True),
    "seeds": (list, True), "T_max": (int, True), "episodes": (int, False), "noop_max": (int, False),
    "threshold": ((int, float), False), "floor": ((int, float), False), "paper": (list, False),
    "config": ((str, list), False), "overrides": (list, False), "question": (str, False),
    "executor": (str, False), "slurm": (dict, False), "ray": (dict, False),
}  # fmt: skip
ARM = {"config": ((str, list), False), "overrides": (list, False), "title": (str, False)}
PUBLISHED = {
    "arm": (str, True), "value": ((int, float), True), "spread": ((int, float), False), "protocol": (str, True),
    "source": (str, False),
}  # fmt: skip


def read_experiment(path: str | Path) -> Experiment:
    """The experiment of a YAML file. Its paths are relative to the current folder, or of what is shipped, as in
    configs.

    ``config`` and ``overrides`` at the top are every arm's; an arm's own ``config`` stands instead of the common one,
    its own ``overrides`` come after the common ones.

    Raises:
        ExperimentError: naming the option, its value and what is allowed; or a config that is no file.
    """
    experiment = read_recorded(path)
    arms = tuple(
        replace(arm, config=located_configs(path, f"arms.{arm.name}.config", arm.config)) for arm in experiment.arms
    )
    return replace(experiment, arms=arms)


def read_recorded(path: str | Path) -> Experiment:
    """As ``read_experiment``, of an experiment that may have been run elsewhere: its configs need not be here."""
    content = read_yaml(path)
    try:
        return _experiment(content)
    except ConfigError as error:
        raise ExperimentError(f"{path}: {error}") from None


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        ExperimentError: it cannot be read, naming it.
    """
    try:
        return load(Path(path).read_text(), str(path))
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ExperimentError(f"{path} cannot be read: it is no text in UTF-8") from None
    except YamlError as error:
        raise ExperimentError(str(error)) from None


def located_configs(path: str | Path, where: str, config: tuple[str, ...]) -> tuple[str, ...]:
    """Config files as they are named, or where they are shipped.

    Args:
        path: of the file that names them.
        where: the option there.
        config: the names.

    Raises:
        ExperimentError: one is no file.
    """
    files = tuple(located(config_file(file)) for file in config)
    for file in files:
        if not Path(file).is_file():
            known = f"no file below {Path.cwd()}{nearest_config(Path(file))}"
            raise ExperimentError(f"{path}: {where} is {file!r}, {known}")
    return files


def _experiment(content: Any) -> Experiment:
    check_mapping("", content, FILE)
    content = {key: value for key, value in content.items() if value is not None}
    arms = tuple(_arm(name, arm or {}, content) for name, arm in content["arms"].items())
    names = [arm.name for arm in arms]
    seeds = content["seeds"] = list(map(whole, content["seeds"]))
    for option, ok, allowed in (
        ("arms", arms, "at least one arm"),
        ("baseline", content["baseline"] in names, f"one of the arms {', '.join(names)}"),
        ("seeds", seeds and all(map(is_seed, seeds)), f"whole numbers from 0 to {MAX_SEED}"),
        ("seeds", len(set(map(repr, seeds))) == len(seeds), "different from each other"),
        ("T_max", content["T_max"] >= 1, "1 or more"),
        ("episodes", content.get("episodes", 1) >= 1, "1 or more"),
        ("noop_max", content.get("noop_max", 0) >= 0, "0 or more"),
    ):
        if not ok:
            raise ExperimentError(f"{option} is {content[option]!r}; it must be {allowed}")
    for i, entry in enumerate(content.get("paper") or []):
        check_mapping(f"paper[{i}].", entry, PUBLISHED)
        if entry["arm"] not in names:
            raise ExperimentError(f"paper[{i}].arm is {entry['arm']!r}; it must be one of {', '.join(names)}")
    optional = ("episodes", "noop_max", "threshold", "floor", "question", "executor")
    given = {option: content[option] for option in optional if option in content}
    options = {name: content[name] for name in EXECUTORS if name in content}
    check_executor(given.get("executor", LOCAL), options)
    return Experiment(
        name=content["name"],
        folder=Path(content["folder"]),
        agent=content["agent"],
        baseline=content["baseline"],
        arms=arms,
        seeds=tuple(seeds),
        T_max=content["T_max"],
        paper=tuple(Published(**entry) for entry in content.get("paper") or []),
        executor_options=options,
        **given,
    )


def _arm(name: str, arm: Any, content: Mapping[str, Any]) -> Arm:
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise ExperimentError(f"arms: {name!r} is no name of an arm; letters, digits, - and _ are allowed")
    check_mapping(f"arms.{name}.", arm, ARM)
    config = arm.get("config", content.get("config"))
    if not config:
        raise ExperimentError(f"arms.{name} has no config, and there is none for all arms")
    config = [config] if isinstance(config, str) else config
    given = [*(content.get("overrides") or []), *(arm.get("overrides") or [])]
    overrides = check_overrides(f"arms.{name}.", given, "the experiment decides for every arm")
    return Arm(name, tuple(config), overrides, arm.get("title") or "")


def check_overrides(where: str, overrides: Sequence[Any], decides: str) -> tuple[str, ...]:
    """Overrides as they are, once each reads ``--option=value`` and none is decided elsewhere.

    Args:
        where: what stands before ``overrides`` in the message, such as ``"arms.one."``.
        overrides: of a file.
        decides: what decides the options that they may not give, in words.

    Raises:
        ExperimentError: naming the first that is wrong.
    """
    for override in overrides:
        option, equals, _ = str(override).partition("=")
        if not option.startswith("--") or not equals:
            raise ExperimentError(f"{where}overrides has {override!r}; each must read --option=value")
        if option in DECIDED:
            raise ExperimentError(f"{where}overrides has {option}, which {decides}")
    return tuple(map(str, overrides))


def check_mapping(where: str, content: Any, allowed: Mapping[str, tuple[Any, bool]]) -> None:
    """Refuses what is no mapping, has an option that there is not, lacks one, or has one of another type.

    Args:
        where: what stands before an option's name in the message.
        content: of a file; whole numbers in it are made so.
        allowed: option -> its types, and whether it must be there.

    Raises:
        ExperimentError: naming the option, its value and what is allowed.
    """
    if not isinstance(content, dict):
        raise ExperimentError(f"{where or 'it'} must be a mapping of {', '.join(allowed)}")
    for key in content:
        if key not in allowed:
            raise ExperimentError(f"there is no option {where}{key}{nearest(str(key), list(allowed))}")
    for key, (kind, needed) in allowed.items():
        value = content.get(key)
        if kind is int and value is not None:
            value = content[key] = whole(value)
        if value is None and needed:
            raise ExperimentError(f"{where}{key} is missing")
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise ExperimentError(f"{where}{key} is {value!r}; it must be {' or '.join(k.__name__ for k in kinds)}")
