"""A transfer: the directed edge from a teacher to a student, and the lessons that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from cdrl_pl import losses, metric_names
from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.distributions import Counts
from cdrl_pl.envs import View
from cdrl_pl.networks import ONNX, PolicyNetwork
from cdrl_pl.presets import Preset
from cdrl_pl.schedule import Schedule, linear
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.controls import Control, Shuffle, control_network
from cdrl_pl.transfer.gate import GATES, Gate, row_weights
from cdrl_pl.transfer.ground_truth import Task, accuracy, ground_truth_map, one_hot_accuracy
from cdrl_pl.transfer.observations import Observations, adapt, check_observations
from cdrl_pl.transfer.teacher import Teacher
from cdrl_pl.transfer.weighting import AlarmConfig, WeightConfig, Weighting
from cdrl_pl.types import PolicyOutput, Rollout, TeacherOutput, masked

Phase = Literal["reinforce", "align", "distil", "stopped"]


@dataclass
class TransferConfig:
    """One edge of the graph.

    Attributes:
        teacher: Name of the agent that teaches.
        student: Name of the agent that is taught.
        T1: Decisions of the student at which alignment training starts; null takes the preset's.
        T2: Decisions of the student at which distillation starts; null takes the preset's. A certificated student is
            measured from then on, and not changed.
        stop: Decisions of the student at which both end; null takes the preset's, "never" has no end.
        temperature: Temperature tau, without unit, that divides the target's logits in both losses.
        temperature_end: Temperature, without unit, that is reached in a straight line over ``temperature_steps``
            decisions from the transfer's start (T1, or T2 where F needs no training); null keeps ``temperature``.
        temperature_steps: Decisions of the student until the temperature is ``temperature_end``.
        temperature_squared: Multiplies the distillation loss by tau^2 (Hinton, Vinyals, Dean 2015). There both sides
            are softened and the factor keeps the size of the gradient; here, as in Eqs. 2 and 3, tau divides the target
            alone, so that the factor weighs a softer target more.
        weight: Weight of the distillation loss beside the reinforcement loss: a number without unit, or a schedule of
            it.
        divergence: Divergence in nats between the aligned teacher and the distilled layer: "forward" is KL(teacher ||
            student), "reverse" the opposite, "jensen_shannon" lies between them.
        gate: Weighs the distillation loss in every state by the teacher's logits z there, 0 to 1: "entropy" by how
            certain it is, 1 - H(z) / ln k, "energy" by how familiar the state is to it, by logsumexp(z) beside the
            rollout's other states; "none" counts all states in full. See ``gate.row_weights``.
        layer: Layer of the student that is distilled into; "policy" is the one that decides.
        alignment: The alignment function F.
        control: Stand-in for the teacher (spec section 7). "none" is the teacher itself, "random" a network of the
            teacher's structure with random weights, "shuffled" the teacher's logits permuted over the rows of a
            rollout, "constant" zeros, "lagged" the student's own logits of some time ago, "own" the student's own
            logits now.
        lag: Decisions of the student between two refreshes of its lagged copy.
        observations: What the teacher reads. "none": the student's game through the teacher's own view, where the game
            can be seen so, and else the student's observations, which must then be of the teacher's size. The others
            make the student's observations of that size: "resize" (images), "pad" (or cut; images around their middle,
            vectors at their end).
        alarm: Measures whether the transfer hurts, and may release its weight; null does not.
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
    gate: Gate = "none"
    layer: Literal["distillation", "policy"] = "distillation"
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    control: Control = "none"
    lag: int = 100_000
    observations: Observations = "none"
    alarm: AlarmConfig | None = None

    @property
    def teaching_agent(self) -> str:
        """The agent whose actions F maps from: the student itself under the controls "lagged" and "own"."""
        return self.student if self.control in ("lagged", "own") else self.teacher

    @property
    def name(self) -> str:
        """teacher-student, as in the logs."""
        return f"{self.teacher}-{self.student}"

    def schedule(self, preset: Preset, aligns: bool) -> Schedule:
        """T1, T2 and stop, with the preset's where the config has none.

        Args:
            preset: the paper's text or its authors' program.
            aligns: whether there is an F that learns, from T1 on.

        Raises:
            ConfigError: a schedule that cannot be.
        """
        stop = preset.stop if self.stop is None else None if self.stop == "never" else self.stop
        first = preset.T1 if self.T1 is None else self.T1
        second = preset.T2 if self.T2 is None else self.T2
        try:
            return Schedule(first if aligns else None, second, stop)
        except ConfigError as error:
            raise ConfigError(f"transfer {self.name}: {error}") from None


