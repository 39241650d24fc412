"""The sentences of a report: what was asked and how, what came out, what cannot be concluded, how it was run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdrl_pl import metric_names
from cdrl_pl.collapse import collapses
from cdrl_pl.report import statistics as st
from cdrl_pl.report.run_data import ArmData, RunData
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.style import short
from cdrl_pl.storage.fingerprint import config_hash

ENOUGH = 5  # runs per arm
# How often the bootstrap interval of a difference holds the truth: simulated, 2,000 draws, two arms of N normal scores.
COVERAGE = {2: 67, 3: 81, 4: 86, 5: 87, 10: 92, 20: 93}
TEACHING = (
    "A teacher here is an agent that knows another task, or a stand-in for one: it reads what the student sees, an "
    "alignment function F translates its choice into the student's actions, and the student learns to agree with that "
    "while it learns from its own rewards."
)


def number(value: float | None, interval: st.Interval | None = None, signed: bool = False) -> str:
    """``1.23 [0.80, 1.70]``; a dash where there is none."""
    if value is None or np.isnan(value):
        return "-"
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    if interval is None or np.isnan(interval.low):
        return text
    low, high = (f"{end:+.2f}" if signed else f"{end:.2f}" for end in interval)
    return f"{text} [{low}, {high}]"


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {word}{'s' * (count != 1)}"


def scored(comparison: Comparison) -> list[ArmData]:
    """The arms with at least one evaluated final policy."""
    return [arm for arm in comparison.arms if len(arm.finals("sampled"))]


def question(comparison: Comparison) -> str:
    """What was asked: as the experiment's file says, or else what any comparison asks."""
    if comparison.question:
        return " ".join(comparison.question.split())
    if len(comparison.arms) == 1:
        return f"How well does {_agent(comparison)} learn?"
    return f"How do {len(comparison.arms)} ways of training {_agent(comparison)} compare?"


def _agent(comparison: Comparison) -> str:
    game = comparison.env.get("id")
    return f"the agent {comparison.agent}" + (f" in {game}" if game else "")


def method(comparison: Comparison) -> str:
    """How the question was put to the test, for someone who has never heard of it."""
    counts = sorted({len(arm.runs) for arm in comparison.arms})
    each = plural(counts[0], "run") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    ways = f"{plural(len(comparison.arms), 'way')} of training {_agent(comparison)} (arms)"
    said = [f"{ways}, {each} of each, {short(comparison.T_max)} decisions a run."]
    if counts[-1] > 1:
        said.append("The runs of an arm differ in their random seed alone.")
    if any(arm.runs[0].transfers for arm in comparison.arms):
        said.append(TEACHING)
    if scored(comparison):
        said.append("At the end the policy is frozen and scored in fresh games.")
    return " ".join(said)


def findings(comparison: Comparison) -> list[str]:
    """The comparison in a sentence per arm, without a judgement that the numbers do not carry."""
    if not scored(comparison):
        return ["No final policy has been scored yet: everything here is from training alone."]
    base = comparison.base.finals("sampled")
    sentences = []
    if len(base):
        sentences.append(f"{comparison.base.label}, the baseline: {base.mean():.2f} points (final policy, sampled).")
    for arm in comparison.others:
        ours = arm.finals("sampled")
        if not len(ours) or not len(base):
            sentences.append(f"{arm.label}: no final scores to compare yet.")
            continue
        gain, interval = float(st.difference(ours, base)), st.bootstrap(st.difference, ours, base)
        text = f"{arm.label}: {ours.mean():.2f} points, {gain:+.2f} beside the baseline"
        if np.isnan(interval.low):
            sentences.append(f"{text}; with one run no interval can be given.")
        else:
            held = "includes zero" if interval.low <= 0 <= interval.high else "excludes zero"
            sentences.append(f"{text}; the 95 % interval [{interval.low:+.2f}, {interval.high:+.2f}] {held}.")
    return sentences


def protocol(comparison: Comparison) -> str:
    """How final policies were scored."""
    run = next((run for arm in comparison.arms for run in arm.runs if run.score is not None), None)
    if run is None or run.score is None:
        return "not scored yet"
    score, env = run.score["evaluation"]["sampled"], run.score["env"]
    parts = [f"{score['episodes']} episodes each sampled and greedy on fresh {env['id']}"]
    if comparison.frame_skip != 1:
        skip, sticky = env.get("frame_skip"), env.get("repeat_action_probability")
        frames = " to ".join(map(str, skip)) if isinstance(skip, list) else str(skip)
        parts.append(f"{frames} frames per decision")
        parts.append(f"sticky actions {sticky or 0:g}, up to {score.get('noop_max', 0)} random no-ops at the start")
    if limit := env.get("max_episode_steps"):
        parts.append(f"at most {limit:,} decisions per episode")
    return ", ".join(parts)


def called(arm: ArmData, run: RunData) -> str:
    """A run by its arm and seed; by its number within the arm where the seed is not known."""
    return f"{arm.label} seed {run.seed}" if run.seed is not None else f"{arm.label} run {arm.runs.index(run) + 1}"


