"""The deep alignment: the function F from a teacher's logits to a student's, and the loss that trains it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cdrl_pl import losses, storage
from cdrl_pl.files import write_json, write_whole
from cdrl_pl.fingerprint import versions
from cdrl_pl.networks import AlignmentNetwork
from cdrl_pl.reading import Reading
from cdrl_pl.storage import CertificateError

Meanings = tuple[tuple[str, ...], tuple[str, ...]]
"""The action meanings of a teacher and of a student."""
Task = tuple[str, tuple[str, ...]]
"""The id of a game, and what the actions of an agent in it mean."""
EXPECTED = "a stored alignment is a .safetensors file with a .json of the same name beside it"
FORMAT = 1


@dataclass
class AlignmentConfig:
    """The alignment function of one transfer.

    Attributes:
        kind: "deep" is the alignment network, "identity" passes the teacher's logits on (same action spaces only).
        hidden: width of its hidden layers. depth: number of hidden layers.
        lr: Adam's learning rate. max_grad_norm: global-norm clip of its gradient.
        file: the .safetensors file of a stored F, which brings its own structure and stays as it is (the second stage
            of the paper's offline protocol, Figure 6a); null makes a new one, which T1 begins to train.
        divergence: between the student's policy and F(teacher); null takes the reading's, "forward" in the paper and
            "reverse" in the program. See ``losses.divergence``.
    """

    kind: Literal["deep", "identity"] = "deep"
    hidden: int = 512
    depth: int = 4
    lr: float = 1e-4
    max_grad_norm: float = 40.0
    divergence: losses.Divergence | None = None
    file: str | None = None

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train."""
        return self.kind == "deep" and self.file is None

    def __post_init__(self) -> None:
        if self.divergence not in (None, *losses.DIVERGENCES):
            allowed = ", ".join(losses.DIVERGENCES)
            raise ValueError(f"alignment.divergence is {self.divergence!r}; it must be one of {allowed}, or null")
        for name in ("hidden", "depth", "lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"alignment.{name} is {getattr(self, name)}; it must be above 0")
        if self.file is not None and self.kind != "deep":
            raise ValueError(
                f"alignment.file is {self.file!r}, but alignment.kind is {self.kind!r}; only 'deep' has one"
            )


class Alignment(pl.LightningModule):
    """F: [..., k_alpha] -> [..., k_beta].

    Args:
        config: structure. teacher_actions, student_actions: k_alpha and k_beta. reading: text or program.
        meanings: of the actions on both sides; a stored F must have been made for the same.

    Raises:
        ValueError: identity between different numbers of actions. CertificateError: a stored F that cannot be trusted,
            or that is for other actions.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        teacher_actions: int,
        student_actions: int,
        reading: Reading,
        meanings: Meanings | None = None,
    ) -> None:
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
        else:
            self.network = AlignmentNetwork(
                teacher_actions, student_actions, config.hidden, config.depth, reading.activation
            )

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train."""
        return self.config.trainable

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


# What F got right, where the right answer is known


def known_map(teacher: Task, student: Task) -> Tensor | None:
    """Which of the student's actions play the same as each of the teacher's: bool [k_alpha, k_beta].

    None where the two are not the same game: then no alignment is known to be right.
    """
    if teacher[0] != student[0]:
        return None
    return torch.tensor([[theirs == own for own in student[1]] for theirs in teacher[1]])


def accuracy(advice: Tensor, aligned: Tensor, known: Tensor) -> Tensor:
    """Share of rows where F's most probable play is the teacher's most probable play: a scalar.

    Actions that play the same count together, with the sum of their probabilities, on both sides; a play that the
    student does not have counts as wrong.

    Args:
        advice: the teacher's logits [..., k_alpha]. aligned: F of them [..., k_beta]. known: of ``known_map``.
    """
    same = (known[:, None] == known).all(-1)  # [k_alpha, k_alpha]: two of the teacher's actions that play the same
    wanted = (advice.float().softmax(-1) @ same.float()).argmax(-1, keepdim=True)
    found = aligned.float().softmax(-1) @ known.float().T  # [..., k_alpha]: probability of the play of each
    return (found.gather(-1, wanted) >= found.amax(-1, keepdim=True) - 1e-6).float().mean()


def one_hot_accuracy(alignment: Alignment, known: Tensor, peak: float = 4.0) -> Tensor:
    """``accuracy`` of F alone: one row per teacher action, whose logit is ``peak`` above the others', sum 0."""
    rows = peak * torch.eye(len(known), device=next((p.device for p in alignment.parameters()), None))
    rows -= rows.mean(-1, keepdim=True)
    return accuracy(rows, alignment(rows), known)


# A stored F


@dataclass(frozen=True)
class AlignmentRecord:
    """What is known of a stored F.

    Attributes:
        teacher, student: action meanings of both sides. hidden, depth, activation: structure.
        training: where it was trained, for how many decisions. versions: of what trained it. sha256: of its file.
    """

    teacher: tuple[str, ...]
    student: tuple[str, ...]
    hidden: int
    depth: int
    activation: Literal["relu", "elu"]
    training: dict[str, Any]
    versions: dict[str, str]
    sha256: str
    format: int = FORMAT


def save_alignment(path: str | Path, alignment: Alignment, meanings: Meanings, training: dict[str, Any]) -> None:
    """Writes F to a .safetensors file and its record to a .json beside it, each whole or not at all.

    Raises:
        ValueError: an identity, which is nothing to store; or another file name.
    """
    path, network = Path(path), alignment.network
    if not isinstance(network, AlignmentNetwork):
        raise ValueError(f"{path}: an identity alignment is nothing to store")
    _check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    record = AlignmentRecord(
        *meanings,
        hidden=network.hidden,
        depth=network.depth,
        activation=network.activation,
        training=training,
        versions=versions(),
        sha256=storage.sha256(weights),
    )
    write_whole(path, weights)
    write_json(path.with_suffix(".json"), asdict(record))


def load_alignment(path: str | Path) -> tuple[AlignmentRecord, AlignmentNetwork]:
    """A stored F, verified.

    Raises:
        CertificateError: a file is missing or malformed, the checksum does not match, or the weights are not of the
            structure that the record names.
    """
    path = Path(path)
    _check_name(path)
    beside = path.with_suffix(".json")
    try:
        content = json.loads(storage.read(beside, EXPECTED))
        if content.get("format") != FORMAT:
            raise CertificateError(f"{beside}: format {content.get('format')!r}; only {FORMAT} can be read")
        record = storage.record(AlignmentRecord, content)
    except CertificateError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CertificateError(f"{beside} is no record of an alignment: {type(error).__name__}: {error}") from None
    weights = storage.read_verified(path, record.sha256, EXPECTED)
    sizes = (len(record.teacher), len(record.student), record.hidden, record.depth)
    if min(sizes) < 1 or max(sizes) > 2**14 or record.depth > 100:
        raise CertificateError(f"{beside}: sizes {str(sizes)[:200]}: refused")
    with torch.device("meta"):
        expected = AlignmentNetwork(*sizes, record.activation).state_dict()
    storage.check_tensors(path, expected, "the alignment that its record names")
    network = AlignmentNetwork(*sizes, record.activation)
    network.load_state_dict(load_tensors(weights))
    return record, network


def _check_name(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise CertificateError(f"{path}: {EXPECTED}")
