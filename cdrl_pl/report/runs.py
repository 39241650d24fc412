"""The runs that a report compares: an experiment's, or plain ones, from their folders or from a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdrl_pl import metric_names
from cdrl_pl.envs import EnvConfig, EnvError, is_atari, resolve
from cdrl_pl.experiment.folder import EXPERIMENT, RunFolder
from cdrl_pl.experiment.plan import Experiment, Published, read_recorded
from cdrl_pl.report.folders import CONFIG, has_run, read_config, read_run
from cdrl_pl.report.run_data import ArmData, ReportError, RunData
from cdrl_pl.report.run_table import TABLE, Settings, Table, read_table, write_table
from cdrl_pl.storage.atomic import read_as, write_whole

PROTOCOL = {"id", "noop_max"}  # of a task: compared by the game's name, and how it was scored
RETURNS = metric_names.RETURN("")  # what columns of returns begin with


@dataclass(frozen=True)
class Comparison:
    """Everything that a report is about.

    Attributes:
        name: for people.
        agent: name of the agent that is measured.
        baseline: name of the arm that the others are compared with.
        arms: in the order shown.
        T_max: decisions of every run.
        threshold: mean training return, in points, whose first crossing is timed; None: none.
        floor: return, in points, of a policy that knows nothing.
        paper: published numbers.
        planned: number of seeds per arm; None where not known.
        frame_skip: mean frames per decision; 1 where the game has none.
        env: of the agent, resolved; empty where not known.
        question: what is asked, in a sentence; empty: what any comparison asks.
    """

    name: str
    agent: str
    baseline: str
    arms: list[ArmData]
    T_max: int
    threshold: float | None = None
    floor: float = 0.0
    paper: tuple[Published, ...] = ()
    planned: int | None = None
    frame_skip: float = 1.0
    env: dict[str, Any] = field(default_factory=dict)
    question: str = ""

    @property
    def base(self) -> ArmData:
        """The baseline's runs."""
        return next(arm for arm in self.arms if arm.name == self.baseline)

    @property
    def others(self) -> list[ArmData]:
        """The arms that are compared with the baseline."""
        return [arm for arm in self.arms if arm.name != self.baseline]


def is_gathered(folder: Path) -> bool:
    """Returns whether a folder has a report of its own: an experiment's, or one with a table of runs."""
    return (folder / EXPERIMENT).is_file() or (folder / TABLE).is_file()


def read_folder(folder: Path, settings: Settings | None = None) -> Comparison:
    """An experiment's runs so far, from their folders or, where there are none, from its table; or a table's runs.

    Args:
        folder: with an experiment's file, a table, or both.
        settings: for a table without an experiment's file; over those that it was written with.

    Raises:
        ReportError: it is no such folder, has no runs yet, or an arm mixes runs of different fingerprints.
    """
    if not (folder / EXPERIMENT).is_file():
        table = read_table(folder / TABLE)
        return compare(table.arms, (settings or Settings()).over(table.settings))
    plan = read_recorded(folder / EXPERIMENT)
    runs = _of_folders(folder, plan)
    if not runs and (folder / TABLE).is_file():
        runs = _of_table(read_table(folder / TABLE))
    arms = []
    for arm in plan.arms:
        found = [runs[arm.name, seed] for seed in plan.seeds if (arm.name, seed) in runs]
        _refuse_mixture(arm.name, found)
        if found:
            arms.append(ArmData(arm.name, arm.title, [replace(run, agent=plan.agent) for run in found]))
    if not arms:
        raise ReportError(f"{folder} has no runs yet")
    return _comparison(plan, arms)


def _of_folders(folder: Path, plan: Experiment) -> dict[tuple[str, int | None], RunData]:
    folders = {(a.name, s): RunFolder(folder / a.name / f"seed-{s}") for a in plan.arms for s in plan.seeds}
    return {key: read_run(run, seed=key[1]) for key, run in folders.items() if has_run(run)}


def _of_table(table: Table) -> dict[tuple[str, int | None], RunData]:
    return {(arm.name, run.seed): run for arm in table.arms for run in arm.runs}


def _comparison(plan: Experiment, arms: list[ArmData]) -> Comparison:
    if plan.baseline not in [arm.name for arm in arms]:
        raise ReportError(f"the baseline {plan.baseline!r} has no runs yet")
    env = task(arms[0].runs[0], plan.agent)
    return Comparison(
        plan.name, plan.agent, plan.baseline, arms, plan.T_max, plan.threshold, plan.floor, plan.paper, len(plan.seeds),
        mean_skip(env), env, plan.question,
    )  # fmt: skip


def keep(comparison: Comparison, source: Path | None, target: Path) -> None:
    """Writes what a report is made of to a folder, from which ``read_folder`` gives the same comparison.

    Args:
        comparison: its runs go to ``runs.csv.gz``.
        source: the folder that they are of; its experiment's file, if it has one, goes with them. None: plain runs.
        target: the folder.

    Raises:
        ReportError: the runs cannot be kept, or the folder is an experiment's and the runs are not.
    """
    plan, copy = source and source / EXPERIMENT, target / EXPERIMENT
    if plan is not None and plan.is_file():
        write_table(comparison.arms, None, target / TABLE)
        write_whole(copy, plan.read_bytes())
        return
    if copy.is_file():
        raise ReportError(f"{target} is the folder of an experiment, which these runs are not of; name another")
    settings = Settings(comparison.agent, comparison.baseline, comparison.threshold, comparison.floor)
    write_table(comparison.arms, settings, target / TABLE)


