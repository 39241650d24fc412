"""Before any training: how much of what a teacher sees in another's game tells of that game's rewards?

    python -m benchmarks.transferability TEACHER ENV [--decisions N] [--copies B] [--noop-max N] [--trust PACKAGES]
                                         [--json]

Plays ENV at random, lets the teacher read it through its own view, and regresses the discounted return of what was
played on what the teacher's policy head reads (its features), and on its logits. The number is the share of the
return's variance that is told on games that were not fitted, above what networks of its structure with random weights
tell: a teacher is worth reading where it sees more of the rewards to come than any network does. It is about what is
there to be passed on, and not about whether F passes it on.

Beside it stands the state information of the teacher's own policy in the game, in nats
(``distributions.action_statistics``).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.distributions import action_statistics
from cdrl_pl.envs import EnvConfig, make_game, resolve
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.transfer.controls import control_network

Array = np.ndarray[Any, Any]
GAMMA = 0.99
HORIZON = 300  # decisions after which GAMMA leaves 5 % of a reward: returns of later decisions are not known
RIDGE = 1e-2  # beside the variance of a feature, which is 1
CONTROLS = 3  # networks with random weights
CHUNK = 500  # decisions that a network reads at once


@dataclass(frozen=True)
class Played:
    """One copy's game, played at random.

    Attributes:
        obs: [N, *observation], through the teacher's view.
        resets: [N] bool, set where an episode begins.
        returns: [N] discounted returns from there on, NaN where the game was left before they are known.
    """

    obs: Array
    resets: Array
    returns: Array


def discounted(rewards: Array, ends: Array) -> Array:
    """Discounted returns [N] of rewards [N], within episodes that end where ``ends`` [N] is; NaN: not known."""
    returns, after, known = np.full(len(rewards), np.nan), 0.0, False
    last = len(rewards) - 1
    for step in range(last, -1, -1):
        if ends[step]:
            after, known = 0.0, True
        after = rewards[step] + GAMMA * after
        if known or last - step >= HORIZON:
            returns[step] = after
    return returns


def play(env: EnvConfig, decisions: int, seed: int) -> Played:
    """One copy for so many decisions."""
    game, rng = make_game(env, seed), np.random.default_rng(seed)
    counts = game.spec.action_counts or (game.spec.num_actions,)
    obs = np.empty((decisions + 1, *game.spec.obs_shape), game.spec.obs_dtype)
    rewards, ends = np.zeros(decisions), np.zeros(decisions, bool)
    game.reset(obs[0])
    for step in range(decisions):
        drawn = [int(rng.integers(count)) for count in counts]
        rewards[step], terminated, truncated = game.step(drawn if game.spec.action_counts else drawn[0], obs[step + 1])
        if terminated or truncated:
            ends[step] = True
            game.reset(obs[step + 1])
    game.close()
    return Played(obs[:-1], np.concatenate([[True], ends[:-1]]), discounted(rewards, ends))


@torch.inference_mode()
def read(network: PolicyNetwork, games: list[Played]) -> tuple[Tensor, Tensor]:
    """What a network's heads read of all games side by side [N, B, D], and its logits [N, B, k]."""
    obs = torch.from_numpy(np.stack([game.obs for game in games], 1))
    resets = torch.from_numpy(np.stack([game.resets for game in games], 1))
    state, features = network.initial_state(len(games)), []
    for start in range(0, len(obs), CHUNK):
        found, state = network.features(obs[start : start + CHUNK], state, resets[start : start + CHUNK])
        features.append(found)
    together = torch.cat(features)
    return together, network.policy_head(together)


def told(features: Tensor, games: list[Played]) -> float:
    """The share of the returns' variance that a ridge regression on features [N, B, D] tells of held-out games.

    Every game is held out once; from 1 to below 0, where the regression does worse than the mean.
    """
    errors, squares = 0.0, 0.0
    wanted = [game.returns for game in games]
    for held in range(len(games)):
        fitted = [b for b in range(len(games)) if b != held]
        x, y = _known(features[:, fitted].double(), np.stack([wanted[b] for b in fitted], 1))
        x_held, y_held = _known(features[:, [held]].double(), wanted[held][:, None])
        mean, deviation, middle = x.mean(0), x.std(0).clamp_min(1e-6), y.mean()
        x, x_held = (x - mean) / deviation, (x_held - mean) / deviation
        square = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(square, x.T @ (y - middle))
        errors += float((y_held - middle - x_held @ weights).square().sum())
        squares += float((y_held - middle).square().sum())
    return 1.0 - errors / squares if squares else 0.0


def _known(features: Tensor, returns: Array) -> tuple[Tensor, Tensor]:
    """Rows whose return is known."""
    known = ~np.isnan(returns)
    return features[torch.from_numpy(known)], torch.from_numpy(returns[known])


def transferability(teacher: PolicyNetwork, games: list[Played]) -> dict[str, float]:
    """The numbers of one teacher in games that were played at random."""
    features, logits = read(teacher, games)
    found = {"features": told(features, games), "logits": told(logits, games)}
    found["state_information"] = float(action_statistics(logits)[1])
    random: dict[str, list[float]] = {"features": [], "logits": []}
    for seed in range(CONTROLS):
        torch.manual_seed(seed)
        other = control_network("random", teacher, teacher)
        assert other is not None
        for name, read_by_it in zip(random, read(other, games), strict=True):
            random[name].append(told(read_by_it, games))
    for name, values in random.items():
        found[f"{name}_random"] = float(np.mean(values))
        found[f"{name}_above_random"] = found[name] - found[f"{name}_random"]
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="the folder of a certificated teacher")
    parser.add_argument("env", help="the game of the student to be")
    parser.add_argument("--decisions", type=int, default=3000, help="of each game that is played at random")
    parser.add_argument("--copies", type=int, default=8, help="games, each held out once")
    parser.add_argument("--noop-max", type=int, default=30, help="random no-ops that a game begins with, up to")
    parser.add_argument("--trust", default="", help="packages from which what the certificate names may be imported")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    agent = CertificatedAgent(arguments.teacher, trust=tuple(filter(None, arguments.trust.split(","))))
    resolved = resolve(EnvConfig(arguments.env))
    atari = {"noop_max": arguments.noop_max} if resolved.frame_skip is not None else {}
    env = replace(resolved, view=agent.view, **atari)
    games = [play(env, arguments.decisions, seed) for seed in range(arguments.copies)]
    found = transferability(agent.network, games)
    print(
        f"{arguments.teacher} in {arguments.env}, {arguments.copies} games of {arguments.decisions:,} random decisions"
    )
    print(f"its policy says {found['state_information']:.3f} nats of the state")
    for name in ("features", "logits"):
        print(
            f"{name}: {found[name]:.3f} of the returns' variance told on games held out, "
            f"{found[f'{name}_random']:.3f} by random weights: {found[f'{name}_above_random']:+.3f}"
        )
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
