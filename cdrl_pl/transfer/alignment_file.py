"""Stored alignments: F in a .safetensors file, and a .json record beside it that carries its SHA-256."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from cdrl_pl.checks import ConfigError
from cdrl_pl.networks import AlignmentNetwork
from cdrl_pl.storage import verified
from cdrl_pl.storage.atomic import write_json, write_whole
from cdrl_pl.storage.fingerprint import versions
from cdrl_pl.storage.verified import CertificateError

Meanings = tuple[tuple[str, ...], tuple[str, ...]]
"""The action meanings of a teacher and of a student."""
EXPECTED = "a stored alignment is a .safetensors file with a .json of the same name beside it"
FORMAT = 1


@dataclass(frozen=True)
class AlignmentRecord:
    """What is known of a stored F.

    Attributes:
        teacher: action meanings of the teacher's side.
        student: action meanings of the student's side.
        hidden: width of its hidden layers, in units.
        depth: number of its hidden layers.
        activation: of its hidden layers.
        training: where it was trained, and for how many decisions.
        versions: of what trained it.
        sha256: of the file with its weights, in hex.
        input: what it reads of the teacher.
        features: how many numbers the teacher's heads read, D; 0 where it reads logits alone.
        format: of this record.
    """

    teacher: tuple[str, ...]
    student: tuple[str, ...]
    hidden: int
    depth: int
    activation: Literal["relu", "elu"]
    training: dict[str, Any]
    versions: dict[str, str]
    sha256: str
    input: Literal["logits", "features", "both"] = "logits"
    features: int = 0
    format: int = FORMAT

    @property
    def inputs(self) -> int:
        """How many numbers it reads: k_alpha, D, or k_alpha + D."""
        return self.features + (0 if self.input == "features" else len(self.teacher))


def save_alignment(
    path: str | Path,
    network: nn.Module,
    meanings: Meanings,
    training: dict[str, Any],
    read: Literal["logits", "features", "both"] = "logits",
) -> None:
    """Writes F to a .safetensors file and its record to a .json beside it, each whole or not at all.

    Args:
        path: of the .safetensors file.
        network: of an ``Alignment``.
        meanings: of the actions on both sides.
        training: where it was trained, and for how many decisions, in plain JSON.
        read: what it reads of the teacher.

    Raises:
        ConfigError: an identity, which is nothing to store.
        CertificateError: another file name.
    """
    path = Path(path)
    if not isinstance(network, AlignmentNetwork):
        raise ConfigError(f"{path}: only an alignment network can be stored, not an identity or a known alignment")
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
        sha256=verified.sha256(weights),
        input=read,
        features=0 if read == "logits" else network.inputs - (len(meanings[0]) if read == "both" else 0),
    )
    write_whole(path, weights)
    write_json(path.with_suffix(".json"), asdict(record))
    load_alignment(path)  # what was written is read back before it is called stored


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
        content = json.loads(verified.read(beside, EXPECTED))
        if content.get("format") != FORMAT:
            raise CertificateError(f"{beside}: format {content.get('format')!r}; only {FORMAT} can be read")
        record = verified.record(AlignmentRecord, content)
    except CertificateError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CertificateError(f"{beside} is no record of an alignment: {type(error).__name__}: {error}") from None
    weights = verified.read_verified(path, record.sha256, EXPECTED)
    sizes = (record.inputs, len(record.student), record.hidden, record.depth)
    if min(sizes) < 1 or max(sizes) > 2**14 or record.depth > 100:
        raise CertificateError(f"{beside}: sizes {str(sizes)[:200]}: refused")
    with torch.device("meta"):
        expected = AlignmentNetwork(*sizes, record.activation).state_dict()
    verified.check_tensors(path, expected, "the alignment that its record names")
    network = AlignmentNetwork(*sizes, record.activation)
    network.load_state_dict(load_tensors(weights))
    return record, network


def _check_name(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise CertificateError(f"{path}: {EXPECTED}")
