"""Per-transfer distillation weight and the negative-transfer alarm: over time, and over several teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.distributions import Counts, log_prob
from cdrl_pl.schedule import linear


@dataclass
class WeightConfig:
    """The weight of a transfer's distillation loss over time.

    Attributes:
        shape: "constant" is ``start`` throughout. "linear" goes to ``end`` in a straight line, as teachers are annealed
            in kickstarting (Schmitt et al. 2018), "cosine" along half a cosine (Loshchilov and Hutter 2017). "wean"
            goes to ``end`` as the student's mean return goes from ``low`` to ``high`` (Agarwal, Schwarzer, Castro,
            Courville, Bellemare 2022, "Reincarnating reinforcement learning"). The transfer's stop cuts any of them.
        start: Weight of the distillation loss beside the reinforcement loss at T2, without unit.
        end: Weight that is reached, without unit; not read under "constant".
        steps: Decisions of the student from T2 until the weight is ``end``, under "linear" and "cosine".
        low: Mean return of the student, in points, up to which "wean" stays at ``start``; measured over the last
            ``model.window`` episodes as of the last log line.
        high: Mean return of the student, in points, from which on "wean" is at ``end``.
    """

    shape: Literal["constant", "linear", "cosine", "wean"] = "constant"
    start: float = 1.0
    end: float = 0.0
    steps: int = 1_000_000
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        rows = (
            ("shape", self.shape in ("constant", "linear", "cosine", "wean"), "constant, linear, cosine or wean"),
            ("start", 0 <= self.start < math.inf, "0 or more"),
            ("end", 0 <= self.end < math.inf, "0 or more"),
            ("steps", self.steps >= 1, "1 or more decisions"),
        )
        check_options("weight.", self, rows)
        if self.shape == "wean" and not (self.low is not None and self.high is not None and self.low < self.high):
            raise ConfigError(
                f"weight.low is {self.low} and weight.high {self.high}; wean needs two returns, low < high"
            )


def weight_at(config: WeightConfig, decisions: int, mean_return: float | None) -> float:
    """The weight of the distillation loss, without unit.

    Args:
        config: the schedule.
        decisions: of the student after T2.
        mean_return: of the student, in points; None before its first episode.
    """
    if config.shape == "constant":
        return config.start
    if config.shape == "wean":
        assert config.low is not None and config.high is not None
        low, high = config.low, config.high
        done = 0.0 if mean_return is None else min(max((mean_return - low) / (high - low), 0.0), 1.0)
    else:
        done = linear(0.0, 1.0, config.steps, max(decisions, 0))
        if config.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
    return config.start + (config.end - config.start) * done


@dataclass
class TeacherWeights:
    """How a student shares its attention among several teachers.

    Attributes:
        by: "fixed" leaves every transfer its own weight. "value" multiplies it by a factor learned from what following
            that teacher would gain (``teacher_value``); the factors of a student's teachers average 1.
        sharpness: Factor, without unit, before the softmax over the teachers' values; 0 gives all of them the same
            weight.
        span: Gradient steps of the student that the moving average of a teacher's value spans.
    """

    by: Literal["fixed", "value"] = "fixed"
    sharpness: float = 10.0
    span: int = 100

    def __post_init__(self) -> None:
        rows = (
            ("by", self.by in ("fixed", "value"), "fixed or value"),
            ("sharpness", self.sharpness >= 0, "0 or more"),
            ("span", self.span >= 1, "1 or more"),
        )
        check_options("teacher_weights.", self, rows)


@dataclass
class AlarmConfig:
    """The negative-transfer alarm of one transfer.

    The gradients of the reinforcement and of the distillation loss on the student's trunk are compared by their cosine
    (Du, Czarnecki, Jayakumar, Farajtabar, Pascanu, Lakshminarayanan 2018, "Adapting auxiliary losses using gradient
    similarity"). They decide on the cosine of a single step; here a moving average decides, since a single rollout's
    is mostly noise.

    Attributes:
        every: Gradient steps of the student between two measurements. Each costs two more backward passes, on a CPU
            with Pong's network 1.3 times a whole step: 2.5 % of the learner's time at 50.
        span: Measurements that the moving average spans, and that are needed before it counts.
        release_below: Cosine, -1 to 1 without unit: while the average is below it, the distillation weight is 0, and
            back once it is not (the measurements go on). null only warns, where the average falls below 0.
    """

    every: int = 50
    span: int = 20
    release_below: float | None = None

    def __post_init__(self) -> None:
        rows = (
            ("every", self.every >= 1, "1 or more"),
            ("span", self.span >= 1, "1 or more"),
            ("release_below", self.release_below is None or -1 <= self.release_below <= 1, "from -1 to 1, or null"),
        )
        check_options("alarm.", self, rows)


class MovingAverage:
    """The mean of the first values, then one that forgets exponentially; values that are not finite are left out."""

    def __init__(self) -> None:
        self.mean, self.count = 0.0, 0

    def add(self, value: float, span: int) -> None:
        """One more value, of an average that spans ``span`` of them."""
        if math.isfinite(value):
            self.count += 1
            self.mean += (value - self.mean) / min(self.count, span)


class Weighting:
    """How strongly one transfer teaches its student now; ``weight`` multiplies the distillation loss.

    Args:
        name: of the transfer.
        schedule: of the weight over time.
        alarm: null for none.
    """

    def __init__(self, name: str, schedule: WeightConfig, alarm: AlarmConfig | None) -> None:
        self.name, self.schedule, self.alarm = name, schedule, alarm
        self.scheduled, self.factor = schedule.start, 1.0
        self.value, self.cosine = MovingAverage(), MovingAverage()
        self.optimizer_steps = 0  # of the student with this transfer distilling
        self.tripped = self.released = False

    @property
    def weight(self) -> float:
        """By schedule, times the factor among several teachers; 0 while the alarm has released it."""
        return 0.0 if self.released else self.scheduled * self.factor

    def advance(self, decisions: int, mean_return: float | None) -> None:
        """Sets the scheduled weight, ``decisions`` after T2 and at the student's mean return."""
        self.scheduled = weight_at(self.schedule, decisions, mean_return)

    @property
    def alarm_is_due(self) -> bool:
        """Returns whether the alarm measures at the student's next gradient step."""
        return self.alarm is not None and self.optimizer_steps % self.alarm.every == 0

    def stepped(self) -> None:
        """Counts a gradient step of the student with this transfer distilling."""
        self.optimizer_steps += 1

    def update_teacher_value(self, value: float, span: int) -> None:
        """Takes a measured ``teacher_value`` into account, from the next ``set_teacher_factors`` on."""
        self.value.add(value, span)

    def update_alarm(self, cosine: float) -> None:
        """Takes a measured cosine into account: warns the first time, and releases or takes back the weight."""
        assert self.alarm is not None
        self.cosine.add(cosine, self.alarm.span)
        threshold = self.alarm.release_below
        low = self.cosine.count >= self.alarm.span and self.cosine.mean < (0.0 if threshold is None else threshold)
        self.released = low and threshold is not None
        if low and not self.tripped:
            self.tripped = True
            what = "its weight is 0 until it recovers" if self.released else "it may hurt"
            rank_zero_warn(
                f"transfer {self.name}: the distillation gradient points against the reinforcement gradient "
                f"(mean cosine {self.cosine.mean:.3f} on the trunk); {what}"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly, in plain numbers."""
        averages = {k: [a.mean, a.count] for k, a in (("value", self.value), ("cosine", self.cosine))}
        return {
            **averages,
            "optimizer_steps": self.optimizer_steps,
            "tripped": self.tripped,
            "released": self.released,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        for key, average in (("value", self.value), ("cosine", self.cosine)):
            average.mean, average.count = state[key]
        self.optimizer_steps = state["optimizer_steps"]
        self.tripped, self.released = state["tripped"], state["released"]


def set_teacher_factors(weightings: Sequence[Weighting], config: TeacherWeights) -> None:
    """Sets the factors of the teachers that teach a student now: their number times a softmax of their values."""
    if config.by == "fixed" or not weightings:
        return
    scores = [config.sharpness * weighting.value.mean for weighting in weightings]
    powers = [math.exp(score - max(scores)) for score in scores]
    for weighting, power in zip(weightings, powers, strict=True):
        weighting.factor = len(weightings) * power / sum(powers)


@torch.no_grad()
def teacher_value(target: Tensor, logits: Tensor, actions: Tensor, advantages: Tensor, counts: Counts = ()) -> Tensor:
    """What following a teacher for one step would gain: the mean of (clip(p / pi, 0, 2) - 1) A over the rollout.

    By the performance difference lemma (Kakade and Langford 2002, "Approximately optimal approximate reinforcement
    learning") a policy p gains on pi what pi's advantages are worth under p; to first order on the states of pi, that
    is E[(p / pi - 1) A] over pi's own actions. A is standardised over the rollout, so that the value has no unit and a
    biased critic favours no teacher; the clip bounds the variance, and every value to -1..1.

    Args:
        target: logits of p [T, B, A].
        logits: of pi [T, B, A].
        actions: [T, B] int64, or [T, B, K] where K choices are made, as pi played them.
        advantages: of pi [T, B].
        counts: of the actions of each choice.

    Returns:
        A scalar; 0 where p = pi, or where all advantages are equal.
    """
    if advantages.shape != (actions[..., 0] if counts else actions).shape:
        raise ValueError(f"shapes must be equal, got {tuple(actions.shape)} and {tuple(advantages.shape)}")
    ratios = (log_prob(target, actions, counts) - log_prob(logits, actions, counts)).exp().clamp(max=2.0)
    centred = advantages - advantages.mean()
    deviation = centred.square().mean().sqrt()
    return ((ratios - 1.0) * centred).mean() / deviation.clamp(min=1e-8)


class GradientComparison(NamedTuple):
    """Two gradients on the same parameters, both scalars; 0 where either has none.

    Attributes:
        cosine: between them, -1 to 1.
        ratio: norm of the other over the norm of the one, without unit.
    """

    cosine: Tensor
    ratio: Tensor


def compare_gradients(one: Tensor, other: Tensor, parameters: Sequence[Tensor]) -> GradientComparison:
    """Compares the gradients of two scalar losses on shared parameters.

    Both graphs are kept for the training step, and no gradient is accumulated.

    Args:
        one: a scalar loss.
        other: another one.
        parameters: that both depend on.
    """
    flat = []
    for loss in (one, other):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        flat.append(torch.cat([gradient.flatten() for gradient in gradients]))
    norm, norm_of_other = flat[0].norm(), flat[1].norm()
    ratio = torch.where(norm > 0, norm_of_other / norm, 0.0)
    return GradientComparison(cosine_similarity(flat[0], flat[1], 0), ratio)
