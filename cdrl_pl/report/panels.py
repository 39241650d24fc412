"""Figures with a panel per transfer, all of one range: its KLs, what is said of the state, and actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cdrl_pl import metric_names
from cdrl_pl.report.run_data import ArmData, Edge, RunData
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.style import BASELINE, COLOURS, WIDE, decisions, new_figure, wrapped

Array = np.ndarray[Any, Any]
# Marker, dash, width and opacity of a panel's lines: the last is drawn first, under what may lie on it.
LINES: tuple[tuple[str, Any, float, float], ...] = (
    ("s", (0, (5, 1.5)), 1.4, 0.9), ("D", (0, (1.2, 1.2)), 1.4, 0.9), ("o", "-", 3.0, 0.45)
)  # fmt: skip


class Panel(NamedTuple):
    """A transfer in an arm.

    Attributes:
        arm: with its runs.
        name: of the transfer, in the logs.
        edge: the transfer.
        columns: of the log that are drawn, by what they are called in the legend.
    """

    arm: ArmData
    name: str
    edge: Edge
    columns: dict[str, str]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.arm.label}: {self.edge.teacher} teaches {self.edge.student}"


def kl_panels(comparison: Comparison) -> list[Panel]:
    """Every transfer whose KLs were logged."""
    kinds = {"distillation KL": metric_names.DISTILLATION_KL, "alignment KL": metric_names.ALIGNMENT_KL}
    return _panels(comparison, lambda name, _: {label: metric(name) for label, metric in kinds.items()})


def information_panels(comparison: Comparison) -> list[Panel]:
    """Every transfer of which it was logged what its teacher says of the state."""

    def columns(name: str, student: str) -> dict[str, str]:
        sources = {"student": student, "aligned teacher": f"{name}/aligned", "teacher": f"{name}/teacher"}
        return {label: metric_names.STATE_INFORMATION(source) for label, source in sources.items()}

    return _panels(comparison, columns)


def _panels(comparison: Comparison, columns: Callable[[str, str], dict[str, str]]) -> list[Panel]:
    """``columns`` gives a transfer's, by its name and student; one of which nothing of its own was logged has none."""
    return [
        Panel(arm, name, edge, mine)
        for arm in comparison.arms
        for name, edge in arm.runs[0].transfers.items()
        if _logged(arm.runs, name, mine := columns(name, edge.student))
    ]


def _logged(runs: Sequence[RunData], name: str, columns: dict[str, str]) -> bool:
    """Returns whether a run has any of the columns that are the transfer's own."""
    return any(len(run.curve(c)[0]) for run in runs for c in columns.values() if name in c.split("/"))


def kls(comparison: Comparison, width: float = WIDE) -> Figure | None:
    """Alignment and distillation KL of every transfer against decisions, with T1, T2 and stop marked."""
    return _over_time(comparison, kl_panels(comparison), "KL (nats per decision)", "log", width)


def information(comparison: Comparison, width: float = WIDE) -> Figure | None:
    """How much teacher, aligned teacher and student say of the state against decisions, for every transfer."""
    return _over_time(comparison, information_panels(comparison), "information (nats)", "linear", width)


