"""The rollout IterableDataset and its DataModule: one stream per agent, handed over together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import IterableDataset

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.envs import check_drawn
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.system.balance import Balance
from cdrl_pl.system.hardware import allow_descriptors, keep_freed_memory
from cdrl_pl.training.batch import Batch
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.evaluator import EvaluationJob
from cdrl_pl.training.machine import resolved, said, shared_cores
from cdrl_pl.training.trainer_options import suit


class PolicySource(Protocol):
    """Where the workers' policies come from, and what tells that an epoch is over."""

    policy_version: int
    epoch_over: bool

    def policies(self) -> dict[str, PolicyNetwork]:
        """The network of every playing agent."""


class RolloutDataset(IterableDataset[Batch]):
    """The batches of an epoch: one rollout of every playing agent, so that all agents' clocks T advance together.

    It has a length (one more than an epoch can have, so that it is never reached) on purpose: without one, the trainer
    fetches a batch ahead, which would free shared memory before it is learned from and add a policy lag. Fetching a
    batch frees the memory of the one before, and publishes the newest weights to the workers.

    Args:
        pools: by agent.
        source: of the policies that they play.
        most: batches of an epoch, at most.
    """

    def __init__(self, pools: dict[str, Pool], source: PolicySource, most: int) -> None:
        self.pools, self._source, self._most = pools, source, most

    def __len__(self) -> int:
        return self._most + 1

    def state_dict(self) -> dict[str, Any]:
        """Nothing, but Lightning asks whether it can go on: where the streams stand is the data module's to store."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See there."""

    def __iter__(self) -> Iterator[Batch]:
        pools = self.pools.values()
        while not self._source.epoch_over:
            self._publish()
            for pool in pools:
                pool.start()
            for pool in pools:
                pool.wait()
            count = self._agreed(min(pool.joinable() for pool in pools))
            yield Batch({name: pool.take(count) for name, pool in self.pools.items()}, statistics(self.pools))

    def _publish(self) -> None:
        policies = self._source.policies()
        for name, pool in self.pools.items():
            pool.publish(policies[name], self._source.policy_version)

    def _agreed(self, count: int) -> int:
        """The least number of rollouts that any rank could join: all agents and ranks learn from equally many."""
        if not ranks() or not any(pool.config.concatenate for pool in self.pools.values()):
            return count
        least = torch.tensor(count)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return int(least)


