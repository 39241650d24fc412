"""What a sweep leaves: best.yaml, which ``fit --config`` takes, and report.md with history and importances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cdrl_pl.storage.atomic import write_whole
from cdrl_pl.tuning.plan import MAXIMIZE, Sweep
from cdrl_pl.tuning.study import REASON, Study

if TYPE_CHECKING:
    import optuna

BEST, REPORT, FIGURE = "best.yaml", "report.md", "history.png"
WORDS = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed", "RUNNING": "under way", "WAITING": "waiting"}


def write_best(sweep: Sweep, best: optuna.trial.FrozenTrial, config: dict[str, Any]) -> Path:
    """The whole config of the best trial.

    Args:
        sweep: that it is of.
        best: the trial.
        config: of it, resolved.
    """
    head = f"# Trial {best.number} of {sweep.name!r}: {sweep.metric} {best.value:.6g} at T = {sweep.T_max:,}, "
    head += f"the best of those done.\n# {' '.join(f'{option}={value}' for option, value in best.params.items())}\n"
    path = sweep.folder / BEST
    write_whole(path, (head + yaml.safe_dump(config, sort_keys=False)).encode())
    return path


def write_report(sweep: Sweep, study: Study) -> Path:
    """A page of every trial, of what became of the best value, and of what each option matters."""
    best, trials = study.best(), study.trials
    states = [WORDS[trial.state.name] for trial in trials]
    counts = ", ".join(f"{states.count(word)} {word}" for word in WORDS.values() if word in states)
    seeds = ", ".join(map(str, sweep.seeds))
    lines = [f"# {sweep.name}", ""]
    lines += [
        f"{len(trials)} of {sweep.trials} trials ({counts or 'none'}), each of {sweep.T_max:,} decisions with ",
    ]
    lines[-1] += f"seed {seeds}; {sweep.direction} `{sweep.metric}` at the end" + (
        ", the mean over the seeds." if len(sweep.seeds) > 1 else "."
    )
    if best is not None:
        lines += [
            "",
            f"Best: trial {best.number}, {best.value:.6g}. Its config: `fit --config {sweep.folder / BEST}`.",
            "",
        ]
        lines += [f"- `{option}` {_shown(value)}" for option, value in best.params.items()]
        lines += [
            "",
            "It is the best of several on the seeds that it was chosen by, so it flatters itself: train it anew with",
        ]
        lines += ["other seeds before comparing it with anything."]
    lines += ["", "## Trials and history", "", *_trials(sweep, trials)]
    if _draw(sweep, trials):
        lines += ["", f"![Value of each trial, and the best so far]({FIGURE})"]
    lines += [
        "",
        "## Importances",
        "",
        "Share of the differences between trials that an option explains, by Optuna's evaluators.",
        "",
    ]
    lines += _importances(sweep, study)
    path = sweep.folder / REPORT
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path


def _trials(sweep: Sweep, trials: list[optuna.trial.FrozenTrial]) -> list[str]:
    options = [parameter.option for parameter in sweep.space]
    short = {option: f"`{option.removeprefix('--')}`" for option in options}
    rows = [f"| trial | {' | '.join(short.values())} | state | value | best so far |"]
    rows.append(f"|{'---|' * (len(options) + 4)}")
    for trial, best in zip(trials, history(sweep, trials), strict=True):
        state = WORDS[trial.state.name]
        if state == "given up":
            state += f" at T = {max(trial.intermediate_values, default=0):,}"
        if reason := trial.user_attrs.get(REASON):
            state += f": {' '.join(str(reason).split()).replace('|', '/')[:120]}"
        values = " | ".join(_shown(trial.params.get(option, "")) for option in options)
        rows.append(f"| {trial.number} | {values} | {state} | {_shown(trial.value)} | {_shown(best)} |")
    return rows


def history(sweep: Sweep, trials: list[optuna.trial.FrozenTrial]) -> list[float | None]:
    """The best value of the trials done so far, after each trial; None before the first."""
    found: list[float | None] = []
    better = max if sweep.direction == MAXIMIZE else min
    for trial in trials:
        done = [trial.value] if trial.state.name == "COMPLETE" and trial.value is not None else []
        found.append(better([*done, *filter(lambda v: v is not None, found[-1:])], default=None))  # type: ignore[type-var]
    return found


def _importances(sweep: Sweep, study: Study) -> list[str]:
    options = [parameter.option for parameter in sweep.space]
    short = [f"`{option.removeprefix('--')}`" for option in options]
    rows = [f"| evaluator | {' | '.join(short)} |"]
    rows.append(f"|{'---|' * (len(options) + 1)}")
    for name, found in study.importances().items():
        shares = (
            [f"{found[o]:.2f}" if o in found else "" for o in options]
            if isinstance(found, dict)
            else [f"none: {found}"]
        )
        rows.append(f"| {name} | {' | '.join(shares + [''] * (len(options) - len(shares)))} |")
    return rows


def _draw(sweep: Sweep, trials: list[optuna.trial.FrozenTrial]) -> bool:
    """Draws the history where matplotlib is there and a trial is done; returns whether it did."""
    done = [(t.number, t.value) for t in trials if t.state.name == "COMPLETE" and t.value is not None]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not done:
        return False
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*done, strict=True), "o", color="tab:blue", label="trials done")
    best = [(t.number, value) for t, value in zip(trials, history(sweep, trials), strict=True) if value is not None]
    axes.step(*zip(*best, strict=True), where="post", color="tab:orange", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(sweep.metric)
    axes.legend()
    figure.savefig(sweep.folder / FIGURE, dpi=120)
    return True


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
