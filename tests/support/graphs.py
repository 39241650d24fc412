"""Tiny graphs of agents on CartPole, rollouts of random numbers, and one way to train either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from wide_cartpole import CARTPOLE, WIDE, GraphEnv

from callbacks import AlignmentSchedule, DistillationSchedule
from cdrl_pl.agents.certificate import Certificate, save_certificate
from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.training.batch import Batch
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.datamodule import RolloutDataModule
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.training.run_folder import assign
from cdrl_pl.transfer.alignment import AlignmentConfig
from cdrl_pl.transfer.transfer import TransferConfig
from cdrl_pl.types import Episode, Rollout

Rollouts = dict[str, Rollout]
State = dict[str, Tensor]

TINY = NetworkConfig(trunk="mlp", depth=1, hidden=8, lstm=4)
HEADS = ("policy_head", "value_head", "distill_head")
PARTS = ("trunk", "lstm", *HEADS)


def env(name: str = CARTPOLE, limit: int = 12) -> GraphEnv:
    """CartPole cut after ``limit`` decisions, so that random play ends in both ways."""
    return GraphEnv(name, max_episode_steps=limit)


def agent(name: str = CARTPOLE, network: NetworkConfig = TINY, limit: int = 12, **learner: Any) -> AgentConfig:
    return AgentConfig(env(name, limit), network, LearnerConfig(**{"lr": 1e-2, **learner}))


def transfer(teacher: str = "alpha", student: str = "beta", kind: str = "deep", **options: Any) -> TransferConfig:
    """Aligns and distils from the start, unless told otherwise."""
    function = AlignmentConfig(kind, hidden=8, depth=2, lr=options.pop("align_lr", 1e-2))  # type: ignore[arg-type]
    return TransferConfig(teacher, student, **{"T1": 0, "T2": 0, **options}, alignment=function)


def graph(
    *transfers: TransferConfig, agents: dict[str, AgentConfig] | None = None, seed: int = 0, **options: Any
) -> Collaboration:
    """By default alpha (five actions) and beta (two) both learn."""
    torch.manual_seed(seed)
    agents = agents or {"alpha": agent(WIDE), "beta": agent()}
    return Collaboration(agents, list(transfers), **{"T_max": 120, "log_every": 10, **options})


def spread(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """Logits and values that are far enough from 0 to tell policies apart."""
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in HEADS:
            for parameter in getattr(network, head).parameters():
                parameter.copy_(2 * torch.randn(parameter.shape, generator=make))
    return network


def alone(**options: Any) -> Collaboration:
    """One agent that learns by itself."""
    module = graph(agents={"beta": agent()}, **options)
    spread(module.agents["beta"].network)
    return module


def new_network(seed: int = 0, actions: int = 2, config: NetworkConfig = TINY) -> PolicyNetwork:
    """A CartPole network with pronounced logits."""
    torch.manual_seed(seed)
    return spread(PolicyNetwork(config, (4,), actions), seed)


SCORE = Score(2, 1.5, 0.5, 1.5, (1.0, 2.0), "sampled", 3, 0)


def store(folder: Path, network: PolicyNetwork, name: str = CARTPOLE, limit: int = 12) -> Certificate:
    """A certificated teacher; its scores are made up."""
    config = EnvConfig(name, max_episode_steps=limit)
    return save_certificate(folder, network, config, describe(config), {"sampled": SCORE}, {"env_steps": 7})


def random_rollout(
    seed: int = 0, steps: int = 5, copies: int = 2, actions: int = 2, width: int = 8, ends: float = 0.3, worker: int = 0
) -> Rollout:
    """Random numbers in every field; about ``ends`` of the steps end an episode, half of them by truncation."""
    make = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    terminated = torch.rand(steps, copies, generator=make) < ends / 2
    truncated = (torch.rand(steps, copies, generator=make) < ends / 2) & ~terminated
    first = torch.rand(1, copies, generator=make) < ends
    return Rollout(
        obs=draw(steps + 1, copies, 4),
        resets=torch.cat([first, terminated | truncated]),
        actions=torch.randint(actions, (steps, copies), generator=make),
        rewards=2 * draw(steps, copies),
        terminated=terminated,
        truncated=truncated,
        final_values=draw(steps, copies) * truncated,
        log_probs=-draw(steps, copies).abs(),
        state=draw(copies, width).tanh(),
        worker=worker,
        episodes=(Episode(float(seed), 1),),
    )


def random_batch(module: Collaboration, seed: int = 0, **options: Any) -> Rollouts:
    """A random rollout of every playing agent."""
    return {
        name: random_rollout(
            100 * i + seed, actions=a.spec.num_actions, width=a.network.state_size, **options
        )
        for i, (name, a) in enumerate(module.playing.items())
    }  # fmt: skip


class FixedData(pl.LightningDataModule):
    """Given batches, over and over, without worker processes."""

    noop_max, pool = 0, PoolConfig()

    def __init__(self, *batches: Rollouts, seed: int = 0) -> None:
        super().__init__()
        self._batches, self._seed = batches, seed

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for rollouts in self._batches:
                yield Batch(rollouts, {})

    def __len__(self) -> int:
        return 10**9

    def train_dataloader(self) -> FixedData:
        return self

    def resolved_seed(self) -> int:
        return self._seed


def played(**pool: Any) -> RolloutDataModule:
    """Deterministic rollouts of worker processes: 10 decisions in each."""
    options = {"workers": 1, "copies": 2, "steps": 5, "deterministic": True, "stall_timeout": 30.0, **pool}
    return RolloutDataModule(PoolConfig(**options), seed=5, learner_threads=1)


def switches() -> list[pl.Callback]:
    return [AlignmentSchedule(), DistillationSchedule()]


def make_trainer(folder: Path, *callbacks: pl.Callback, logger: Any = False, **options: Any) -> pl.Trainer:
    """As the command line makes it, on the CPU; ``folder`` is the run's, or a logger's is."""
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": -1, "max_steps": -1, "enable_checkpointing": False, **options},
    )
    if not logger:
        assign(trainer, folder)
    return trainer


def fit(
    module: Collaboration,
    data: pl.LightningDataModule,
    folder: Path,
    *callbacks: pl.Callback,
    logger: Any = False,
    ckpt_path: Path | None = None,
    schedules: bool = True,
    **options: Any,
) -> pl.Trainer:
    """Trains up to the module's T_max, with the schedules of its transfers applied."""
    trainer = make_trainer(folder, *(switches() if schedules else ()), *callbacks, logger=logger, **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def step_once(module: Collaboration, folder: Path, batch: Rollouts | None = None, *callbacks: pl.Callback) -> Rollouts:
    """One training step on one batch (random where none is given), which it returns."""
    batch = batch or random_batch(module)
    rollout = next(iter(batch.values()))
    module.T_max = module.clock + rollout.steps * rollout.copies
    fit(module, FixedData(batch), folder, *callbacks)
    return batch


def logits_on(module: Collaboration, rollout: Rollout, index: int = 0) -> Tensor:
    """What the teacher of a transfer says on a rollout of its student."""
    edge = module.transfers[index]
    return edge.ask(rollout, *module.ends(edge)).logits


def copy_of(module: torch.nn.Module) -> State:
    return {k: v.clone() for k, v in module.state_dict().items()}


def parts_with_gradient(network: PolicyNetwork) -> set[str]:
    """The parts that a backward pass reached; there, every parameter has a gradient, and not only zeros."""
    found = {p for p in PARTS if any(x.grad is not None for x in getattr(network, p).parameters())}
    for part in found:
        assert all(x.grad is not None and x.grad.any() for x in getattr(network, part).parameters()), part
    return found


def parts_changed(before: State, after: State, prefix: str = "") -> set[str]:
    """The parts (the first name after ``prefix``) of which any tensor differs."""
    keys = [k for k in before if k.startswith(prefix)]
    assert keys and before.keys() == after.keys()
    return {k.removeprefix(prefix).split(".")[0] for k in keys if not torch.equal(before[k], after[k])}


class Recorder(pl.Callback):
    """The weights before the first batch and after each, and T at the start of each."""

    def __init__(self) -> None:
        self.weights: list[State] = []
        self.starts: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if not self.weights:
            self.weights.append(copy_of(module))
        self.starts.append(module.clock)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.weights.append(copy_of(module))

    def changed_at(self, prefix: str) -> list[int]:
        """Every T at whose batch a tensor below ``prefix`` changed."""
        pairs = zip(self.starts, self.weights[:-1], self.weights[1:], strict=True)
        return [start for start, before, after in pairs if parts_changed(before, after, prefix)]
