"""Sweep files: what is varied, what is measured, how many trials, and when one is given up."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cdrl_pl.checks import MAX_SEED, ConfigError, is_seed, whole
from cdrl_pl.executors.choose import EXECUTORS, LOCAL, check_executor
from cdrl_pl.experiment.plan import ExperimentError, check_mapping, check_overrides, located_configs, read_yaml
from cdrl_pl.metric_names import METRICS
from cdrl_pl.tuning.space import Parameter, read_space

MAXIMIZE, MINIMIZE = "maximize", "minimize"
MEDIAN, NONE = "median", "none"
MAY_CHANGE = ("name", "trials", "jobs", "executor", "executor_options")  # of a sweep that goes on


@dataclass(frozen=True)
class Pruner:
    """When a trial is given up.

    Attributes:
        kind: median (its best value so far is worse than the median of earlier trials at the same decision) or none.
        startup: trials that must be finished before one is given up.
        warmup: decisions of a trial before it may be given up.
        every: decisions between two comparisons.
    """

    kind: str
    startup: int
    warmup: int
    every: int


@dataclass(frozen=True)
class Sweep:
    """Trials of one config whose options are varied.

    Attributes:
        name: for people, and of the study in its storage.
        folder: where trials go, ``FOLDER/trials/trial-0000/seed-<n>/``.
        config: config files, later ones over earlier ones.
        overrides: further options of the command line, of every trial.
        metric: column of ``metrics.csv`` that is compared.
        direction: maximize or minimize.
        trials: number of trials.
        T_max: decisions of every run.
        space: options that are varied.
        seeds: of each trial's runs, one after the other; a trial's value is the mean over them.
        jobs: number of trials at once.
        sampler_seed: of the sampler of values, without unit.
        pruner: when a trial is given up.
        storage: address of a database (``sqlite:///file``); empty: a journal in the folder.
        executor: where runs are started; one of ``cdrl_pl.executors.choose.EXECUTORS``.
        executor_options: of each executor, by its name.
    """

    name: str
    folder: Path
    config: tuple[str, ...]
    overrides: tuple[str, ...]
    metric: str
    direction: str
    trials: int
    T_max: int
    space: tuple[Parameter, ...]
    seeds: tuple[int, ...] = (1,)
    jobs: int = 1
    sampler_seed: int = 0
    pruner: Pruner = field(default_factory=lambda: Pruner(NONE, 5, 0, 1))
    storage: str = ""
    executor: str = LOCAL
    executor_options: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """What every command line of a trial begins with, whatever is varied."""
        configs = [word for path in self.config for word in ("--config", path)]
        return [*configs, *self.overrides, f"--T_max={self.T_max}"]

    def differences(self, other: Sweep) -> list[str]:
        """The options in which two sweeps differ that cannot share trials."""
        compared = [f.name for f in fields(self) if f.name not in (*MAY_CHANGE, "folder")]
        return [name for name in compared if getattr(self, name) != getattr(other, name)]


FILE: dict[str, tuple[Any, bool]] = {
    "name": (str, True), "folder": (str, True), "config": ((str, list), True), "overrides": (list, False),
    "metric": (str, True), "direction": (str, False), "trials": (int, True), "jobs": (int, False),
    "seeds": (list, False), "T_max": (int, True), "sampler_seed": (int, False), "pruner": (dict, False),
    "space": (dict, True), "storage": (str, False), "executor": (str, False),
    "slurm": (dict, False), "ray": (dict, False),
}  # fmt: skip
PRUNER = {"kind": (str, True), "startup": (int, False), "warmup": (int, False), "every": (int, False)}


def read_sweep(path: str | Path) -> Sweep:
    """The sweep of a YAML file. Its paths are relative to the current folder, or of what is shipped, as in configs.

    Raises:
        ExperimentError: naming the option, its value and what is allowed; or a config that is no file.
    """
    content = read_yaml(path)
    try:
        check_mapping("", content, FILE)
        content = {key: value for key, value in content.items() if value is not None}
        sweep = _sweep(content)
    except ConfigError as error:
        raise ExperimentError(f"{path}: {error}") from None
    located = located_configs(path, "config", sweep.config)
    return Sweep(**{f.name: getattr(sweep, f.name) for f in fields(sweep)} | {"config": located})


def _sweep(content: dict[str, Any]) -> Sweep:
    seeds = content["seeds"] = list(map(whole, content.get("seeds", [1])))
    config = content["config"] if isinstance(content["config"], list) else [content["config"]]
    for option, ok, allowed in (
        ("metric", any(metric.matches(content["metric"]) for metric in METRICS),
         "a column of metrics.csv, such as return/AGENT"),
        ("direction", content.get("direction", MAXIMIZE) in (MAXIMIZE, MINIMIZE), f"{MAXIMIZE} or {MINIMIZE}"),
        ("trials", content["trials"] >= 1, "1 or more"),
        ("jobs", content.get("jobs", 1) >= 1, "1 or more"),
        ("T_max", content["T_max"] >= 1, "1 or more"),
        ("seeds", seeds and all(map(is_seed, seeds)), f"whole numbers from 0 to {MAX_SEED}"),
        ("seeds", len(set(map(repr, seeds))) == len(seeds), "different from each other"),
        ("sampler_seed", is_seed(content.get("sampler_seed", 0)), f"a whole number from 0 to {MAX_SEED}"),
        ("config", bool(config), "at least one file"),
    ):  # fmt: skip
        if not ok:
            raise ExperimentError(f"{option} is {content[option]!r}; it must be {allowed}")
    options = {name: content[name] for name in EXECUTORS if name in content}
    check_executor(content.get("executor", LOCAL), options)
    space = read_space(content["space"])
    overrides = check_overrides("", content.get("overrides", []), "the sweep decides for every trial")
    varied = [word.partition("=")[0] for word in overrides]
    if both := [parameter.option for parameter in space if parameter.option in varied]:
        raise ExperimentError(f"overrides has {both[0]}, which space varies")
    given = {k: content[k] for k in ("direction", "jobs", "sampler_seed", "storage", "executor") if k in content}
    return Sweep(
        name=content["name"],
        folder=Path(content["folder"]),
        config=tuple(map(str, config)),
        overrides=overrides,
        metric=content["metric"],
        trials=content["trials"],
        T_max=content["T_max"],
        space=space,
        seeds=tuple(seeds),
        pruner=_pruner(content.get("pruner", {"kind": NONE}), content["T_max"]),
        executor_options=options,
        **{"direction": MAXIMIZE, **given},
    )


def _pruner(content: dict[str, Any], T_max: int) -> Pruner:
    check_mapping("pruner.", content, PRUNER)
    defaults = {"startup": 5, "warmup": 0, "every": max(1, T_max // 20)}
    values = {**defaults, **{key: value for key, value in content.items() if value is not None}}
    for option, ok, allowed in (
        ("kind", values["kind"] in (MEDIAN, NONE), f"{MEDIAN} or {NONE}"),
        ("startup", values["startup"] >= 0, "0 or more"),
        ("warmup", values["warmup"] >= 0, "0 or more decisions"),
        ("every", 1 <= values["every"] <= T_max, "from 1 to T_max decisions"),
    ):
        if not ok:
            raise ExperimentError(f"pruner.{option} is {values[option]!r}; it must be {allowed}")
    return Pruner(**values)
