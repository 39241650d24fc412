"""Evaluation of a frozen policy on fresh environments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdrl_pl.envs import EnvConfig, make_game
from cdrl_pl.files import write_json
from cdrl_pl.fingerprint import versions
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.rollouts.actor import sample

SCORES = "scores.json"


@dataclass(frozen=True)
class Score:
    """Returns of whole episodes (the game's own) of one frozen policy, and how they were played.

    Attributes:
        episodes: how many. mean, std: of the returns (std over episodes, ddof 0). mean_length: in decisions.
        returns: every episode's return. policy: "sampled" or "greedy". seed: of the environments and of the sampling.
        noop_max: no-op starts, drawn from 0 to this.
    """

    episodes: int
    mean: float
    std: float
    mean_length: float
    returns: tuple[float, ...]
    policy: str
    seed: int
    noop_max: int


def evaluate(
    network: PolicyNetwork,
    env: EnvConfig,
    episodes: int = 100,
    greedy: bool = False,
    seed: int = 0,
    copies: int = 16,
    interrupted: Callable[[], bool] = lambda: False,
) -> Score:
    """Plays exactly ``episodes`` episodes; every copy plays a fixed share, so short episodes are not favoured.

    Args:
        network: used as it is, without gradient, on its own device. env: ``noop_max`` in it gives random starts.
        greedy: the most probable action instead of a sampled one. copies: environments played side by side.

    Raises:
        KeyboardInterrupt: ``interrupted`` said so.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be 1 or more")
    copies = min(copies, episodes)
    device = next(network.parameters()).device
    *seeds, own = np.random.SeedSequence(seed).spawn(copies + 1)
    rng = np.random.Generator(np.random.PCG64(own))
    games = [make_game(env, int(s.generate_state(1)[0])) for s in seeds]
    spec = games[0].spec
    quota = np.full(copies, episodes // copies)
    quota[: episodes % copies] += 1
    obs = np.zeros((copies, *spec.obs_shape), spec.obs_dtype)
    for game, out in zip(games, obs, strict=True):
        game.reset(out)
    resets, state = np.ones(copies, bool), network.initial_state(copies, device)
    totals, lengths = np.zeros(copies), np.zeros(copies, np.int64)
    returns: list[float] = []
    played: list[int] = []
    try:
        while quota.any():
            if interrupted():
                raise KeyboardInterrupt("the evaluation was told to end")
            live = np.flatnonzero(quota)
            with torch.inference_mode():
                logits, _, state[live] = network.act(
                    torch.from_numpy(obs[live]).to(device), state[live], torch.from_numpy(resets[live]).to(device)
                )
            values = logits.float().cpu().numpy()
            actions = values.argmax(-1) if greedy else sample(values, rng)[0]
            resets[:] = False
            for b, action in zip(live.tolist(), actions.tolist(), strict=True):
                reward, terminated, truncated = games[b].step(action, obs[b])
                totals[b] += reward
                lengths[b] += 1
                if terminated or truncated:
                    returns.append(float(totals[b]))
                    played.append(int(lengths[b]))
                    totals[b], lengths[b], resets[b] = 0.0, 0, True
                    quota[b] -= 1
                    games[b].reset(obs[b])
    finally:
        for game in games:
            game.close()
    return Score(
        episodes=len(returns),
        mean=float(np.mean(returns)),
        std=float(np.std(returns)),
        mean_length=float(np.mean(played)),
        returns=tuple(returns),
        policy="greedy" if greedy else "sampled",
        seed=seed,
        noop_max=env.noop_max,
    )


def score_record(env: EnvConfig, env_steps: int | None, evaluation: dict[str, Score]) -> dict[str, Any]:
    """A frozen policy's scores with all of their protocol, as plain JSON.

    Args:
        env: that was played, resolved. env_steps: decisions that the policy had learned from; null: not known.
        evaluation: "sampled" and "greedy", as in a certificate.
    """
    scores = {policy: asdict(score) for policy, score in evaluation.items()}
    return {"env": asdict(env), "env_steps": env_steps, "evaluation": scores}


def save_scores(path: Path, records: dict[str, dict[str, Any]]) -> None:
    """Writes the ``score_record`` of every agent, whole or not at all, and the versions it was played on."""
    write_json(path, {"format": 1, "agents": records, "versions": versions()})


def record(network: PolicyNetwork, env: EnvConfig, greedy: bool = False, seed: int = 0, max_steps: int = 10_000) -> Any:
    """Plays one episode (at most ``max_steps`` decisions): its frames [N, H, W, 3] uint8 and its return."""
    rng = np.random.default_rng(seed)
    device = next(network.parameters()).device
    game = make_game(env, seed, render=True)
    obs = np.zeros((1, *game.spec.obs_shape), game.spec.obs_dtype)
    game.reset(obs[0])
    state, reset, total, frames = network.initial_state(1, device), True, 0.0, [game.render().copy()]
    for _ in range(max_steps):
        with torch.inference_mode():
            logits, _, state = network.act(
                torch.from_numpy(obs).to(device), state, torch.tensor([reset], device=device)
            )
        values = logits.float().cpu().numpy()
        action = int(values.argmax(-1)[0] if greedy else sample(values, rng)[0][0])
        reward, terminated, truncated = game.step(action, obs[0])
        reset, total = False, total + reward
        frames.append(game.render().copy())
        if terminated or truncated:
            break
    game.close()
    return np.stack(frames), total
