"""A transfer: the directed edge from a teacher to a student."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.advice import Advice, Observations, Shuffle, adapt, check_observations, stand_in
from cdrl_pl.alignment import Alignment, AlignmentConfig, Task, known_map
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
        T2: decisions at which distillation starts; null takes the preset's. A certificated student is measured from
            then on, and not changed.
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
        layer: the student layer it distils into; "policy" is the one that decides.
        alignment: the alignment function F.
        advice: whose logits F gets on the student's states; all but "teacher" are controls (spec section 7). "random":
            a network of the teacher's structure with random weights; "shuffled": the teacher's, permuted over the rows
            of a rollout; "constant": zeros; "lagged": the student's own of some time ago; "own": the student's own now.
        lag: decisions of the student between two refreshes of its lagged copy.
        observations: how observations of another size are made the teacher's: "resize" (images), "pad" (or cut; images
            around their middle, vectors at their end); "none" refuses them.
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
    advice: Advice = "teacher"
    lag: int = 100_000
    observations: Observations = "none"
    alarm: AlarmConfig | None = None

    @property
    def advisor(self) -> str:
        """The agent whose actions F maps from."""
        return self.student if self.advice in ("lagged", "own") else self.teacher

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
            return Schedule(first if self.alignment.trainable else None, second, stop)
        except ValueError as error:
            raise ValueError(f"transfer {self.name}: {error}") from None


class Transfer(nn.Module):
    """A teacher's network, its alignment into a student's actions, and the switches that the schedule callbacks set.

    Args:
        config: options. teacher, student: networks of both ends. reading: text or program.
        tasks: game and action meanings by agent; where both ends play the same game, the right alignment is known.

    Raises:
        ValueError: ends that do not fit together, naming both.
    """

    known: Tensor | None  # [k_alpha, k_beta] bool: the student's actions that play what the teacher's does

    def __init__(
        self,
        config: TransferConfig,
        teacher: PolicyNetwork,
        student: PolicyNetwork,
        reading: Reading,
        tasks: dict[str, Task] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.reading, self.name = config, reading, config.name
        _check(config, reading)
        if config.lag < 1:
            raise ValueError(f"transfer {self.name}: lag is {config.lag}; it must be 1 or more")
        self.stand_in = stand_in(config.advice, teacher, student)
        self.shuffle = Shuffle(torch.initial_seed()) if config.advice == "shuffled" else None
        self._student = (student,)  # in a tuple: the agent owns the parameters
        advisor = self.stand_in or (student if config.advice == "own" else teacher)
        if reading.teacher_state == "student" and advisor.state_size != student.state_size:
            raise ValueError(
                f"transfer {self.name}: the student's recurrent state ({student.state_size} numbers) cannot be fed to "
                f"the teacher ({advisor.state_size}); use teacher_state: own"
            )
        self.teacher = Teacher(advisor)
        theirs, own = (tasks[config.advisor], tasks[config.student]) if tasks else (None, None)
        self.register_buffer("known", known_map(theirs, own) if theirs and own else None, persistent=False)
        meanings = (theirs[1], own[1]) if theirs and own else None
        sizes = (advisor.num_actions, student.num_actions)
        try:
            check_observations(config.observations, advisor.obs_shape, student.obs_shape)
            self.alignment = Alignment(config.alignment, *sizes, reading, meanings)
        except ValueError as error:
            raise ValueError(f"transfer {self.name}: {error}") from None
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
        """The teacher's logits [T, B, k_alpha] on the student's rollout, or what ``advice`` puts in their place."""
        obs = adapt(rollout.obs, self.teacher.network.obs_shape, self.config.observations)
        logits = self.teacher.advise(replace(rollout, obs=obs), self.reading.teacher_state == "student")
        if self.config.advice == "constant":
            return torch.zeros_like(logits)
        return logits if self.shuffle is None else self.shuffle(logits)

    def follow(self, before: int, now: int) -> None:
        """Renews the lagged copy of the student where its T, going from ``before`` to ``now``, passed a multiple."""
        if self.config.advice == "lagged" and self.stand_in and now // self.config.lag > before // self.config.lag:
            self.stand_in.load_state_dict(self._student[0].state_dict())

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
    if reading.distill_step == "separate" and (config.weight != 1.0 or config.alarm is not None):
        raise ValueError(
            f"transfer {config.name}: a weight other than 1 and an alarm need reading.distill_step: joint; this "
            "reading's separate step has no weight"
        )
