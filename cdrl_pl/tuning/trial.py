"""One trial of a sweep: its runs, seed by seed, their processes, and the values that they have reached."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdrl_pl import metric_names
from cdrl_pl.executors.executor import SAVING, Executor, ExecutorError, Job, Process, Retries
from cdrl_pl.experiment.folder import LOCK, LOG, RunFolder, patient_lock
from cdrl_pl.tuning.plan import Sweep

METRICS_FILE = "metrics.csv"


@dataclass
class Trial:
    """One choice of values, trained with every seed.

    Attributes:
        sweep: that it is of.
        number: of the trial, from 0.
        overrides: the values, as options of the command line.
        command: the command line's program.
        executor: that starts its processes.
        state: waiting, training, done or failed.
        reason: why it failed; empty otherwise.
        seed: the index of the seed under way.
        resumed_from: decisions of the checkpoint that it went on from; 0 where it began anew.
        process: the one under way; null where there is none.
    """

    sweep: Sweep
    number: int
    overrides: Sequence[str]
    command: Sequence[str]
    executor: Executor
    state: str = "waiting"
    reason: str = ""
    seed: int = 0
    resumed_from: int = 0
    process: Process | None = None
    _lock: int | None = None
    _retries: Retries = field(default_factory=Retries)

    @property
    def name(self) -> str:
        """Its folder's: trial-0003."""
        return f"trial-{self.number:04}"

    def folder(self, index: int) -> RunFolder:
        """Where the run of a seed writes.

        Args:
            index: of the seed.
        """
        return RunFolder(self.sweep.folder / "trials" / self.name / f"seed-{self.sweep.seeds[index]}")

    def start(self) -> None:
        """Starts, or goes on with, the first seed's run that is not at ``T_max``."""
        while self.seed < len(self.sweep.seeds) and self._steps() >= self.sweep.T_max:
            self.seed += 1
        if self.seed == len(self.sweep.seeds):
            return self._end("done", "")
        folder = self.folder(self.seed)
        if (held := patient_lock(folder.path / LOCK, SAVING)) is None:
            return self._end("failed", f"another process still works in {folder.path}")
        self._lock = held
        found = folder.newest_checkpoint()
        self.resumed_from = found.env_steps if found else 0
        if left := self.executor.find(folder.path):
            self.process, self.state = left
            return
        arguments = ["fit", *self.sweep.options, *self.overrides, f"--trainer.default_root_dir={folder.path}"]
        arguments += [f"--seed={self.sweep.seeds[self.seed]}", *([f"--ckpt_path={found.path}"] if found else [])]
        log = folder.path / LOG
        with log.open("ab") as file:
            file.write(f"$ python -m cdrl_pl {' '.join(arguments)}\n".encode())
        job = Job(f"{self.name}/{folder.path.name}", (*self.command, *arguments), folder.path, log, held=(held,))
        try:
            self.process, self.state = self.executor.start(job), "training"
        except ExecutorError as error:
            self._end("failed", str(error))

    def poll(self) -> None:
        """Takes note where its process has ended, and starts the next seed's or ends the trial."""
        if self.process is None or (code := self.process.ask()) is None:
            return
        lost, self.process = self.process.lost, None
        if code != 0:
            if lost and self._retries.again(self._steps()):
                self._free()
                return self.start()
            if lost:
                return self._end("failed", f"seed {self.sweep.seeds[self.seed]}: {lost}, again and again")
            what = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {self._last_words()}"
            return self._end("failed", f"seed {self.sweep.seeds[self.seed]}: {what}")
        if (steps := self._steps()) < self.sweep.T_max:
            return self._end("failed", f"it ended at T = {steps:,}, before T_max")
        self._free()
        self.start()

    def stop(self) -> None:
        """Ends its process, which saves a checkpoint first."""
        if self.process is not None:
            self.process.end()
            self.process.wait(SAVING)
            self.process = None
        self._end("waiting", "")

    def values(self) -> Iterator[tuple[int, float]]:
        """Decisions, all seeds' one after the other, and the metric there, every ``pruner.every`` decisions."""
        every = self.sweep.pruner.every
        for index in range(min(self.seed + 1, len(self.sweep.seeds))):
            last, due = None, every
            for env_steps, value in curve(self.folder(index), self.sweep.metric):
                while env_steps > due:
                    if last is not None:
                        yield index * self.sweep.T_max + due, last
                    due += every
                last = value
                if env_steps == due:
                    yield index * self.sweep.T_max + due, last
                    due += every

    def value(self) -> float | None:
        """The mean over the seeds of the metric's last value; None where a run has none."""
        last = [
            [value for _, value in curve(self.folder(i), self.sweep.metric)][-1:] for i in range(len(self.sweep.seeds))
        ]
        return math.fsum(value[0] for value in last) / len(last) if all(last) else None

    def _steps(self) -> int:
        found = self.folder(self.seed).newest_checkpoint()
        return found.env_steps if found else 0

    def _last_words(self) -> str:
        text = (self.folder(self.seed).path / LOG).read_text(errors="replace").rpartition("$ python -m cdrl_pl ")[2]
        lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1][:300]

    def _free(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        self._free()


def curve(folder: RunFolder, column: str) -> list[tuple[int, float]]:
    """Decisions and values of a column over all attempts of a run; what a resumed one has played again counts once."""
    points: list[tuple[int, float]] = []
    for attempt in folder.attempts:
        lines = list(_lines(attempt / METRICS_FILE, column))
        if lines:
            points = [point for point in points if point[0] < lines[0][0]] + lines
    return [(env_steps, value) for env_steps, value in points if math.isfinite(value)]


def _lines(path: Path, column: str) -> Iterator[tuple[int, float]]:
    try:
        text = path.read_text()
    except OSError:
        return
    whole_lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be under way
    for line in csv.DictReader(whole_lines):
        steps = line.get(metric_names.ENV_STEPS())
        if steps:
            yield int(float(steps)), float(line.get(column) or "nan")
