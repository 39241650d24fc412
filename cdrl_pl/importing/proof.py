"""Whether an imported policy plays as it should: evaluations of the frozen policy, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdrl_pl.envs import EnvConfig, make_game, with_noops
from cdrl_pl.evaluation.score import Score
from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.networks import ONNX, NetworkConfig, PolicyNetwork

NOOP_MAX = 30  # as of a certificate
CERTAINTY = 0.9  # mean probability of the greedy action that a Q-network's temperature is made for
DECISIONS = 1000  # of greedy play that it is measured on
ALLOWED = 0.1  # of what lies between a random policy and the expected score: what may be missing
Evaluate = Callable[[PolicyNetwork, str, int, bool], Score]
"""Plays a network: with words for people, a number of episodes, and whether greedily."""


@dataclass(frozen=True)
class Proof:
    """What was played.

    Attributes:
        sampled: score of the frozen policy, its actions sampled.
        greedy: the same, of its most probable actions.
        random: score of uniformly random actions.
        expected: mean return that it should have, in points; None: not known.
    """

    sampled: Score
    greedy: Score
    random: Score
    expected: float | None

    @property
    def best(self) -> Score:
        """The better of the two ways to choose actions: a Q-network plays well greedily alone."""
        return max(self.greedy, self.sampled, key=lambda score: score.mean)

    @property
    def shortfall(self) -> str:
        """What speaks against the import, in words; empty where nothing does.

        The better score may miss a tenth of what lies between a random policy and the expected score, and two standard
        errors; where nothing is expected, it must pass a random policy by two standard errors.
        """
        score, chance = self.best, self.random
        said = f"{score.policy} it scores {score.mean:.2f} ± {2 * _error(score):.2f}"
        if self.expected is not None:
            least = self.expected - ALLOWED * abs(self.expected - chance.mean)
            return f"{said}; {self.expected:g} was expected" if score.mean + 2 * _error(score) < least else ""
        apart = score.mean - chance.mean
        if apart > 2 * math.hypot(_error(score), _error(chance)):
            return ""
        return f"{said}, no better than random actions, {chance.mean:.2f} ± {2 * _error(chance):.2f}"


def _error(score: Score) -> float:
    """Standard error of a mean return."""
    return score.std / math.sqrt(max(score.episodes - 1, 1))


def prove(network: PolicyNetwork, episodes: int, expected: float | None, evaluate: Evaluate) -> Proof:
    """Plays the policy, sampled and greedy, and random actions.

    Args:
        network: the policy.
        episodes: of each; of random actions at most 20.
        expected: mean return that it should have, in points; None: not known.
        evaluate: plays a network.
    """
    chance = evaluate(uniform(network), "random actions", min(episodes, 20), False)
    greedy = evaluate(network, "the policy, greedy", episodes, True)
    return Proof(evaluate(network, "the policy, sampled", episodes, False), greedy, chance, expected)


def uniform(network: PolicyNetwork) -> PolicyNetwork:
    """A small network that plays the same task at random: its logits are 0."""
    pictures = len(network.obs_shape) == 3
    config = NetworkConfig("conv" if pictures else "mlp", channels=1, depth=1, hidden=1, lstm=0)
    made = PolicyNetwork(config, network.obs_shape, network.num_actions)
    for parameter in made.policy_head.parameters():
        parameter.data.zero_()
    return made.eval()


def causes(policy: ImportedPolicy, env: EnvConfig) -> Iterator[str]:
    """What most often goes wrong with such a policy, as this one was imported."""
    if len(policy.obs_shape) == 3:
        view = env.view
        assert view is not None  # resolved
        yield (
            f"how it saw its game: here env.view has size {view.size}, crop {view.crop}, stack {view.stack}, maximum "
            f"{view.maximum}, colour {view.colour}"
        )
    elif policy.network.trunk == ONNX:
        yield "what the graph reads: the same numbers, in the same order and units, as in training (--graph)"
    elif policy.network.normalise:
        yield "the statistics (--statistics): they must be those that were saved with this very model"
    else:
        yield "observations that were normalised in training (VecNormalize): give their mean and var by --statistics"
    if env.frame_skip is not None:
        yield (
            f"how its game was played: here env.frame_skip is {env.frame_skip}, repeat_action_probability "
            f"{env.repeat_action_probability}, fire_on_reset {env.fire_on_reset}"
        )
    else:
        yield "wrappers, or keywords of gymnasium.make, that it was trained with: env.wrappers, env.kwargs"
    yield "another game, or another version of it, or other actions: env.id, env.actions"


@torch.no_grad()
def temperature_for(
    network: PolicyNetwork, env: EnvConfig, seed: int, tick: Callable[[], None] = lambda: None
) -> float:
    """The temperature of the softmax over Q-values at which the greedy action has a mean probability of 0.9.

    It is measured over 1,000 decisions of greedy play. (Q-values differ by what a decision is worth in this game, from
    hundredths to hundreds: no one temperature suits all.)

    Args:
        network: whose logits are Q-values.
        env: the task.
        seed: of its one copy.
        tick: called before every decision; what it raises ends the measurement.
    """
    values = _greedy_values(network, with_noops(env, NOOP_MAX), seed, tick)
    low, high = math.log(1e-6), math.log(1e6)
    for _ in range(60):  # the colder, the more certain
        middle = (low + high) / 2
        certainty = float(torch.softmax(values / math.exp(middle), -1).amax(-1).mean())
        low, high = (middle, high) if certainty > CERTAINTY else (low, middle)
    return math.exp((low + high) / 2)


def _greedy_values(network: PolicyNetwork, env: EnvConfig, seed: int, tick: Callable[[], None]) -> Tensor:
    """Q-values [N, A] in fp64, of one copy."""
    game, values = make_game(env, seed), []
    try:
        obs = np.zeros((1, *game.spec.obs_shape), game.spec.obs_dtype)
        state, begins = network.initial_state(1), True
        game.reset(obs[0])
        for _ in range(DECISIONS):
            tick()
            logits, _, state = network.act(torch.from_numpy(obs), state, torch.tensor([begins]))
            if game.mask is not None:
                logits = logits.masked_fill(~torch.from_numpy(game.mask), -math.inf)
            values.append(logits[0].double())
            _, terminated, truncated = game.step(int(logits[0].argmax()), obs[0])
            if begins := terminated or truncated:
                game.reset(obs[0])
        return torch.stack(values)
    finally:
        game.close()