def read_plain(labelled: Sequence[tuple[str, Path]], settings: Settings) -> Comparison:
    """Runs that no experiment started: those of one label form an arm. Raises as ``compare``."""
    folders: dict[str, list[Path]] = {}
    for label, path in labelled:
        folders.setdefault(label, []).append(path)
    for paths in folders.values():
        for path in paths:
            _refuse_several_runs(RunFolder(path))
    arms = [ArmData(label, "", [read_run(RunFolder(path)) for path in paths]) for label, paths in folders.items()]
    return compare(arms, settings)


def _refuse_several_runs(folder: RunFolder) -> None:
    """Starts of one run have one seed and graph, and all but the first go on from a checkpoint; others are other runs.

    (A folder that an experiment has signed holds one run, whatever it was started from.)

    Raises:
        ReportError: the folder holds several runs.
    """
    if folder.fingerprint() is not None:
        return
    configs = [path / CONFIG for path in folder.attempts if (path / CONFIG).exists()]
    read = [read_as(path, "config of a run", read_config) for path in configs]
    for path, config in zip(configs[1:], read[1:], strict=True):
        if not config.get("ckpt_path") or _graph(config) != _graph(read[0]):
            one, other = configs[0].parent, path.parent
            raise ReportError(
                f"{folder.path} holds several runs ({one.name} and {other.name} among them); name each of them, as in "
                f"one={one} other={other}"
            )


def _graph(config: dict[str, Any]) -> Any:
    model = config.get("model") or {}
    return [config.get("seed_everything"), *(model.get(key) for key in ("agents", "transfers", "preset"))]


def compare(arms: Sequence[ArmData], settings: Settings) -> Comparison:
    """A comparison of arms that no experiment planned.

    Raises:
        ReportError: there are none; the agent or the baseline is none of those there; runs of different tasks.
    """
    if not arms:
        raise ReportError("there are no runs to compare")
    first = arms[0].runs[0]
    agents = [name.removeprefix(RETURNS) for name in first.metrics if name.startswith(RETURNS)]
    agent = settings.agent or next(iter(agents), None)
    if agent not in agents:
        raise ReportError(f"--agent is {agent!r}; {first.place} logged the returns of {', '.join(agents) or 'none'}")
    names = [arm.name for arm in arms]
    baseline = settings.baseline or names[0]
    if baseline not in names:
        raise ReportError(f"--baseline is {baseline!r}; it must be one of {', '.join(names)}")
    arms = [replace(arm, runs=[replace(run, agent=agent) for run in arm.runs]) for arm in arms]
    first = arms[0].runs[0]
    for arm in arms:
        _refuse_mixture(arm.name, arm.runs)
        for run in arm.runs:
            _refuse_another_task(run, first, agent)
    env = task(first, agent)
    longest = max(run.env_steps for arm in arms for run in arm.runs)
    return Comparison(
        ", ".join(names), agent, baseline, arms, longest, settings.threshold, settings.floor or 0.0,
        frame_skip=mean_skip(env), env=env,
    )  # fmt: skip


def _refuse_mixture(arm: str, runs: Sequence[RunData]) -> None:
    signed = [run for run in runs if run.fingerprint is not None]
    for run in signed[1:]:
        assert run.fingerprint is not None and signed[0].fingerprint is not None
        if why := run.fingerprint.differences(signed[0].fingerprint):
            raise ReportError(
                f"arm {arm}: {run.place} and {signed[0].place} differ in {', '.join(why)}; "
                "results of different code, configs or versions are not put in one arm"
            )


def _refuse_another_task(run: RunData, first: RunData, agent: str) -> None:
    agents = sorted(
        {name.partition("/")[2] for name in run.metrics if name.startswith((metric_names.EPISODES(""), RETURNS))}
    )
    if agent not in agents:
        raise ReportError(
            f"{run.place} has no agent {agent!r}, by which {first.place} is measured; it has "
            f"{', '.join(agents) or 'none'}"
        )
    mine, theirs = (task(r, agent).get("id") for r in (run, first))
    if mine and theirs and _game(mine) != _game(theirs):
        raise ReportError(
            f"{run.place} plays {mine} and {first.place} plays {theirs}; returns of different tasks are not compared"
        )
    for kind, one, other in (
        ("trained", run.environments.get(agent), first.environments.get(agent)),
        ("was scored", (run.score or {}).get("env"), (first.score or {}).get("env")),
    ):
        if not one or not other:
            continue
        for option in sorted(one.keys() | other.keys() - PROTOCOL):
            here, there = one.get(option), other.get(option)
            if option not in PROTOCOL and here != there:
                raise ReportError(
                    f"{run.place} {kind} with env.{option} {here!r}, {first.place} with {there!r}; returns of "
                    "different tasks are not compared"
                )


def _game(env_id: str) -> str:
    """The id that a preset such as Pong-2017 stands for, under which policies are scored; other ids as they are."""
    config = _resolved({"id": env_id})
    return config.id if config else env_id


def task(run: RunData, agent: str) -> dict[str, Any]:
    """The environment that the agent was scored in or, before that, trained in, as far as it is known."""
    if run.score is not None:
        return dict(run.score["env"])
    return dict(run.environments.get(agent, {}))


def mean_skip(env: dict[str, Any]) -> float:
    """Frames per decision: [2, 4], drawn evenly, means 3. 1 for what is no Atari game, or is not known."""
    config = _resolved(env)
    if config is None or not is_atari(config) or config.frame_skip is None:
        return 1.0
    return float(config.frame_skip) if isinstance(config.frame_skip, int) else sum(config.frame_skip) / 2


def _resolved(env: dict[str, Any]) -> EnvConfig | None:
    """The id and the frame skip of a task, as it is played; None where they are not known."""
    if not env.get("id") or ":" in env["id"]:  # a name with a module would import it
        return None
    try:
        return resolve(EnvConfig(env["id"], frame_skip=env.get("frame_skip")))  # other options may be older than this
    except (EnvError, TypeError):
        return None
