"""Lightning callbacks: when transfers teach, what is stored, and what a person sees."""

from callbacks.actions import ActionDistributions
from callbacks.alignment import StoredAlignment
from callbacks.certificate import CertificatedTeacher
from callbacks.checkpoint import EnvStepsCheckpoint
from callbacks.progress import Progress
from callbacks.transfers import AlignmentSchedule, DistillationSchedule

__all__ = [
    "ActionDistributions",
    "AlignmentSchedule",
    "CertificatedTeacher",
    "DistillationSchedule",
    "EnvStepsCheckpoint",
    "Progress",
    "StoredAlignment",
]
