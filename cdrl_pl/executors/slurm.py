"""Jobs of a Slurm cluster, by sbatch, scontrol, sacct and scancel, over a folder that every node sees."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdrl_pl.executors.executor import ExecutorError, Job, check_known, check_values, environment
from cdrl_pl.storage.atomic import write_json

RECORD = "slurm_job.json"  # in a run's folder: its newest job, by which a later driver finds it
ANSWER = 30.0  # seconds that one of Slurm's commands may take
BETWEEN = 2.0  # seconds between two questions about a job
UNKNOWN = 300.0  # seconds after which a job of which nothing is heard counts as lost
PAUSES = (1.0, 5.0, 15.0)  # seconds between tries to hand over a job while the controller is not reached
UNREACHED = re.compile("(?i)timed out|unable to contact|connection refused|temporarily unavailable")
UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED",
             "SIGNALING", "STAGE_OUT", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")  # fmt: skip
LOST = ("TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED")
# Exit codes of a run that was told to end: it has saved; or was only starting, or already ending.
TOLD = (128 + signal.SIGTERM, -signal.SIGTERM)
HIDDEN = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_JOB_NAME")  # by which Lightning would take one run for one of several


@dataclass(frozen=True)
class SlurmOptions:
    """What a job asks Slurm for.

    Attributes:
        partition: of the cluster; null: its default.
        time: limit of one job, as sbatch reads it (minutes, or H:MM:SS); a run goes on in a further job after it.
        cpus: processors of a job; null: Slurm's default.
        mem: memory of a job, as sbatch reads it (8G); null: Slurm's default.
        notice: seconds before the time limit at which a run is told to save and end.
        extra: further options of sbatch, as they are.
    """

    partition: str | None = None
    time: str | None = None
    cpus: int | None = None
    mem: str | None = None
    notice: int = 60
    extra: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """As options of sbatch."""
        named = {"partition": self.partition, "time": self.time, "cpus-per-task": self.cpus, "mem": self.mem}
        return [f"--{option}={value}" for option, value in named.items() if value is not None] + list(self.extra)


def read_options(content: Mapping[str, Any]) -> SlurmOptions:
    """The options of a file.

    Raises:
        ExecutorError: naming the option, its value and what is allowed.
    """
    given = check_known("slurm", content, SlurmOptions.__dataclass_fields__)
    if isinstance(given.get("time"), int) and not isinstance(given["time"], bool):
        given["time"] = str(given["time"])
    if isinstance(given.get("mem"), int) and not isinstance(given["mem"], bool):
        given["mem"] = str(given["mem"])
    rows = (
        ("partition", isinstance(given.get("partition", ""), str), "a name"),
        ("time", re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", str(given.get("time", "1"))), "minutes, or H:MM:SS in quotes"),
        ("cpus", _whole(given.get("cpus", 1), 1), "a whole number from 1"),
        ("mem", re.fullmatch(r"\d+[KMGT]?", str(given.get("mem", "1"))), "a number of MB, or as 8G"),
        ("notice", _whole(given.get("notice", 1), 1), "a whole number of seconds from 1"),
        ("extra", _are_options(given.get("extra", [])), "a list of options of sbatch, such as --account=lab"),
    )
    check_values("slurm", given, rows)
    options = SlurmOptions(**{**given, "extra": tuple(given.get("extra", ()))})
    if options.time is not None and 0 < seconds(options.time) <= options.notice:  # 0 is no limit
        raise ExecutorError(
            f"slurm.time is {options.time!r}, {seconds(options.time)} s; it must be more than slurm.notice, "
            f"{options.notice} s before it, at which a run is told to save and end"
        )
    return options


def seconds(time: str) -> int:
    """A time limit of sbatch in seconds: M, M:S or H:M:S; after days D-, H, H:M or H:M:S."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    first = 0 if dash or len(numbers) == 3 else 1  # hours or minutes
    units = (3600, 60, 1)[first:]
    return 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _are_options(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word.startswith("-") for word in value)


