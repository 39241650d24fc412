"""The driver of an experiment: runs what is missing, seed by seed and arm by arm, as many at once as asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cdrl_pl.executors.choose import make_executor
from cdrl_pl.executors.executor import COMMAND, end_all, environment
from cdrl_pl.experiment.display import Display
from cdrl_pl.experiment.folder import EXPERIMENT, FINGERPRINT, LOCK, lock
from cdrl_pl.experiment.plan import Arm, Experiment, ExperimentError
from cdrl_pl.experiment.run import Run
from cdrl_pl.storage.fingerprint import Fingerprint, code_hash, content_hash, fingerprint, stored_files

SET_ASIDE = "set_aside"
# What no config of an arm may say, whichever file says it: (section, option).
DECIDED_WHEN_RESOLVED = (
    ("data", "seed"), ("data", "evaluation_agents"), ("trainer", "logger"), ("", "ckpt_path"),
)  # fmt: skip
POLL = 0.5  # seconds
READING = 300.0  # seconds that reading an arm's config may take


class Driver:
    """One experiment under way in its folder.

    Args:
        experiment: what to run.
        source: the experiment's file, a copy of which stays in the folder.
        jobs: number of runs at once.
        command: the command line's program.
        set_aside: moves runs that differ out of the way instead of refusing them.

    Raises:
        ExperimentError: another experiment works in the folder; an arm's config is wrong, or could not be compared
            fairly; the folder holds runs of other code, configs or versions.
    """

    def __init__(
        self,
        experiment: Experiment,
        source: Path,
        jobs: int = 1,
        command: Sequence[str] = COMMAND,
        set_aside: bool = False,
    ) -> None:
        if jobs < 1:
            raise ExperimentError(f"--jobs is {jobs}; it must be 1 or more")
        self.experiment, self.jobs, self.command = experiment, jobs, command
        self._lock = lock(experiment.folder / LOCK)
        if self._lock is None:
            raise ExperimentError(f"another experiment is running in {experiment.folder}")
        self.display = Display(experiment)
        executor = make_executor(experiment.executor, experiment.executor_options)
        self.runs = [
            Run(experiment, arm, seed, command, executor) for seed in experiment.seeds for arm in experiment.arms
        ]
        self.display.say(f"{experiment.name}: reading {len(experiment.arms)} arms")
        self._contents: dict[str, dict[Path, str | None]] = {}  # by arm: of the files that its runs are made of
        self.fingerprints = {arm.name: self._fingerprint(arm) for arm in experiment.arms}
        self._refuse_mixtures(set_aside)
        shutil.copyfile(source, experiment.folder / EXPERIMENT)

    def _fingerprint(self, arm: Arm) -> Fingerprint:
        contents = {path: content_hash(path) for path in map(Path, arm.config)}
        config = resolved_config([*self.command, "fit", *self.experiment.options(arm), "--print_config"], arm.name)
        check_fair(self.experiment, arm, config)
        self._contents[arm.name] = contents | {path: content_hash(path) for path in stored_files(config)}
        if changed := self._changed_file(arm):
            raise ExperimentError(f"arms.{arm.name}: {changed} was changed while it was read; run the experiment again")
        return fingerprint(config)

    def _changed_file(self, arm: Arm) -> str:
        """The first file that the arm's runs are made of and that was changed since it was read; empty: none."""
        contents = self._contents[arm.name].items()
        return next((str(path) for path, content in contents if content_hash(path) != content), "")

    def _changed(self, arm: Arm) -> str:
        """What is no longer as the arm's fingerprint says: a file, or the code; empty: nothing."""
        return "the code" if code_hash() != self.fingerprints[arm.name].code else self._changed_file(arm)

    def _refuse_mixtures(self, set_aside: bool) -> None:
        """No arm gets results of different code, configs or versions."""
        different = []
        for run in self.runs:
            if not run.folder.path.is_dir() or not any(run.folder.path.iterdir()):
                continue
            before = run.folder.fingerprint()
            if before is None and not run.folder.attempts:
                continue
            why = (
                before.differences(self.fingerprints[run.arm.name]) if before else [f"{FINGERPRINT}, which is missing"]
            )
            if why:
                different.append((run, ", ".join(why)))
        if not different:
            return
        if not set_aside:
            run, what = different[0]
            raise ExperimentError(
                f"{run.folder.path} holds a run that differs from what would be run now in: {what} ({len(different)} "
                f"such of {len(self.runs)} runs). They are never mixed in one arm: give another folder with --folder "
                f"DIR, or --set-aside to move them to {self.experiment.folder / SET_ASIDE}"
            )
        for run, _ in different:
            target = self.experiment.folder / SET_ASIDE / f"{run.arm.name}-seed-{run.seed}"
            number = next(n for n in range(10**6) if not target.with_name(f"{target.name}-{n}").exists())
            target.parent.mkdir(exist_ok=True)
            os.replace(run.folder.path, target.with_name(f"{target.name}-{number}"))

    def run(self) -> list[Run]:
        """Runs everything that is missing; returns the runs that failed. On any exception its processes are ended."""
        waiting = list(self.runs)
        active: list[Run] = []
        with self.display:
            try:
                while waiting or active:
                    while waiting and len(active) < self.jobs:
                        active.append(self._start(waiting.pop(0)))
                    for run in active:
                        run.poll()
                    for run in [run for run in active if not run.active]:
                        active.remove(run)
                        self.display.ended(run)
                    self.display.update(self.runs)
                    if active and not (waiting and len(active) < self.jobs):
                        time.sleep(POLL)
            finally:
                end_all(active)
        return [run for run in self.runs if run.state == "failed"]

    def _start(self, run: Run) -> Run:
        run.changed = partial(self._changed, run.arm)
        if run.folder.scores() is not None:
            run.state = "done"
        elif changed := run.changed():
            run.state, run.reason = "failed", f"{changed} was changed while the experiment ran; it was not started"
        else:
            run.start(self.fingerprints[run.arm.name])
            self.display.started(run)
        return run

    def close(self) -> None:
        """Gives the folder free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def resolved_config(command: Sequence[str], arm: str, where: str = "arms.") -> dict[str, Any]:
    """The whole config of a command line that ends with ``--print_config``.

    Args:
        command: the command line.
        arm: whose config it is, for errors.
        where: what stands before it in them.

    Raises:
        ExperimentError: the command line is wrong, in its own words.
    """
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(), timeout=READING
        )
    except subprocess.TimeoutExpired:
        raise ExperimentError(f"{where}{arm}: its config was not read within {READING:g} s") from None
    if answer.returncode != 0:
        said = [line for line in answer.stderr.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        raise ExperimentError(f"{where}{arm}: {(errors or said)[-1]}")
    config: dict[str, Any] = yaml.safe_load(answer.stdout)
    return config


def check_fair(experiment: Experiment, arm: Arm, config: dict[str, Any]) -> None:
    """Refuses what would leave no final policy, or a run that may end before the common budget.

    Args:
        experiment: whose budget holds for every arm.
        arm: that is checked.
        config: of the arm, resolved.

    Raises:
        ExperimentError: naming the arm and what to change.
    """
    for section, option in DECIDED_WHEN_RESOLVED:
        value = (config.get(section) or {}).get(option) if section else config.get(option)
        if value is not None:
            name = f"{section}.{option}" if section else option
            raise ExperimentError(
                f"arms.{arm.name}: its config sets {name} to {value!r}, which the experiment decides for every run"
            )
    agent = config["model"]["agents"].get(experiment.agent)
    if agent is None or agent.get("certificate"):
        learning = [name for name, a in config["model"]["agents"].items() if not a.get("certificate")]
        raise ExperimentError(
            f"agent is {experiment.agent!r}, which does not learn in arm {arm.name}; there learn {', '.join(learning)}"
        )
    callbacks = config["trainer"].get("callbacks") or []
    checkpoints = any(c["class_path"].endswith("EnvStepsCheckpoint") for c in callbacks)
    if config["trainer"].get("enable_checkpointing") is False and not checkpoints:
        raise ExperimentError(f"arms.{arm.name}: trainer.enable_checkpointing is false: no final policy would be left")
    if any((c.get("init_args") or {}).get("stop") is True for c in callbacks):
        raise ExperimentError(
            f"arms.{arm.name}: a callback has stop: true and may end a run before T_max; arms have the same budget"
        )
