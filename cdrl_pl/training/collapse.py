"""The alarm for a policy that had begun to look at its observations and no longer does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightning_utilities.core.rank_zero import rank_zero_warn

from cdrl_pl import metric_names
from cdrl_pl.collapse import LINES, Collapse


class CollapseAlarm:
    """Warns of a policy whose actions once depended on the observation and now do not.

    Steps too large can leave the units of a trunk, or of a memory, where they give the same for every input, and their
    gradients next to nothing. Losses, entropy and lengths go on moving, so the run looks alive, and learns nothing.

    Args:
        agents: names of those that play.
    """

    def __init__(self, agents: Iterable[str]) -> None:
        self._policies = {name: Collapse() for name in agents}

    def check(self, line: Mapping[str, float]) -> None:
        """Warns once, when a policy has been so for ``LINES`` log lines.

        Args:
            line: the log line.
        """
        for name, policy in self._policies.items():
            information = line.get(metric_names.STATE_INFORMATION(name))
            if information is not None and policy.add(information) and policy.lines == LINES:
                rank_zero_warn(
                    f"the policy of {name} now acts alike whatever it sees (state information {information:.1g} nats, "
                    f"once {policy.most:.2g}): its network may have died of steps too large, and seldom recovers; "
                    f"begin anew with a lower lr or max_grad_norm, or with value_first, in model.agents.{name}.learner"
                )

    def state_dict(self) -> dict[str, tuple[float, int]]:
        """Plain numbers."""
        return {name: (policy.most, policy.lines) for name, policy in self._policies.items()}

    def load_state_dict(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Goes on from ``state_dict``."""
        self._policies = {name: Collapse(*state[name]) for name in self._policies}
