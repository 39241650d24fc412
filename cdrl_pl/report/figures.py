"""The figures: each takes a comparison and gives a matplotlib figure, or None where there is nothing to draw."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cdrl_pl import metric_names
from cdrl_pl.report import statistics as st
from cdrl_pl.report.run_data import ArmData, RunData
from cdrl_pl.report.runs import Comparison

Array = np.ndarray[Any, Any]
# Okabe and Ito's colours that hold on white and on black; the baseline is grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D")
MARKERS = "sD^vP*Xh"
BASELINE = "#808080"
GRID_POINTS = 200


@dataclass(frozen=True)
class Theme:
    """Colours of what is not data.

    Attributes:
        text: colour of the text.
        grid: colour of the grid.
        background: colour behind everything.
    """

    text: str
    grid: str
    background: str


LIGHT, DARK = Theme("#1f2328", "#d8dee4", "#ffffff"), Theme("#e6edf3", "#3d444d", "#12161c")


def style(theme: Theme) -> Any:
    """matplotlib's settings for a theme."""
    return {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": theme.text,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "axes.facecolor": theme.background,
        "figure.facecolor": theme.background,
        "text.color": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "report",
        "figure.constrained_layout.use": True,
    }


def colours(comparison: Comparison) -> dict[str, str]:
    """A colour per arm."""
    others = {arm.name: COLOURS[i % len(COLOURS)] for i, arm in enumerate(comparison.others)}
    return {comparison.baseline: BASELINE, **others}


def markers(comparison: Comparison) -> dict[str, str]:
    """A marker per arm, so that colour is not the only difference."""
    others = {arm.name: MARKERS[i % len(MARKERS)] for i, arm in enumerate(comparison.others)}
    return {comparison.baseline: "o", **others}


def short(value: float, _: object = None) -> str:
    """1,500,000 as 1.5 M, for axes."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{name}"
    return f"{value:.6g}"


def _decisions(axis: Axes, skip: float, frames: bool = True) -> None:
    axis.set_xlabel("decisions of the agent")
    axis.xaxis.set_major_formatter(FuncFormatter(short))
    axis.set_xlim(left=0)
    if frames and skip != 1:
        top = axis.secondary_xaxis("top", functions=(lambda x: np.multiply(x, skip), lambda x: np.divide(x, skip)))
        top.set_xlabel(f"frames of the game ({skip:g} per decision on average)")
        top.xaxis.set_major_formatter(FuncFormatter(short))
        top.spines["top"].set_visible(False)


def grid_curves(arm: ArmData, agent: str, T_max: int) -> tuple[Array, Array]:
    """A common grid [G] up to the budget, and every run's training return on it [N, G]; NaN where a run has none."""
    grid = np.linspace(0, T_max, GRID_POINTS + 1)[1:]
    return grid, np.stack([st.on_grid(*run.curve(metric_names.RETURN(agent)), grid) for run in arm.runs])