@dataclass(frozen=True)
class Lesson:
    """What one transfer teaches on one rollout, or on some copies of it.

    Attributes:
        transfer: its name.
        teacher_logits: [T, B, k_alpha], without gradient.
        aligned_logits: F of them [T, B, k_beta], without gradient.
        distillation_loss: a scalar in nats with its gradient, not yet weighted; None where nothing is distilled in the
            student's own step.
        metrics: what is to be logged, by name.
        teacher_counts: of the teacher's actions of each choice, where several are made at once.
        row_weights: of the transfer's gate, [T, B]; None where every row counts in full.
    """

    transfer: str
    teacher_logits: Tensor
    aligned_logits: Tensor
    distillation_loss: Tensor | None
    metrics: dict[str, Tensor]
    teacher_counts: Counts = ()
    row_weights: Tensor | None = None


class Transfer(nn.Module):
    """A teacher's state, its alignment into a student's actions, and the switches that the schedule callbacks set.

    The networks of both ends belong to their agents; the root hands them in where they are needed.

    Args:
        config: options.
        teacher: the teacher's network, for its structure.
        student: the student's network, for its structure and for what a lagged copy starts from.
        preset: the paper's text or its authors' program.
        tasks: game and action meanings by agent; where both ends play the same game, the right alignment is known.
        view: through which the teacher reads the student's rollouts; None: through the student's own.

    Raises:
        ConfigError: options that cannot be, or ends that do not fit together, naming both.
    """

    ground_truth: Tensor | None  # [k_alpha, k_beta] bool: the student's actions that play what the teacher's does

    def __init__(
        self,
        config: TransferConfig,
        teacher: PolicyNetwork,
        student: PolicyNetwork,
        preset: Preset,
        tasks: dict[str, Task] | None = None,
        view: View | None = None,
    ) -> None:
        super().__init__()
        self.config, self.preset, self.name, self.view = config, preset, config.name, view
        _check(config, preset)
        self.control_network = control_network(config.control, teacher, student)
        self.shuffle = Shuffle(torch.initial_seed()) if config.control == "shuffled" else None
        teaching = self.teaching_network(teacher, student)
        if preset.teacher_state == "student" and teaching.state_size != student.state_size:
            raise ConfigError(
                f"transfer {self.name}: the student's recurrent state ({student.state_size} numbers) cannot be fed to "
                f"the teacher ({teaching.state_size}); use preset_overrides.teacher_state: own"
            )
        self.teacher = Teacher()
        theirs, own = (tasks[config.teaching_agent], tasks[config.student]) if tasks else (None, None)
        ground_truth = ground_truth_map(theirs, own) if theirs and own else None
        self.register_buffer("ground_truth", ground_truth, persistent=False)
        meanings = (theirs.meanings, own.meanings) if theirs and own else None
        self.counts = (theirs.counts, own.counts) if theirs and own else ((), ())
        try:
            if view is None:
                check_observations(config.observations, teaching.obs_shape, student.obs_shape)
            sizes, features = (teaching.num_actions, student.num_actions), _features(config, teaching)
            self.alignment = Alignment(config.alignment, *sizes, preset, meanings, ground_truth, self.counts, features)
        except ConfigError as error:
            raise type(error)(f"transfer {self.name}: {error}") from None
        self.schedule = config.schedule(preset, self.alignment.learns)
        weight = config.weight if isinstance(config.weight, WeightConfig) else WeightConfig(start=config.weight)
        self.weighting = Weighting(self.name, weight, config.alarm)
        self.temperature = 1.0
        self.advance(0, None)
        self.aligning = False
        self.distilling = False

    # Switches

    @property
    def active(self) -> bool:
        """Returns whether the teacher is needed at all."""
        return self.aligning or self.distilling

    def phase(self, env_steps: int) -> Phase:
        """What the transfer does now, by what the callbacks switched on; ``env_steps`` only tells before from after."""
        if self.distilling:
            return "distil"
        if self.aligning:
            return "align"
        return "stopped" if self.schedule.stop is not None and env_steps >= self.schedule.stop else "reinforce"

    def advance(self, env_steps: int, mean_return: float | None) -> None:
        """Sets temperature and weight to what they are at T, for a student with this mean return (None: no episode)."""
        config, schedule = self.config, self.schedule
        self.weighting.advance(env_steps - schedule.T2, mean_return)
        if self.preset.use_temperature:
            began = max(0, env_steps - (schedule.T2 if schedule.T1 is None else schedule.T1))
            self.temperature = linear(config.temperature, config.temperature_end, config.temperature_steps, began)

    # Lessons

    def teaching_network(self, teacher: PolicyNetwork, student: PolicyNetwork) -> PolicyNetwork:
        """The network that is asked: the teacher's, or that of the control in its place."""
        return self.control_network or (student if self.config.control == "own" else teacher)

    def ask(self, rollout: Rollout, teacher: PolicyNetwork, student: PolicyNetwork) -> TeacherOutput:
        """What the teacher, or the control in its place, says on the student's rollout.

        Args:
            rollout: the student's.
            teacher: the teacher's network.
            student: the student's network.
        """
        network = self.teaching_network(teacher, student)
        seen = rollout.obs if self.view is None else rollout.views[self.view]
        obs = adapt(seen, network.obs_shape, self.config.observations)
        reads_features = self.config.alignment.input != "logits"
        fed = self.preset.teacher_state == "student"
        said: TeacherOutput = self.teacher(network, replace(rollout, obs=obs), fed, reads_features)
        if self.config.control == "constant":
            return TeacherOutput(*(None if part is None else torch.zeros_like(part) for part in said))  # type: ignore[arg-type]
        return said if self.shuffle is None else self.shuffle(said)

    def refresh_lagged_policy(self, before: int, now: int, student: PolicyNetwork) -> None:
        """Renews the lagged copy of the student where its decisions passed a multiple of ``lag``.

        Args:
            before: decisions of the student at the last call.
            now: decisions of the student now.
            student: the student's network.
        """
        if (
            self.config.control == "lagged"
            and self.control_network
            and now // self.config.lag > before // self.config.lag
        ):
            self.control_network.load_state_dict(student.state_dict())

    def alignment_loss(self, output: PolicyOutput, said: TeacherOutput) -> Tensor:
        """Trains F towards the student's own policy; see ``Alignment.loss``."""
        steps, masks = len(said.logits), output.masks
        masks = None if masks is None else masks[:steps]
        return self.alignment.loss(output.logits[:steps].detach(), self.alignment.reads(said), self.temperature, masks)

    def fit_alignment(self, output: PolicyOutput, said: TeacherOutput, reduce: Callable[[Tensor], Tensor]) -> None:
        """Fits an F without weights to these rows.

        Args:
            output: the student's, [T+1, B, ...].
            said: by the teacher, [T, B, ...].
            reduce: adds up a tensor over the ranks.
        """
        if (fitted := self.alignment.fitted) is not None:
            fitted.add(reduce(fitted.sums(said.logits, output.logits[: len(said.logits)].detach())))

    def lesson(self, output: PolicyOutput, said: TeacherOutput) -> Lesson:
        """What is taught on these rows, by F as it is now.

        Args:
            output: the student's, [T+1, B, ...].
            said: by the teacher, [T, B, ...].
        """
        with torch.no_grad():
            aligned: Tensor = self.alignment(self.alignment.reads(said))
            if output.masks is not None:
                aligned = masked(aligned, output.masks[: len(aligned)])
        joint = self.distilling and self.preset.distill_step == "joint"
        weights = row_weights(self.config.gate, said.logits, self.counts[0])
        loss = self.distillation_loss(output, aligned, weights) if joint else None
        metrics = self._measure(output, said.logits, aligned)
        if weights is not None:
            metrics[metric_names.GATE(self.name)] = weights.mean()
        return Lesson(self.name, said.logits, aligned, loss, metrics, self.counts[0], weights)

    def distillation_loss(self, output: PolicyOutput, aligned: Tensor, weights: Tensor | None = None) -> Tensor:
        """l_KL(F(z_alpha), z_beta', tau) (Algorithm 1, line 31): a scalar over trunk, LSTM and the distilled layer.

        ``divergence`` may replace the KL, and ``temperature_squared`` multiplies it by tau^2.

        Args:
            output: the student's, [T+1, B, ...] or [T, B, ...].
            aligned: F(z_alpha) [T, B, k_beta]; gets no gradient.
            weights: of the rows, [T, B]; None: 1.
        """
        layer = self._distilled(output)[: len(aligned)]
        per_step = losses.divergence(self.config.divergence, aligned, layer, self.temperature, self.counts[1])
        loss = losses.reduce(per_step if weights is None else weights * per_step, self.preset.kl_reduction)
        return self.temperature**2 * loss if self.config.temperature_squared else loss

    def _distilled(self, output: PolicyOutput) -> Tensor:
        return output.distill_logits if self.config.layer == "distillation" else output.logits

    @torch.no_grad()
    def _measure(self, output: PolicyOutput, teacher_logits: Tensor, aligned: Tensor) -> dict[str, Tensor]:
        """Both KLs per step, measured alike whatever is trained and however reduced; the share that F got right, where
        the right alignment is known."""
        steps, name, (theirs, own) = len(teacher_logits), self.name, self.counts
        metrics = {
            metric_names.ALIGNMENT_KL(name): losses.kl(output.logits[:steps], aligned, counts=own).mean(),
            metric_names.DISTILLATION_KL(name): losses.kl(aligned, self._distilled(output)[:steps], counts=own).mean(),
        }
        if self.ground_truth is not None:
            metrics[metric_names.ALIGNMENT_ACCURACY(name)] = accuracy(
                teacher_logits, aligned, self.ground_truth, theirs, own
            )
            if self.config.alignment.input == "logits":  # else it cannot be asked by logits alone
                one_hot = one_hot_accuracy(self.alignment, self.ground_truth, counts=theirs, student_counts=own)
                metrics[metric_names.ALIGNMENT_ACCURACY_ONE_HOT(name)] = one_hot
        return metrics


