"""The tables of a report, as plain text that the HTML page and the Markdown file both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdrl_pl import metric_names
from cdrl_pl.report import statistics as st
from cdrl_pl.report.panels import Panel, information_panels
from cdrl_pl.report.run_data import ArmData
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.style import short
from cdrl_pl.report.words import number, plural, protocol, scored

JUMP_START = 0.1  # of the budget
KINDS = ("teacher", "aligned teacher", "student")


@dataclass(frozen=True)
class Table:
    """Rows below a head.

    Attributes:
        title: of the table.
        head: names of the columns.
        rows: cells of every row.
        note: what is said under the table.
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def final_table(comparison: Comparison) -> Table:
    """Final scores of the frozen policies, arm by arm."""
    rows = []
    for arm in scored(comparison):
        cells = [arm.label, str(len(arm.finals("sampled")))]
        for policy in ("sampled", "greedy"):
            scores = arm.finals(policy)
            cells += [number(float(scores.mean()), st.bootstrap(st.mean, scores)), number(float(st.iqm(scores)))]
        rows.append(tuple(cells))
    note = (
        f"Frozen final policy (last checkpoint, not the best), {protocol(comparison)}. Each run's score is the mean "
        "return of its episodes; an arm's is the mean of its runs, with a 95 % bootstrap interval over runs. IQM: "
        "interquartile mean over runs (below four runs it is the mean)."
    )
    return Table("Final scores", ("arm", "runs", "sampled", "IQM", "greedy", "IQM"), rows, note)


def difference_table(comparison: Comparison) -> Table | None:
    """Every arm beside the baseline."""
    base = comparison.base
    rows: list[tuple[str, ...]] = []
    for arm in comparison.others:
        if not len(arm.finals("sampled")) or not len(base.finals("sampled")):
            continue
        for policy in ("sampled", "greedy"):
            pair = arm.finals(policy), base.finals(policy)
            gain = number(float(st.difference(*pair)), st.bootstrap(st.difference, *pair), signed=True)
            chance = st.bootstrap(st.probability_of_improvement, *pair)
            rows.append((arm.label, policy, gain, number(float(st.probability_of_improvement(*pair)), chance)))
    if not rows:
        return None
    return Table(
        f"Beside the baseline, {base.label}",
        ("arm", "policy", "mean difference (points)", "probability of improvement"),
        rows,
        "95 % percentile bootstrap over runs, each arm resampled by itself. Probability of improvement: the share of "
        "all pairs of runs in which the arm's scores above the baseline's, a tie counting one half. "
        "0.5 is no difference.",
    )


def speed_table(comparison: Comparison) -> Table:
    """Jump-start, area ratio and time to threshold, from the training curves."""
    agent, T_max, base = comparison.agent, comparison.T_max, comparison.base
    early = {arm.name: heights(arm, agent, 0.0, JUMP_START * T_max) for arm in comparison.arms}
    whole = {arm.name: heights(arm, agent, 0.0, T_max) for arm in comparison.arms}

    def area(ours: Any, theirs: Any) -> Any:
        return st.area_ratio(ours, theirs, comparison.floor)

    rows = []
    for arm in comparison.arms:
        is_base = arm.name == base.name
        jump, ratio = "baseline", "baseline"
        if not is_base and len(early[arm.name]) and len(early[base.name]):
            pair = early[arm.name], early[base.name]
            jump = number(float(st.difference(*pair)), st.bootstrap(st.difference, *pair), signed=True)
        elif not is_base:
            jump = "-"
        if not is_base and len(whole[arm.name]) and len(whole[base.name]):
            pair = whole[arm.name], whole[base.name]
            ratio = number(float(area(*pair)), st.bootstrap(area, *pair))
        elif not is_base:
            ratio = "-"
        reached = (time_cell(arm, comparison),) if comparison.threshold is not None else ()
        rows.append((arm.label, jump, ratio, *reached))
    named = () if comparison.threshold is None else (f"decisions to a return of {comparison.threshold:g}",)
    note = (
        "From the training curves (mean return of the last 100 episodes, sampled policy). Jump-start: mean height over "
        f"the first {JUMP_START:.0%} of the budget, less the baseline's. Area ratio: area under the curve over the "
        f"baseline's, counted from {comparison.floor:g}; 1 is no difference. 95 % bootstrap over runs."
    )
    if named:
        note += (
            " Time: first log line at or above the threshold; runs that did not reach it count as later than all "
            "others in the median, and make the mean a lower bound."
        )
    return Table("Speed of learning", ("arm", "jump-start (points)", "area ratio", *named), rows, note)


