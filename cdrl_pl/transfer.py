"""A transfer: the directed edge from a teacher to a student."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.alignment import Alignment, AlignmentConfig
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.reading import Reading
from cdrl_pl.schedule import Schedule
from cdrl_pl.teacher import Teacher
from cdrl_pl.types import PolicyOutput, Rollout


@dataclass
class TransferConfig:
    """One edge of the graph.

    Attributes:
        teacher, student: names of agents.
        T1: decisions of the student at which alignment training starts; null takes the preset's.
        T2: decisions at which distillation starts; null takes the preset's.
        stop: decisions at which both end; null takes the preset's, "never" has no end.
        temperature: tau, dividing the target's logits.
        weight: of the distillation loss beside the reinforcement loss.
        layer: the student layer it distils into; "policy" is for teachers of the same actions.
        alignment: the alignment function F.
    """

    teacher: str
    student: str
    T1: int | None = None
    T2: int | None = None
    stop: int | Literal["never"] | None = None
    temperature: float = 1.0
    weight: float = 1.0
    layer: Literal["distillation", "policy"] = "distillation"
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    @property
    def name(self) -> str:
        """teacher-student, as in the logs."""
        return f"{self.teacher}-{self.student}"

    def schedule(self, reading: Reading) -> Schedule:
        """T1, T2 and stop, with the reading's where the config has none.

        Raises:
            ValueError: a schedule that cannot be.
        """
        stop = reading.stop if self.stop is None else None if self.stop == "never" else self.stop
        first = reading.T1 if self.T1 is None else self.T1
        second = reading.T2 if self.T2 is None else self.T2
        try:
            return Schedule(None if self.alignment.kind == "identity" else first, second, stop)
        except ValueError as error:
            raise ValueError(f"transfer {self.name}: {error}") from None


class Transfer(nn.Module):
    """A teacher's network, its alignment into a student's actions, and the switches that the schedule callbacks set.

    Raises:
        ValueError: ends that do not fit together, naming both.
    """

    def __init__(
        self, config: TransferConfig, teacher: PolicyNetwork, student: PolicyNetwork, reading: Reading
    ) -> None:
        super().__init__()
        self.config, self.reading, self.name = config, reading, config.name
        if not config.temperature > 0:
            raise ValueError(f"transfer {self.name}: temperature is {config.temperature}; it must be above 0")
        if not config.weight >= 0:
            raise ValueError(f"transfer {self.name}: weight is {config.weight}; it must be 0 or more")
        if teacher.obs_shape != student.obs_shape:
            raise ValueError(
                f"transfer {self.name}: the teacher reads observations of shape {teacher.obs_shape}, the student's "
                f"environment gives {student.obs_shape}; they must be equal"
            )
        if reading.teacher_state == "student" and teacher.state_size != student.state_size:
            raise ValueError(
                f"transfer {self.name}: the student's recurrent state ({student.state_size} numbers) cannot be fed to "
                f"the teacher ({teacher.state_size}); use teacher_state: own"
            )
        self.teacher = Teacher(teacher)
        try:
            self.alignment = Alignment(config.alignment, teacher.num_actions, student.num_actions, reading)
        except ValueError as error:
            raise ValueError(f"transfer {self.name}: {error}") from None
        self.schedule = config.schedule(reading)
        self.aligning = False
        self.distilling = False

    @property
    def active(self) -> bool:
        """Whether the teacher is needed at all."""
        return self.aligning or self.distilling

    def advise(self, rollout: Rollout) -> Tensor:
        """The teacher's logits [T, B, k_alpha] on the student's rollout."""
        return self.teacher.advise(rollout, self.reading.teacher_state == "student")

    def alignment_loss(self, output: PolicyOutput, advice: Tensor) -> Tensor:
        """Trains F towards the student's own policy; see ``Alignment.loss``."""
        return self.alignment.loss(output.logits[: len(advice)].detach(), advice, self.config.temperature)

    def distillation_loss(self, output: PolicyOutput, aligned: Tensor) -> Tensor:
        """l_KL(F(z_alpha), z_beta', tau) (Algorithm 1, line 31): a scalar over trunk, LSTM and the distilled layer.

        Args:
            output: the student's, [T+1, B, ...] or [T, B, ...]. aligned: F(z_alpha) [T, B, k_beta]; gets no gradient.
        """
        layer = output.distill_logits if self.config.layer == "distillation" else output.logits
        temperature = self.config.temperature if self.reading.use_temperature else 1.0
        return losses.reduce(losses.kl(aligned, layer[: len(aligned)], temperature), self.reading.kl_reduction)
