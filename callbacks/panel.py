"""The live panel: pure functions from where a run stands to what is drawn, in as much width as there is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from cdrl_pl import metric_names
from cdrl_pl.agents.agent import Agent
from cdrl_pl.system.hardware import cores
from cdrl_pl.system.usage import Used
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.transfer.transfer import Transfer

from .course import FRAME, Curve, clock, decisions_per_second, marked_bar, marks, seconds_left
from .lines import GAP, QUIET, Column, Spans, apart, fit, flowing, length, section, shortened, table

NARROWEST, ROOMY = 40, 96  # columns: of a framed panel; from which on words stand beside numbers
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")  # of the agents
TIMES = ("green", "cyan", "yellow", "magenta", "blue", "red", "white")  # of what takes time, the most first
PHASES = {"reinforce": "not yet", "align": "aligning", "distil": "distilling", "stopped": "stopped"}
STYLES = {"aligning": "bold yellow", "distilling": "bold green", "weight 0": "bold red", "measuring": "bold blue"}
SPENT = {  # of a line's seconds
    "learning": metric_names.TIME_LEARNING,
    "distilling": metric_names.TIME_DISTILLATION,
    "aligning": metric_names.TIME_ALIGNMENT,
    "teachers": metric_names.TIME_TEACHERS,
    "alarm": metric_names.TIME_ALARM,
    "synchronising": metric_names.TIME_SYNCHRONISING,
}


@dataclass
class Standing:
    """What the panel shows beside what the root module knows.

    Attributes:
        folder: of the run.
        seconds: since training began in this process.
        curves: of every agent's mean return.
        waited: share of the last line's seconds in which the learner waited for rollouts, 0 to 1; None: not known.
        checkpoint: the newest one.
        switched: transfer -> every T at which alignment, and distillation, was switched.
        doing: what the run does besides learning; empty for nothing.
        used: cores and memory of the learner and its workers; None: not known.
    """

    folder: Path = field(default_factory=Path)
    seconds: float = 0.0
    curves: dict[str, Curve] = field(default_factory=dict)
    waited: float | None = None
    checkpoint: Path | None = None
    switched: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    doing: str = ""
    used: Used | None = None


def phase(transfer: Transfer, student: Agent, env_steps: int) -> str:
    """What a transfer does now, in words; a weight of 0 distils nothing, nor does what a frozen student is told."""
    word = transfer.phase(env_steps)
    if word != "distil":
        return PHASES[word]
    return "measuring" if student.learner is None else PHASES[word] if transfer.weighting.weight else "weight 0"


class Cockpit:
    """The panel as rich draws it: in the width of the terminal at that moment.

    Args:
        module: of the run.
        standing: what it does not know.
    """

    def __init__(self, module: Collaboration, standing: Standing | None = None) -> None:
        self.module, self.standing = module, standing or Standing()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Line by line."""
        for line in render(self.module, self.standing, options.max_width):
            yield from (Segment(text, Style.parse(style)) for text, style in line)
            yield Segment.line()


def render(module: Collaboration, standing: Standing, width: int) -> Iterator[Spans]:
    """Every line of the panel, each of exactly ``width`` columns."""
    if width < NARROWEST:
        yield fit([(f"T {module.clock:,}/{module.T_max:,}", "bold")], width)
        return
    inner, parts = width - 4, (_course, _agents, _transfers, _time, _machine)
    title: Spans = [("╭─", FRAME), (" cdrl_pl ", f"bold reverse {FRAME}"), (" ", ""), *_chain(module), (" ", "")]
    yield [*fit(title, min(length(title), width - 1)), ("─" * (width - 1 - length(title)), FRAME), ("╮", FRAME)]
    for part in parts:
        for line in part(module, standing, inner):
            yield [("│ ", FRAME), *fit(line, inner), (" │", FRAME)]
    folder = f" {shortened(str(standing.folder), width - 10)} "
    yield [("╰" + "─" * (width - 3 - cell_len(folder)), FRAME), (folder, "bold"), ("─╯", FRAME)]


def _named(module: Collaboration, name: str) -> tuple[str, str]:
    """An agent's name in its colour."""
    return name, f"bold {COLOURS[list(module.agents).index(name) % len(COLOURS)]}"


