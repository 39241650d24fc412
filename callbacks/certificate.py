"""Storage of certificated teachers."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.envs import with_noops
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.storage.atomic import check_below
from cdrl_pl.system.hardware import evaluation_processes
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration


class CertificatedTeacher(pl.Callback):
    """Stores an agent once its mean return over the last episodes passes a threshold, with its frozen policy's score.

    Writes ``weights.safetensors`` and ``certificate.json`` to ``folder`` below the run folder. The evaluation is on
    fresh environments with their own seeds, sampled and greedy; the scores are written whatever they are.

    Args:
        agent: Name of a learning agent.
        threshold: Mean return of the last ``window`` training episodes, in the game's own points, that the agent must
            reach.
        window: Number of finished training episodes that are needed, and averaged.
        episodes: Episodes of each evaluation of the frozen policy.
        noop_max: Most random no-op actions at the start of an episode of the evaluation (Atari), since a deterministic
            game would repeat one episode.
        folder: Folder below the run folder; null takes ``teacher/<agent>``.
        stop: Ends the run when the teacher is stored.
        improvement: Points by which the mean return must have grown before the agent is stored again; null stores once.
    """

    def __init__(
        self,
        agent: str,
        threshold: float,
        window: int = 100,
        episodes: int = 100,
        noop_max: int = 30,
        folder: str | None = None,
        stop: bool = False,
        improvement: float | None = None,
    ) -> None:
        if folder is not None:
            check_below("CertificatedTeacher.folder", folder)
        self.agent, self.threshold, self.window, self.episodes = agent, threshold, window, episodes
        self.noop_max, self.folder, self.stop, self.improvement = noop_max, folder, stop, improvement
        rows = [(name, getattr(self, name) >= 1, "1 or more") for name in ("window", "episodes")]
        check_options("CertificatedTeacher.", self, rows)
        self.certificated: float | None = None  # the mean return it was last stored at
        self._begun: float | None = None  # the mean return of an evaluation that has begun and not ended
        self._seen = -1

    @property
    def state_key(self) -> str:
        """One for each agent and folder: two of them in a run have two states."""
        return self._generate_state_key(agent=self.agent, folder=self.folder)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses an agent that does not learn, and a window larger than what is kept."""
        assert isinstance(pl_module, Collaboration)
        learning = [name for name, agent in pl_module.agents.items() if agent.learner is not None]
        if self.agent not in learning:
            raise ConfigError(f"CertificatedTeacher.agent is {self.agent!r}; it must be one of {', '.join(learning)}")
        if self.window > (held := pl_module.run_log.episodes[self.agent].maxlen or 0):
            raise ConfigError(f"CertificatedTeacher.window is {self.window}; it must be at most model.window, {held}")

    @property
    def _needed(self) -> float | None:
        if self.certificated is None:
            return self.threshold
        return None if self.improvement is None else self.certificated + self.improvement

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluates and stores the agent where the episodes that just ended bring it past the threshold."""
        assert isinstance(pl_module, Collaboration)
        finished = pl_module.run_log.num_episodes[self.agent]
        if finished == self._seen or self._needed is None:
            return
        self._seen = finished
        recent = [e.ret for e in pl_module.run_log.episodes[self.agent]][-self.window :]
        if len(recent) == self.window and sum(recent) / self.window >= self._needed:
            self._certificate(trainer, pl_module, sum(recent) / self.window)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins again what a run that was told to end had begun and not finished."""
        assert isinstance(pl_module, Collaboration)
        if self._begun is not None:
            self._certificate(trainer, pl_module, self._begun)

    def _certificate(self, trainer: pl.Trainer, module: Collaboration, mean: float) -> None:
        self._begun, finished = mean, True
        if trainer.is_global_zero:
            try:
                self._store(trainer, module, mean)
            except Stopped:
                finished = False  # the other ranks wait: all of them end at the batch's boundary
        if not trainer.strategy.broadcast(finished):
            rank_zero_info("the evaluation of %s was told to end; it begins again on resume", self.agent)
            return
        self._begun, self.certificated = None, mean
        if self.stop:
            trainer.should_stop = True

    def _store(self, trainer: pl.Trainer, module: Collaboration, mean: float) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir) / (self.folder or f"teacher/{self.agent}")
        agent, data = module.agents[self.agent], trainer.datamodule  # type: ignore[attr-defined]
        env = with_noops(agent.env, self.noop_max)
        frozen = copy.deepcopy(agent.network).eval()
        seed = data.resolved_seed() + 1_000_003  # not the seeds it trained on
        rank_zero_info("%s reached %.2f at T = %d; evaluating it", self.agent, mean, module.clock)
        scores = {
            "greedy" if greedy else "sampled": evaluate(
                frozen,
                env,
                self.episodes,
                greedy,
                seed,
                interrupted=lambda: module.stop_request.requested,
                processes=evaluation_processes(self.episodes),
            )
            for greedy in (False, True)
        }
        training = {
            "env_steps": module.env_steps[self.agent],
            "seed": data.resolved_seed(),
            "threshold": self.threshold,
            "window": self.window,
            "mean_return": mean,
        }
        if agent.learner is not None:
            training["learner"] = asdict(agent.learner)
        save_certificate(folder, frozen, agent.env, agent.spec, scores, training)
        rank_zero_info("stored %s: sampled %.2f, greedy %.2f", folder, scores["sampled"].mean, scores["greedy"].mean)

    def state_dict(self) -> dict[str, Any]:
        """The mean return it was last stored at, and that of an evaluation that has begun and not ended."""
        return {"certificated": self.certificated, "begun": self._begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.certificated, self._begun = state_dict["certificated"], state_dict["begun"]