def learning_curves(comparison: Comparison) -> Figure:
    """Mean training return over runs with its band, and every run as a thin line."""
    figure, ((axis,),) = _figure(8.2, 4.4)
    colour = colours(comparison)
    for arm in comparison.arms:
        grid, curves = grid_curves(arm, comparison.agent, comparison.T_max)
        middle, low, high = st.band(curves)
        label = f"{arm.name} ({len(arm.runs)} run{'s' * (len(arm.runs) != 1)})"
        axis.plot(grid, middle, color=colour[arm.name], linewidth=2.2, label=label)
        axis.fill_between(grid, low, high, color=colour[arm.name], alpha=0.18, linewidth=0)
        if len(arm.runs) > 1:
            for run in arm.runs:
                axis.plot(
                    *run.curve(metric_names.RETURN(comparison.agent)), color=colour[arm.name], linewidth=0.7, alpha=0.55
                )
    if comparison.threshold is not None:
        axis.axhline(comparison.threshold, color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
        axis.annotate(
            f"threshold {comparison.threshold:g}", (1, comparison.threshold), xycoords=axis.get_yaxis_transform(),
            xytext=(-2, 3), textcoords="offset points", fontsize=8.5, ha="right",
        )  # fmt: skip
    axis.set_ylabel("return, mean of the last 100\ntraining episodes (points)")
    _decisions(axis, comparison.frame_skip)
    axis.set_xlim(0, comparison.T_max)
    axis.legend(loc="best", fontsize=9)
    return figure


def final_scores(comparison: Comparison) -> Figure | None:
    """Every run's final score as a point, the mean with its interval; sampled and greedy side by side."""
    arms = [arm for arm in comparison.arms if len(arm.finals("sampled"))]
    if not arms:
        return None
    figure, (axes,) = _figure(8.2, 0.9 + 0.55 * len(arms), columns=2)
    colour, marker = colours(comparison), markers(comparison)
    for axis, policy in zip(axes, ("sampled", "greedy"), strict=True):
        for row, arm in enumerate(arms):
            scores = arm.finals(policy)
            interval = st.bootstrap(st.mean, scores)
            look = {"color": colour[arm.name]}
            axis.plot(scores, np.full(len(scores), row + 0.2), "|", markersize=9, markeredgewidth=1.6, **look)
            axis.plot([interval.low, interval.high], [row, row], linewidth=3, solid_capstyle="butt", alpha=0.6, **look)
            axis.plot(scores.mean(), row, marker[arm.name], markersize=7, **look)
        _rows(axis, [arm.name for arm in arms] if axis is axes[0] else [""] * len(arms))
        axis.set_title(f"{policy} policy")
        axis.set_xlabel("return of the frozen final policy (points)")
    return figure


def differences(comparison: Comparison) -> Figure | None:
    """Difference to the baseline and probability of improvement over it, with their intervals."""
    arms = [arm for arm in comparison.others if len(arm.finals("sampled"))]
    if not arms or not len(comparison.base.finals("sampled")):
        return None
    figure, (axes,) = _figure(8.2, 1.2 + 0.62 * len(arms), columns=2)
    colour = colours(comparison)
    panels = (
        (st.difference, 0.0, f"mean difference to {comparison.baseline}", "points"),
        (st.probability_of_improvement, 0.5, "probability of improvement", f"chance to be above {comparison.baseline}"),
    )  # fmt: skip
    for axis, (statistic, nothing, title, label) in zip(axes, panels, strict=True):
        axis.axvline(nothing, color=BASELINE, linewidth=1.2, linestyle=(0, (4, 3)))
        for row, arm in enumerate(arms):
            for policy, shift, fill in (("sampled", -0.13, colour[arm.name]), ("greedy", 0.13, "none")):
                scores, base = arm.finals(policy), comparison.base.finals(policy)
                low, high = st.bootstrap(statistic, scores, base)
                axis.plot([low, high], [row + shift] * 2, color=colour[arm.name], linewidth=2.2, alpha=0.6)
                look = {"color": colour[arm.name], "markerfacecolor": fill, "markersize": 6.5}
                axis.plot(statistic(scores, base), row + shift, "o", label=policy if row == 0 else None, **look)
        _rows(axis, [arm.name for arm in arms] if axis is axes[0] else [""] * len(arms))
        axis.set_title(title)
        axis.set_xlabel(label)
    axes[1].set_xlim(-0.04, 1.04)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=9)
    return figure


def kls(comparison: Comparison) -> Figure | None:
    """Alignment and distillation KL of every transfer against decisions, with T1, T2 and stop marked."""

    def lines(name: str, student: str) -> dict[str, str]:
        return {
            "distillation KL": metric_names.DISTILLATION_KL(name),
            "alignment KL": metric_names.ALIGNMENT_KL(name),
        }

    return _over_time(comparison, lines, "KL (nats per decision)", "log")


def information(comparison: Comparison) -> Figure | None:
    """How much teacher, aligned teacher and student say of the state against decisions, for every transfer."""

    def lines(name: str, student: str) -> dict[str, str]:
        sources = {"student": student, "aligned teacher": f"{name}/aligned", "teacher": f"{name}/teacher"}
        return {label: metric_names.STATE_INFORMATION(source) for label, source in sources.items()}

    return _over_time(comparison, lines, "state information (nats)", "linear")


