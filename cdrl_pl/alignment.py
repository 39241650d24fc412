"""The deep alignment: the function F from a teacher's logits to a student's, and the loss that trains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytorch_lightning as pl
from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.networks import AlignmentNetwork
from cdrl_pl.reading import Reading


@dataclass
class AlignmentConfig:
    """The alignment function of one transfer.

    Attributes:
        kind: "deep" is the alignment network, "identity" passes the teacher's logits on (same action spaces only).
        hidden: width of its hidden layers. depth: number of hidden layers.
        lr: Adam's learning rate. max_grad_norm: global-norm clip of its gradient.
        divergence: between the student's policy and F(teacher); null takes the reading's, "forward" in the paper and
            "reverse" in the program. See ``losses.divergence``.
    """

    kind: Literal["deep", "identity"] = "deep"
    hidden: int = 512
    depth: int = 4
    lr: float = 1e-4
    max_grad_norm: float = 40.0
    divergence: losses.Divergence | None = None

    def __post_init__(self) -> None:
        if self.divergence not in (None, *losses.DIVERGENCES):
            allowed = ", ".join(losses.DIVERGENCES)
            raise ValueError(f"alignment.divergence is {self.divergence!r}; it must be one of {allowed}, or null")
        for name in ("hidden", "depth", "lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"alignment.{name} is {getattr(self, name)}; it must be above 0")


class Alignment(pl.LightningModule):
    """F: [..., k_alpha] -> [..., k_beta].

    Args:
        config: structure. teacher_actions, student_actions: k_alpha and k_beta. reading: text or program.

    Raises:
        ValueError: identity between different numbers of actions.
    """

    def __init__(self, config: AlignmentConfig, teacher_actions: int, student_actions: int, reading: Reading) -> None:
        super().__init__()
        self.config, self.reading = config, reading
        self.network: nn.Module
        if config.kind == "identity":
            if teacher_actions != student_actions:
                raise ValueError(
                    f"alignment.kind is 'identity', but the teacher has {teacher_actions} actions and the student "
                    f"{student_actions}; use 'deep'"
                )
            self.network = nn.Identity()
        else:
            self.network = AlignmentNetwork(
                teacher_actions, student_actions, config.hidden, config.depth, reading.activation
            )

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train."""
        return self.config.kind == "deep"

    def forward(self, advice: Tensor) -> Tensor:
        """The teacher's logits in the student's action space, [..., k_beta] fp32."""
        aligned: Tensor = self.network(advice)
        return aligned.float()

    def loss(self, policy_logits: Tensor, advice: Tensor, temperature: float) -> Tensor:
        """l_KL(z_beta, F(z_alpha), tau) over F alone: the student's own policy is the target (Algorithm 1, line 27).

        Args:
            policy_logits: the student's [T, B, k_beta], detached here. advice: the teacher's [T, B, k_alpha].

        Returns:
            A scalar, reduced as the reading says. The authors' program has the KL the other way round (``divergence``).
        """
        kind = self.config.divergence or self.reading.alignment_kl
        tau = temperature if self.reading.use_temperature else 1.0
        return losses.reduce(losses.divergence(kind, policy_logits, self(advice), tau), self.reading.kl_reduction)