def cautions(comparison: Comparison) -> list[str]:
    """What cannot be concluded, in sentences; empty where nothing is missing."""
    found = []
    counts = {arm.label: len(arm.runs) for arm in comparison.arms}
    least = min(counts.values())
    if least == 1:
        found.append(
            "There is an arm with one run. Its difference to another arm cannot be told from the difference between "
            "two seeds; no interval is given, and no arm can be called better or worse."
        )
    elif least < ENOUGH:
        found.append(
            f"There are arms with {least} runs, fewer than {ENOUGH}. Bootstrap intervals over so few runs are too "
            f"narrow: with {least} runs of normal scores, a 95 % interval of a difference holds the truth in about "
            f"{COVERAGE[least]} % of cases. An interval that excludes zero is a hint, not a result; one that includes "
            "it does not show that arms are equal."
        )
    if comparison.planned and any(n < comparison.planned for n in counts.values()):
        missing = "; ".join(
            f"{name}: {n} of {comparison.planned}" for name, n in counts.items() if n < comparison.planned
        )
        found.append(f"The experiment is not finished. Seeds that have begun: {missing}.")
    short_runs = [called(a, r) for a in comparison.arms for r in a.runs if r.env_steps < 0.98 * comparison.T_max]
    if short_runs:
        found.append(f"Not at the budget of {short(comparison.T_max)} decisions: {', '.join(short_runs)}.")
    unscored = [called(a, r) for a in comparison.arms for r in a.runs if r.score is None]
    if unscored:
        found.append(
            f"Without scores of a frozen final policy: {', '.join(unscored)}. Training returns are of a policy that "
            "was still changing, and are no substitute."
        )
    few = [r.score["evaluation"]["sampled"]["episodes"] for a in comparison.arms for r in a.runs if r.score is not None]
    if few and min(few) < 100:
        found.append(f"Policies were scored over {min(few)} episodes, fewer than 100.")
    seeds = {arm.label: sorted(run.seed for run in arm.runs if run.seed is not None) for arm in comparison.arms}
    if len({tuple(s) for s in seeds.values()}) > 1:
        told = "; ".join(f"{name}: {', '.join(map(str, s))}" for name, s in seeds.items())
        found.append(f"The arms do not have the same seeds. {told}.")
    for arm in comparison.arms:
        if len({config_hash(run.config) for run in arm.runs}) > 1:
            found.append(f"The runs of {arm.label} have different configs: they are not repetitions of one experiment.")
    found += _collapsed(comparison)
    found += _other_code(comparison)
    return found


def _collapsed(comparison: Comparison) -> list[str]:
    """The runs whose policy died, so that they show what a network can do and not what an arm is worth."""
    told = []
    column = metric_names.STATE_INFORMATION(comparison.agent)
    for arm in comparison.arms:
        for run in arm.runs:
            metrics = run.metrics
            if column in metrics:
                spans = collapses(zip(metrics[metric_names.ENV_STEPS()], metrics[column], strict=True))
                if spans:
                    began, ended = spans[0][0], spans[-1][1]
                    span = f"from {short(began)} " + ("on" if ended is None else f"to {short(ended)}")
                    told.append(f"{called(arm, run)} {span}" + (", with breaks" if len(spans) > 1 else ""))
    if not told:
        return []
    return [
        "The agent's policy came to act alike whatever it saw, which is a network that died of too large a step rather "
        f"than a result of the arm (T in decisions): {'; '.join(told)}."
    ]


def _other_code(comparison: Comparison) -> list[str]:
    prints = [run.fingerprint for arm in comparison.arms for run in arm.runs]
    if None in prints:
        return ["Some runs have no fingerprint: whether all arms ran the same code is not known."]
    if len({p.code for p in prints if p}) > 1:
        return ["The arms were run with different code; their difference may be the code's."]
    return []


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """How it was run, as terms and what they are."""
    runs: Sequence[RunData] = [run for arm in comparison.arms for run in arm.runs]
    first = next((run.fingerprint for run in runs if run.fingerprint is not None), None)
    named = [f"{arm.label} ({arm.name}, {plural(len(arm.runs), 'run')})" if arm.label != arm.name
             else f"{arm.name} ({plural(len(arm.runs), 'run')})" for arm in comparison.arms]  # fmt: skip
    found = [
        ("Agent measured", comparison.agent + (f", in {comparison.env['id']}" if comparison.env.get("id") else "")),
        ("Arms, with their names", "; ".join(named)),
        ("Budget", f"{comparison.T_max:,} decisions per run"
         + (f" ({short(comparison.T_max * comparison.frame_skip)} frames)" if comparison.frame_skip != 1 else "")),
        ("Final policies", protocol(comparison)),
    ]  # fmt: skip
    if first is not None:
        versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
        found += [("Code", f"SHA-256 {first.code[:16]}"), ("Versions", versions)]
    return found
