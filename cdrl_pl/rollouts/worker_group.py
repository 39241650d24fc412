"""The worker processes of one agent: started, told what to play, heard, replaced when they die or hang, and ended."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.protocol import Command, Reply, RolloutReply, WorkerConfig
from cdrl_pl.rollouts.worker import worker_main
from cdrl_pl.system.main_module import UNGUARDED
from cdrl_pl.system.patience import TICK, Patience
from cdrl_pl.system.processes import Failure, started
from cdrl_pl.system.stop import Stopped

log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker failed: its own error and traceback, or how it died; names the agent, the worker and its seed."""


@dataclass
class Worker:
    """One process. A replacement has a pipe of its own, so nothing that a dead one sent late is ever read.

    Attributes:
        index: of the worker in its group.
        process: under way.
        connection: the pool's end of the pipe.
        owed: slots it was told to fill and has not.
        generation: number of processes that were in its place before.
        restarts: number of restarts since its last rollout.
        rollouts: number of rollouts that it has finished.
        ready: whether its games are made.
        heard: seconds on the clock when it last answered.
        behind: rollouts of its peers since then, while it owed one.
        seed: of its environments and actions.
    """

    index: int
    process: Any
    connection: Any
    owed: set[int]
    generation: int = 0
    restarts: int = 0
    rollouts: int = 0
    ready: bool = False
    heard: float = 0.0
    behind: int = 0
    seed: tuple[int, ...] = ()


