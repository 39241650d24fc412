"""The deep alignment: the function F from a teacher's logits to a student's, and the loss that trains it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.class_paths import is_class_path, made
from cdrl_pl.distributions import Counts, starts
from cdrl_pl.networks import AlignmentNetwork
from cdrl_pl.presets import Preset
from cdrl_pl.storage.verified import CertificateError
from cdrl_pl.transfer.alignment_file import Meanings, load_alignment
from cdrl_pl.transfer.fitted import FITTED, FittedAlignment
from cdrl_pl.transfer.ground_truth import KnownAlignment
from cdrl_pl.types import TeacherOutput, masked

KINDS = ("deep", "identity", "known", *FITTED)
Input = Literal["logits", "features", "both"]
INPUTS: tuple[Input, ...] = ("logits", "features", "both")


@dataclass
class AlignmentConfig:
    """The alignment function of one transfer.

    Attributes:
        kind: "deep" is the alignment network, "identity" passes the teacher's logits on (equal numbers of actions
            only), "known" is made from the right alignment (both ends in one game), to measure what F is worth.
            "sorted" and "affine" are baselines without weights, fitted from T1 on to what both policies did of late:
            "sorted" matches the actions of both sides in the order of their mean probabilities, "affine" is the
            least-squares map from logits to logits. Or the class path of a torch module of your own, made as
            F(teacher_actions, student_actions, **options), which gives logits [..., student_actions] of logits
            [..., teacher_actions].
        input: What F reads of the teacher: its "logits", as in the paper; its "features", which are what its heads
            read, behind trunk and memory; or "both". Where the teacher's actions mean nothing in the student's game,
            its features may still tell states apart that its logits do not. Only for "deep".
        options: Keywords of an alignment function of your own.
        right: Probability with which a "known" F is right, 0 to 1; else it says any other action.
        exchanged: Names of the teacher's actions for which a "known" F is wrong: their images go round in a cycle.
        hidden: Width of every hidden layer of the alignment network, in units.
        depth: Number of hidden layers of the alignment network.
        lr: Learning rate of Adam, without unit.
        max_grad_norm: Largest global norm of the alignment network's gradient, without unit; a longer one is scaled
            down to it.
        divergence: Divergence in nats between the student's policy and F(teacher): "forward", "reverse" or
            "jensen_shannon"; null takes the preset's, "forward" in the paper and "reverse" in the program. See
            ``losses.divergence``.
        file: The .safetensors file of a stored F, which brings its own structure and stays as it is (the second stage
            of the paper's offline protocol, Figure 6a); null makes a new one, which is trained from T1 on.
    """

    kind: str = "deep"
    input: Input = "logits"
    options: dict[str, Any] = field(default_factory=dict)
    right: float = 1.0
    exchanged: list[str] = field(default_factory=list)
    hidden: int = 512
    depth: int = 4
    lr: float = 1e-4
    max_grad_norm: float = 40.0
    divergence: losses.Divergence | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        positive = [(name, getattr(self, name) > 0, "above 0") for name in ("hidden", "depth", "lr", "max_grad_norm")]
        own = is_class_path(self.kind)
        known = f"one of {', '.join(losses.DIVERGENCES)}, or null"
        rows = [
            ("kind", own or self.kind in KINDS, f"{', '.join(KINDS)}, or the class path of a torch module"),
            ("input", self.input in INPUTS, " or ".join(INPUTS)),
            ("input", self.kind == "deep" or self.input == "logits", "logits, but under kind deep"),
            ("options", own or not self.options, "empty, but for a kind by class path"),
            ("right", self.right == 1 or (self.kind == "known" and 0 <= self.right < 1), "0 to 1, under kind known"),
            ("exchanged", self.kind == "known" or not self.exchanged, "empty, but under kind known"),
            ("exchanged", _distinct(self.exchanged), "two actions or more, each once"),
            ("divergence", self.divergence in (None, *losses.DIVERGENCES), known),
            *positive,
        ]
        check_options("alignment.", self, rows)
        if self.file is not None and self.kind != "deep":
            raise ConfigError(
                f"alignment.file is {self.file!r}, but alignment.kind is {self.kind!r}; only 'deep' has one"
            )


def _distinct(names: list[str]) -> bool:
    return len(names) != 1 and len(set(names)) == len(names)


def _own(config: AlignmentConfig, teacher_actions: int, student_actions: int) -> nn.Module:
    network = made("alignment.kind", config.kind, config.options, teacher_actions, student_actions)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ConfigError(f"alignment.kind is {config.kind!r}, which makes a {kind}; it must be a torch.nn.Module")
    with torch.no_grad():
        shape = tuple(network(torch.zeros(2, 3, teacher_actions)).shape)
    if shape != (2, 3, student_actions):
        raise ConfigError(
            f"alignment.kind is {config.kind!r}, which gives {shape} of logits (2, 3, {teacher_actions}); "
            f"it must be (2, 3, {student_actions})"
        )
    return network


class Alignment(pl.LightningModule):
    """F: what it reads of the teacher [..., k_alpha, D, or k_alpha + D] -> [..., k_beta].

    ``trainable`` says whether an optimizer trains it, ``learns`` whether anything in it changes from T1 on.

    Args:
        config: structure.
        teacher_actions: k_alpha.
        student_actions: k_beta.
        preset: the paper's text or its authors' program.
        meanings: of the actions on both sides; a stored F must have been made for the same.
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta]; None where no alignment is known to be right.
        counts: of the actions of each choice, where several are made at once, on both sides.
        features: D, of the teacher's.

    Raises:
        ConfigError: identity between different numbers of actions; a known F where none is known.
        CertificateError: a stored F that cannot be trusted, or that is for other actions.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        teacher_actions: int,
        student_actions: int,
        preset: Preset,
        meanings: Meanings | None = None,
        ground_truth: Tensor | None = None,
        counts: tuple[Counts, Counts] = ((), ()),
        features: int = 0,
    ) -> None:
        super().__init__()
        inputs = {"logits": teacher_actions, "features": features, "both": teacher_actions + features}[config.input]
        self.config, self.preset, self.counts = config, preset, counts[1]
        choices = (len(counts[0]), len(counts[1])) if config.kind in FITTED else counts
        if config.kind != "deep" and choices[0] != choices[1]:
            raise ConfigError(
                f"alignment.kind is {config.kind!r}, but the teacher chooses from {counts[0] or teacher_actions} "
                f"actions and the student from {counts[1] or student_actions}; use 'deep'"
            )
        self.network: nn.Module
        if config.kind == "identity":
            if teacher_actions != student_actions:
                raise ConfigError(
                    f"alignment.kind is 'identity', but the teacher has {teacher_actions} actions and the student "
                    f"{student_actions}; use 'deep'"
                )
            self.network = nn.Identity()
        elif config.kind == "known":
            if ground_truth is None or meanings is None:
                raise ConfigError("alignment.kind is 'known', but teacher and student do not play one game; use 'deep'")
            if unknown := [name for name in config.exchanged if name not in meanings[0]]:
                raise ConfigError(
                    f"alignment.exchanged is {config.exchanged}, but {unknown[0]} is none of the teacher's actions: "
                    + ", ".join(meanings[0])
                )
            exchanged = [meanings[0].index(name) for name in config.exchanged]
            if len({sum(action >= start for start in starts(counts[0])) for action in exchanged}) > 1:
                raise ConfigError(f"alignment.exchanged is {config.exchanged}; it must have actions of one choice")
            self.network = KnownAlignment(ground_truth, config.right, exchanged, counts[0])
        elif config.kind in FITTED:
            self.network = FITTED[config.kind](counts[0] or (teacher_actions,), counts[1] or (student_actions,))
        elif config.file is not None:
            stored, self.network = load_alignment(config.file)
            self.requires_grad_(False)
            found: Any = (stored.teacher, stored.student)
            wanted: Any = meanings
            if meanings is None:
                found, wanted = (len(stored.teacher), len(stored.student)), (teacher_actions, student_actions)
            if found != wanted:
                raise CertificateError(
                    f"alignment.file {config.file!r} maps actions {found[0]} to {found[1]}, "
                    f"the transfer's are {wanted[0]} and {wanted[1]}"
                )
            if (stored.input, stored.inputs) != (config.input, inputs):
                raise CertificateError(
                    f"alignment.file {config.file!r} reads {stored.inputs} numbers, the teacher's {stored.input}; "
                    f"the transfer's alignment.input is {config.input!r}, {inputs} numbers"
                )
        elif is_class_path(config.kind):
            self.network = _own(config, teacher_actions, student_actions)
        else:
            self.network = AlignmentNetwork(inputs, student_actions, config.hidden, config.depth, preset.activation)
        self.trainable = any(parameter.requires_grad for parameter in self.network.parameters())
        self.fitted = self.network if isinstance(self.network, FittedAlignment) else None
        self.learns = self.trainable or self.fitted is not None

    def reads(self, said: TeacherOutput) -> Tensor:
        """What F reads of what the teacher says: [T, B, k_alpha, D, or k_alpha + D], the logits first."""
        if said.features is None:
            return said.logits
        return said.features if self.config.input == "features" else torch.cat([said.logits, said.features], -1)

    def forward(self, read: Tensor) -> Tensor:
        """F of what it reads [..., k_alpha, D, or k_alpha + D]: in the student's action space, [..., k_beta] fp32."""
        aligned: Tensor = self.network(read)
        return aligned.float()

    def loss(self, policy_logits: Tensor, read: Tensor, temperature: float, masks: Tensor | None = None) -> Tensor:
        """l_KL(z_beta, F(z_alpha), tau) over F alone: the student's own policy is the target (Algorithm 1, line 27).

        Args:
            policy_logits: the student's [T, B, k_beta], detached here.
            read: of the teacher, as in ``reads``.
            temperature: tau, dividing the student's logits.
            masks: which of the student's actions may be played, [T, B, k_beta]; None: all of them.

        Returns:
            A scalar, reduced as the preset says. The authors' program has the KL the other way round (``divergence``).
        """
        kind = self.config.divergence or self.preset.alignment_kl
        tau = temperature if self.preset.use_temperature else 1.0
        aligned = masked(self(read), masks)
        per_step = losses.divergence(kind, policy_logits, aligned, tau, self.counts)
        return losses.reduce(per_step, self.preset.kl_reduction)