def _edge(module: Collaboration, transfer: Transfer) -> Spans:
    config = transfer.config
    control = [] if config.control == "none" else [(f" ({config.control})", "red")]
    return [_named(module, config.teacher), *control, (" ─▶ ", QUIET), _named(module, config.student)]


def _chain(module: Collaboration) -> Spans:
    """Who is in the run: teachers first."""
    items = [_edge(module, transfer) for transfer in module.transfers]
    found = Spans()
    for item in items or [[_named(module, name)] for name in module.agents]:
        found += [(" · ", QUIET), *item] if found else item
    return found


def _course(module: Collaboration, standing: Standing, width: int) -> Iterator[Spans]:
    """T of T_max as numbers and as a bar, and below it what is planned when."""
    T, speed, roomy = module.clock, decisions_per_second(module), width >= ROOMY
    left = seconds_left(module)
    done: Spans = [(f"T {T:,}/{module.T_max:,}", "bold"), (" decisions" * roomy, QUIET)]
    done += [("  ", ""), (f"{T / module.T_max:.0%}", f"bold {FRAME}")]
    each = " per agent" if roomy and len(module.env_steps) > 1 else ""
    clocks: Spans = [(f"{speed:,.0f} decisions/s{each}" if width >= 56 else f"{speed:,.0f}/s", "")]
    clocks += [("   elapsed " if width >= 56 else "   ", QUIET), (clock(standing.seconds), "")]
    clocks += [("   ETA ", QUIET), (clock(left), "bold")]
    yield from apart(done, clocks, width)
    yield from marked_bar(T / module.T_max, marks(module), width)


def _agents(module: Collaboration, standing: Standing, width: int) -> Iterator[Spans]:
    latest, names = module.run_log.latest, list(module.env_steps)
    means = {name: module.run_log.mean_return(name) for name in names}
    curves = {name: standing.curves.get(name, Curve()) for name in names}
    best = [curves[name].best if curves[name].best is not None else means[name] for name in names]

    def numbers(title: str, short: str, metric: metric_names.Metric, rank: int) -> Column:
        """A metric of each."""
        return Column(title, short, [[(number(latest.get(metric(name))), "")] for name in names], rank)

    columns = [
        Column("agent", "agent", [[_named(module, name)] for name in names], right=False),
        Column("task", "task", [[(module.agents[name].env.id, QUIET)] for name in names], 7, right=False),
        Column("return", "return", [[(number(means[name]), "bold")] for name in names]),
        Column("best", "best", [[(number(value), "")] for value in best], 1),
        numbers("length", "length", metric_names.LENGTH, 4),
        numbers("episodes", "episodes", metric_names.EPISODES, 3),
        numbers("entropy", "entropy", metric_names.ENTROPY, 2),
        numbers("policy loss", "π loss", metric_names.POLICY_LOSS, 9),
        numbers("value loss", "v loss", metric_names.VALUE_LOSS, 8),
        numbers("policy lag", "lag", metric_names.POLICY_LAG, 5),
    ]
    units = f"return: mean of the last {module.run_log.window} episodes, points"
    yield section("agents", width, units + "; decisions, nats, updates" * (width >= ROOMY - 6))
    least = 12 if width >= 70 else 8  # columns of a curve
    lines = list(table(columns, width - least - GAP))
    room = max(0, width - max(map(length, lines)) - GAP)
    drawn: list[Spans] = [[("curve", QUIET)]]
    drawn += [[(curves[name].sparkline(room), _named(module, name)[1])] for name in names]
    for line, curve in zip(lines, drawn, strict=True):
        yield [*line, (" " * GAP, ""), *curve]


def _transfers(module: Collaboration, standing: Standing, width: int) -> Iterator[Spans]:
    transfers, latest = module.transfers, module.run_log.latest
    if not transfers:
        return

    def numbers(title: str, short: str, metric: metric_names.Metric, rank: int) -> Column:
        """A metric of each."""
        return Column(title, short, [[(number(latest.get(metric(t.name))), "")] for t in transfers], rank)

    phases, said = list[Spans](), list[Spans]()
    passed = list[Spans]()
    for transfer in transfers:
        student = transfer.config.student
        word = phase(transfer, module.agents[student], module.env_steps[student])
        phases.append([(word, STYLES.get(word, QUIET))])
        teacher, aligned = (
            latest.get(metric_names.STATE_INFORMATION(f"{transfer.name}/{who}")) for who in ("teacher", "aligned")
        )
        said.append([(number(teacher), ""), (" ─▶ ", QUIET), (number(aligned), "bold")])
        passed.append(_share(teacher, aligned))
    yield section("transfers", width, "nats; says, passes on: how much of the state")
    edges = [_edge(module, transfer) for transfer in transfers]
    yield from table(
        [
            Column("teacher ─▶ student", "transfer", edges, right=False),
            Column("phase", "phase", phases, right=False),
            Column("since T", "since", [[(_since(t, standing), "")] for t in transfers], 5),
            Column("says ─▶ F passes on", "says ─▶ F", said, 2, right=False),
            Column("", "", passed, 4, right=False),
            numbers("alignment KL", "align KL", metric_names.ALIGNMENT_KL, 1),
            numbers("distillation KL", "distil KL", metric_names.DISTILLATION_KL, 3),
        ],
        width,
    )


