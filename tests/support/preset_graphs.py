"""What tests of the presets share."""

from __future__ import annotations

from typing import Any

from graphs import graph, spread, transfer

from cdrl_pl.presets import PRESETS, PresetOverrides
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig

TABLE: dict[str, tuple[Any, Any]] = {
    # field: text, program; in the order of the specification's section 6
    "activation": ("relu", "elu"),
    "alignment_kl": ("forward", "reverse"),
    "use_temperature": (True, False),
    "kl_reduction": ("sum", "mean"),
    "teacher_state": ("own", "student"),
    "distill_step": ("joint", "separate"),
    "order": ("align_first", "distill_first"),
    "T1": (4_000_000, 1_000_000),
    "T2": (6_000_000, 2_000_000),
    "stop": (15_000_000, None),
    "concatenate": (False, True),
    "time_limit": ("bootstrap", "terminal"),
}


def make(preset: str, *, agents: dict[str, AgentConfig] | None = None, row: str = "", **options: Any) -> Collaboration:
    """A preset; or, where ``row`` names a row of the table, the text with the preset's value in this row alone."""
    overrides = None
    if row:
        overrides, preset = PresetOverrides(**{row: getattr(PRESETS[preset], row)}), "paper"
    module = graph(transfer(**options), agents=agents, preset=preset, preset_overrides=overrides)
    for i, found in enumerate(module.agents.values()):
        spread(found.network, i)
    return module
