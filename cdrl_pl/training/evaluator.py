"""The evaluator of ``validate``, ``test`` and ``predict``: agents with frozen policies play fresh environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from cdrl_pl.agents.agent import Agent
from cdrl_pl.envs import with_noops
from cdrl_pl.evaluation.display import EvaluationDisplay, table
from cdrl_pl.evaluation.evaluate import Played, evaluate
from cdrl_pl.evaluation.score import SCORES, Score, save_scores, score_record
from cdrl_pl.evaluation.video import save_episode
from cdrl_pl.system.hardware import evaluation_processes
from cdrl_pl.system.processes import STALL
from cdrl_pl.system.stop import Stopped
from cdrl_pl.transfer.advice import Advice
from cdrl_pl.transfer.transfer import Transfer

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
        overlay: a video shows policies and value beside the picture.
    """

    agent: str
    greedy: bool
    episodes: int
    seed: int
    noop_max: int
    stall_timeout: float = STALL
    overlay: bool = False


class Evaluator:
    """Plays the agents of a graph as they are; nothing here learns.

    Args:
        agents: by name.
        interrupted: asked twice a second whether an evaluation should end.
        transfers: between them, for what videos show.

    Attributes:
        scores: of what was evaluated: agent -> policy -> score.
        seconds: that each took: agent -> policy -> seconds.
    """

    def __init__(
        self, agents: Mapping[str, Agent], interrupted: Callable[[], bool], transfers: Sequence[Transfer] = ()
    ) -> None:
        self._agents, self._interrupted, self._transfers = agents, interrupted, transfers
        self.scores: dict[str, dict[str, Score]] = {}
        self.seconds: dict[str, dict[str, float]] = {}
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
        self.seconds.setdefault(job.agent, {})[score.policy] = display.seconds
        self._noop_max[job.agent] = job.noop_max
        return score

    def show(self) -> None:
        """Prints every score as a table."""
        Console().print(table(self.scores, self.seconds))

    def save(self, folder: Path, env_steps: Mapping[str, int]) -> None:
        """Writes every score, with its protocol, to ``folder/scores.json``, and says so.

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
        Console().print(Text(f"scores in {folder / SCORES}"), soft_wrap=True)

    def record(self, job: EvaluationJob, folder: Path) -> str:
        """Records one sampled episode as a video below ``folder``; returns its path."""
        agent = self._agents[job.agent]
        taught = [transfer for transfer in self._transfers if transfer.config.student == job.agent]
        advice = Advice(self._agents, job.agent, taught) if job.overlay else None
        env = with_noops(agent.env, job.noop_max)
        with EvaluationDisplay(f"video of {job.agent}", 1) as display:

            def tick(now: Played) -> None:
                display.update(now)
                if self._interrupted():
                    raise Stopped("the video was told to end")

            return save_episode(agent.network, env, folder / VIDEOS, job.agent, job.seed, advice, tick=tick)