def _features(config: TransferConfig, teaching: PolicyNetwork) -> int:
    """How many numbers the heads of a teacher read; 0 where F does not read them."""
    if config.alignment.input == "logits":
        return 0
    if teaching.config.trunk == ONNX:
        raise ConfigError(
            f"alignment.input is {config.alignment.input!r}, but the teacher is an ONNX graph, which gives logits "
            "alone; use 'logits'"
        )
    return teaching.policy_head.in_features


def _check(config: TransferConfig, preset: Preset) -> None:
    """Refuses settings out of range, and those that the preset would leave without effect."""
    scheduled = isinstance(config.weight, WeightConfig)
    softened = config.temperature_end is not None or config.temperature_squared
    rows = (
        ("temperature", config.temperature > 0, "above 0"),
        ("temperature_end", config.temperature_end is None or config.temperature_end > 0, "above 0, or null"),
        ("temperature_steps", config.temperature_steps >= 1, "1 or more decisions"),
        ("weight", scheduled or config.weight >= 0, "0 or more"),  # type: ignore[operator]
        ("divergence", config.divergence in losses.DIVERGENCES, f"one of {', '.join(losses.DIVERGENCES)}"),
        ("gate", config.gate in GATES, ", ".join(GATES)),
        ("layer", config.layer in ("distillation", "policy"), "distillation or policy"),
        ("lag", config.lag >= 1, "1 or more decisions"),
    )
    check_options(f"transfer {config.name}: ", config, rows)
    if softened and not preset.use_temperature:
        raise ConfigError(
            f"transfer {config.name}: temperature_end and temperature_squared need preset_overrides.use_temperature: "
            "true; this preset has no temperature"
        )
    if preset.distill_step == "separate" and (config.weight != 1.0 or config.alarm is not None):
        raise ConfigError(
            f"transfer {config.name}: a weight other than 1 and an alarm need preset_overrides.distill_step: joint; "
            "this preset's separate step has no weight"
        )
