"""Jobs of a Ray cluster that is there already: one actor for each run, which holds its resources and its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdrl_pl.executors.executor import ExecutorError, Job, check_known, check_values
from cdrl_pl.executors.local import end_with_parent

BETWEEN = 1.0  # seconds between two questions about a job
ANSWER = 30.0  # seconds that an actor which is up may take to be told to end


@dataclass(frozen=True)
class RayOptions:
    """What a job asks Ray for.

    Attributes:
        address: of the cluster, as ray.init takes it; auto: the one of this machine or of RAY_ADDRESS.
        cpus: processors of a job.
        gpus: graphics processors of a job, or a share of one.
        resources: further ones by their names in the cluster.
    """

    address: str = "auto"
    cpus: float = 1
    gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)


def read_options(content: Mapping[str, Any]) -> RayOptions:
    """The options of a file.

    Raises:
        ExecutorError: naming the option, its value and what is allowed.
    """
    given = check_known("ray", content, RayOptions.__dataclass_fields__)
    resources = given.get("resources", {})
    numbers = isinstance(resources, dict) and all(map(_amount, resources.values()))
    rows = (
        ("address", isinstance(given.get("address", ""), str), "an address, or auto"),
        ("cpus", _amount(given.get("cpus", 1)), "a number from 0"),
        ("gpus", _amount(given.get("gpus", 0)), "a number from 0"),
        ("resources", numbers, "names with numbers from 0"),
    )
    check_values("ray", given, rows)
    return RayOptions(**given)


def _amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


class Holder:
    """The actor: one process on the node where Ray has put it.

    Args:
        command: the whole command line.
        folder: in which it is started.
        log: file that its output is added to.
        variables: of its environment, beside those of the node.
    """

    def __init__(self, command: tuple[str, ...], folder: str, log: str, variables: dict[str, str]) -> None:
        with open(log, "ab") as file:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def ask(self) -> int | None:
        """Its exit code; None while it is under way."""
        return self._process.poll()

    def end(self) -> None:
        """Tells it to save and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Kills it, with what it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)


class RayProcess:
    """A job of Ray.

    Args:
        actor: the handle of its ``Holder``.
    """

    def __init__(self, actor: Any) -> None:
        self.lost = ""
        self._actor = actor
        self._code: int | None = None
        self._up, self._asked = False, time.monotonic()
        self._question = actor.ask.remote()

    def ask(self) -> int | None:
        """As of every process; one that waits for resources is under way."""
        import ray

        if self._code is None and ray.wait([self._question], timeout=0)[0]:
            try:
                self._code = ray.get(self._question)
                self._up = True
            except ray.exceptions.RayError as error:
                said = (str(error).strip().splitlines() or ["it said nothing"])[0]
                self.lost, self._code = f"Ray lost its actor: {said[:200]}", -signal.SIGKILL
            if self._code is None and time.monotonic() - self._asked >= BETWEEN:
                self._asked, self._question = time.monotonic(), self._actor.ask.remote()
            elif self._code is not None:
                ray.kill(self._actor)  # its resources are free
        return self._code

    def end(self) -> None:
        """As of every process; one that waits for resources is cancelled."""
        import ray

        if self.ask() is None and not self._up:
            ray.kill(self._actor)
            self._code = -signal.SIGTERM
        elif self._code is None:
            ray.wait([self._actor.end.remote()], timeout=ANSWER)

    def wait(self, seconds: float) -> None:
        """As of every process."""
        import ray

        for patience, kill in ((seconds, True), (ANSWER, False)):
            until = time.monotonic() + patience
            while self.ask() is None and time.monotonic() < until:
                time.sleep(0.1)
            if self._code is None and kill:
                ray.wait([self._actor.kill.remote()], timeout=ANSWER)


class RayExecutor:
    """Starts jobs on a Ray cluster. They end, saving first, when their driver dies.

    Args:
        options: what every job asks for.

    Raises:
        ExecutorError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, options: RayOptions) -> None:
        try:
            import ray
        except ImportError:
            raise ExecutorError("executor is 'ray'; it needs ray: pip install \"cdrl-pl[ray]\"") from None
        try:
            ray.init(options.address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or ["it said nothing"])[0]
            raise ExecutorError(f"ray.address is {options.address!r}; no cluster answers there: {said}") from None
        self._options = options

    def start(self, job: Job) -> RayProcess:
        """As of every executor."""
        import ray

        wanted = {"num_cpus": self._options.cpus, "num_gpus": self._options.gpus, "resources": self._options.resources}
        holder = ray.remote(**wanted, max_restarts=0)(Holder)  # a lost run is started again by the driver
        again = (sys.executable, "-m", "cdrl_pl.executors.again", str(job.folder.resolve()), "--", *job.command)
        paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return RayProcess(holder.remote(again, str(Path.cwd()), str(job.log.resolve()), {**paths, **job.variables}))

    def find(self, folder: Path) -> None:
        """As of every executor: none, since they end with their driver."""