def _share(teacher: float | None, aligned: float | None) -> Spans:
    """How much of what the teacher says passes through F, as a bar."""
    if not teacher or aligned is None:
        return []
    full = round(10 * min(1.0, max(0.0, aligned / teacher)))
    return [("━" * full, "bold green"), ("─" * (10 - full), QUIET), (f" {aligned / teacher:.0%}", "")]


def _since(transfer: Transfer, standing: Standing) -> str:
    """When the last of its switches was made."""
    made = [at for switches in standing.switched.values() for at in switches.get(transfer.name, [])]
    return f"{max(made):,}" if made else "-"


def _time(module: Collaboration, standing: Standing, width: int) -> Iterator[Spans]:
    """Where the learner's time goes, as a bar and in per cent of the last line's seconds."""
    latest = module.run_log.latest
    seconds = latest.get(metric_names.SECONDS(), 0.0)
    if not seconds:
        return
    shares = {name: latest.get(metric(), 0.0) / seconds for name, metric in SPENT.items()}
    shares |= {} if standing.waited is None else {"waiting for rollouts": standing.waited}
    shares["other"] = max(0.0, 1.0 - sum(shares.values()))
    bar, items, reached, end = Spans(), list[Spans](), 0.0, 0
    for index, (name, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        if share < 0.005:
            continue
        colour = TIMES[index % len(TIMES)]
        reached = min(1.0, reached + share)
        bar.append(("━" * (round(width * reached) - end), colour))
        end = round(width * reached)
        items.append([("● ", colour), (f"{name} ", ""), (f"{share:.0%}", "bold")])
    yield section("where the learner's time goes", width)
    yield bar
    yield from flowing(items, width)


def _machine(module: Collaboration, standing: Standing, width: int) -> Iterator[Spans]:
    latest, used, facts = module.run_log.latest, standing.used, dict[str, str]()
    facts["cores"] = str(cores()) if used is None else f"{used.cores:.1f} of {cores()}"
    if used is not None:
        facts["memory"] = size(used.memory)
    if module.device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(module.device)
        facts["GPU"] = f"{torch.cuda.get_device_name(module.device)}, {size(whole - free)} of {size(whole)}"
    workers = sum(1 for name in latest if metric_names.WORKER_ROLLOUTS.matches(name))
    played, waited = (latest.get(m(), 0.0) for m in (metric_names.WORKERS_PLAYING, metric_names.WORKERS_WAITING))
    if workers:
        facts["workers"] = f"{workers}, playing {played / (played + waited):.0%}" if played + waited else str(workers)
    if restarts := latest.get(metric_names.WORKER_RESTARTS(), 0.0):
        facts["workers"] = f"{facts.get('workers', '')}, {restarts:.0f} replaced".lstrip(", ")
    facts["checkpoint"] = "none yet" if standing.checkpoint is None else _aged(standing.checkpoint)
    yield section("machine", width)
    yield from flowing(([(f"{what} ", QUIET), (value, "")] for what, value in facts.items()), width)
    if standing.doing:
        yield [("▶ ", "bold yellow"), (standing.doing, "bold yellow")]


def _aged(path: Path) -> str:
    """A file's name, and how long ago it was written."""
    try:
        return f"{path.name}, {clock(max(0.0, time.time() - path.stat().st_mtime))} ago"
    except OSError:
        return path.name


def number(value: float | None) -> str:
    """A few digits, or a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 or value == round(value, 0) else f"{value:.3g}"


def size(number: float) -> str:
    """Bytes, in GB or MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
