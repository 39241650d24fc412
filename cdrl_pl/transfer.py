"""A transfer: the directed edge from a teacher to a student."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.alignment import Alignment, AlignmentConfig
from cdrl_pl.guidance import AlarmConfig, Guidance
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.reading import Reading
from cdrl_pl.schedule import Schedule, WeightConfig, linear
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
        temperature: tau, dividing the target's logits, in both losses.
        temperature_end: tau it goes to in a straight line over ``temperature_steps`` decisions from the transfer's
            start (T1, or T2 where F needs no training); null keeps it.
        temperature_steps: decisions until tau is ``temperature_end``.
        temperature_squared: multiply the distillation loss by tau^2 (Hinton, Vinyals, Dean 2015). There both sides are
            softened and the factor keeps the size of the gradient; here, as in Eqs. 2 and 3, tau divides the target
            alone, so that the factor weighs a softer target more.
        weight: of the distillation loss beside the reinforcement loss; a number, or a schedule.
        divergence: between the aligned teacher and the distilled layer; see ``losses.divergence``.
        layer: the student layer it distils into; "policy" is for teachers of the same actions.
        alignment: the alignment function F.
        alarm: measures whether the transfer hurts, and may release its weight; null does not.
    """

    teacher: str
    student: str
    T1: int | None = None
    T2: int | None = None
    stop: int | Literal["never"] | None = None
    temperature: float = 1.0
    temperature_end: float | None = None
    temperature_steps: int = 1_000_000
    temperature_squared: bool = False
    weight: float | WeightConfig = 1.0
    divergence: losses.Divergence = "forward"
    layer: Literal["distillation", "policy"] = "distillation"
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    alarm: AlarmConfig | None = None

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
        _check(config, reading)
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
        if config.layer == "policy" and teacher.num_actions != student.num_actions:
            raise ValueError(
                f"transfer {self.name}: layer is 'policy', but the teacher has {teacher.num_actions} actions and the "
                f"student {student.num_actions}; use 'distillation'"
            )
        self.schedule = config.schedule(reading)
        weight = config.weight if isinstance(config.weight, WeightConfig) else WeightConfig(start=config.weight)
        self.guidance = Guidance(self.name, weight, config.alarm)
        self.temperature = 1.0
        self.advance(0, None)
        self.aligning = False
        self.distilling = False

    @property
    def active(self) -> bool:
        """Whether the teacher is needed at all."""
        return self.aligning or self.distilling

    def advance(self, env_steps: int, mean_return: float | None) -> None:
        """Sets temperature and weight to what they are at T, for a student with this mean return (None: no episode)."""
        config, schedule = self.config, self.schedule
        self.guidance.advance(env_steps - schedule.T2, mean_return)
        if self.reading.use_temperature:
            began = max(0, env_steps - (schedule.T2 if schedule.T1 is None else schedule.T1))
            self.temperature = linear(config.temperature, config.temperature_end, config.temperature_steps, began)

    def advise(self, rollout: Rollout) -> Tensor:
        """The teacher's logits [T, B, k_alpha] on the student's rollout."""
        return self.teacher.advise(rollout, self.reading.teacher_state == "student")

    def alignment_loss(self, output: PolicyOutput, advice: Tensor) -> Tensor:
        """Trains F towards the student's own policy; see ``Alignment.loss``."""
        return self.alignment.loss(output.logits[: len(advice)].detach(), advice, self.temperature)

    def distillation_loss(self, output: PolicyOutput, aligned: Tensor) -> Tensor:
        """l_KL(F(z_alpha), z_beta', tau) (Algorithm 1, line 31): a scalar over trunk, LSTM and the distilled layer.

        ``divergence`` may replace the KL, and ``temperature_squared`` multiplies it by tau^2.

        Args:
            output: the student's, [T+1, B, ...] or [T, B, ...]. aligned: F(z_alpha) [T, B, k_beta]; gets no gradient.
        """
        layer = output.distill_logits if self.config.layer == "distillation" else output.logits
        per_step = losses.divergence(self.config.divergence, aligned, layer[: len(aligned)], self.temperature)
        loss = losses.reduce(per_step, self.reading.kl_reduction)
        return self.temperature**2 * loss if self.config.temperature_squared else loss


def _check(config: TransferConfig, reading: Reading) -> None:
    """Refuses settings out of range, and those that the reading would leave without effect."""
    scheduled = isinstance(config.weight, WeightConfig)
    softened = config.temperature_end is not None or config.temperature_squared
    for name, ok, allowed in (
        ("temperature", config.temperature > 0, "above 0"),
        ("temperature_end", config.temperature_end is None or config.temperature_end > 0, "above 0, or null"),
        ("temperature_steps", config.temperature_steps >= 1, "1 or more decisions"),
        ("weight", scheduled or config.weight >= 0, "0 or more"),  # type: ignore[operator]
        ("divergence", config.divergence in losses.DIVERGENCES, f"one of {', '.join(losses.DIVERGENCES)}"),
        ("layer", config.layer in ("distillation", "policy"), "distillation or policy"),
    ):
        if not ok:
            raise ValueError(f"transfer {config.name}: {name} is {getattr(config, name)}; it must be {allowed}")
    if softened and not reading.use_temperature:
        raise ValueError(
            f"transfer {config.name}: temperature_end and temperature_squared need reading.use_temperature: true; this "
            "reading has no temperature"
        )
    if reading.distill_step == "separate" and (scheduled or config.alarm is not None):
        raise ValueError(
            f"transfer {config.name}: a weight schedule and an alarm need reading.distill_step: joint; this reading's "
            "separate step has no weight"
        )
