"""What stands with a figure: how to read it (its caption), and what it shows (its alternative text)."""

from __future__ import annotations

import numpy as np

from cdrl_pl.report import statistics as st
from cdrl_pl.report.figures import grid_curves
from cdrl_pl.report.panels import information_panels, kl_panels, policies
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.tables import late_information
from cdrl_pl.report.words import number, scored

CAPTIONS = {
    "learning_curves": "Mean over runs (thick), every run (thin), and a pointwise 95 % bootstrap band over runs. Each "
    "run's curve is the mean return of its last finished training episodes (100, unless the run's config says "
    "otherwise), so it trails the policy.",
    "final_scores": "A tick per run, the mean over runs as a marker, its 95 % bootstrap interval as a bar. Both panels "
    "have one range.",
    "differences": "Mean with its 95 % bootstrap interval over runs; dashed: no difference.",
    "kl": "Measured alike in every arm, whatever is trained: distillation KL(aligned teacher ‖ student layer), "
    "alignment KL(student policy ‖ aligned teacher), one line per run. T1: alignment training starts; T2: "
    "distillation starts; stop: both end. All panels have one range.",
    "information": "How much an action depends on the state: mutual information over the states of a rollout, one line "
    "per run. Where the aligned teacher is near 0, it says the same in every state. All panels have one range.",
    "actions": "Mean policies on the student's states, averaged over runs (the paper's Figure 5), over the first log "
    "line with the teacher active, in which its alignment had only begun to train, and over the last. All panels have "
    "one range.",
}


def alt(name: str, comparison: Comparison) -> str:
    """What a figure shows, for those who do not see it."""
    return f"{ALTS[name](comparison)}."


def _curves(comparison: Comparison) -> str:
    ends = []
    for arm in comparison.arms:
        _, curves = grid_curves(arm, comparison.agent, comparison.T_max)
        middle = st.band(curves)[0]
        known = middle[np.isfinite(middle)]
        ends.append(f"{arm.label} {number(float(known[-1])) if len(known) else '-'}")
    return f"Mean training return where the curves end, in points: {'; '.join(ends)}"


def _scores(comparison: Comparison) -> str:
    parts = []
    for policy in ("sampled", "greedy"):
        means = [f"{arm.label} {number(float(arm.finals(policy).mean()))}" for arm in scored(comparison)]
        parts.append(f"{policy} policy, mean return in points: {'; '.join(means)}")
    return f"Final scores. {'. '.join(parts)}"


def _differences(comparison: Comparison) -> str:
    base, said = comparison.base.finals("sampled"), []
    for arm in comparison.others:
        if len(ours := arm.finals("sampled")):
            gain = number(float(st.difference(ours, base)), st.bootstrap(st.difference, ours, base), signed=True)
            chance = number(float(st.probability_of_improvement(ours, base)))
            said.append(f"{arm.label} {gain}, probability of improvement {chance}")
    return f"Mean difference to {comparison.base.label} in points (sampled policies): {'; '.join(said)}"


def _kls(comparison: Comparison) -> str:
    said = []
    for panel in kl_panels(comparison):
        parts = []
        for what, column in panel.columns.items():
            curves = [y for run in panel.arm.runs if len(y := run.curve(column)[1])]
            if curves:
                first, last = (np.mean([y[end] for y in curves]) for end in (0, -1))
                parts.append(f"{what} from {first:.2g} to {last:.2g}")
        said.append(f"{panel.title}: {', '.join(parts)}")
    return f"First to last log line, mean over runs, in nats: {'; '.join(said)}"


def _information(comparison: Comparison) -> str:
    said = []
    for panel in information_panels(comparison):
        parts = [f"{kind} {text.partition(' ')[0]}" for kind, text in late_information(panel).items()]
        said.append(f"{panel.title}: {', '.join(parts)}")
    return f"State information at the end, mean over runs, in nats: {'; '.join(said)}"


def _actions(comparison: Comparison) -> str:
    said = []
    for panel in kl_panels(comparison):
        parts = []
        for title, names, first, last in policies(panel):
            before, after = int(np.argmax(first)), int(np.argmax(last))
            parts.append(f"{title} {names[before]} ({first[before]:.2f}), then {names[after]} ({last[after]:.2f})")
        said.append(f"{panel.title}: {', '.join(parts)}")
    return f"Most probable action at the first and at the last line: {'; '.join(said)}"


ALTS = {
    "learning_curves": _curves,
    "final_scores": _scores,
    "differences": _differences,
    "kl": _kls,
    "information": _information,
    "actions": _actions,
}
