"""The paper's text and its authors' program, as presets that set every row of spec section 6."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from cdrl_pl.checks import ConfigError


@dataclass(frozen=True)
class Preset:
    """One field per row where text and program differ.

    Attributes:
        activation: Activation of the alignment network's hidden layers: "relu" (text) or "elu" (program).
        alignment_kl: "forward" is KL(student policy || F(teacher)) (Algorithm 1, line 27), in nats; "reverse" is the
            opposite.
        use_temperature: Whether tau divides the targets; the program has tau = 1 everywhere.
        kl_reduction: Reduction of both KLs over time, "sum" or "mean"; the reinforcement losses are sums in both
            presets.
        teacher_state: The teacher's "own" recurrent state, or the "student" state fed to the teacher.
        distill_step: "joint" with the student's update, or "separate" by its own Adam, without the transfer's weight.
        order: "align_first", or the logits aligned before the alignment network's update ("distill_first").
        T1: Decisions of the student at which alignment training starts, of a transfer that gives none.
        T2: Decisions of the student at which distillation starts, of a transfer that gives none.
        stop: Decisions of the student at which both end, of a transfer that gives none; null: never.
        concatenate: Joins rollouts of one worker that are already waiting.
        time_limit: "bootstrap" from the value of the last observation, or treat a time limit as "terminal".
    """

    activation: Literal["relu", "elu"]
    alignment_kl: Literal["forward", "reverse"]
    use_temperature: bool
    kl_reduction: Literal["sum", "mean"]
    teacher_state: Literal["own", "student"]
    distill_step: Literal["joint", "separate"]
    order: Literal["align_first", "distill_first"]
    T1: int
    T2: int
    stop: int | None
    concatenate: bool
    time_limit: Literal["bootstrap", "terminal"]


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        activation="relu",
        alignment_kl="forward",
        use_temperature=True,
        kl_reduction="sum",
        teacher_state="own",
        distill_step="joint",
        order="align_first",
        T1=4_000_000,
        T2=6_000_000,
        stop=15_000_000,
        concatenate=False,
        time_limit="bootstrap",
    ),
    "code": Preset(
        activation="elu",
        alignment_kl="reverse",
        use_temperature=False,
        kl_reduction="mean",
        teacher_state="student",
        distill_step="separate",
        order="distill_first",
        T1=1_000_000,
        T2=2_000_000,
        stop=None,
        concatenate=True,
        time_limit="terminal",
    ),
}


@dataclass
class PresetOverrides:
    """Points to take differently from the preset; null keeps the preset's.

    Attributes:
        activation: Activation of the alignment network's hidden layers: "relu" or "elu".
        alignment_kl: "forward" is KL(student policy || F(teacher)), in nats; "reverse" is the opposite.
        use_temperature: Whether tau divides the targets.
        kl_reduction: Reduction of both KLs over time: "sum" or "mean".
        teacher_state: The teacher's "own" recurrent state, or the "student" state fed to the teacher.
        distill_step: "joint" with the student's update, or "separate" by its own Adam, without the transfer's weight.
        order: Whether logits are aligned after the alignment network's step, "align_first", or before it,
            "distill_first".
        concatenate: Joins rollouts of one worker that are already waiting.
        time_limit: "bootstrap" from the value of the last observation, or treat a time limit as "terminal".
    """

    activation: Literal["relu", "elu"] | None = None
    alignment_kl: Literal["forward", "reverse"] | None = None
    use_temperature: bool | None = None
    kl_reduction: Literal["sum", "mean"] | None = None
    teacher_state: Literal["own", "student"] | None = None
    distill_step: Literal["joint", "separate"] | None = None
    order: Literal["align_first", "distill_first"] | None = None
    concatenate: bool | None = None
    time_limit: Literal["bootstrap", "terminal"] | None = None


def resolve_preset(preset: str, overrides: PresetOverrides) -> Preset:
    """The preset with the overrides on top.

    Raises:
        ConfigError: an unknown preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"model.preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    given = {f.name: v for f in fields(overrides) if (v := getattr(overrides, f.name)) is not None}
    return replace(PRESETS[preset], **given)
