"""The driver of a sweep: trials as runs, as many at once as asked, given up early or told how they ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cdrl_pl.executors.choose import make_executor
from cdrl_pl.executors.executor import COMMAND, end_all
from cdrl_pl.experiment.driver import resolved_config
from cdrl_pl.experiment.folder import LOCK, RunFolder, lock
from cdrl_pl.experiment.plan import ExperimentError
from cdrl_pl.metric_names import METRICS
from cdrl_pl.storage.fingerprint import Fingerprint, fingerprint
from cdrl_pl.tuning.plan import Sweep, read_sweep
from cdrl_pl.tuning.results import write_best, write_report
from cdrl_pl.tuning.space import corners
from cdrl_pl.tuning.study import Study
from cdrl_pl.tuning.trial import Trial

SWEEP = "sweep.yaml"
POLL = 0.5  # seconds
FAILURES = 3  # trials that may fail before one is done; then something else than a value is wrong


class Tuner:
    """One sweep under way in its folder.

    Args:
        sweep: what to run.
        source: the sweep's file, a copy of which stays in the folder.
        command: the command line's program.
        say: prints one line.

    Raises:
        ExperimentError: another driver works in the folder; an option or a value is wrong; the folder holds trials of
            another sweep, code, config or versions.
    """

    def __init__(
        self, sweep: Sweep, source: Path, command: Sequence[str] = COMMAND, say: Callable[[str], None] = print
    ) -> None:
        self.sweep, self.command, self.say = sweep, command, say
        self.executor = make_executor(sweep.executor, sweep.executor_options)
        self._lock = lock(sweep.folder / LOCK)
        if self._lock is None:
            raise ExperimentError(f"another sweep is running in {sweep.folder}")
        before = sweep.folder / SWEEP
        goes_on = before.is_file()
        if goes_on and (what := sweep.differences(read_sweep(before))):
            raise self._mixture(", ".join(what))
        say(f"{sweep.name}: reading its config")
        sign = self._check_configs(first_only=goes_on)
        folder = RunFolder(sweep.folder)
        signed = folder.fingerprint()
        if goes_on and (what := signed.differences(sign) if signed else ["a fingerprint, which is missing"]):
            raise self._mixture(", ".join(what))
        self.study = Study(sweep)
        folder.sign(sign)
        if source.resolve() != before.resolve():
            shutil.copyfile(source, before)
        self._failed_at_first, self._reason = 0, ""

    def _mixture(self, what: str) -> ExperimentError:
        return ExperimentError(
            f"{self.sweep.folder} holds a sweep that differs from this one in: {what}. Their trials are never mixed: "
            "give another folder with --folder DIR"
        )

    def _check_configs(self, first_only: bool) -> Fingerprint:
        """Every bound and every choice makes a config that can be; the fingerprint is of the first of each."""
        found = []
        for values in corners(self.sweep.space)[: 1 if first_only else None]:
            words = [*self.command, "fit", *self.sweep.options, *values, "--print_config"]
            found.append(resolved_config(words, f"space ({', '.join(values)})", where=""))
        agents = found[0]["model"]["agents"]
        metric = next(metric for metric in METRICS if metric.matches(self.sweep.metric))
        agent = self.sweep.metric.rpartition("/")[2]
        if metric.pattern.endswith("/{agent}") and (agent not in agents or agents[agent].get("certificate")):
            learning = [name for name, a in agents.items() if not a.get("certificate")]
            raise ExperimentError(
                f"metric is {self.sweep.metric!r}, of an agent that does not learn; there learn {', '.join(learning)}"
            )
        if found[0]["trainer"].get("enable_checkpointing") is False:
            raise ExperimentError("trainer.enable_checkpointing is false: no trial could go on or be seen to be done")
        return fingerprint(found[0])

    def run(self) -> bool:
        """Runs every trial that is missing; returns whether there is a best one. On any exception its runs are ended.

        Raises:
            ExperimentError: the first trials have all failed.
        """
        active: list[Trial] = []
        try:
            while self._fill(active) or active:
                for trial in list(active):
                    trial.poll()
                    self._look(trial)
                    if trial.state != "training":
                        active.remove(trial)
                if active:
                    time.sleep(POLL)
        finally:
            end_all(active)
        return self.finish()

    def _fill(self, active: list[Trial]) -> bool:
        """Starts trials while there is room; returns whether any was started."""
        started = False
        while len(active) < self.sweep.jobs:
            interrupted = self.study.interrupted()
            if not interrupted and len(self.study.trials) >= self.sweep.trials:
                break
            if self._failed_at_first >= FAILURES:
                place = self.sweep.folder / "trials"
                raise ExperimentError(f"the first {FAILURES} trials all failed, the last: {self._reason}; see {place}")
            number, values = self.study.ask(interrupted[0] if interrupted else None)
            trial = Trial(self.sweep, number, values, self.command, self.executor)
            trial.start()
            again = f", goes on from T = {trial.resumed_from:,}" if trial.resumed_from else ""
            self.say(f"{trial.name}: {' '.join(values)}{again}")
            active.append(trial)
            started = True
        return started

    def _look(self, trial: Trial) -> None:
        """Reports what a trial has reached, gives it up where the pruner says so, and stores how it ended."""
        reported = self.study.reported(trial.number)
        for step, value in trial.values() if trial.state in ("training", "done") else ():
            if step <= reported:
                continue
            if self.study.report(trial.number, step, value) and trial.state == "training":
                trial.stop()
                self.study.tell(trial.number, pruned=True)
                self.say(f"{trial.name}: given up at T = {step:,}, {self.sweep.metric} {value:.4g}")
                return
        if trial.state == "done":
            if (final := trial.value()) is None:
                trial.state, trial.reason = "failed", f"its log has no value of {self.sweep.metric}"
            else:
                self.study.tell(trial.number, final)
                self._failed_at_first = -(10**9)
                self.say(f"{trial.name}: done, {self.sweep.metric} {final:.4g}")
        if trial.state == "failed":
            self.study.tell(trial.number, reason=trial.reason)
            self._failed_at_first, self._reason = self._failed_at_first + 1, trial.reason
            self.say(f"{trial.name}: failed: {trial.reason}")

    def finish(self) -> bool:
        """Writes the report, and the best config where there is one; returns whether there is."""
        best = self.study.best()
        if best is not None:
            values = self.study.overrides(best)
            seed = f"--seed={self.sweep.seeds[0]}"
            words = [*self.command, "fit", *self.sweep.options, *values, seed, "--print_config"]
            write_best(self.sweep, best, resolved_config(words, "the best trial", where=""))
        write_report(self.sweep, self.study)
        return best is not None

    def close(self) -> None:
        """Gives the folder free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
