"""The figures: each takes a comparison and its width, and gives a matplotlib figure, or None with nothing to draw."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cdrl_pl import metric_names
from cdrl_pl.report import statistics as st
from cdrl_pl.report.panels import actions, information, kls
from cdrl_pl.report.run_data import ArmData
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.style import (
    BASELINE,
    LIGHT,
    NARROW,
    STYLE,
    WIDE,
    decisions,
    looks,
    new_figure,
    row_names,
    short,
    smaller,
    wrapped,
)

Array = np.ndarray[Any, Any]
GRID_POINTS = 200


def grid_curves(arm: ArmData, agent: str, T_max: int) -> tuple[Array, Array]:
    """A common grid [G] up to the budget, and every run's training return on it [N, G]; NaN where a run has none."""
    grid = np.linspace(0, T_max, GRID_POINTS + 1)[1:]
    return grid, np.stack([st.on_grid(*run.curve(metric_names.RETURN(agent)), grid) for run in arm.runs])


def learning_curves(comparison: Comparison, width: float = WIDE) -> Figure:
    """Mean training return over runs with its band, and every run as a thin line."""
    wide = width == WIDE
    rows = len(comparison.arms) if not wide else (len(comparison.arms) + 1) // 2
    figure, ((axis,),) = new_figure(width, (3.9 if wide else 3.4) + 0.3 * rows)
    look = looks(comparison)
    for place, arm in enumerate(comparison.arms):
        colour, marker, dash = look[arm.name]
        grid, curves = grid_curves(arm, comparison.agent, comparison.T_max)
        middle, low, high = st.band(curves)
        label = wrapped(f"{arm.label} ({len(arm.runs)} run{'s' * (len(arm.runs) != 1)})", 46 if wide else 52)
        axis.plot(
            grid, middle, color=colour, linewidth=2.2, label=label, linestyle=dash, marker=marker, markersize=6,
            markevery=(4 * place + 3, 24), markeredgecolor=LIGHT.background, markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
        axis.fill_between(grid, low, high, color=colour, alpha=0.16, linewidth=0)
        for run in arm.runs if len(arm.runs) > 1 else ():
            curve = run.curve(metric_names.RETURN(comparison.agent))
            axis.plot(*curve, color=colour, linewidth=0.8, alpha=0.55, linestyle=dash)
    if comparison.threshold is not None:
        axis.axhline(comparison.threshold, color=BASELINE, linewidth=1, linestyle=(0, (4, 3)))
        axis.annotate(
            f"threshold {comparison.threshold:g}", (0, comparison.threshold), xycoords=axis.get_yaxis_transform(),
            xytext=(3, 3), textcoords="offset points", fontsize=8.5,
        )  # fmt: skip
    axis.set_ylabel("return (points)" if not wide else "return (points), mean of\nthe last training episodes")
    axis.set_xlabel("decisions of the agent")
    decisions(axis, comparison.T_max)
    if (skip := comparison.frame_skip) != 1:
        top = axis.secondary_xaxis("top", functions=(lambda x: np.multiply(x, skip), lambda x: np.divide(x, skip)))
        top.set_xlabel(f"frames of the game ({skip:g} per decision)")
        top.xaxis.set_major_formatter(FuncFormatter(short))
        top.spines["top"].set_visible(False)
    figure.legend(loc="outside lower left", fontsize=9, ncols=2 if wide else 1)
    return figure


def final_scores(comparison: Comparison, width: float = WIDE) -> Figure | None:
    """Every run's final score as a tick, the mean with its interval; sampled and greedy on one range."""
    arms = [arm for arm in comparison.arms if len(arm.finals("sampled"))]
    if not arms:
        return None
    wide = width == WIDE
    height = 0.9 + 0.55 * len(arms) if wide else 1.5 + 1.3 * len(arms)
    shape = {"columns": 2} if wide else {"rows": 2}
    figure, axes = new_figure(width, height, **shape, sharex=True, sharey=True)
    look = looks(comparison)
    for axis, policy in zip(axes.flat, ("sampled", "greedy"), strict=True):
        for row, arm in enumerate(arms):
            colour, marker, _ = look[arm.name]
            scores = arm.finals(policy)
            interval = st.bootstrap(st.mean, scores)
            axis.plot(scores, np.full(len(scores), row + 0.22), "|", color=colour, markersize=9, markeredgewidth=1.6)
            axis.plot([interval.low, interval.high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
            axis.plot(scores.mean(), row, marker, color=colour, markersize=8, markeredgecolor=LIGHT.background)
        row_names(axis, [arm.label for arm in arms], inside=not wide)
        axis.set_title(f"{policy} policy")
        axis.tick_params(axis="x", labelbottom=True)
        axis.set_xlabel("return of the frozen final policy (points)")
    return figure


def differences(comparison: Comparison, width: float = WIDE) -> Figure | None:
    """Difference to the baseline and probability of improvement over it, with their intervals."""
    arms = [arm for arm in comparison.others if len(arm.finals("sampled"))]
    if not arms or not len(comparison.base.finals("sampled")):
        return None
    wide = width == WIDE
    height = 1.3 + 0.62 * len(arms) if wide else 2.0 + 1.3 * len(arms)
    figure, axes = new_figure(width, height, **({"columns": 2} if wide else {"rows": 2}), sharey=True)
    look, base_label = looks(comparison), comparison.base.label
    panels = (
        (st.difference, 0.0, "mean difference (points)", f"points above {base_label}"),
        (st.probability_of_improvement, 0.5, "probability of improvement", f"chance to be above {base_label}"),
    )
    for axis, (statistic, nothing, title, label) in zip(axes.flat, panels, strict=True):
        axis.axvline(nothing, color=BASELINE, linewidth=1.2, linestyle=(0, (4, 3)))
        for row, arm in enumerate(arms):
            colour, marker, _ = look[arm.name]
            for policy, shift, fill in (("sampled", -0.13, colour), ("greedy", 0.15, LIGHT.background)):
                scores, base = arm.finals(policy), comparison.base.finals(policy)
                low, high = st.bootstrap(statistic, scores, base)
                line = "-" if policy == "sampled" else (0, (2, 1))
                axis.plot([low, high], [row + shift] * 2, color=colour, linewidth=2.2, linestyle=line)
                axis.plot(
                    statistic(scores, base), row + shift, marker, color=colour, markerfacecolor=fill, markersize=7,
                    label=f"{policy} policy" if row == 0 else None,
                )  # fmt: skip
        row_names(axis, [arm.label for arm in arms], inside=not wide)
        axis.set_title(title)
        axis.set_xlabel(wrapped(label, 42))
    axes.flat[1].set_xlim(-0.04, 1.04)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, [f"{label} ({how})" for label, how in zip(labels, ("filled", "hollow"), strict=True)],
                  loc="outside lower left", ncols=2, fontsize=9)  # fmt: skip
    return figure


FIGURES = {
    "learning_curves": learning_curves,
    "final_scores": final_scores,
    "differences": differences,
    "kl": kls,
    "information": information,
    "actions": actions,
}


class Drawing(NamedTuple):
    """A figure, drawn in ``LIGHT``.

    Attributes:
        png: for other pages.
        svg: the same.
        narrow: SVG for a telephone.
    """

    png: bytes
    svg: bytes
    narrow: bytes


def draw(name: str, comparison: Comparison) -> Drawing | None:
    """A figure; None where there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        wide, narrow = (FIGURES[name](comparison, width) for width in (WIDE, NARROW))
        if wide is None or narrow is None:
            return None
        return Drawing(_saved(wide, "png"), smaller(_saved(wide, "svg")), smaller(_saved(narrow, "svg")))


def _saved(figure: Figure, kind: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
