"""The student: an agent that learns from its own rewards by A3C with GAE, and from what transfers teach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import pytorch_lightning as pl
from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.checks import check_options
from cdrl_pl.distributions import entropy as entropy_per_step
from cdrl_pl.distributions import log_prob
from cdrl_pl.envs import EnvConfig, describe, resolve
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.returns import gae, vtrace
from cdrl_pl.schedule import linear
from cdrl_pl.types import PolicyOutput, Rollout


@dataclass
class LearnerConfig:
    """How a student learns from its own rewards (spec section 3).

    Attributes:
        lr: Learning rate of Adam, without unit.
        lr_end: Learning rate, without unit, that is reached in a straight line over the first ``lr_steps`` decisions;
            null keeps ``lr``.
        lr_steps: Decisions until the learning rate is ``lr_end``.
        gamma: Discount per decision, 0 to 1.
        lam: Lambda of GAE and of V-trace, 0 to 1.
        value_coef: Weight of the value loss (R - v)^2 beside the policy loss, without unit.
        entropy_coef: Weight of the entropy bonus, in (scaled) reward per nat.
        entropy_end: Weight of the entropy bonus, in (scaled) reward per nat, that is reached in a straight line over
            the first ``entropy_steps`` decisions; null keeps ``entropy_coef``.
        entropy_steps: Decisions until the weight of the entropy bonus is ``entropy_end``.
        max_grad_norm: Largest global norm of the student's gradient, without unit; a longer one is scaled down to it.
        batch_copies: Environment copies per gradient step; null takes all copies of a rollout in one step.
        reward_scale: Factor of the rewards that the learner sees, per point; returns of about 1 to 30 suit the other
            settings. Reported returns are always the game's own points.
        clip_rewards: Clips the scaled rewards to -1 to 1 in the learner.
        reinforce: Learns from the agent's own rewards; false is a student that only distils (Figure 3a).
        off_policy: "vtrace" corrects for the lag of the policy that played (Espeholt et al. 2018, IMPALA); "none"
            learns as if the newest policy had played.
        rho_clip: Upper bound, without unit, of V-trace's importance weights on the targets; at least ``c_clip``.
        c_clip: Upper bound, without unit, of V-trace's importance weights on how far the targets reach back.
        value_first: Decisions of the agent up to which its value head alone learns, and all else stays as it began;
            for an agent that begins with a certificate's weights, whose value head knows another task.
    """

    lr: float = 1e-4
    lr_end: float | None = None
    lr_steps: int = 1_000_000
    gamma: float = 0.99
    lam: float = 1.0
    value_coef: float = 0.25
    entropy_coef: float = 0.01
    entropy_end: float | None = None
    entropy_steps: int = 1_000_000
    max_grad_norm: float = 40.0
    batch_copies: int | None = None
    reward_scale: float = 1.0
    clip_rewards: bool = False
    reinforce: bool = True
    off_policy: Literal["none", "vtrace"] = "none"
    rho_clip: float = 1.0
    c_clip: float = 1.0
    value_first: int = 0

    def __post_init__(self) -> None:
        rows = (
            ("lr", self.lr > 0, "above 0"),
            ("lr_end", self.lr_end is None or self.lr_end > 0, "above 0, or null"),
            ("lr_steps", self.lr_steps >= 1, "1 or more"),
            ("gamma", 0 <= self.gamma <= 1, "from 0 to 1"),
            ("lam", 0 <= self.lam <= 1, "from 0 to 1"),
            ("value_coef", self.value_coef >= 0, "0 or more"),
            ("entropy_coef", self.entropy_coef >= 0, "0 or more"),
            ("entropy_end", self.entropy_end is None or self.entropy_end >= 0, "0 or more, or null"),
            ("entropy_steps", self.entropy_steps >= 1, "1 or more"),
            ("max_grad_norm", self.max_grad_norm > 0, "above 0"),
            ("batch_copies", self.batch_copies is None or self.batch_copies >= 1, "1 or more, or null"),
            ("reward_scale", self.reward_scale > 0, "above 0"),
            ("off_policy", self.off_policy in ("none", "vtrace"), "none or vtrace"),
            ("c_clip", self.c_clip > 0, "above 0"),
            ("rho_clip", self.rho_clip >= self.c_clip, f"c_clip, {self.c_clip}, or more"),
            ("value_first", self.value_first == 0 or self.reinforce, "0 where the agent does not reinforce"),
            ("value_first", self.value_first == 0 or self.value_coef > 0, "0 where value_coef is 0"),
            ("value_first", self.value_first >= 0, "0 or more decisions"),
        )
        check_options("learner.", self, rows)


class A3CLosses(NamedTuple):
    """Scalars, each with its gradient, of which the student minimises ``total``; and the advantages behind them."""

    total: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    advantages: Tensor  # [T, B], without gradient


class Student(pl.LightningModule):
    """One agent in its own environment: network, learner settings and losses. The root module steps its optimizer.

    Args:
        env: the task.
        network: structure of the policy network.
        learner: settings of the reinforcement loss and of the optimizer.

    Raises:
        EnvError: the environment cannot be used.
        ConfigError: the trunk cannot read its observations.
    """

    certificated_at: int | None = None
    begun = ""  # what its first weights are, where it did not make them itself

    def __init__(self, env: EnvConfig, network: NetworkConfig, learner: LearnerConfig) -> None:
        super().__init__()
        self.env = env
        self.learner: LearnerConfig | None = learner
        self.spec = describe(env)
        resolved = resolve(env)
        assert resolved.view is not None
        self.view, self.game = resolved.view, resolved.id.rpartition(":")[2]
        self.network = PolicyNetwork(network, self.spec.obs_shape, self.spec.num_actions)

    def check_playable(self) -> None:
        """Nothing: its task was made to find its spec."""

    def learning(self, env_steps: int) -> list[nn.Parameter]:
        """The parameters that learn at T."""
        alone = self.learner is not None and env_steps < self.learner.value_first
        return list((self.network.value_head if alone else self.network).parameters())

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """The network over all T+1 rows of a rollout."""
        output: PolicyOutput = self.network(rollout.obs, rollout.state, rollout.resets)
        return output.masked(rollout.masks)

    def reinforcement_losses(
        self,
        output: PolicyOutput,
        rollout: Rollout,
        time_limit: Literal["bootstrap", "terminal"] = "bootstrap",
        env_steps: int = 0,
    ) -> A3CLosses | None:
        """A3C with GAE over a rollout, summed over time, averaged over copies (Algorithm 1, lines 16-23).

        None for a student that does not learn from its own rewards.

        Args:
            output: of ``forward`` on this rollout, [T+1, B, ...].
            rollout: the agent's own.
            time_limit: "bootstrap" from the value of the last observation, or as a "terminal" (the authors' program).
            env_steps: decisions of the agent so far, which decide the weight of the entropy bonus.
        """
        config, steps = self.learner, rollout.steps
        if config is None or not config.reinforce:
            return None
        rewards = rollout.rewards * config.reward_scale
        if config.clip_rewards:
            rewards = rewards.clamp(-1.0, 1.0)
        terminated, truncated = rollout.terminated, rollout.truncated
        if time_limit == "terminal":
            terminated, truncated = terminated | truncated, truncated & False
        logits, values, counts = output.logits[:steps], output.values.detach(), self.spec.action_counts
        played = (rewards, values, terminated, truncated, rollout.final_values)
        if config.off_policy == "vtrace":
            log_ratios = log_prob(logits.detach(), rollout.actions, counts) - rollout.log_probs
            clips = (config.rho_clip, config.c_clip)
            advantages, returns = vtrace(*played, log_ratios, config.gamma, config.lam, *clips)
        else:
            advantages, returns = gae(*played, config.gamma, config.lam)
        policy = losses.reduce(losses.policy_loss(logits, rollout.actions, advantages, counts), "sum")
        value = losses.reduce(losses.value_loss(output.values[:steps], returns), "sum")
        entropy = losses.reduce(entropy_per_step(logits, counts), "sum")
        weight = linear(config.entropy_coef, config.entropy_end, config.entropy_steps, env_steps)
        total = config.value_coef * value
        if env_steps >= config.value_first:
            total = policy + total - weight * entropy
        return A3CLosses(total, policy, value, entropy, advantages)
