"""What ``validate``, ``test`` and ``predict`` do: agents with frozen policies play fresh environments."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from cdrl_pl.envs import EnvConfig, with_noops
from cdrl_pl.evaluation import SCORES, Score, evaluate, save_scores, score_record
from cdrl_pl.graph import Agent
from cdrl_pl.machine import evaluation_processes
from cdrl_pl.student import Student


class FrozenPlay(pl.LightningModule):
    """The part of the root module that evaluates its agents; nothing here learns.

    Args:
        agents: by name.

    Attributes:
        env_steps: T of every agent that plays in training.
        scores: of ``validate`` and ``test``: agent -> policy -> score.
    """

    def __init__(self, agents: dict[str, Agent]) -> None:
        super().__init__()
        self._agents = nn.ModuleDict(agents)
        self.env_steps: dict[str, int] = {}
        self.scores: dict[str, dict[str, Score]] = {}

    @property
    def agents(self) -> dict[str, Agent]:
        """Every agent by name."""
        return dict(self._agents.items())  # type: ignore[arg-type]

    def on_test_start(self) -> None:
        """Warns of agents that have learned nothing, which is seldom what was meant."""
        if untrained := [name for name, agent in self.agents.items() if agent.learns and not self.env_steps[name]]:
            names = ", ".join(untrained)
            rank_zero_warn(f"no --ckpt_path was given: {names} will play with untrained, initial weights")

    on_validation_start = on_predict_start = on_test_start

    def _evaluate(self, job: tuple[str, bool, int]) -> Score:
        name, greedy, episodes = job
        agent = self.agents[name]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        score = evaluate(
            agent.network,
            self._evaluated_env(agent),
            episodes,
            greedy,
            data.resolved_seed(),
            interrupted=lambda: self.trainer.received_sigterm,
            processes=evaluation_processes(episodes),
        )
        self.scores.setdefault(name, {})[score.policy] = score
        return score

    def _evaluated_env(self, agent: Agent) -> EnvConfig:
        return with_noops(agent.env, self.trainer.datamodule.noop_max)  # type: ignore[attr-defined]

    def validation_step(self, batch: tuple[str, bool, int], batch_idx: int) -> None:
        """Evaluates one frozen policy; logs mean and std of its returns."""
        score = self._evaluate(batch)
        for key, value in (("mean", score.mean), ("std", score.std), ("episodes", score.episodes)):
            self.log(f"{batch[0]}/{score.policy}/{key}", float(value), batch_size=1, rank_zero_only=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Writes every score of the test, with its protocol, to ``scores.json`` in the run folder."""
        if not self.trainer.is_global_zero:
            return
        records = {}
        for name, evaluation in self.scores.items():
            agent = self.agents[name]
            learned = (
                self.env_steps[name] if isinstance(agent, Student) else agent.certificate.training.get("env_steps")
            )
            records[name] = score_record(self._evaluated_env(agent), learned, evaluation)
        save_scores(Path(self.trainer.log_dir or self.trainer.default_root_dir) / SCORES, records)

    def predict_step(self, batch: tuple[str, bool, int], batch_idx: int) -> str:
        """Records one episode of one agent as a video below the run's root folder; returns its path."""
        from cdrl_pl.video import save_episode

        return save_episode(self.agents[batch[0]], batch[0], self.trainer.default_root_dir, self.trainer.datamodule)  # type: ignore[attr-defined]
