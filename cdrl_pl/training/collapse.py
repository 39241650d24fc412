"""The alarm for a policy that had begun to look at its observations and no longer does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightning_utilities.core.rank_zero import rank_zero_warn

from cdrl_pl import metric_names

LOOKED = 1e-3  # nats of state information from which on a policy counts as one that looks at its observations
LEFT = 1e-3  # share of the most that it ever had, below which it counts as one that does not
LINES = 3  # log lines in a row


class CollapseAlarm:
    """Warns of a policy whose actions once depended on the observation and now do not.

    Steps too large can leave the units of a trunk, or of a memory, where they give the same for every input, and their
    gradients next to nothing. Losses, entropy and lengths go on moving, so the run looks alive, and learns nothing.

    Args:
        agents: names of those that play.
    """

    def __init__(self, agents: Iterable[str]) -> None:
        self._most = dict.fromkeys(agents, 0.0)  # nats
        self._lines = dict.fromkeys(self._most, 0)

    def check(self, line: Mapping[str, float]) -> None:
        """Warns once, when a policy has been so for ``LINES`` log lines.

        Args:
            line: the log line.
        """
        for name, most in self._most.items():
            information = line.get(metric_names.STATE_INFORMATION(name))
            if information is None:  # it does not learn
                continue
            self._most[name] = max(most, information)
            self._lines[name] = self._lines[name] + 1 if most >= LOOKED and information < LEFT * most else 0
            if self._lines[name] == LINES:
                rank_zero_warn(
                    f"the policy of {name} now acts alike whatever it sees (state information {information:.1g} nats, "
                    f"once {most:.2g}): its network may have died of steps too large, and seldom recovers; begin anew "
                    f"with a lower lr or max_grad_norm, or with value_first, in model.agents.{name}.learner"
                )

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Plain numbers."""
        return {"most": dict(self._most), "lines": dict(self._lines)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Goes on from ``state_dict``."""
        self._most = {name: state["most"][name] for name in self._most}
        self._lines = {name: int(state["lines"][name]) for name in self._lines}