class WorkerGroup:
    """The workers of one pool.

    Args:
        context: of multiprocessing.
        worker: what every worker needs to know; each gets a seed of its own.
        config: of the pool.
        take: called with a worker's index and each rollout it finished.
        interrupted: whether the run was told to end.
        clock: seconds, for telling a worker that hangs.
    """

    def __init__(
        self,
        context: Any,
        worker: WorkerConfig,
        config: PoolConfig,
        take: Callable[[int, RolloutReply], None],
        interrupted: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.name, self.config, self._context, self._worker = worker.name, config, context, worker
        self._seed: tuple[int, ...] = ()
        self._hand_over, self._interrupted, self._clock = take, interrupted, clock
        self.workers: list[Worker] = []
        self.restarts = 0
        self.waited = 0.0  # seconds the workers waited for a free slot
        self.played = 0.0  # seconds they played
        self._snapshots: dict[int, Any] = {}
        self._saving = False
        self._finalizer: Any = None

    # Life

    def start(self, count: int, seed: tuple[int, ...]) -> None:
        """Starts ``count`` workers side by side; returns at once. Index and generation make ``seed`` a worker's own."""
        self._seed = seed
        self.workers = [self._spawn(index, 0) for index in range(count)]
        self._watch()

    def close(self) -> None:
        """Ends every worker within a bounded time. Idempotent."""
        for worker in self.workers:
            with suppress(OSError, ValueError):  # it is gone already
                worker.connection.send((Command.CLOSE, None))
        deadline = time.monotonic() + 2.0
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(5.0)
            worker.connection.close()
        self.workers = []
        if self._finalizer is not None:
            self._finalizer.detach()

    def _watch(self) -> None:
        """Kills the workers when this is collected, or the program ends."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _kill_all, [w.process for w in self.workers])

    def _spawn(self, index: int, generation: int) -> Worker:
        seed = (*self._seed, index, generation)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker_main,
            args=(replace(self._worker, entropy=seed), theirs),
            name=f"{self.name}-{index}",
            daemon=False,  # an environment may start processes of its own; this one dies with the trainer anyway
        )
        started(process, theirs, self._interrupted)
        return Worker(index, process, ours, set(), generation, seed=seed)

    def _replace(self, dead: Worker) -> None:
        dead.process.join(5.0)
        code = dead.process.exitcode
        if code == UNGUARDED:
            raise WorkerError(
                "the script trains when it is read again, as its workers do; put what it does under "
                'if __name__ == "__main__":'
            ) from None
        restarts = dead.restarts + 1
        if restarts > self.config.max_restarts:
            raise WorkerError(
                f"worker {dead.index} of {self.name} (seed {dead.seed}) died {restarts} times in a row without "
                f"finishing a rollout (last exit code {code})"
            )
        log.warning("worker %d of %s died (exit code %s); starting another", dead.index, self.name, code)
        dead.connection.close()
        self.restarts += 1
        worker = self._spawn(dead.index, dead.generation + 1)
        worker.restarts, worker.rollouts = restarts, dead.rollouts
        self.workers[dead.index] = worker
        self._watch()
        for slot in dead.owed:
            self.order(worker.index, slot)
        if self._saving:
            self._send(worker, Command.SNAPSHOT)

    # Messages

    def order(self, index: int, slot: int) -> None:
        """Tells a worker to fill a slot."""
        self.workers[index].owed.add(slot)
        self._send(self.workers[index], Command.PLAY, slot)

    def _send(self, worker: Worker, command: Command, argument: Any = None) -> None:
        with suppress(
            OSError
        ):  # where it died, the next wait finds that out, and its replacement gets what it was owed
            worker.connection.send((command, argument))

    def receive(self, timeout: float) -> bool:
        """Takes in what workers sent, waiting up to ``timeout`` seconds; False where nothing came."""
        by_channel = {w.connection: w for w in self.workers} | {w.process.sentinel: w for w in self.workers}
        woken = wait(list(by_channel), timeout)
        for worker in {id(w): w for w in (by_channel[channel] for channel in woken)}.values():
            try:
                while worker.connection.poll():
                    self._take(worker, *worker.connection.recv())
            except (EOFError, OSError):  # gone, perhaps in the middle of a message
                self._replace(worker)
                continue
            if not worker.process.is_alive() and not worker.connection.poll():
                self._replace(worker)
        return bool(woken)

    def receive_until(self, done: Callable[[], bool], what: str, interruptible: bool = True) -> None:
        """Takes in messages until ``done``.

        Args:
            done: what is waited for.
            what: its name, for an error.
            interruptible: whether being told to end ends the wait.

        Raises:
            WorkerError: nothing came within the stall timeout.
            Stopped: the run was told to end.
        """
        patience = Patience(self.config.stall_timeout)
        while not done():
            if interruptible and self._interrupted():
                raise Stopped("the run was told to end while it waited for rollouts")
            if self.receive(TICK):
                patience.renew()
            elif patience.is_over():
                late = [w.index for w in self.workers if w.owed]
                raise WorkerError(
                    f"waited {self.config.stall_timeout:g} s for {what} of {self.name}; workers {late} are late"
                )

    def _take(self, worker: Worker, reply: Reply, content: Any) -> None:
        if reply is Reply.ERROR:
            failure: Failure = content
            raise WorkerError(
                f"worker {worker.index} of {self.name} (seed {worker.seed}) raised {failure.kind}: {failure.text}\n"
                f"{failure.traceback}"
            )
        worker.ready, worker.heard, worker.behind = True, self._clock(), 0
        if reply is Reply.ROLLOUT:
            worker.owed.discard(content.slot)
            worker.restarts = 0
            worker.rollouts += 1
            self._hand_over(worker.index, content._replace(generation=worker.generation))
            self.waited += content.wait_seconds
            self.played += content.play_seconds
            for other in self.workers:
                if other is not worker and other.ready and other.owed:
                    self._pass_by(other)
        elif reply is Reply.SNAPSHOT:
            self._snapshots[worker.index] = content

    def _pass_by(self, worker: Worker) -> None:
        """A peer has finished a rollout before this worker: one that stays behind for too long is taken for hung."""
        worker.behind += 1
        silent = self._clock() - worker.heard
        patience = self.config.hang_rollouts * (len(self.workers) - 1)
        if worker.behind > patience and silent > self.config.stall_timeout / 4:
            log.warning(
                "worker %d of %s has finished nothing for %.0f s, while others finished %d rollouts; taken for hung",
                worker.index, self.name, silent, worker.behind,
            )  # fmt: skip
            worker.behind = 0
            worker.process.kill()  # the next wait finds it dead, and replaces it

    # Where every worker stands

    def snapshots(self) -> list[Any]:
        """Of every worker, in order, once it has played what it was told to."""
        self._snapshots, self._saving = {}, True
        for worker in self.workers:
            self._send(worker, Command.SNAPSHOT)
        self.receive_until(lambda: len(self._snapshots) == len(self.workers), "a snapshot", interruptible=False)
        self._saving = False
        return [self._snapshots[worker.index] for worker in self.workers]

    def restore(self, snapshots: list[Any], generations: list[int]) -> None:
        """Every worker goes on from its snapshot."""
        for worker, snapshot, generation in zip(self.workers, snapshots, generations, strict=True):
            worker.generation = generation
            worker.connection.send((Command.RESTORE, snapshot))


def _kill_all(processes: list[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
