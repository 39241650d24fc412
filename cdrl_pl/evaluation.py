"""Evaluation of a frozen policy on fresh environments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdrl_pl.envs import EnvConfig, describe, make_game
from cdrl_pl.files import write_json
from cdrl_pl.fingerprint import versions
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.processes import in_processes
from cdrl_pl.rollouts.actor import sample
from cdrl_pl.types import Episode

SCORES = "scores.json"
TICK_SECONDS = 0.5  # between two signs of life of an evaluation
# One copy of an evaluation: seeds of its game, of its sampling, and how many episodes it plays.
Lot = tuple[np.random.SeedSequence, np.random.SeedSequence, int]


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
    processes: int = 1,
) -> Score:
    """Plays exactly ``episodes`` episodes; every copy plays a fixed share, so short episodes are not favoured.

    Args:
        network: used as it is, without gradient: on its own device, or on the CPU in several processes.
        env: ``noop_max`` in it gives random starts. greedy: the most probable action instead of a sampled one.
        copies: environments played side by side. processes: that share the copies; 1 plays them here. Copies have
            randomness of their own, so the number of processes changes a score only through the rounding of logits.

    Raises:
        KeyboardInterrupt: ``interrupted`` said so. ProcessError: a process failed.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be 1 or more")
    copies = min(copies, episodes)
    *games, own = np.random.SeedSequence(seed).spawn(copies + 1)
    quotas = [episodes // copies + (b < episodes % copies) for b in range(copies)]
    lots = list(zip(games, own.spawn(copies), quotas, strict=True))
    if processes == 1:

        def tick() -> None:
            if interrupted():
                raise KeyboardInterrupt("the evaluation was told to end")

        played = _play(network, env, lots, greedy, tick)
    else:
        weights = {name: value.numpy(force=True) for name, value in network.state_dict().items()}
        shares = [_Share(network.config, weights, env, lots[i::processes], greedy) for i in range(processes)]
        parts = in_processes(_play_share, [share for share in shares if share.lots], interrupted)
        played = [parts[b % processes][b // processes] for b in range(copies)]
    ended = [episode for copy in played for episode in copy]
    returns = [episode.ret for episode in ended]
    return Score(
        episodes=len(ended),
        mean=float(np.mean(returns)),
        std=float(np.std(returns)),
        mean_length=float(np.mean([episode.length for episode in ended])),
        returns=tuple(returns),
        policy="greedy" if greedy else "sampled",
        seed=seed,
        noop_max=env.noop_max,
    )


def _play(
    network: PolicyNetwork, env: EnvConfig, lots: list[Lot], greedy: bool, tick: Callable[[], None]
) -> list[list[Episode]]:
    """The episodes of every lot, in the order in which it played them."""
    device = next(network.parameters()).device
    games = [make_game(env, int(seeds.generate_state(1)[0])) for seeds, _, _ in lots]
    rngs = [np.random.Generator(np.random.PCG64(own)) for _, own, _ in lots]
    quota = np.array([episodes for _, _, episodes in lots])
    spec = games[0].spec
    obs = np.zeros((len(lots), *spec.obs_shape), spec.obs_dtype)
    for game, out in zip(games, obs, strict=True):
        game.reset(out)
    resets, state = np.ones(len(lots), bool), network.initial_state(len(lots), device)
    totals, lengths = np.zeros(len(lots)), np.zeros(len(lots), np.int64)
    played: list[list[Episode]] = [[] for _ in lots]
    ticked = 0.0
    try:
        while quota.any():
            if time.monotonic() - ticked > TICK_SECONDS:
                tick()
                ticked = time.monotonic()
            live = np.flatnonzero(quota)
            with torch.inference_mode():
                logits, _, state[live] = network.act(
                    torch.from_numpy(obs[live]).to(device), state[live], torch.from_numpy(resets[live]).to(device)
                )
            values = logits.float().cpu().numpy()
            actions = values.argmax(-1) if greedy else sample(values, np.array([rngs[b].random() for b in live]))[0]
            resets[:] = False
            for b, action in zip(live.tolist(), actions.tolist(), strict=True):
                reward, terminated, truncated = games[b].step(action, obs[b])
                totals[b] += reward
                lengths[b] += 1
                if terminated or truncated:
                    played[b].append(Episode(float(totals[b]), int(lengths[b])))
                    totals[b], lengths[b], resets[b] = 0.0, 0, True
                    quota[b] -= 1
                    games[b].reset(obs[b])
    finally:
        for game in games:
            game.close()
    return played


@dataclass(frozen=True)
class _Share:
    """What one process plays."""

    network: NetworkConfig
    weights: dict[str, np.ndarray[Any, Any]]
    env: EnvConfig
    lots: list[Lot]
    greedy: bool


def _play_share(share: _Share, tick: Callable[[], None]) -> list[list[Episode]]:
    spec = describe(share.env)
    network = PolicyNetwork(share.network, spec.obs_shape, spec.num_actions).eval()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in share.weights.items()})
    return _play(network, share.env, share.lots, share.greedy, tick)


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
        action = int(values.argmax(-1)[0] if greedy else sample(values, rng.random(1))[0][0])
        reward, terminated, truncated = game.step(action, obs[0])
        reset, total = False, total + reward
        frames.append(game.render().copy())
        if terminated or truncated:
            break
    game.close()
    return np.stack(frames), total