def ranks() -> bool:
    """Returns whether this process is one of several that learn together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class EvaluationJobs:
    """What to evaluate. (A plain list would be taken for several loaders.)"""

    def __init__(self, jobs: list[EvaluationJob]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[EvaluationJob]:
        return iter(self.jobs)


class RolloutDataModule(pl.LightningDataModule):
    """Starts and ends the workers of every playing agent of the model.

    Args:
        pool: How environments are played in training.
        seed: Seed of environments and actions, an integer of 0 or more without unit; null takes ``seed_everything``'s.
        learner_threads: Threads of the learner on the CPU; null takes as many as suit the machine (docs/scaling.md).
        evaluation_episodes: Episodes per agent and way of choosing actions in ``validate`` and ``test``.
        noop_max: Most random no-op actions at the start of an episode in ``validate``, ``test`` and ``predict``; Atari
            only.
        evaluation_agents: Names of the agents that ``validate`` and ``test`` evaluate; null: all.
        overlay: Shows policies and value beside the picture in the videos of ``predict``: those of the agent, of its
            teachers, and of its teachers aligned, with the names of their actions.
    """

    def __init__(
        self,
        pool: PoolConfig | None = None,
        seed: int | None = None,
        learner_threads: int | None = None,
        evaluation_episodes: int = 100,
        noop_max: int = 30,
        evaluation_agents: list[str] | None = None,
        overlay: bool = False,
    ) -> None:
        super().__init__()
        self.pool = pool or PoolConfig()
        self.seed, self.learner_threads = seed, learner_threads
        self.evaluation_episodes, self.noop_max = evaluation_episodes, noop_max
        self.evaluation_agents, self.overlay = evaluation_agents, overlay
        rows = (
            ("seed", seed is None or seed >= 0, "0 or more, or null"),
            ("noop_max", noop_max >= 0, "0 or more"),
            ("learner_threads", learner_threads is None or learner_threads >= 1, "1 or more, or null"),
            ("evaluation_episodes", evaluation_episodes >= 1, "1 or more"),
        )
        check_options("data.", self, rows)
        self.pools: dict[str, Pool] = {}
        self._dataset: RolloutDataset | None = None

    @property
    def _module(self) -> Collaboration:
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, Collaboration)
        return module

    def resolved_seed(self) -> int:
        """The seed in use."""
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def settings(self) -> dict[str, Any]:
        """What decides how environments are played in training, as plain nested values."""
        return {"seed": self.resolved_seed(), "pool": asdict(self.pool)}

    def setup(self, stage: str) -> None:
        """Makes the pools (their processes start with the first batch) and sets the learner's threads.

        Raises:
            EnvError: a video of an agent is wanted, and its task cannot be drawn.
        """
        if stage == "predict":
            for agent in self._module.agents.values():
                check_drawn(agent.env)
        if stage != "fit" or self.pools:
            return
        module, trainer = self._module, self.trainer
        assert trainer is not None
        playing = module.playing
        config = self._resolve()
        for index, (name, agent) in enumerate(playing.items()):
            self.pools[name] = Pool(
                name,
                agent.env,
                agent.spec,
                agent.network.config,
                config,
                (self.resolved_seed(), trainer.global_rank, index),
                # Several ranks end together, at a batch's boundary: one that left alone would let the others wait.
                lambda: module.stop_request.requested and trainer.world_size == 1,
                others=module.views[name],
            )
        decisions, limit = config.steps * config.copies * trainer.world_size, trainer.limit_train_batches
        most = limit if isinstance(limit, int) else -(-module.log_every // decisions)  # a batch has these, at least
        suit(trainer, most)
        self._dataset = RolloutDataset(self.pools, module, most)

    def _resolve(self) -> PoolConfig:
        """The pool with what the machine decides filled in; sets the learner's threads and says what was chosen."""
        module, trainer = self._module, self.trainer
        assert trainer is not None
        chosen = self.balance()
        allow_descriptors(chosen.workers * len(module.playing))
        pool = resolved(self.pool, chosen.workers, module, trainer.precision)
        if (device := trainer.strategy.root_device).type == "cpu":
            torch.set_num_threads(chosen.threads)
            keep_freed_memory()
        given = bool(self.pool.workers and (self.learner_threads or device.type != "cpu"))
        rank_zero_info(said(pool, chosen, str(device), trainer.precision, given))
        return pool

    def balance(self) -> Balance:
        """Workers and learner threads: what the options say, and else what suits this machine."""
        assert self.trainer is not None
        return shared_cores(self._module, self.trainer, self.pool, self.learner_threads)

    def train_dataloader(self) -> RolloutDataset:
        """The dataset itself: batches are ready-made, so a DataLoader would only add copies."""
        assert self._dataset is not None
        return self._dataset

    def _job(self, agent: str, greedy: bool, episodes: int) -> EvaluationJob:
        return EvaluationJob(agent, greedy, episodes, self.resolved_seed(), self.noop_max, self.pool.stall_timeout)

    def _evaluations(self) -> EvaluationJobs:
        agents = list(self._module.agents)
        for name in self.evaluation_agents or ():
            if name not in agents:
                raise ConfigError(f"data.evaluation_agents names {name!r}; it must name some of {', '.join(agents)}")
        chosen = agents if self.evaluation_agents is None else self.evaluation_agents
        return EvaluationJobs(
            [self._job(name, greedy, self.evaluation_episodes) for name in chosen for greedy in (False, True)]
        )

    def val_dataloader(self) -> EvaluationJobs:
        """What ``validate`` plays: every agent, sampled and greedy. Nothing during ``fit``."""
        assert self.trainer is not None
        return EvaluationJobs([]) if self.trainer.state.fn == "fit" else self._evaluations()

    def test_dataloader(self) -> EvaluationJobs:
        """What ``test`` plays: as ``validate``."""
        return self._evaluations()

    def predict_dataloader(self) -> EvaluationJobs:
        """What ``predict`` records: one sampled episode of every agent."""
        jobs = [self._job(name, False, 1) for name in self._module.agents]
        return EvaluationJobs([job._replace(overlay=self.overlay) for job in jobs])

    def state_dict(self) -> dict[str, Any]:
        """Where every stream of rollouts stands, on every rank; empty where nothing is trained."""
        if not self.pools:
            return {}
        state = {name: pool.state_dict() for name, pool in self.pools.items()}
        if not ranks():
            return {"ranks": [state]}
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, state)
        return {"ranks": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state_dict``; a rank that was not there then starts as rank 0 stood, with its own seeds."""
        states, rank = state["ranks"], self._module.global_rank
        if rank < len(states):
            own = states[rank]
        else:
            own = {name: {k: s[k] for k in ("epoch", "version")} for name, s in states[0].items()}
        for name, pool in self.pools.items():
            if name in own:
                pool.load_state_dict(own[name])

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        for pool in self.pools.values():
            pool.close()
        self.pools = {}

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers: ``teardown`` is not called on errors."""
        self.teardown("fit")


def statistics(pools: dict[str, Pool]) -> dict[str, float]:
    """Health of the workers: seconds waited and played, restarts, and how many rollouts each has finished."""
    groups = {name: pool.worker_group for name, pool in pools.items()}
    finished = {
        metric_names.WORKER_ROLLOUTS(name, worker.index): float(worker.rollouts)
        for name, group in groups.items()
        for worker in group.workers
    }
    return {
        **finished,
        metric_names.TIME_WAITING(): sum(pool.waited for pool in pools.values()),
        metric_names.WORKERS_WAITING(): sum(group.waited for group in groups.values()),
        metric_names.WORKERS_PLAYING(): sum(group.played for group in groups.values()),
        metric_names.WORKER_RESTARTS(): float(sum(group.restarts for group in groups.values())),
    }
