"""The evaluator of ``validate``, ``test`` and ``predict``: agents with frozen policies play fresh environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cdrl_pl.agents.agent import Agent
from cdrl_pl.envs import with_noops
from cdrl_pl.evaluation.display import EvaluationDisplay
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.evaluation.score import SCORES, Score, save_scores, score_record
from cdrl_pl.evaluation.video import save_episode
from cdrl_pl.system.hardware import evaluation_processes
from cdrl_pl.system.processes import STALL

VIDEOS = "videos"


class EvaluationJob(NamedTuple):
    """What to play: one agent, one way of choosing its actions.

    Attributes:
        agent: its name.
        greedy: the most probable action instead of a sampled one.
        episodes: how many.
        seed: of the environments and of the sampling.
        noop_max: random no-op starts, up to so many; Atari only.
        stall_timeout: seconds without progress after which the evaluation fails.
    """

    agent: str
    greedy: bool
    episodes: int
    seed: int
    noop_max: int
    stall_timeout: float = STALL


class Evaluator:
    """Plays the agents of a graph as they are; nothing here learns.

    Args:
        agents: by name.
        interrupted: asked twice a second whether an evaluation should end.

    Attributes:
        scores: of what was evaluated: agent -> policy -> score.
    """

    def __init__(self, agents: Mapping[str, Agent], interrupted: Callable[[], bool]) -> None:
        self._agents, self._interrupted = agents, interrupted
        self.scores: dict[str, dict[str, Score]] = {}
        self._noop_max: dict[str, int] = {}

    def evaluate(self, job: EvaluationJob, announce: Callable[[str], None] | None = None) -> Score:
        """Plays one job, on all cores; its score is kept, too.

        Args:
            job: what to play.
            announce: shows a line in a display that is open; None: how far it is has a display of its own.
        """
        agent = self._agents[job.agent]
        env = with_noops(agent.env, job.noop_max)
        processes = evaluation_processes(job.episodes)
        what = f"{job.agent}, {'greedy' if job.greedy else 'sampled'}"
        with EvaluationDisplay(what, job.episodes, announce) as display:
            score = evaluate(
                agent.network,
                env,
                job.episodes,
                job.greedy,
                job.seed,
                interrupted=self._interrupted,
                processes=processes,
                stall_timeout=job.stall_timeout,
                progress=display.update,
            )
        self.scores.setdefault(job.agent, {})[score.policy] = score
        self._noop_max[job.agent] = job.noop_max
        return score

    def save(self, folder: Path, env_steps: Mapping[str, int]) -> None:
        """Writes every score, with its protocol, to ``folder/scores.json``.

        Args:
            folder: of the run.
            env_steps: decisions that each agent that learns has learned from.
        """
        records = {}
        for name, evaluation in self.scores.items():
            agent = self._agents[name]
            learned = agent.certificated_at if agent.learner is None else env_steps[name]
            records[name] = score_record(with_noops(agent.env, self._noop_max[name]), learned, evaluation)
        save_scores(folder / SCORES, records)

    def record(self, job: EvaluationJob, folder: Path) -> str:
        """Records one sampled episode as a video below ``folder``; returns its path."""
        agent = self._agents[job.agent]
        path = folder / VIDEOS / f"{job.agent}.mp4"
        return save_episode(agent.network, with_noops(agent.env, job.noop_max), path, job.seed)
