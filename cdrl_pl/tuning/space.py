"""What a sweep varies: options of the command line, each with a range or with choices."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cdrl_pl.checks import whole
from cdrl_pl.experiment.plan import DECIDED, ExperimentError
from cdrl_pl.spelling import nearest

FLOAT, INT, CHOICES = "float", "int", "choices"
FURTHER = {FLOAT: ("log", "step"), INT: ("log", "step"), CHOICES: ()}


class Suggests(Protocol):
    """What a parameter asks for its value: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A number of the range."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """A whole number of the range."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Parameter:
    """One option that is varied.

    Attributes:
        option: of the command line, with its dashes.
        kind: float, int or choices.
        values: lowest and highest, or the choices.
        log: whether the range is drawn from by its logarithm.
        step: between two values of the range; null: any (float), or 1 (int).
    """

    option: str
    kind: str
    values: tuple[Any, ...]
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Suggests) -> Any:
        """The value that a trial has, or gets now."""
        if self.kind == CHOICES:
            return trial.suggest_categorical(self.option, self.values)
        low, high = self.values
        if self.kind == INT:
            return trial.suggest_int(self.option, low, high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.option, low, high, step=self.step, log=self.log)


def override(option: str, value: Any) -> str:
    """``--option=value`` as the command line reads it."""
    return f"{option}={value if isinstance(value, str) else json.dumps(value)}"


def corners(space: Sequence[Parameter]) -> list[list[str]]:
    """As few overrides as name every bound and every choice once; the first has the first of each."""
    most = max(len(parameter.values) for parameter in space)
    return [[override(p.option, p.values[i % len(p.values)]) for p in space] for i in range(most)]


def read_space(content: dict[Any, Any]) -> tuple[Parameter, ...]:
    """The parameters of ``space``.

    Raises:
        ExperimentError: naming the option, what is said of it and what is allowed.
    """
    if not content:
        raise ExperimentError("space is {}; it must name at least one option")
    return tuple(_parameter(str(option), said) for option, said in content.items())


def _parameter(option: str, said: Any) -> Parameter:
    where = f"space.{option}"
    if not option.startswith("--") or "=" in option:
        raise ExperimentError(f"space has {option!r}; each must be an option of the command line, such as --model.T1")
    if option in DECIDED:
        raise ExperimentError(f"space has {option}, which the sweep decides for every trial")
    kinds = [kind for kind in FURTHER if isinstance(said, dict) and kind in said]
    if len(kinds) != 1:
        raise ExperimentError(f"{where} is {said!r}; it must have one of {', '.join(FURTHER)}")
    (kind,) = kinds
    for key in said:
        if key not in (kind, *FURTHER[kind]):
            raise ExperimentError(f"there is no option {where}.{key}{nearest(str(key), [kind, *FURTHER[kind]])}")
    values, log, step = said[kind], said.get("log", False), said.get("step")
    if kind == CHOICES:
        plain = isinstance(values, list) and all(isinstance(v, str | int | float | type(None)) for v in values)
        if not plain or len(values) < 2 or len(set(map(repr, values))) < len(values):
            raise ExperimentError(f"{where}.{kind} is {values!r}; it must be two or more different numbers or texts")
        return Parameter(option, kind, tuple(values))
    values = [whole(value) if kind == INT else value for value in values] if isinstance(values, list) else values
    types = int if kind == INT else int | float
    what = "whole numbers" if kind == INT else "numbers"
    for name, ok, allowed in (
        (kind, isinstance(values, list) and len(values) == 2 and all(_is(v, types) for v in values),
         f"a list of two {what}"),
        (kind, isinstance(values, list) and len(values) == 2 and _ordered(values), "a lower one and a higher one"),
        ("log", isinstance(log, bool), "true or false"),
        (kind, log is not True or (isinstance(values, list) and _ordered(values) and values[0] > 0),
         "over 0 where log is true"),
        ("step", step is None or (_is(step, types) and step > 0), f"a {what[:-1]} over 0"),
        ("step", step is None or not log, "null where log is true"),
    ):  # fmt: skip
        if not ok:
            raise ExperimentError(f"{where}.{name} is {said[name]!r}; it must be {allowed}")
    if kind == FLOAT:
        values = [float(value) for value in values]
    return Parameter(option, kind, tuple(values), log, step)


def _is(value: Any, types: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value)


def _ordered(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values) and values[0] < values[1]