def _over_time(
    comparison: Comparison, lines: Callable[[str, str], dict[str, str]], label: str, scale: Literal["log", "linear"]
) -> Figure | None:
    """A panel per transfer: columns of the log, one line per run, with T1, T2 and stop marked.

    Args:
        comparison: what is drawn.
        lines: of a transfer's name and its student: label -> column. A transfer of which nothing was logged has none.
        label: of the vertical axis, with its unit.
        scale: of the vertical axis, "log" or "linear".
    """
    edges = [
        (arm, edge, columns)
        for arm in comparison.arms
        for name, edge in arm.runs[0].transfers.items()
        if _logged(arm.runs, name, columns := lines(name, edge.student))
    ]
    if not edges:
        return None
    figure, axes = _figure(8.2, 0.5 + 2.3 * len(edges), len(edges))
    for axis, (arm, edge, columns) in zip(axes[:, 0], edges, strict=True):
        for colour, (what, column) in zip(COLOURS, columns.items(), strict=False):
            for number, run in enumerate(arm.runs):
                x, y = run.curve(column)
                y = np.maximum(y, 1e-8) if scale == "log" else y
                axis.plot(x, y, color=colour, linewidth=1.3, alpha=0.8, label=what if number == 0 else None)
        for mark, value in edge.marks.items():
            if value is not None and value <= comparison.T_max:
                axis.axvline(value, color=BASELINE, linewidth=1.1, linestyle=(0, (3, 2)))
                axis.annotate(
                    mark, (value, 1), xycoords=axis.get_xaxis_transform(), xytext=(0, 2), textcoords="offset points",
                    fontsize=9, fontweight="bold", ha="center",
                )  # fmt: skip
        axis.set_yscale(scale)
        axis.set_ylabel(label)
        axis.set_title(f"{arm.name}: {edge.teacher} teaches {edge.student}", pad=16)
        axis.set_xlim(0, comparison.T_max)
        axis.xaxis.set_major_formatter(FuncFormatter(short))
        axis.legend(fontsize=8.5, loc="best", ncols=len(columns))
    axes[-1, 0].set_xlabel("decisions of the student")
    return figure


def _logged(runs: Sequence[RunData], name: str, columns: dict[str, str]) -> bool:
    """Returns whether a run has any of the columns that are the transfer's own."""
    return any(len(run.curve(c)[0]) for run in runs for c in columns.values() if name in c.split("/"))


def _has_kl(runs: Sequence[RunData], name: str) -> bool:
    return any(len(run.curve(metric_names.DISTILLATION_KL(name))[0]) for run in runs)


def actions(comparison: Comparison) -> Figure | None:
    """The paper's Figure 5: policies of teacher, aligned teacher and student on the student's states."""
    edges = [(arm, name) for arm in comparison.arms for name in arm.runs[0].transfers if _has_kl(arm.runs, name)]
    if not edges:
        return None
    figure, axes = _figure(8.2, 0.4 + 2.5 * len(edges), len(edges), 3, sharey="row")
    for line, (arm, name) in zip(axes, edges, strict=True):
        student = arm.runs[0].transfers[name].student
        sources = ((f"{name}/teacher", "teacher"), (f"{name}/aligned", "aligned teacher"), (student, "student"))
        for axis, (source, title) in zip(line, sources, strict=True):
            names = action_names(arm.runs, source)
            first, last = (_mean_policy(arm.runs, name, source, len(names), end) for end in (0, -1))
            places = np.arange(len(names))
            axis.bar(places - 0.2, first, 0.38, color=BASELINE, label="first log line with the teacher")
            axis.bar(places + 0.2, last, 0.38, color=COLOURS[0], label="last log line with it")
            axis.set_xticks(places, names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)
            axis.set_title(f"{arm.name}: {title}" if axis is line[0] else title)
            axis.grid(axis="x", visible=False)
        line[0].set_ylabel("mean probability")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=9)
    return figure


def action_names(runs: Sequence[RunData], source: str) -> list[str]:
    """Names of a policy's actions where the runs say one for each (not where two play the same), else their numbers."""
    prefix = f"{metric_names.ACTIONS(source)}/"
    numbers = [n.removeprefix(prefix) for n in runs[0].metrics if n.startswith(prefix)]
    numbers = sorted((n for n in numbers if n.isdigit()), key=int)
    named = (list(line[source]) for run in runs for line in run.actions if source in line)
    return next((names for names in named if len(names) == len(numbers)), numbers)


def _mean_policy(runs: Sequence[RunData], transfer: str, source: str, count: int, end: int) -> Array:
    """Mean over runs of the logged policy at the first (0) or last (-1) line at which the transfer was active."""
    found = []
    for run in runs:
        active = np.flatnonzero(np.isfinite(run.metrics.get(metric_names.DISTILLATION_KL(transfer), np.empty(0))))
        if len(active):
            found.append([run.metrics[f"{metric_names.ACTIONS(source)}/{i}"][active[end]] for i in range(count)])
    return np.asarray(np.mean(found, 0))


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, sharey: Any = False) -> tuple[Figure, Any]:
    """A figure in inches and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)


FIGURES = {
    "learning_curves": learning_curves,
    "final_scores": final_scores,
    "differences": differences,
    "kl": kls,
    "information": information,
    "actions": actions,
}


def draw(name: str, comparison: Comparison, theme: Theme, kind: str) -> bytes | None:
    """The bytes of a figure as "png" or "svg"; None where there is nothing to draw."""
    with matplotlib.rc_context(style(theme)):
        figure = FIGURES[name](comparison)
        if figure is None:
            return None
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        return out.getvalue()