def _over_time(
    comparison: Comparison, panels: list[Panel], label: str, scale: Literal["log", "linear"], width: float
) -> Figure | None:
    """Columns of the log, one line per run, with T1, T2 and stop marked.

    Args:
        comparison: what is drawn.
        panels: its panels.
        label: of the vertical axis, with its unit.
        scale: of the vertical axis, "log" or "linear".
        width: of the figure, in inches.
    """
    if not panels:
        return None
    columns = 2 if width == WIDE and len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(width, 0.9 + 2.0 * rows, rows, columns, sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for place, (what, column) in reversed([*enumerate(panel.columns.items())]):
            for number, run in enumerate(panel.arm.runs):
                x, y = run.curve(column)
                marker, dash, thickness, opacity = LINES[place]
                axis.plot(
                    x, np.maximum(y, 1e-8) if scale == "log" else y, color=COLOURS[place], linewidth=thickness,
                    alpha=opacity, linestyle=dash, marker=marker, markersize=4, markevery=(0.05 + 0.04 * place, 0.2),
                    label=what if number == 0 else None,
                )  # fmt: skip
        for at, marks in _marked(panel.edge, comparison.T_max).items():
            late = at > 0.85 * comparison.T_max
            axis.axvline(at, color=BASELINE, linewidth=1.1, linestyle=(0, (3, 2)))
            axis.annotate(
                marks, (at, 1), xycoords=axis.get_xaxis_transform(), xytext=(-3 if late else 3, -1),
                textcoords="offset points", fontsize=8.5, fontweight="bold", ha="right" if late else "left", va="top",
            )  # fmt: skip
        axis.set_yscale(scale)
        axis.set_title(wrapped(panel.title, 46), fontsize=9)
        decisions(axis, comparison.T_max)
    for axis in axes[:, 0]:
        axis.set_ylabel(label, fontsize=9)
    for place in range(columns):
        last = axes.flat[: len(panels)][place::columns][-1]
        last.set_xlabel("decisions of the student")
        last.tick_params(axis="x", labelbottom=True)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", fontsize=9, ncols=3)
    return figure


def _marked(edge: Edge, T_max: int) -> dict[int, str]:
    """T1, T2 and stop within the budget: decisions -> their names."""
    found: dict[int, str] = {}
    for mark, value in edge.marks.items():
        if value is not None and value <= T_max:
            found[value] = f"{found[value]}, {mark}" if value in found else mark
    return found


def actions(comparison: Comparison, width: float = WIDE) -> Figure | None:
    """The paper's Figure 5: policies of teacher, aligned teacher and student on the student's states."""
    shown = [(panel, said) for panel in kl_panels(comparison) if (said := policies(panel))]
    if not shown:
        return None
    wide = width == WIDE
    rows, columns = (len(shown), 3) if wide else (3 * len(shown), 1)
    figure, axes = new_figure(width, 0.6 + (2.3 if wide else 1.9) * rows, rows, columns, sharey=True)
    every = iter(axes.flat)
    for panel, sources in shown:
        for place, (title, names, first, last) in enumerate(sources):
            axis, places = next(every), np.arange(len(names))
            axis.bar(places - 0.2, first, 0.38, color="none", edgecolor=BASELINE, hatch="////",
                     label="first log line with the teacher (hatched)")  # fmt: skip
            axis.bar(places + 0.2, last, 0.38, color=COLOURS[0], label="last log line with it (filled)")
            axis.set_xticks(places, names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)
            above = f"{wrapped(panel.title, 110 if wide else 50)}\n" if place == 0 else "\n" if wide else ""
            axis.set_title(f"{above}{title}", fontsize=9)
            axis.grid(axis="x", visible=False)
            if place == 0 or not wide:
                axis.set_ylabel("mean probability", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2 if wide else 1, fontsize=9)
    return figure


def policies(panel: Panel) -> list[tuple[str, list[str], Array, Array]]:
    """Teacher, aligned teacher and student: title, names of actions, and mean policy at the first and the last line.

    Empty where they were not logged.
    """
    runs, name = panel.arm.runs, panel.name
    sources = {"teacher": f"{name}/teacher", "aligned teacher": f"{name}/aligned", "student": panel.edge.student}
    found = []
    for title, source in sources.items():
        names = action_names(runs, source)
        first, last = (_mean_policy(runs, name, source, len(names), end) for end in (0, -1))
        if not len(first) or not len(last):
            return []
        found.append((title, names, first, last))
    return found


def action_names(runs: Sequence[RunData], source: str) -> list[str]:
    """Names of a policy's actions where the runs say one for each (not where two play the same), else their numbers."""
    prefix = f"{metric_names.ACTIONS(source)}/"
    numbers = [n.removeprefix(prefix) for n in runs[0].metrics if n.startswith(prefix)]
    numbers = sorted((n for n in numbers if n.isdigit()), key=int)
    named = (list(line[source]) for run in runs for line in run.actions if source in line)
    return next((names for names in named if len(names) == len(numbers)), numbers)


def _mean_policy(runs: Sequence[RunData], transfer: str, source: str, count: int, end: int) -> Array:
    """Mean over runs of the logged policy at the first (0) or last (-1) line with the transfer active; empty: none."""
    found = []
    for run in runs:
        active = np.isfinite(run.metrics.get(metric_names.DISTILLATION_KL(transfer), np.empty(0)))
        columns = [run.metrics.get(f"{metric_names.ACTIONS(source)}/{i}") for i in range(count)]
        if active.any() and columns and all(column is not None for column in columns):
            policy = np.stack(columns)[:, np.flatnonzero(active)[end]]  # type: ignore[arg-type]
            found += [policy] if np.isfinite(policy).all() else []
    return np.mean(found, 0) if found else np.empty(0)