class SlurmProcess:
    """A job of Slurm.

    Args:
        number: of the job.
    """

    def __init__(self, number: str) -> None:
        self.number, self.lost = number, ""
        self._code: int | None = None
        self._told, self._asked, self._heard = False, -BETWEEN, time.monotonic()

    def ask(self) -> int | None:
        """As of every process. Slurm is asked every two seconds; while it does not answer, the job is under way."""
        if self._code is None and time.monotonic() - self._asked >= BETWEEN:
            self._asked = time.monotonic()
            state, code = job_state(self.number)
            if state:
                self._heard = self._asked
                if state not in UNDER_WAY:
                    self._finish(state, code)
            elif self._asked - self._heard > UNKNOWN:
                self.lost = f"nothing was heard of Slurm's job {self.number} for {UNKNOWN:g} s"
                self._code = -signal.SIGKILL
        return self._code

    def _finish(self, state: str, code: int) -> None:
        self._code = 0 if state == "COMPLETED" else code or -signal.SIGKILL
        if state in LOST or (state == "FAILED" and self._code in TOLD and not self._told):
            self.lost = (
                f"Slurm's job {self.number} ended by {state if state in LOST else 'its time limit or by SIGTERM'}"
            )

    def end(self) -> None:
        """As of every process; one that has not begun is cancelled."""
        if self._told:
            return
        self._told = True
        waiting = job_state(self.number)[0] in ("PENDING", "REQUEUED", "REQUEUE_HOLD")
        call("scancel", *([] if waiting else ["--batch", "--signal=TERM"]), self.number)

    def wait(self, seconds: float) -> None:
        """As of every process."""
        for patience, then in ((seconds, ["scancel", self.number]), (ANSWER, [])):
            until = time.monotonic() + patience
            while self.ask() is None and time.monotonic() < until:
                time.sleep(0.2)
            if self._code is not None:
                return
            if then:
                call(*then)


class SlurmExecutor:
    """Starts jobs by sbatch. They outlive their driver: the next one finds those that it left.

    Args:
        options: what every job asks for.

    Raises:
        ExecutorError: there is no Slurm on this machine.
    """

    def __init__(self, options: SlurmOptions) -> None:
        if missing := [name for name in ("sbatch", "scontrol", "scancel") if shutil.which(name) is None]:
            raise ExecutorError(f"executor is 'slurm'; it needs {missing[0]}, which is not on this machine's PATH")
        self._options = options

    def start(self, job: Job) -> SlurmProcess:
        """As of every executor."""
        words = ["--parsable", f"--job-name={job.name}", f"--output={job.log.resolve()}", "--open-mode=append"]
        words += [
            "--requeue",
            f"--signal=B:TERM@{self._options.notice}",
            f"--chdir={Path.cwd()}",
            *self._options.words(),
        ]
        for pause in (*PAUSES, None):
            answer = call("sbatch", *words, script=script(job), variables=job.variables)
            if answer.returncode == 0 or pause is None or not UNREACHED.search(answer.stderr):
                break
            time.sleep(pause)
        number = answer.stdout.strip().partition(";")[0]
        if answer.returncode != 0 or not number.isdigit():
            said = (answer.stderr or answer.stdout).strip().splitlines() or ["it said nothing"]
            raise ExecutorError(f"sbatch refused {job.name}: {said[-1].removeprefix('sbatch: ')}")
        write_json(job.folder / RECORD, {"number": number, "state": job.state})
        return SlurmProcess(number)

    def find(self, folder: Path) -> tuple[SlurmProcess, str] | None:
        """As of every executor."""
        try:
            record = json.loads((folder / RECORD).read_text())
            number, state = str(record["number"]), str(record["state"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (SlurmProcess(number), state) if job_state(number)[0] in UNDER_WAY else None


def script(job: Job) -> str:
    """What sbatch runs: one process, which Slurm's signals reach, and which begins anew from the newest checkpoint."""
    again = [sys.executable, "-m", "cdrl_pl.executors.again", str(job.folder), "--", *job.command]
    return f"#!/bin/sh\nunset {' '.join(HIDDEN)}\nexec {shlex.join(again)}\n"


def job_state(number: str) -> tuple[str, int]:
    """A job's state in Slurm's words and its exit code, negative of a signal; no state where Slurm does not say.

    Args:
        number: of the job.
    """
    answer = call("scontrol", "-o", "show", "job", number)
    fields = dict(re.findall(r"(\w+)=(\S+)", answer.stdout)) if answer.returncode == 0 else {}
    state, code = fields.get("JobState", ""), fields.get("ExitCode", "0:0")
    if not state and shutil.which("sacct"):  # which remembers what the controller has forgotten
        answer = call("sacct", "-n", "-P", "-X", "-j", number, "-o", "State,ExitCode")
        first = answer.stdout.strip().splitlines()[-1:] if answer.returncode == 0 else []
        state, _, code = (first or ["|0:0"])[0].partition("|")
        state = state.partition(" ")[0]
    exit_code, _, number_of_signal = (code or "0:0").partition(":")
    return state, int(exit_code) or -int(number_of_signal or 0)


def call(*words: str, script: str = "", variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands, with a time limit; one that does not answer has failed."""
    try:
        return subprocess.run(
            words, input=script, capture_output=True, text=True, timeout=ANSWER, env=environment(variables)
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]}: {error}")
