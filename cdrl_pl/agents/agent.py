"""The interface of every agent, whether it learns or is frozen."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import nn

from cdrl_pl.agents.student import A3CLosses, LearnerConfig
from cdrl_pl.envs import EnvConfig, EnvSpec, View
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.types import PolicyOutput, Rollout


class Agent(Protocol):
    """A task, and a policy network that plays it."""

    env: EnvConfig
    spec: EnvSpec
    view: View
    """How it sees its game, and any game that it teaches in."""
    network: PolicyNetwork
    learner: LearnerConfig | None
    """How it learns; None: it is frozen."""
    game: str
    """The id of what it plays, without the module that registers it."""
    certificated_at: int | None
    """The decisions that a certificated agent had learned from, where its certificate says so."""

    begun: str
    """What its first weights are, where it did not make them itself; else empty."""

    def __call__(self, rollout: Rollout) -> PolicyOutput:
        """The network over all T+1 rows of a rollout."""

    def reinforcement_losses(
        self,
        output: PolicyOutput,
        rollout: Rollout,
        time_limit: Literal["bootstrap", "terminal"] = "bootstrap",
        env_steps: int = 0,
    ) -> A3CLosses | None:
        """Its losses from its own rewards; None where it does not learn from them.

        Args:
            output: of the network on this rollout, [T+1, B, ...].
            rollout: the agent's own.
            time_limit: "bootstrap" from the value of the last observation, or as a "terminal" (the authors' program).
            env_steps: decisions of the agent so far, which decide the weight of the entropy bonus.
        """

    def learning(self, env_steps: int) -> list[nn.Parameter]:
        """The parameters of its network that learn at T."""

    def check_playable(self) -> None:
        """Raises EnvError where its task cannot be played here."""

    def parameters(self, recurse: bool = True) -> Any:
        """As of any module."""
