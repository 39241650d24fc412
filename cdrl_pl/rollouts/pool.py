"""A stream of rollouts of one agent, which its worker processes play into shared memory."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig, EnvSpec, View
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.network import build_network
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.protocol import RolloutReply, WorkerConfig
from cdrl_pl.rollouts.shared_memory import SharedWeights, Slots, observation_names, rollout_schema
from cdrl_pl.rollouts.worker_group import WorkerGroup
from cdrl_pl.system.fork_server import PRELOAD
from cdrl_pl.system.hardware import cores
from cdrl_pl.types import Episode, Rollout, join


class Pool:
    """A stream of rollouts of one agent.

    Usage::

        pool.publish(network, 0); pool.start()
        rollout = pool.next()   # views into shared memory, valid until the next call
        ...                     # learn
        pool.publish(network, 1)
        pool.close()            # also when the trainer is collected or exits

    Args:
        name: of the agent.
        env: the task.
        spec: of the task.
        network: structure of the policy network.
        config: of the pool.
        seed: of environments and actions, as a SeedSequence takes it.
        interrupted: whether the run was told to end.
        clock: seconds, for telling a worker that hangs.
        others: views beside the agent's own that every rollout has as well, and the task as each sees it.
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
        others: Mapping[View, EnvSpec] | None = None,
    ) -> None:
        self.name, self.config, self._seed, others = name, config, seed, dict(others or {})
        self._others = dict(zip(others, observation_names(len(others))[1:], strict=True))
        self._count = config.workers or cores()
        self._size = {"workers": self._count, "copies": config.copies, "steps": config.steps}
        context: Any = mp.get_context(config.start_method)
        if config.start_method == "forkserver":
            context.set_forkserver_preload(PRELOAD)
        template = build_network(network, spec.obs_shape, spec.num_actions)
        schema = rollout_schema(spec, template.state_size, config.steps, config.copies, tuple(others.values()))
        self._queue = 1 if config.deterministic else config.queue
        self._slots = Slots(context, schema, self._count * self._queue)
        self._weights = SharedWeights(context, sum(t.numel() for t in template.tensors()))
        bf16, memory = bool(config.bf16), (self._slots, self._weights)
        worker = WorkerConfig(name, env, spec, network, config.steps, config.copies, bf16, seed, *memory, others)
        self._ready: deque[tuple[int, RolloutReply]] = deque()  # worker index and what it played, oldest first
        self._held: list[tuple[int, int]] = []  # worker index and slot of the rollouts the learner has
        ready = self._ready  # not self: the workers end when the pool is dropped
        self.worker_group = WorkerGroup(
            context, worker, config, lambda i, played: ready.append((i, played)), interrupted, clock
        )
        self._resume: dict[str, Any] | None = None
        self.version = 0
        self.epoch = 0  # times it was resumed with new episodes; part of every seed, so that no seed plays twice
        self.waited = 0.0  # seconds the learner waited for rollouts

    @property
    def num_workers(self) -> int:
        """Worker processes that it has once it is started."""
        return self._count

    @property
    def shared_bytes(self) -> tuple[int, ...]:
        """Bytes of each block of memory that it shares with them."""
        return self._slots.num_bytes, self._weights.num_bytes

    # Life

    def start(self) -> None:
        """Starts the workers side by side; returns at once. Idempotent."""
        if self.worker_group.workers:
            return
        self.worker_group.start(self._count, (*self._seed, self.epoch))
        if self._resume is not None:
            self._restore(self._resume)
            self._resume = None
        if not self.config.deterministic:
            for index in range(self._count):
                for slot in self._slots_of(index):
                    if (index, slot) not in self._held:
                        self.worker_group.order(index, slot)

    def close(self) -> None:
        """Ends every worker within a bounded time. Idempotent."""
        self.worker_group.close()
        self._ready.clear()
        self._held.clear()

    def _slots_of(self, index: int) -> range:
        return range(index * self._queue, (index + 1) * self._queue)

    # Rollouts

    def next(self) -> Rollout:
        """The oldest rollout, joined with those waiting where the config says so; raises as ``wait``."""
        self.wait()
        return self.take(self.joinable())

    def wait(self) -> None:
        """Frees the memory of the rollout before, and waits until there is another.

        Raises:
            WorkerError: an environment raised, a worker kept dying, or no rollout came within the stall timeout.
            Stopped: the run was told to end; no rollout is lost.
        """
        began = time.perf_counter()
        held, self._held = self._held, []
        if self.config.deterministic:
            if not self._ready:
                self._play_a_round()
        else:
            for index, slot in held:
                self.worker_group.order(index, slot)
            if self._ready:
                self.worker_group.receive(0.0)
            else:
                self.worker_group.receive_until(lambda: bool(self._ready), "a rollout")
        self.waited += time.perf_counter() - began

    def joinable(self) -> int:
        """How many rollouts ``take`` could join: those of one worker that wait; 1 where the config joins none."""
        if not self.config.concatenate:
            return 1
        index, first = self._ready[0]
        same = [played for other, played in self._ready if other == index]
        return next((i for i, played in enumerate(same) if played.generation != first.generation), len(same))

    def take(self, count: int = 1) -> Rollout:
        """The oldest rollout, joined with the next ``count - 1`` of the same worker.

        Its tensors are views into shared memory, valid until the next ``wait``.
        """
        index = self._ready[0][0]
        taken = [entry for entry in self._ready if entry[0] == index][:count]
        for entry in taken:
            self._ready.remove(entry)
        parts = [self._rollout(index, played) for _, played in taken]
        return parts[0] if len(parts) == 1 else join(parts)

    def _play_a_round(self) -> None:
        """One rollout of every worker, in their order."""
        for index in range(self._count):
            self.worker_group.order(index, self._slots_of(index)[0])
        self.worker_group.receive_until(lambda: len(self._ready) == self._count, "a round")
        self._sort_ready()

    def _sort_ready(self) -> None:
        """Rollouts in their workers' order."""
        in_order = sorted(self._ready)
        self._ready.clear()
        self._ready.extend(in_order)

    def _rollout(self, index: int, played: RolloutReply) -> Rollout:
        self._held.append((index, played.slot))
        tensors = {k: torch.from_numpy(v) for k, v in self._slots[played.slot].items()}
        views = {view: tensors.pop(name) for view, name in self._others.items()}
        version = played.policy_version
        lag = self.version - version
        rollout = Rollout(
            **tensors, worker=index, policy_version=version, policy_lag=lag, episodes=played.episodes, views=views
        )
        rollout.check()
        return rollout

    def publish(self, network: PolicyNetwork, version: int) -> None:
        """Gives the workers new weights, which they take at their next rollout."""
        tensors = torch.cat([t.detach().flatten() for t in network.tensors()])
        flat = tensors.to("cpu", torch.float32)  # one transfer from a GPU, not one per tensor
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
        if self.config.deterministic and self.worker_group.workers:
            snapshots = self.worker_group.snapshots()  # once they have played what they were told to
            self._sort_ready()  # in a round that was interrupted they came in any order
            state["size"] = dict(self._size)
            state["generations"] = [w.generation for w in self.worker_group.workers]
            state["workers"] = [_to_tensors(snapshot) for snapshot in snapshots]
            state["ready"] = [
                {"worker": index, "played": [p.slot, p.policy_version, p.play_seconds, p.wait_seconds],
                 "episodes": [list(e) for e in p.episodes],
                 "arrays": {k: torch.from_numpy(v.copy()) for k, v in self._slots[p.slot].items()}}
                for index, p in self._ready
            ]  # fmt: skip
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """To be called before ``start``.

        Raises:
            ConfigError: a deterministic run would go on with another number of workers, copies or steps.
        """
        exact = self.config.deterministic and "workers" in state
        for option, before in (state["size"] if exact else {}).items():
            if (now := self._size[option]) != before:
                raise ConfigError(
                    f"pool.{option} is {now}, in the checkpoint of {self.name} it was {before}; a deterministic run "
                    "goes on only with as many"
                )
        self.epoch, self.version = state["epoch"] + (not exact), state["version"]
        self._resume = state

    def _restore(self, state: dict[str, Any]) -> None:
        if not self.config.deterministic or "workers" not in state:
            return
        self.worker_group.restore([_to_arrays(snapshot) for snapshot in state["workers"]], state["generations"])
        for entry in state["ready"]:
            slot, version, play_seconds, wait_seconds = entry["played"]
            for name, values in entry["arrays"].items():
                self._slots[slot][name][...] = values.numpy()
            episodes = tuple(Episode(*e) for e in entry["episodes"])
            self._ready.append((entry["worker"], RolloutReply(slot, version, episodes, play_seconds, wait_seconds)))


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
