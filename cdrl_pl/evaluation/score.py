"""Scores of frozen policies, with the protocol that they were played by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdrl_pl.envs import EnvConfig
from cdrl_pl.storage.atomic import write_json
from cdrl_pl.storage.fingerprint import versions

SCORES = "scores.json"


@dataclass(frozen=True)
class Score:
    """Returns of whole episodes (the game's own) of one frozen policy, and how they were played.

    Attributes:
        episodes: number of episodes.
        mean: mean of the returns, in points.
        std: standard deviation of the returns over episodes (ddof 0), in points.
        mean_length: mean length of an episode, in decisions.
        returns: return of every episode, in points.
        policy: "sampled" or "greedy".
        seed: of the environments and of the sampling, without unit.
        noop_max: most no-op actions at the start of an episode, drawn from 0 to this.
    """

    episodes: int
    mean: float
    std: float
    mean_length: float
    returns: tuple[float, ...]
    policy: str
    seed: int
    noop_max: int


def score_record(env: EnvConfig, env_steps: int | None, evaluation: dict[str, Score]) -> dict[str, Any]:
    """A frozen policy's scores with all of their protocol, as plain JSON.

    Args:
        env: that was played, resolved.
        env_steps: decisions that the policy had learned from; null: not known.
        evaluation: "sampled" and "greedy", as in a certificate.
    """
    scores = {policy: asdict(score) for policy, score in evaluation.items()}
    return {"env": asdict(env), "env_steps": env_steps, "evaluation": scores}


def save_scores(path: Path, records: dict[str, dict[str, Any]]) -> None:
    """Writes the ``score_record`` of every agent, whole or not at all, and the versions it was played on."""
    write_json(path, {"format": 1, "agents": records, "versions": versions()})
