"""Lightning's callbacks that watch a logged value, such as ``EarlyStopping``: by names that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, ModelSummary, ProgressBar, Timer

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError
from cdrl_pl.spelling import nearest

SILENT = (Checkpoint, EarlyStopping, ModelSummary, ProgressBar, Timer)  # callbacks that log nothing themselves
OWN = ("callbacks", "cdrl_pl")  # packages whose callbacks log by metric_names alone


def names(agents: Iterable[str], transfers: Iterable[str], optimizers: Iterable[str]) -> Iterator[str]:
    """The names that a graph's log lines may have; of a vector's elements, and an agent's workers, the first.

    Args:
        agents: names of those that play.
        transfers: names of all.
        optimizers: names of all.
    """
    agents, transfers = list(agents), list(transfers)
    parts = {
        "agent": agents,
        "transfer": transfers,
        "source": [*agents, *(f"{name}/{end}" for name in transfers for end in ("teacher", "aligned"))],
        "optimizer": list(optimizers),
    }
    for metric in metric_names.METRICS:
        pattern = metric.pattern.replace("{worker}", "0") + "/0" * metric.vector
        placeholder = re.search(r"{(\w+)}", pattern)
        yield from [re.sub(r"{\w+}", part, pattern) for part in parts[placeholder[1]]] if placeholder else [pattern]


def check_monitors(trainer: pl.Trainer, known: Iterable[str]) -> None:
    """Refuses callbacks that watch what no line will have, and those that would never save.

    One that watches what this program logs waits for it: a mean return is there once an episode has ended.

    Args:
        trainer: that is about to fit.
        known: ``names`` of the graph.

    Raises:
        ConfigError: naming the callback, the option and its value.
    """
    known = list(known)
    for callback in _watching(trainer):
        kind, monitor = type(callback).__name__, callback.monitor
        for option in ("every_n_train_steps", "train_time_interval"):
            if value := getattr(callback, f"_{option}", None):
                raise ConfigError(
                    f"{kind}.{option} is {value}; a batch has steps of several optimizers, so that it may never save; "
                    "use every_n_epochs, or callbacks.EnvStepsCheckpoint"
                )
        if monitor is None:
            continue
        if _is_one(monitor, known):
            if isinstance(callback, EarlyStopping):
                callback.strict = False
        elif not _others_log(trainer):
            raise _unknown(kind, monitor, known)


def check_monitored(trainer: pl.Trainer, known: Iterable[str]) -> None:
    """At an epoch's end: refuses a monitor that is neither ``known`` nor was logged by anyone else.

    Raises:
        ConfigError: naming the callback and the monitor.
    """
    known = list(known)
    for callback in _watching(trainer):
        monitor, strict = callback.monitor, getattr(callback, "strict", True)
        if strict and monitor not in (None, *trainer.callback_metrics) and not _is_one(monitor, known):
            raise _unknown(type(callback).__name__, monitor, known)


def warn_of_unseen(trainer: pl.Trainer) -> None:
    """At a run's end: warns of monitors that were in none of its lines."""
    for callback in _watching(trainer):
        if callback.monitor not in (None, *trainer.callback_metrics):
            rank_zero_warn(f"{type(callback).__name__}.monitor {callback.monitor!r} was in no log line of this run")


def let_look(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """At an epoch's end: lets those callbacks look that would only do so after a validation, which ``fit`` has not.

    Optuna's ``PyTorchLightningPruningCallback`` is one. A callback that watches a name is let look once that is there.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if _waits_for_validation(callback) and (monitor is None or monitor in trainer.callback_metrics):
            callback.on_validation_end(trainer, module)


def _waits_for_validation(callback: Any) -> bool:
    """Returns whether it is a user's, or another library's, that acts after a validation and not after an epoch."""

    def acts(hook: str) -> bool:
        return not getattr(type(callback), hook).__module__.endswith("callbacks.callback")  # Lightning's base class

    own = type(callback).__module__.startswith((*OWN, "pytorch_lightning.", "lightning."))
    return not own and acts("on_validation_end") and not acts("on_train_epoch_end")


def _watching(trainer: pl.Trainer) -> list[Any]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [
        c
        for c in callbacks
        if isinstance(c, EarlyStopping | ModelCheckpoint)
        or (_waits_for_validation(c) and isinstance(getattr(c, "monitor", None), str))
    ]


def _others_log(trainer: pl.Trainer) -> bool:
    """Returns whether there is a callback that may log names of its own."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    others = [c for c in callbacks if not isinstance(c, SILENT) and c not in _watching(trainer)]
    return any(type(callback).__module__.partition(".")[0] not in OWN for callback in others)


def _is_one(monitor: str, known: list[str]) -> bool:
    """Returns whether a monitor is one of ``names``, or a further element of a vector, or a further worker."""
    further = any(metric.matches(monitor) for metric in (metric_names.ACTIONS, metric_names.WORKER_ROLLOUTS))
    return monitor in known or (further and re.sub(r"\d+$", "0", monitor) in known)


def _unknown(kind: str, monitor: str, known: list[str]) -> ConfigError:
    found = nearest(monitor, known) or "; it must be a metric of docs/reference.md, such as " + next(
        name for name in known if name.startswith(metric_names.RETURN(""))
    )
    return ConfigError(f"{kind}.monitor is {monitor!r}, which no log line has{found}")
