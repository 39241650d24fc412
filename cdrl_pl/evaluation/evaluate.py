"""Frozen policies played on fresh environments: the one environment loop of evaluations and videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from cdrl_pl.distributions import IMPOSSIBLE, Array, Counts, most_probable, sample
from cdrl_pl.envs import EnvConfig, Game, describe, make_game
from cdrl_pl.envs.games import check_finite
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.network import build_network
from cdrl_pl.system.processes import STALL, in_processes
from cdrl_pl.system.stop import Stopped
from cdrl_pl.types import Episode

TICK_SECONDS = 0.5  # between two signs of life of an evaluation


class Played(NamedTuple):
    """How far an evaluation is.

    Attributes:
        episodes: that have ended.
        total: sum of their returns, in points.
        decisions: that were played, those of unfinished episodes too.
    """

    episodes: int
    total: float
    decisions: int = 0

    @property
    def mean(self) -> float | None:
        """Their mean return, in points; None before the first."""
        return self.total / self.episodes if self.episodes else None


class CopyQuota(NamedTuple):
    """What one copy of the environment plays in an evaluation.

    Attributes:
        env_seed: of the copy.
        sampling_seed: of the actions that are sampled in it.
        episodes: number of episodes.
    """

    env_seed: np.random.SeedSequence
    sampling_seed: np.random.SeedSequence
    episodes: int


class Decision(NamedTuple):
    """One decision of a watched game, before it is played.

    Attributes:
        obs: that is decided on, [1, *observation].
        resets: whether it is the first of an episode, [1] bool, on the host.
        state: recurrent state before it, [1, S].
        logits: of the policy, [A]; those of what may not be played keep to it.
        value: expected return from here on, in the units that the agent learned from.
        action: that is played, or those of several choices.
        masks: which actions may be played, [1, A]; None: all of them.
    """

    obs: torch.Tensor
    resets: torch.Tensor
    state: torch.Tensor
    logits: torch.Tensor
    value: float
    action: int | list[int]
    masks: torch.Tensor | None = None


class Watch(Protocol):
    """Someone who looks on while one copy plays."""

    def saw(self, game: Game) -> None:
        """After a reset and after each step, the last one of an episode included."""

    def decided(self, decision: Decision) -> None:
        """Before each step."""


def evaluate(
    network: PolicyNetwork,
    env: EnvConfig,
    episodes: int = 100,
    greedy: bool = False,
    seed: int = 0,
    copies: int = 16,
    interrupted: Callable[[], bool] = lambda: False,
    processes: int = 1,
    stall_timeout: float = STALL,
    progress: Callable[[Played], None] = lambda played: None,
) -> Score:
    """Plays exactly ``episodes`` episodes; every copy plays a fixed share, so short episodes are not favoured.

    Args:
        network: used as it is, without gradient: on its own device, or on the CPU in several processes.
        env: the task; ``noop_max`` in it gives random starts.
        episodes: number of episodes, over all copies.
        greedy: the most probable action instead of a sampled one.
        seed: of the environments and of the sampling, without unit.
        copies: environments played side by side.
        interrupted: asked twice a second whether the evaluation should end.
        processes: number of processes that share the copies; 1 plays them here. Copies have randomness of their own, so
            the number of processes changes a score only through the rounding of logits.
        stall_timeout: seconds without progress of any of several processes after which the evaluation fails.
        progress: called about twice a second with how far it is.

    Raises:
        Stopped: ``interrupted`` said so.
        ProcessError: a process failed.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be 1 or more")
    quotas = share_out(episodes, min(copies, episodes), seed)
    if processes == 1:

        def tick(now: Played) -> None:
            progress(now)
            if interrupted():
                raise Stopped("the evaluation was told to end")

        played = play(network, env, quotas, greedy, tick)
    else:
        weights = {name: value.numpy(force=True) for name, value in network.state_dict().items()}
        shares = [_Share(network.config, weights, env, quotas[i::processes], greedy) for i in range(processes)]
        so_far: dict[int, Played] = {}

        def add(index: int, now: Played) -> None:
            so_far[index] = now
            progress(Played(*map(sum, zip(*so_far.values(), strict=True))))

        jobs = [share for share in shares if share.quotas]
        parts = in_processes(_play_share, jobs, interrupted, stall_timeout, add)
        played = [parts[b % processes][b // processes] for b in range(len(quotas))]
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


def share_out(episodes: int, copies: int, seed: int) -> list[CopyQuota]:
    """Returns a fixed share of the episodes, and seeds of its own, for each copy."""
    *env_seeds, own = np.random.SeedSequence(seed).spawn(copies + 1)
    shares = [episodes // copies + (b < episodes % copies) for b in range(copies)]
    return [CopyQuota(*parts) for parts in zip(env_seeds, own.spawn(copies), shares, strict=True)]


def play(
    network: PolicyNetwork,
    env: EnvConfig,
    quotas: Sequence[CopyQuota],
    greedy: bool,
    tick: Callable[[Played], None] = lambda now: None,
    watch: Watch | None = None,
    max_steps: int | None = None,
) -> list[list[Episode]]:
    """Returns the episodes of every quota, in the order in which its copy played them.

    Args:
        network: decides; its recurrent state begins anew with every episode.
        env: the task.
        quotas: one for each copy of the environment that is played side by side.
        greedy: the most probable action instead of a sampled one.
        tick: called about twice a second with how far all copies are; what it raises ends the evaluation.
        watch: looks on; the games can then be drawn. For one copy.
        max_steps: decisions of each copy after which an unfinished episode is taken as it is; null: no limit.
    """
    device = network.device
    rngs = [np.random.Generator(np.random.PCG64(q.sampling_seed)) for q in quotas]
    left = np.array([q.episodes for q in quotas])
    resets, state = np.ones(len(quotas), bool), network.initial_state(len(quotas), device)
    totals, lengths, steps = np.zeros(len(quotas)), np.zeros(len(quotas), np.int64), 0
    played: list[list[Episode]] = [[] for _ in quotas]
    games, ticked, now = list[Game](), 0.0, Played(0, 0.0)
    try:
        for quota in quotas:  # one that takes long to make is a sign of life, too
            tick(now)
            games.append(make_game(env, int(quota.env_seed.generate_state(1)[0]), render=watch is not None))
        spec = games[0].spec
        counts = spec.action_counts
        obs = np.zeros((len(games), *spec.obs_shape), spec.obs_dtype)
        for game, out in zip(games, obs, strict=True):
            game.reset(out)
            tick(now)
            if watch is not None:
                watch.saw(game)
        check_finite(env, obs)
        while left.any():
            if time.monotonic() - ticked > TICK_SECONDS:
                tick(now)
                ticked = time.monotonic()
            live = np.flatnonzero(left)
            now = now._replace(decisions=now.decisions + len(live))
            seen, begins, before = torch.from_numpy(obs[live]).to(device), torch.from_numpy(resets[live]), state[live]
            with torch.inference_mode():
                logits, critic, state[live] = network.act(seen, before, begins.to(device))
            values, masks = logits.float().cpu().numpy(), None
            if spec.masked:
                masks = np.array([games[b].mask for b in live])
                values = np.where(masks, values, np.float32(IMPOSSIBLE))
            actions = most_probable(values, counts) if greedy else _drawn(values, [rngs[b] for b in live], counts)
            if watch is not None:
                own, may = torch.from_numpy(values[0]), None if masks is None else torch.from_numpy(masks)
                watch.decided(Decision(seen, begins, before, own, float(critic[0]), actions[0].tolist(), may))
            resets[:] = False
            steps += 1
            for b, action in zip(live.tolist(), actions.tolist(), strict=True):
                reward, terminated, truncated = games[b].step(action, obs[b])
                check_finite(env, obs[b : b + 1], np.array([reward]))
                totals[b] += reward
                lengths[b] += 1
                if watch is not None:
                    watch.saw(games[b])
                if terminated or truncated or steps == max_steps:
                    played[b].append(Episode(float(totals[b]), int(lengths[b])))
                    now = now._replace(episodes=now.episodes + 1, total=now.total + float(totals[b]))
                    totals[b], lengths[b], resets[b] = 0.0, 0, True
                    left[b] = 0 if steps == max_steps else left[b] - 1
                    if left[b]:
                        games[b].reset(obs[b])
                        check_finite(env, obs[b : b + 1])
                        if watch is not None:
                            watch.saw(games[b])
    finally:
        for game in games:
            game.close()
    return played


def _drawn(logits: Array, rngs: Sequence[np.random.Generator], counts: Counts) -> Array:
    """Sampled actions [B], or [B, K] where K choices are made, each copy's by its own generator."""
    draws = [rng.random(len(counts)) if counts else rng.random() for rng in rngs]
    return sample(logits, np.array(draws), counts)[0]


@dataclass(frozen=True)
class _Share:
    """What one process plays."""

    network: NetworkConfig
    weights: dict[str, np.ndarray[Any, Any]]
    env: EnvConfig
    quotas: list[CopyQuota]
    greedy: bool


def _play_share(share: _Share, tick: Callable[[Played], None]) -> list[list[Episode]]:
    spec = describe(share.env)
    network = build_network(share.network, spec.obs_shape, spec.num_actions).eval()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in share.weights.items()})
    return play(network, share.env, share.quotas, share.greedy, tick)
