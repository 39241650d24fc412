"""One run of an experiment: the next command it needs, its process, and what became of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdrl_pl.executors.executor import COMMAND, RUN_VERSION, SAVING, Executor, ExecutorError, Job, Process, Retries
from cdrl_pl.executors.local import LocalExecutor
from cdrl_pl.experiment.folder import EVALUATION, LOCK, LOG, SCORES, RunFolder, patient_lock
from cdrl_pl.experiment.plan import Arm, Experiment
from cdrl_pl.storage.fingerprint import Fingerprint

EVALUATION_SEED = 1_000_003  # added to the run's seed: no seed it trained on, and the same for every arm


@dataclass
class Run:
    """An arm with a seed.

    Attributes:
        experiment: that the run is of.
        arm: of the experiment.
        seed: of everything, without unit.
        command: the command line's program.
        executor: that starts its processes.
        state: waiting, training, evaluating, done or failed.
        reason: why it failed; empty otherwise.
        process: the one under way; null where there is none.
        started_at: when, in seconds of the monotonic clock.
        resumed_from: decisions of the checkpoint that it went on from; 0 where it began anew.
        changed: names what it is made of and was changed since the experiment began; empty: nothing was.
    """

    experiment: Experiment
    arm: Arm
    seed: int
    command: Sequence[str] = COMMAND
    executor: Executor = field(default_factory=LocalExecutor)
    state: str = "waiting"
    reason: str = ""
    process: Process | None = None
    started_at: float = field(default_factory=time.monotonic)
    resumed_from: int = 0
    changed: Callable[[], str] = str
    _lock: int | None = None
    _retries: Retries = field(default_factory=Retries)

    @property
    def name(self) -> str:
        """arm/seed-n."""
        return f"{self.arm.name}/seed-{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Where it writes."""
        return RunFolder(self.experiment.folder / self.arm.name / f"seed-{self.seed}")

    @property
    def active(self) -> bool:
        """Returns whether its process has been started and not been seen to end."""
        return self.process is not None

    def start(self, fingerprint: Fingerprint) -> None:
        """Starts what is missing; where an earlier process of this run is still saving, waits for it first."""
        if (held := patient_lock(self.folder.path / LOCK, SAVING)) is None:
            return self._end("failed", f"another process still works in {self.folder.path}")
        self._lock = held
        self.folder.sign(fingerprint)
        if found := self.executor.find(self.folder.path):
            self.process, self.state = found
            self.started_at = time.monotonic()
        else:
            self._next()

    def poll(self) -> None:
        """Takes note where its process has ended, and starts the next one or ends the run."""
        if self.process is None or (code := self.process.ask()) is None:
            return
        lost, self.process = self.process.lost, None
        if code != 0:
            newest = self.folder.newest_checkpoint()
            if lost and self._retries.again(newest.env_steps if newest else 0):
                return self._next()
            if lost:
                return self._end("failed", f"{self.state}: {lost}, again and again")
            what = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {self._last_words()}"
            return self._end("failed", f"{self.state}: {what}")
        if self.state == "training" and self._trained() is None:
            found = self.folder.newest_checkpoint()
            return self._end("failed", f"it ended at T = {found[1] if found else 0:,}, before T_max")
        if changed := self.changed():
            return self._end(
                "failed", f"{changed} was changed while it was {self.state}; change it back, or begin anew"
            )
        if self.state == "evaluating" and (wrong := self._take_scores()):
            return self._end("failed", wrong)
        self._next()

    def stop(self) -> None:
        """Ends its process, which saves a checkpoint first."""
        if self.process is None:
            return
        self.process.end()
        self.process.wait(SAVING)
        self.process = None
        self._end("waiting", "")

    def _trained(self) -> Path | None:
        found = self.folder.newest_checkpoint()
        return found[0] if found and found[1] >= self.experiment.T_max else None

    def _next(self) -> None:
        if self.folder.scores() is not None:
            self._end("done", "")
        elif (final := self._trained()) is not None:
            self._launch("evaluating", ["test", *self._evaluation(final)], **{RUN_VERSION: EVALUATION})
        else:
            found = self.folder.newest_checkpoint()
            resume = [f"--ckpt_path={found[0]}"] if found else []
            self.resumed_from = found[1] if found else 0
            self._launch("training", ["fit", *self._common(), f"--seed={self.seed}", *resume])

    def _common(self) -> list[str]:
        return [*self.experiment.options(self.arm), f"--trainer.default_root_dir={self.folder.path}"]

    def _evaluation(self, checkpoint: Path) -> list[str]:
        return [
            *self._common(),
            f"--seed={self.seed}",
            f"--data.seed={EVALUATION_SEED + self.seed}",
            f"--data.noop_max={self.experiment.noop_max}",
            f"--episodes={self.experiment.episodes}",
            f"--data.evaluation_agents=[{self.experiment.agent}]",
            f"--ckpt_path={checkpoint}",
        ]

    def _launch(self, state: str, arguments: list[str], **variables: str) -> None:
        self.state, self.started_at = state, time.monotonic()
        assert self._lock is not None
        path = self.folder.path
        with (path / LOG).open("ab") as log:
            log.write(f"$ python -m cdrl_pl {' '.join(arguments)}\n".encode())
        job = Job(self.name, (*self.command, *arguments), path, path / LOG, state, variables, (self._lock,))
        try:
            self.process = self.executor.start(job)
        except ExecutorError as error:
            self._end("failed", f"{state}: {error}")

    def _last_words(self) -> str:
        text = (self.folder.path / LOG).read_text(errors="replace").rpartition("$ python -m cdrl_pl ")[2]
        lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1][:300]

    def said(self) -> str:
        """The last line of its log: of an evaluation, how far it is."""
        try:
            with (self.folder.path / LOG).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 1000))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "" if not lines or lines[-1].startswith("$ ") else lines[-1].strip()

    def _take_scores(self) -> str:
        """Moves the evaluation's scores to the run's folder; what is wrong with them, if anything."""
        written = RunFolder(self.folder.path / EVALUATION)
        record = (written.scores() or {"agents": {}})["agents"].get(self.experiment.agent, {})
        if set(record.get("evaluation", {})) != {"sampled", "greedy"}:
            return f"its evaluation left no scores of {self.experiment.agent!r}"
        os.replace(written.path / SCORES, self.folder.path / SCORES)
        return ""

    def _end(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
