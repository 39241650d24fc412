"""The tables and sentences of a report, as plain text that the HTML page and the Markdown file both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdrl_pl import metric_names
from cdrl_pl.report import statistics as st
from cdrl_pl.report.figures import short
from cdrl_pl.report.run_data import ArmData, RunData
from cdrl_pl.report.runs import Comparison
from cdrl_pl.storage.fingerprint import config_hash

ENOUGH = 5  # runs per arm
# How often the bootstrap interval of a difference holds the truth: simulated, 2,000 draws, two arms of N normal scores.
COVERAGE = {2: 67, 3: 81, 4: 86, 5: 87, 10: 92, 20: 93}
JUMP_START = 0.1  # of the budget


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


def number(value: float | None, interval: st.Interval | None = None, signed: bool = False) -> str:
    """``1.23 [0.80, 1.70]``; a dash where there is none."""
    if value is None or np.isnan(value):
        return "-"
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    if interval is None or np.isnan(interval.low):
        return text
    low, high = (f"{end:+.2f}" if signed else f"{end:.2f}" for end in interval)
    return f"{text} [{low}, {high}]"


def scored(comparison: Comparison) -> list[ArmData]:
    """The arms with at least one evaluated final policy."""
    return [arm for arm in comparison.arms if len(arm.finals("sampled"))]


def final_table(comparison: Comparison) -> Table:
    """Final scores of the frozen policies, arm by arm."""
    rows = []
    for arm in scored(comparison):
        cells = [arm.name, str(len(arm.finals("sampled")))]
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
            rows.append((arm.name, policy, gain, number(float(st.probability_of_improvement(*pair)), chance)))
    if not rows:
        return None
    return Table(
        f"Beside the baseline, {base.name}",
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
        rows.append((arm.name, jump, ratio, *reached))
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
    median = "not reached by half" if np.isinf(summary.median) else short(round(summary.median))
    mean = f"{'at least ' if summary.is_bound else ''}{short(round(summary.mean))}"
    return f"median {median}, mean {mean} ({summary.reached} of {summary.runs})"


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
        rows.append((arm.name, ours, mine, theirs, published))
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
    rows: list[tuple[str, ...]] = []
    for arm in comparison.arms:
        for name, edge in arm.runs[0].transfers.items():
            kinds = (f"{name}/teacher", f"{name}/aligned", edge.student)
            cells = [_late([run.curve(metric_names.STATE_INFORMATION(kind))[1] for run in arm.runs]) for kind in kinds]
            if "-" not in cells[:2]:
                rows.append((arm.name, f"{edge.teacher} teaches {edge.student}", *cells))
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


def _late(curves: Sequence[st.Array]) -> str:
    ends = [float(y[-max(1, len(y) // 10) :].mean()) for y in curves if len(y)]
    return f"{np.mean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f})" if ends else "-"


def runs_table(comparison: Comparison) -> Table:
    """Every run, so that nothing is hidden in a mean."""
    rows = []
    for arm in comparison.arms:
        for run in arm.runs:
            seconds = int(np.nansum(run.metrics.get("seconds", np.zeros(1))))
            time = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            scores = [number(run.final(policy)) for policy in ("sampled", "greedy")]
            rows.append(
                (
                    arm.name,
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
        parts.append(f"sticky actions {sticky:g}, up to {score['noop_max']} random no-ops at the start")
    if limit := env.get("max_episode_steps"):
        parts.append(f"at most {limit:,} decisions per episode")
    return ", ".join(parts)


def called(arm: ArmData, run: RunData) -> str:
    """A run by its arm and seed; by its number within the arm where the seed is not known."""
    return f"{arm.name} seed {run.seed}" if run.seed is not None else f"{arm.name} run {arm.runs.index(run) + 1}"


def cautions(comparison: Comparison) -> list[str]:
    """What cannot be concluded, in sentences; empty where nothing is missing."""
    found = []
    counts = {arm.name: len(arm.runs) for arm in comparison.arms}
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
        missing = ", ".join(
            f"{name} {n} of {comparison.planned}" for name, n in counts.items() if n < comparison.planned
        )
        found.append(f"The experiment is not finished: {missing} seeds have begun.")
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
    seeds = {arm.name: sorted(run.seed for run in arm.runs if run.seed is not None) for arm in comparison.arms}
    if len({tuple(s) for s in seeds.values()}) > 1:
        found.append("The arms do not have the same seeds: " + "; ".join(f"{n}: {s}" for n, s in seeds.items()) + ".")
    for arm in comparison.arms:
        if len({config_hash(run.config) for run in arm.runs}) > 1:
            found.append(f"The runs of {arm.name} have different configs: they are not repetitions of one experiment.")
    found += _other_code(comparison)
    return found


def _other_code(comparison: Comparison) -> list[str]:
    prints = [run.fingerprint for arm in comparison.arms for run in arm.runs]
    if None in prints:
        return ["Some runs have no fingerprint: whether all arms ran the same code is not known."]
    if len({p.code for p in prints if p}) > 1:
        return ["The arms were run with different code; their difference may be the code's."]
    return []


def findings(comparison: Comparison) -> list[str]:
    """The comparison in a sentence per arm, without a judgement that the numbers do not carry."""
    if not scored(comparison):
        return ["No final policy has been scored yet: what follows is from training alone."]
    sentences = []
    for arm in comparison.others:
        ours, base = arm.finals("sampled"), comparison.base.finals("sampled")
        if not len(ours) or not len(base):
            sentences.append(f"{arm.name} has no final scores to compare yet.")
            continue
        gain, interval = float(st.difference(ours, base)), st.bootstrap(st.difference, ours, base)
        text = f"{arm.name} scores {ours.mean():.2f}, {comparison.baseline} {base.mean():.2f} (sampled): {gain:+.2f}"
        if np.isnan(interval.low):
            sentences.append(f"{text}; with one run no interval can be given.")
        else:
            held = "includes zero" if interval.low <= 0 <= interval.high else "excludes zero"
            sentences.append(f"{text}, 95 % interval [{interval.low:+.2f}, {interval.high:+.2f}], which {held}.")
    return sentences


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {word}{'s' * (count != 1)}"


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What the page is about, as terms and what they are."""
    runs: Sequence[RunData] = [run for arm in comparison.arms for run in arm.runs]
    first = next((run.fingerprint for run in runs if run.fingerprint is not None), None)
    found = [
        ("Agent measured", comparison.agent + (f", in {comparison.env['id']}" if comparison.env.get("id") else "")),
        ("Arms", "; ".join(f"{arm.name}{': ' + arm.title if arm.title else ''}" for arm in comparison.arms)),
        ("Runs", ", ".join(f"{arm.name} {len(arm.runs)}" for arm in comparison.arms)),
        ("Budget", f"{comparison.T_max:,} decisions per run"
         + (f" ({short(comparison.T_max * comparison.frame_skip)} frames)" if comparison.frame_skip != 1 else "")),
        ("Final policies", protocol(comparison)),
    ]  # fmt: skip
    if first is not None:
        versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
        found += [("Code", f"SHA-256 {first.code[:16]}"), ("Versions", versions)]
    return found
