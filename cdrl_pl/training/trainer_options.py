"""Which of Lightning's options a run takes; every other value is refused by name, before any worker starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from cdrl_pl.checks import ConfigError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PROFILERS = ("simple", "advanced", "pytorch")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
OTHER_NAMES = (None, 32, "32", 16, "16", "bf16")  # of those: Lightning's older ones
STRATEGIES = ("auto", "single_device", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")


class Row(NamedTuple):
    """One option of the trainer, as far as its values are restricted.

    Attributes:
        option: its name.
        taken: whether a value is.
        why: what is to be said of another value.
        of_a_trainer: whether a trainer that was made in Python tells the value as it was given.
    """

    option: str
    taken: Callable[[Any], bool]
    why: str
    of_a_trainer: bool = True


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


def _named(names: tuple[str, ...]) -> Callable[[Any], bool]:
    """Of those names; or no name at all, but a class, or nothing."""
    return lambda value: value in names or not isinstance(value, str)


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _strategy(value: Any) -> bool:
    if isinstance(value, str):
        return value in STRATEGIES
    if isinstance(value, DDPStrategy):
        return value._start_method == "popen"
    given = getattr(value, "class_path", None)  # a config's, of a class
    return isinstance(value, SingleDeviceStrategy) or str(given).endswith((".DDPStrategy", ".SingleDeviceStrategy"))


def _limit(value: Any) -> bool:
    return value is None or (value >= 1 and float(value).is_integer())


def _local(value: Any) -> bool:
    return "://" not in str(value)


VALIDATION = "fit does not stop to evaluate; `validate` does, from any checkpoint"
NOT_LATER = "a run ends at T_max, or where it is told to, and not later; leave it out"
COUNT = "it must be 0 or more, or -1 for any number"
ROWS = (
    Row("accelerator", _named(ACCELERATORS), f"it must be {_or(ACCELERATORS)}", False),
    Row("strategy", _strategy, f"it must be {_or(STRATEGIES[:3])}: every device has whole networks here"),
    Row("precision", _one_of(*PRECISIONS, *OTHER_NAMES), f"it must be {_or(PRECISIONS)}"),
    Row("profiler", _named(PROFILERS), f"it must be {_or(PROFILERS)}, or a class"),
    Row("max_epochs", lambda value: value is None or value >= -1, COUNT),
    Row("max_steps", lambda value: value >= -1, COUNT),
    Row("min_epochs", _one_of(None, 0), NOT_LATER),
    Row("min_steps", _one_of(None, 0), NOT_LATER),
    Row("limit_train_batches", _limit, "it must be a number of batches, 1 or more, or 1.0: rollouts are endless"),
    Row("overfit_batches", _one_of(0), "no batch comes twice: every rollout is fresh; leave it out"),
    Row("val_check_interval", lambda value: value is None or value == 1.0, VALIDATION),
    Row("check_val_every_n_epoch", _one_of(1), VALIDATION),
    Row("num_sanity_val_steps", _one_of(None, 0), VALIDATION, of_a_trainer=False),
    Row(
        "log_every_n_steps",
        _one_of(None),
        "a line is logged every model.log_every decisions; set that",
        of_a_trainer=False,
    ),
    Row("accumulate_grad_batches", _one_of(1), "a step is of one batch: data.pool.steps times data.pool.copies"),
    Row("gradient_clip_val", _one_of(None), "gradients are clipped by model.agents.NAME.learner.max_grad_norm"),
    Row("gradient_clip_algorithm", _one_of(None), "gradients are clipped by their norm; leave it out"),
    Row("use_distributed_sampler", _one_of(False), "every rank plays environments of its own; leave it out", False),
    Row("barebones", _one_of(False), "set logger, enable_checkpointing, enable_progress_bar false instead", False),
    Row("sync_batchnorm", _one_of(False), "no network here has batch norm; leave it out", False),
    Row("reload_dataloaders_every_n_epochs", _one_of(0), "rollouts are always fresh; leave it out"),
    Row("enable_autolog_hparams", _one_of(True), "nothing is logged by it: config.yaml has every option", False),
    Row("model_registry", _one_of(None), "checkpoints are files of a run's folder; leave it out", False),
    Row("default_root_dir", _local, "it must be a folder of this machine"),
)


def check_trainer_options(value: Callable[[str], Any], rows: tuple[Row, ...] = ROWS) -> None:
    """Refuses the first option whose value is not taken.

    Args:
        value: of an option, by its name.
        rows: the options.

    Raises:
        ConfigError: naming the option, its value, and what is to be done.
    """
    for row in rows:
        if not row.taken(given := value(row.option)):
            shown = getattr(given, "class_path", None) or (
                repr(given) if isinstance(given, str | int | float) else type(given).__name__
            )
            raise ConfigError(f"trainer.{row.option} is {shown}; {row.why}")


def check_trainer(trainer: pl.Trainer) -> None:
    """``check_trainer_options`` of a trainer that was made in Python, as far as it tells what it was given."""
    check_trainer_options(lambda option: getattr(trainer, option), tuple(row for row in ROWS if row.of_a_trainer))


def suit(trainer: pl.Trainer, batches: int) -> None:
    """Sets what Lightning makes of other options otherwise than its users mean.

    Args:
        trainer: that is about to fit.
        batches: of an epoch, at most.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # N batches, as it says; Lightning also counts steps
        trainer.fit_loop.epoch_loop.max_steps = -1
    # Where an epoch has fewer batches than this (50, unless told), Lightning warns that nothing would be logged.
    trainer.log_every_n_steps = min(trainer.log_every_n_steps, batches)  # type: ignore[attr-defined]
