"""Storage of certificated teachers."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.envs import with_noops
from cdrl_pl.evaluation.display import EvaluationDisplay
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.storage.atomic import check_below
from cdrl_pl.system.hardware import evaluation_processes
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.board import note
from cdrl_pl.training.collaboration import Collaboration


class CertificatedTeacher(pl.Callback):
    """Stores an agent once its frozen policy's mean return passes a threshold, with the scores that show it.

    The mean return of training is of policies that changed meanwhile, and of luck: it only says when to ask. Then the
    frozen policy plays a trial, sampled, and where that passes the full evaluation, sampled and greedy; where the
    sampled mean falls short the run goes on, and the next trial comes after as many training episodes as were played to
    ask. Every evaluation has environments and seeds of its own. Writes ``weights.safetensors`` and ``certificate.json``
    to ``folder`` below the run folder.

    Args:
        agent: Name of a learning agent.
        threshold: Mean return, in the game's own points, that the frozen policy must reach, sampled; and before it is
            asked, the last ``window`` training episodes.
        window: Number of finished training episodes that are needed, and averaged.
        episodes: Episodes of each full evaluation of the frozen policy.
        trial: Episodes of the short evaluation before the full one; 0, or ``episodes`` and more, leave it out.
        noop_max: Most random no-op actions at the start of an episode of the evaluation (Atari), since a deterministic
            game would repeat one episode.
        folder: Folder below the run folder; null takes ``teacher/<agent>``.
        stop: Ends the run when the teacher is stored.
        improvement: Points by which both means must have grown over the stored score before the agent is stored again;
            null stores once.
    """

    def __init__(
        self,
        agent: str,
        threshold: float,
        window: int = 100,
        episodes: int = 100,
        trial: int = 20,
        noop_max: int = 30,
        folder: str | None = None,
        stop: bool = False,
        improvement: float | None = None,
    ) -> None:
        if folder is not None:
            check_below("CertificatedTeacher.folder", folder)
        self.agent, self.threshold, self.window, self.episodes, self.trial = agent, threshold, window, episodes, trial
        self.noop_max, self.folder, self.stop, self.improvement = noop_max, folder, stop, improvement
        rows = [(name, getattr(self, name) >= 1, "1 or more") for name in ("window", "episodes")]
        check_options("CertificatedTeacher.", self, [*rows, ("trial", trial >= 0, "0 or more")])
        self.certificated: float | None = None  # the sampled score it was last stored with
        self.stored: tuple[Path, float, float] | None = None  # by this process: folder, sampled and greedy mean
        self._attempts = 0  # evaluations that ended
        self._next = 0  # training episodes that must have finished before the next
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
        if finished >= self._next and len(recent) == self.window and sum(recent) / self.window >= self._needed:
            self._certificate(trainer, pl_module, sum(recent) / self.window)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins again what a run that was told to end had begun and not finished."""
        assert isinstance(pl_module, Collaboration)
        if self._begun is not None:
            self._certificate(trainer, pl_module, self._begun)

    def _certificate(self, trainer: pl.Trainer, module: Collaboration, mean: float) -> None:
        self._begun = mean
        outcome: tuple[float | None, int] | None = None  # the score it was stored with, and the episodes it took to ask
        if trainer.is_global_zero:
            with suppress(Stopped):  # the other ranks wait: all of them end at the batch's boundary
                outcome = self._ask(trainer, module, mean)
        outcome = trainer.strategy.broadcast(outcome)
        if outcome is None:
            rank_zero_info("the evaluation of %s was told to end; it begins again on resume", self.agent)
            return
        stored, played = outcome
        self._begun, self._attempts = None, self._attempts + 1
        self._next = module.run_log.num_episodes[self.agent] + played
        if stored is not None:
            self.certificated = stored
            if self.stop:
                trainer.should_stop = True

    def _ask(self, trainer: pl.Trainer, module: Collaboration, mean: float) -> tuple[float | None, int]:
        """The sampled score that the frozen policy was stored with, null where it fell short; the episodes played."""
        needed, at = self._needed, f"at T = {module.clock}"
        assert needed is not None
        frozen, played = copy.deepcopy(module.agents[self.agent].network).eval(), 0
        for kind, episodes in (("trial", self.trial), ("evaluation", self.episodes)):
            if kind == "trial" and not 0 < episodes < self.episodes:
                continue
            rank_zero_info("%s reached %.2f %s; its frozen policy plays %d episodes", self.agent, mean, at, episodes)
            sampled = self._evaluate(trainer, module, frozen, kind, episodes, greedy=False)
            played += episodes
            if sampled.mean < needed:
                rank_zero_info(
                    "%s is not stored: its frozen policy scores %.2f in %d episodes, sampled, below %.2f; it learns on",
                    self.agent,
                    sampled.mean,
                    episodes,
                    needed,
                )
                return None, played
        greedy = self._evaluate(trainer, module, frozen, "evaluation", self.episodes, greedy=True)
        agent, data = module.agents[self.agent], trainer.datamodule  # type: ignore[attr-defined]
        folder = module.run_folder / (self.folder or f"teacher/{self.agent}")
        training = {
            "env_steps": module.env_steps[self.agent],
            "seed": data.resolved_seed(),
            "threshold": self.threshold,
            "window": self.window,
            "mean_return": mean,
            "attempts": self._attempts + 1,
            "reward_scale": agent.learner.reward_scale if agent.learner else 1.0,
            "clip_rewards": bool(agent.learner and agent.learner.clip_rewards),
        }
        save_certificate(folder, frozen, agent.env, agent.spec, {"sampled": sampled, "greedy": greedy}, training)
        self.stored = (folder, sampled.mean, greedy.mean)
        means = f"sampled {sampled.mean:.2f}, greedy {greedy.mean:.2f}"
        rank_zero_info("stored %s: %s", folder, means)
        note(module, f"certificate {self.agent}", f"{self.agent} is certificated: {means}, in {folder}", module.clock)
        return sampled.mean, played + self.episodes

    def _evaluate(
        self, trainer: pl.Trainer, module: Collaboration, frozen: PolicyNetwork, kind: str, episodes: int, greedy: bool
    ) -> Score:
        seeds = np.random.SeedSequence(
            entropy=trainer.datamodule.resolved_seed(),  # type: ignore[attr-defined]
            spawn_key=(1_000_003, self._attempts, kind == "trial"),  # none it trained on, and none asked before
        )
        what = f"{kind} of {self.agent}, frozen, {'greedy' if greedy else 'sampled'}"
        with EvaluationDisplay(what, episodes, module.announce) as display:
            return evaluate(
                frozen,
                with_noops(module.agents[self.agent].env, self.noop_max),
                episodes,
                greedy,
                int(seeds.generate_state(1)[0]),
                interrupted=lambda: module.stop_request.requested,
                processes=evaluation_processes(episodes),
                progress=display.update,
                stall_timeout=trainer.datamodule.pool.stall_timeout,  # type: ignore[attr-defined]
            )

    def state_dict(self) -> dict[str, Any]:
        """The score it was last stored with, the mean return of an evaluation that has begun and not ended, and when
        the next is due.
        """
        return {
            "certificated": self.certificated,
            "begun": self._begun,
            "attempts": self._attempts,
            "next": self._next,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.certificated, self._begun = state_dict["certificated"], state_dict["begun"]
        self._attempts, self._next = state_dict.get("attempts", 0), state_dict.get("next", 0)  # not in format 1
