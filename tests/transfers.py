"""What tests of transfers share."""

from __future__ import annotations

from typing import Any

import torch
from graphs import transfer as edge

from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.presets import PRESETS, Preset
from cdrl_pl.transfer.transfer import Transfer

PAPER = PRESETS["paper"]


def join(
    teacher: PolicyNetwork, student: PolicyNetwork, kind: str = "deep", preset: Preset = PAPER, **options: Any
) -> Transfer:
    torch.manual_seed(1)
    return Transfer(edge("alpha", "beta", kind, **options), teacher, student, preset)