def heights(arm: ArmData, agent: str, start: float, end: float) -> st.Array:
    """Mean height per run that reaches ``end``, from its first finished episodes on where they come later."""
    found = []
    for run in arm.runs:
        x, y = run.curve(metric_names.RETURN(agent))
        # A run of whole rollouts may end a little short of the last log line, or log its first return a little late.
        if len(x) and x[0] < end and x[-1] >= 0.98 * end:
            found.append(st.height(x, y, max(start, float(x[0])), min(end, float(x[-1]))))
    return np.array([value for value in found if np.isfinite(value)])


def time_cell(arm: ArmData, comparison: Comparison) -> str:
    """The time to threshold of an arm, in words."""
    assert comparison.threshold is not None
    curves = [run.curve(metric_names.RETURN(comparison.agent)) for run in arm.runs]
    summary = st.times([st.time_to_threshold(x, y, comparison.threshold) for x, y in curves], comparison.T_max)
    if summary.reached == 0:
        return f"not reached (0 of {summary.runs})"
    median = "not reached by half" if np.isinf(summary.median) else _rounded(summary.median)
    mean = f"{'at least ' if summary.is_bound else ''}{_rounded(summary.mean)}"
    return f"median {median}, mean {mean} ({summary.reached} of {summary.runs})"


def _rounded(decisions: float) -> str:
    return short(float(f"{round(decisions):.4g}"))


def paper_table(comparison: Comparison) -> Table | None:
    """Published numbers beside ours, with both protocols."""
    rows: list[tuple[str, ...]] = []
    for entry in comparison.paper:
        arm = next((arm for arm in comparison.arms if arm.name == entry.arm), None)
        if arm is None:
            continue
        scores = arm.finals("sampled")
        ours = f"{scores.mean():.2f} ± {spread(scores)}" if len(scores) else "-"
        theirs = f"{entry.value:g}" + ("" if entry.spread is None else f" ± {entry.spread:g}")
        published = f"{entry.protocol}{' (' + entry.source + ')' if entry.source else ''}"
        mine = f"{protocol(comparison)}, {plural(len(scores), 'run')}, after {short(comparison.T_max)} decisions"
        rows.append((arm.label, ours, mine, theirs, published))
    if not rows:
        return None
    return Table(
        "Beside the published numbers",
        ("arm", "ours (sampled)", "our protocol", "published", "published protocol"),
        rows,
        "The protocols differ, so the numbers are not comparable: read neither as better than the other. "
        "± is the standard deviation over runs.",
    )


def information_table(comparison: Comparison) -> Table | None:
    """How much teachers, F and students say of the state; None where no run logged it."""
    rows = [
        (panel.arm.label, f"{panel.edge.teacher} teaches {panel.edge.student}", *(said[kind] for kind in KINDS))
        for panel in information_panels(comparison)
        if "-" not in ((said := late_information(panel))["teacher"], said["aligned teacher"])
    ]
    if not rows:
        return None
    return Table(
        "What is said of the state",
        ("arm", "transfer", "teacher (nats)", "aligned teacher (nats)", "student (nats)"),
        rows,
        "How much an action depends on the state: mutual information over the states of a rollout, mean over the last "
        "tenth of the log lines that have it, then over runs, with the lowest and highest run. An aligned teacher near "
        "0 says the same in every state: nothing of what its teacher knows can be learned from it.",
    )


def late_information(panel: Panel) -> dict[str, str]:
    """What a transfer's teacher, aligned teacher and student say of the state at the end; a dash for nothing."""
    curves = {kind: [run.curve(column)[1] for run in panel.arm.runs] for kind, column in panel.columns.items()}
    return {kind: _late(found) for kind, found in curves.items()}


def _late(curves: Sequence[st.Array]) -> str:
    ends = [float(y[-max(1, len(y) // 10) :].mean()) for y in curves if len(y)]
    return f"{np.mean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f})" if ends else "-"


def runs_table(comparison: Comparison) -> Table:
    """Every run, so that nothing is hidden in a mean."""
    rows = []
    for arm in comparison.arms:
        for run in arm.runs:
            seconds = int(run.curve(metric_names.SECONDS())[1].sum())
            time = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            scores = [number(run.final(policy)) for policy in ("sampled", "greedy")]
            rows.append(
                (
                    arm.label,
                    "-" if run.seed is None else str(run.seed),
                    f"{run.env_steps:,}",
                    *scores,
                    time,
                    str(len(run.attempts)),
                )
            )
    head = ("arm", "seed", "decisions", "sampled", "greedy", "training time", "starts")
    return Table("Every run", head, rows, "Starts above 1: the run was interrupted and went on from a checkpoint.")


def spread(scores: st.Array) -> str:
    """Standard deviation over runs, ddof 1; a dash for one run."""
    return f"{np.std(scores, ddof=1):.2f}" if len(scores) > 1 else "-"
