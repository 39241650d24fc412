"""The callbacks, whose source is the folder ``callbacks/`` beside this package: the name that nothing shadows.

``callbacks`` is the same module under its short name, unless a folder of that name is found first.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__path__ = [str(Path(__file__).resolve().parents[1] / "callbacks")]  # its modules are these

if TYPE_CHECKING:
    from callbacks.actions import ActionDistributions
    from callbacks.alignment import StoredAlignment
    from callbacks.certificate import CertificatedTeacher
    from callbacks.checkpoint import EnvStepsCheckpoint
    from callbacks.progress import Progress
    from callbacks.transfers import AlignmentSchedule, DistillationSchedule
else:
    ActionDistributions = import_module("cdrl_pl.callbacks.actions").ActionDistributions
    StoredAlignment = import_module("cdrl_pl.callbacks.alignment").StoredAlignment
    CertificatedTeacher = import_module("cdrl_pl.callbacks.certificate").CertificatedTeacher
    EnvStepsCheckpoint = import_module("cdrl_pl.callbacks.checkpoint").EnvStepsCheckpoint
    Progress = import_module("cdrl_pl.callbacks.progress").Progress
    AlignmentSchedule = import_module("cdrl_pl.callbacks.transfers").AlignmentSchedule
    DistillationSchedule = import_module("cdrl_pl.callbacks.transfers").DistillationSchedule

__all__ = [
    "ActionDistributions",
    "AlignmentSchedule",
    "CertificatedTeacher",
    "DistillationSchedule",
    "EnvStepsCheckpoint",
    "Progress",
    "StoredAlignment",
]
