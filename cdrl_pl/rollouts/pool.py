"""The worker processes of one agent: started, fed with slots, replaced when they die, and ended."""

from __future__ import annotations

import logging
import multiprocessing as mp
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch

from cdrl_pl.envs import EnvConfig, EnvSpec
from cdrl_pl.machine import workers_per_agent
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts import PRELOAD
from cdrl_pl.rollouts.slots import SharedWeights, Slots, rollout_schema
from cdrl_pl.rollouts.worker import Command, Failure, Played, Reply, WorkerConfig, worker_main
from cdrl_pl.types import Episode, Rollout, join

log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A worker failed: its own error and traceback, or how it died; names the agent, the worker and its seed."""


@dataclass
class PoolConfig:
    """How the environments of each agent are played.

    Attributes:
        workers: processes per agent; null shares the machine's cores among the agents.
        copies: environment copies per worker (B).
        steps: decisions of each copy in a rollout (T; the paper's t_max).
        queue: rollouts a worker may be ahead of the learner, the one it is playing included.
        deterministic: play in rounds, all workers with the same weights, and hand over in order: the same seed gives
            the same rollouts bit for bit. Slower: nobody plays while the learner learns.
        concatenate: join rollouts of one worker that are already waiting, up to ``queue`` (the authors' program).
        bf16: act with trunk and memory in bfloat16; null: where the trainer's precision is bf16 and the CPU is fast
            at it.
        stall_timeout: seconds without any rollout after which the run ends with an error.
        hang_rollouts: rollouts that each of the other workers may finish while one finishes none; a worker that falls
            further behind, and has been silent for a quarter of ``stall_timeout``, is taken for hung and replaced.
        max_restarts: times in a row that a worker may die without finishing a rollout.
        start_method: forkserver or spawn.
    """

    workers: int | None = None
    copies: int = 8
    steps: int = 20
    queue: int = 2
    deterministic: bool = False
    concatenate: bool = False
    bf16: bool | None = None
    stall_timeout: float = 120.0
    hang_rollouts: int = 50
    max_restarts: int = 3
    start_method: str = "forkserver"

    def __post_init__(self) -> None:
        for name in ("workers", "copies", "steps", "queue", "hang_rollouts", "max_restarts"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"pool.{name} is {value}; it must be 1 or more")
        if self.stall_timeout <= 0:
            raise ValueError(f"pool.stall_timeout is {self.stall_timeout}; it must be above 0 seconds")
        if self.start_method not in ("forkserver", "spawn"):
            raise ValueError(f"pool.start_method is {self.start_method!r}; it must be 'forkserver' or 'spawn'")
        if self.concatenate and self.deterministic:
            raise ValueError("pool.concatenate depends on timing; it cannot be used with pool.deterministic")


@dataclass
class _Worker:
    index: int
    process: Any
    connection: Any
    owed: set[int]  # slots it was told to fill and has not
    generation: int = 0
    restarts: int = 0  # since its last rollout
    rollouts: int = 0
    ready: bool = False  # its games are made
    heard: float = 0.0  # the clock when it last answered
    behind: int = 0  # rollouts of its peers since then, while it owed one
    seed: tuple[int, ...] = ()


class Pool:
    """A stream of rollouts of one agent.

    Usage::

        pool.publish(network, 0); pool.start()
        rollout = pool.next()   # views into shared memory, valid until the next call
        ...                     # learn
        pool.publish(network, 1)
        pool.close()            # also when the trainer is collected or exits
    """

    def __init__(
        self,
        name: str,
        env: EnvConfig,
        spec: EnvSpec,
        network: NetworkConfig,
        config: PoolConfig,
        seed: tuple[int, ...],
        interrupted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.config, self._seed, self._interrupted = name, config, seed, interrupted
        self._clock = clock
        self._count = config.workers or workers_per_agent(1, 1)
        self._context: Any = mp.get_context(config.start_method)
        if config.start_method == "forkserver":
            self._context.set_forkserver_preload(PRELOAD)
        template = PolicyNetwork(network, spec.obs_shape, spec.num_actions)
        schema = rollout_schema(spec, template.state_size, config.steps, config.copies)
        self._queue = 1 if config.deterministic else config.queue
        self._slots = Slots(self._context, schema, self._count * self._queue)
        self._weights = SharedWeights(self._context, sum(p.numel() for p in template.parameters()))
        self._worker_config = WorkerConfig(
            name, env, spec, network, config.steps, config.copies, bool(config.bf16), seed, self._slots, self._weights
        )
        self._workers: list[_Worker] = []
        self._snapshots: dict[int, Any] = {}
        self._saving = False
        self._ready: deque[tuple[int, Played]] = deque()  # worker index and what it played, oldest first
        self._held: list[tuple[int, int]] = []  # worker index and slot of the rollouts the learner has
        self._resume: dict[str, Any] | None = None
        self.version = 0
        self.epoch = (
            0  # times this stream was resumed with new episodes; part of every seed, so that no seed plays twice
        )
        self.restarts = 0
        self.waited = 0.0  # seconds the learner waited for rollouts
        self.worker_waited = 0.0  # seconds the workers waited for a free slot
        self.worker_played = 0.0
        self._finalizer: Any = None

    # Life

    def start(self) -> None:
        """Starts the workers side by side; returns at once. Idempotent."""
        if self._workers:
            return
        self._workers = [self._spawn(index, 0) for index in range(self._count)]
        self._finalizer = weakref.finalize(self, _kill_all, [w.process for w in self._workers])
        if self._resume is not None:
            self._restore(self._resume)
            self._resume = None
        if not self.config.deterministic:
            for worker in self._workers:
                for slot in self._slots_of(worker.index):
                    if (worker.index, slot) not in self._held:
                        self._order(worker, slot)

    def close(self) -> None:
        """Ends every worker within a bounded time. Idempotent."""
        for worker in self._workers:
            with suppress(OSError, ValueError):  # it is gone already
                worker.connection.send((Command.CLOSE, None))
        deadline = time.monotonic() + 2.0
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(5.0)
            worker.connection.close()
        self._workers = []
        self._ready.clear()
        self._held.clear()
        if self._finalizer is not None:
            self._finalizer.detach()

    def _slots_of(self, index: int) -> range:
        return range(index * self._queue, (index + 1) * self._queue)

    def _spawn(self, index: int, generation: int) -> _Worker:
        seed = (*self._seed, self.epoch, index, generation)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker_main,
            args=(replace(self._worker_config, entropy=seed), theirs),
            name=f"{self.name}-{index}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Worker(index, process, ours, set(), generation, seed=seed)

    def _order(self, worker: _Worker, slot: int) -> None:
        worker.owed.add(slot)
        with suppress(OSError):  # where it died, the next wait finds that out and replaces it, with the slots it owed
            worker.connection.send((Command.PLAY, slot))

    def _replace(self, dead: _Worker) -> None:
        dead.process.join(5.0)
        code = dead.process.exitcode
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
        self._workers[dead.index] = worker
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _kill_all, [w.process for w in self._workers])
        for slot in dead.owed:
            self._order(worker, slot)
        if self._saving:
            self._ask_snapshot(worker)

    def _ask_snapshot(self, worker: _Worker) -> None:
        with suppress(OSError):  # where it died, its replacement is asked
            worker.connection.send((Command.SNAPSHOT, None))

    # Messages

    def _receive(self, timeout: float) -> bool:
        """Takes in what workers sent, waiting up to ``timeout`` seconds; False where nothing came."""
        by_channel = {w.connection: w for w in self._workers} | {w.process.sentinel: w for w in self._workers}
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

    def _take(self, worker: _Worker, reply: Reply, content: Any) -> None:
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
            self._ready.append((worker.index, content._replace(generation=worker.generation)))
            self.worker_waited += content.wait_seconds
            self.worker_played += content.play_seconds
            for other in self._workers:
                if other is not worker and other.ready and other.owed:
                    self._pass_by(other)
        elif reply is Reply.SNAPSHOT:
            self._snapshots[worker.index] = content

    def _pass_by(self, worker: _Worker) -> None:
        """A peer has finished a rollout before this worker: one that stays behind for too long is taken for hung."""
        worker.behind += 1
        silent = self._clock() - worker.heard
        if worker.behind > self.config.hang_rollouts * (self._count - 1) and silent > self.config.stall_timeout / 4:
            log.warning(
                "worker %d of %s has finished nothing for %.0f s, while others finished %d rollouts; taken for hung",
                worker.index, self.name, silent, worker.behind,
            )  # fmt: skip
            worker.behind = 0
            worker.process.kill()  # the next wait finds it dead, and replaces it

    def _receive_until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.config.stall_timeout
        while not done():
            if self._interrupted():
                raise KeyboardInterrupt("the run was told to end while it waited for rollouts")
            if self._receive(0.5):
                deadline = time.monotonic() + self.config.stall_timeout
            elif time.monotonic() > deadline:
                late = [w.index for w in self._workers if w.owed]
                raise WorkerError(
                    f"waited {self.config.stall_timeout:g} s for {what} of {self.name}; workers {late} are late"
                )

    # Rollouts

    def next(self) -> Rollout:
        """The oldest rollout; frees the memory of the one before.

        Raises:
            WorkerError: an environment raised, a worker kept dying, or no rollout came within the stall timeout.
        """
        began = time.perf_counter()
        for index, slot in self._held:
            if not self.config.deterministic:
                self._order(self._workers[index], slot)
        self._held = []
        if self.config.deterministic and not self._ready:
            for worker in self._workers:
                self._order(worker, self._slots_of(worker.index)[0])
            self._receive_until(lambda: len(self._ready) == len(self._workers), "a round")
            self._ready = deque(sorted(self._ready))
        elif not self._ready:
            self._receive_until(lambda: bool(self._ready), "a rollout")
        else:
            self._receive(0.0)
        index, played = self._ready.popleft()
        parts = [self._rollout(index, played)]
        while self.config.concatenate:
            position = next((i for i, (other, _) in enumerate(self._ready) if other == index), None)
            if position is None or self._ready[position][1].generation != played.generation:
                break  # a replacement begins new episodes
            played = self._ready[position][1]
            del self._ready[position]
            parts.append(self._rollout(index, played))
        self.waited += time.perf_counter() - began

        return parts[0] if len(parts) == 1 else join(parts)

    def _rollout(self, index: int, played: Played) -> Rollout:
        self._held.append((index, played.slot))
        tensors = {k: torch.from_numpy(v) for k, v in self._slots[played.slot].items()}
        version = played.policy_version
        return Rollout(
            **tensors, worker=index, policy_version=version, policy_lag=self.version - version, episodes=played.episodes
        )

    def publish(self, network: PolicyNetwork, version: int) -> None:
        """Gives the workers new weights, which they take at their next rollout."""
        parameters = torch.cat([p.detach().flatten() for p in network.parameters()])
        flat = parameters.to("cpu", torch.float32)  # one transfer from a GPU, not one per parameter
        with self._weights.writing(version) as shared:
            shared[:] = flat.numpy()
        self.version = version

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, in tensors, ints and lists.

        In the deterministic mode that is everything: the games, their randomness and the rollouts not yet handed over,
        so that a resumed run goes on bit for bit. Otherwise the games start new episodes on resume.
        """
        if self._resume is not None:
            return self._resume  # loaded, and not played on since
        state: dict[str, Any] = {"epoch": self.epoch, "version": self.version}
        if self.config.deterministic and self._workers:
            self._snapshots = {}
            self._saving = True
            for worker in self._workers:
                self._ask_snapshot(worker)
            self._receive_until(lambda: len(self._snapshots) == len(self._workers), "a snapshot")
            self._saving = False
            state["generations"] = [w.generation for w in self._workers]
            state["workers"] = [_to_tensors(self._snapshots[w.index]) for w in self._workers]
            state["ready"] = [
                {"worker": index, "played": [p.slot, p.policy_version, p.play_seconds, p.wait_seconds],
                 "episodes": [list(e) for e in p.episodes],
                 "arrays": {k: torch.from_numpy(v.copy()) for k, v in self._slots[p.slot].items()}}
                for index, p in self._ready
            ]  # fmt: skip
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """To be called before ``start``."""
        exact = self.config.deterministic and "workers" in state
        self.epoch, self.version = state["epoch"] + (not exact), state["version"]
        self._resume = state

    def _restore(self, state: dict[str, Any]) -> None:
        if not self.config.deterministic or "workers" not in state:
            return
        if len(state["workers"]) != len(self._workers):
            raise ValueError(
                f"the checkpoint of {self.name} was played by {len(state['workers'])} workers, pool.workers is "
                f"{len(self._workers)}; a deterministic run goes on only with as many"
            )

        for worker, generation in zip(self._workers, state["generations"], strict=True):
            worker.generation = generation
        for worker, snapshot in zip(self._workers, state["workers"], strict=True):
            worker.connection.send((Command.RESTORE, _to_arrays(snapshot)))
        for entry in state["ready"]:
            slot, version, play_seconds, wait_seconds = entry["played"]
            for name, values in entry["arrays"].items():
                self._slots[slot][name][...] = values.numpy()
            episodes = tuple(Episode(*e) for e in entry["episodes"])
            self._ready.append((entry["worker"], Played(slot, version, episodes, play_seconds, wait_seconds)))


def _kill_all(processes: list[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()


def _to_tensors(tree: Any) -> Any:
    """NumPy arrays as tensors, so that checkpoints load with ``weights_only``."""
    if isinstance(tree, dict):
        return {k: _to_tensors(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_to_tensors(v) for v in tree]
    return torch.from_numpy(tree) if isinstance(tree, np.ndarray) else tree


def _to_arrays(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _to_arrays(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_to_arrays(v) for v in tree]
    return tree.numpy() if isinstance(tree, torch.Tensor) else tree
