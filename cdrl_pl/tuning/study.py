"""The study of a sweep: which values a trial gets, which trials are given up, and what is stored of them. By Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdrl_pl.checks import ConfigError
from cdrl_pl.tuning.plan import MEDIAN, Sweep
from cdrl_pl.tuning.space import override

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
REASON = "reason"  # why a trial failed, among what is stored of it


class StudyError(ConfigError):
    """Optuna is not installed, or the storage cannot be used, with the reason."""


def need_optuna() -> None:
    """Refuses to go on without Optuna.

    Raises:
        StudyError: naming the extra.
    """
    try:
        import optuna
    except ImportError:
        raise StudyError('sweeps need optuna: pip install "cdrl-pl[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """Trials as they are stored; only one driver at a time may have it.

    Args:
        sweep: that it is of.

    Raises:
        StudyError: the storage cannot be used.
    """

    def __init__(self, sweep: Sweep) -> None:
        import optuna

        self._sweep = sweep
        try:
            self._study = optuna.create_study(
                study_name="sweep", storage=_storage(sweep), direction=sweep.direction, load_if_exists=True
            )
            known = len(self._study.get_trials(deepcopy=False))
        except Exception as error:
            raise StudyError(f"the storage of {sweep.folder} cannot be used: {error}") from error
        seed = (sweep.sampler_seed + known) % 2**32  # what goes on does not draw the same again
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        rule = sweep.pruner
        self._pruner = optuna.pruners.MedianPruner(rule.startup, rule.warmup) if rule.kind == MEDIAN else None
        if self._pruner is not None:
            self._study.pruner = self._pruner
        self._under_way: dict[int, optuna.Trial] = {}

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Every trial, first to last."""
        found: list[optuna.trial.FrozenTrial] = self._study.get_trials(deepcopy=False)
        return found

    def interrupted(self) -> list[int]:
        """Numbers of the trials that an earlier driver left under way."""
        from optuna.trial import TrialState

        waiting = [trial for trial in self.trials if trial.state == TrialState.RUNNING]
        return [trial.number for trial in waiting if trial.number not in self._under_way]

    def ask(self, number: int | None = None) -> tuple[int, Sequence[str]]:
        """A new trial's number and its values as options, or those of one that was interrupted.

        Args:
            number: of the one that was interrupted; null: a new one.
        """
        trial = self._study.ask() if number is None else self._again(number)
        self._under_way[trial.number] = trial
        return trial.number, [override(p.option, p.suggest(trial)) for p in self._sweep.space]

    def _again(self, number: int) -> optuna.Trial:
        import optuna

        return optuna.Trial(self._study, self.trials[number]._trial_id)

    def report(self, number: int, step: int, value: float) -> bool:
        """Stores what a trial has reached; returns whether it is to be given up.

        Args:
            number: of the trial.
            step: decisions, all seeds' together.
            value: of the metric.
        """
        trial = self._under_way[number]
        trial.report(value, step)
        return self._pruner is not None and trial.should_prune()

    def reported(self, number: int) -> int:
        """The last step that a trial has reported; 0 before the first."""
        return max(self.trials[number].intermediate_values, default=0)

    def tell(self, number: int, value: float | None = None, pruned: bool = False, reason: str = "") -> None:
        """Stores how a trial ended.

        Args:
            number: of the trial.
            value: of the metric; null where it failed.
            pruned: whether it was given up; its last value is kept.
            reason: why it failed.
        """
        from optuna.trial import TrialState

        trial = self._under_way.pop(number)
        if pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        elif value is None:
            trial.set_user_attr(REASON, reason)
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The complete trial of the best value; None before there is one."""
        from optuna.trial import TrialState

        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE and trial.value is not None]
        sign = 1 if self._sweep.direction == "maximize" else -1
        return max(done, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def overrides(self, trial: optuna.trial.FrozenTrial) -> list[str]:
        """The values of a trial as options of the command line."""
        return [override(option, value) for option, value in trial.params.items()]

    def importances(self) -> dict[str, dict[str, float] | str]:
        """Of each of Optuna's evaluators: each option's share of the differences, or why it has none."""
        from optuna import importance

        evaluators = {
            "PED-ANOVA": importance.PedAnovaImportanceEvaluator,
            "fANOVA": importance.FanovaImportanceEvaluator,
        }
        found: dict[str, dict[str, float] | str] = {}
        for name, evaluator in evaluators.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", UserWarning)  # shares that mean nothing: too few trials
                    found[name] = importance.get_param_importances(self._study, evaluator=evaluator())
            except ImportError:
                found[name] = "scikit-learn is not installed"
            except (ValueError, RuntimeError, UserWarning) as error:  # too few trials, or all of one value
                found[name] = str(error).splitlines()[0]
        return found


def _storage(sweep: Sweep) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    if sweep.storage:
        return get_storage(sweep.storage)
    path = sweep.folder / JOURNAL
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)  # of a killed driver: this one has the folder's lock
    return JournalStorage(JournalFileBackend(str(path)))
