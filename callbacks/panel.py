"""The live panel: pure functions from where a run stands to what is drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cdrl_pl import metric_names
from cdrl_pl.system.hardware import cores
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.transfer.transfer import Transfer

BARS = "▁▂▃▄▅▆▇█"
KEPT = 240  # points of a curve; where there are more, every other one goes
WIDE, MIDDLE, NARROW = 120, 88, 76  # columns from which on more is shown
PHASES = {"reinforce": "not yet", "align": "aligning", "distil": "distilling", "stopped": "stopped"}
SPENT = {  # of a line's seconds
    "learning": metric_names.TIME_LEARNING,
    "distilling": metric_names.TIME_DISTILLATION,
    "aligning": metric_names.TIME_ALIGNMENT,
    "teachers": metric_names.TIME_TEACHERS,
    "synchronising": metric_names.TIME_SYNCHRONISING,
}


class Curve:
    """A metric over T, of which a bounded number of points is kept, evenly spread."""

    def __init__(self, points: Iterable[Sequence[float]] = ()) -> None:
        self.points = [(float(T), float(value)) for T, value in points]
        self.best = max((value for _, value in self.points), default=None)
        self._every, self._seen = 1, 0

    def add(self, env_steps: float, value: float) -> None:
        """One more point."""
        self.best = value if self.best is None else max(self.best, value)
        if self._seen % self._every == 0:
            self.points.append((env_steps, value))
        self._seen += 1
        if len(self.points) > KEPT:
            self.points, self._every = self.points[::2], 2 * self._every

    def sparkline(self, width: int) -> str:
        """One block for each share of T so far, from the least to the largest mean of a share."""
        if not self.points:
            return ""
        first, last = self.points[0][0], self.points[-1][0]
        shares: list[list[float]] = [[] for _ in range(min(width, len(self.points)))]
        for env_steps, value in self.points:
            at = (env_steps - first) / (last - first) if last > first else 0.0
            shares[min(int(at * len(shares)), len(shares) - 1)].append(value)
        means = [sum(share) / len(share) for share in shares if share]
        low, high = min(means), max(means)
        scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
        return "".join(BARS[round((mean - low) * scale)] for mean in means)


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
    """

    folder: Path = field(default_factory=Path)
    seconds: float = 0.0
    curves: dict[str, Curve] = field(default_factory=dict)
    waited: float | None = None
    checkpoint: Path | None = None
    switched: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    doing: str = ""


class MarkedBar:
    """A progress bar over T_max, with marks under it, as wide as there is room.

    Args:
        done: share of T_max, 0 to 1.
        marks: share of T_max -> name.
    """

    def __init__(self, done: float, marks: dict[float, str]) -> None:
        self.done, self.marks = done, marks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the bar, and a line of marks where there are any."""
        width = max(options.max_width, 1)
        full = round(min(max(self.done, 0.0), 1.0) * width)
        yield Text("━" * full, style="bold green", end="").append("━" * (width - full), style="bright_black")
        yield Text("")
        line = [" "] * width
        for share, name in sorted(self.marks.items()):
            if not 0 <= share <= 1:
                continue
            text, at = f"╵{name}", round(share * (width - 1))
            if at + len(text) > width:
                text = f"{name}╵"
                at = max(min(at, width - 1) - len(name), 0)
            if all(cell == " " for cell in line[max(at - 1, 0) : at + len(text)]):
                line[at : at + len(text)] = text
        if any(cell != " " for cell in line):
            yield Text("".join(line[:width]), style="yellow", no_wrap=True)


def marks(module: Collaboration) -> dict[float, str]:
    """T1, T2 and stop of every transfer as shares of T_max; marks that coincide are joined."""
    found: dict[float, list[str]] = {}
    for transfer in module.transfers:
        schedule = transfer.schedule
        for name, at in (("T1", schedule.T1), ("T2", schedule.T2), ("stop", schedule.stop)):
            if at is not None and at <= module.T_max:
                names = found.setdefault(at / module.T_max, [])
                if name not in names:
                    names.append(name)
    return {share: "/".join(names) for share, names in found.items()}


def phase(transfer: Transfer, env_steps: int) -> str:
    """What a transfer does now, in words; a weight of 0 distils nothing."""
    word = transfer.phase(env_steps)
    if word == "distil" and transfer.weighting.weight == 0:
        return "weight 0"
    return PHASES[word]


def render(module: Collaboration, standing: Standing | None = None, width: int = 100) -> RenderableType:
    """The panel.

    Args:
        module: of the run.
        standing: what it does not know.
        width: columns of the terminal.
    """
    standing = standing or Standing()
    parts: list[RenderableType] = [_progress(module, standing, width), _agents(module, standing, width)]
    if module.transfers:
        parts.append(_transfers(module, standing, width))
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("time", _time(module, standing))
    facts.add_row("machine", _machine(module, standing))
    if standing.doing:
        facts.add_row("now", Text(standing.doing, style="bold yellow"))
    spaced = [line for part in parts for line in (part, Text(""))] + [facts]
    title = Text(f" {standing.folder} ", style="bold")
    return Panel(Group(*spaced), title=title, title_align="left", box=ROUNDED, border_style="cyan", padding=(0, 1))


def _progress(module: Collaboration, standing: Standing, width: int) -> RenderableType:
    done, speed = module.clock, decisions_per_second(module)
    left = (module.T_max - done) / speed if speed else float("inf")
    text = Text.assemble(
        (f"T {done:,}/{module.T_max:,}", "bold"),
        f" decisions  {done / module.T_max:.0%}  ",
        (f"{speed:,.0f} decisions/s", "bold"),
        " per agent" if len(module.env_steps) > 1 else "",
        f"  {clock(standing.seconds)} elapsed  ETA {clock(left)}",
    )
    return Group(text, MarkedBar(done / module.T_max, marks(module)))


def _agents(module: Collaboration, standing: Standing, width: int) -> RenderableType:
    latest = module.run_log.latest
    columns = [("agent", ""), ("return", "points"), ("best", "points"), ("", "curve")]
    further = [
        ("length", "decisions", metric_names.LENGTH, MIDDLE),
        ("episodes", "", metric_names.EPISODES, MIDDLE),
        ("entropy", "nats", metric_names.ENTROPY, 0),
        ("policy loss", "", metric_names.POLICY_LOSS, WIDE),
        ("value loss", "", metric_names.VALUE_LOSS, MIDDLE),
        ("lag", "updates", metric_names.POLICY_LAG, WIDE),
    ]
    shown = [(name, unit, metric) for name, unit, metric, least in further if width >= least]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, unit in [*columns, *((name, unit) for name, unit, _ in shown)]:
        left = name in ("agent", "")
        table.add_column(f"{name}\n{unit}" if unit else name, justify="left" if left else "right", no_wrap=left)
    for name in module.env_steps:
        curve = standing.curves.get(name, Curve())
        mean = module.run_log.mean_return(name)
        table.add_row(
            Text(name, style="bold"),
            Text(number(mean), style="bold green"),
            number(curve.best if curve.best is not None else mean),
            Text(curve.sparkline(10 if width < MIDDLE else 16 if width < WIDE else 32), style="green"),
            *(number(latest.get(metric(name))) for _, _, metric in shown),
        )
    return Group(table, Text(f"return: mean of the last {module.run_log.window} episodes", style="dim"))


def _transfers(module: Collaboration, standing: Standing, width: int) -> RenderableType:
    latest = module.run_log.latest
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    narrow = width < NARROW
    dated = width >= MIDDLE
    for name in ("transfer", "phase", *(("since T",) if dated else ())):
        table.add_column(name, no_wrap=name == "transfer")
    whole = ("alignment\nKL, nats", "distillation\nKL, nats", "says of the state\nteacher ▸ F, nats")
    for name in ("align\nKL", "distil\nKL", "says,\nnats") if narrow else whole:
        table.add_column(name, justify="right", no_wrap=True)
    for transfer in module.transfers:
        name, config = transfer.name, transfer.config
        said = [number(latest.get(metric_names.STATE_INFORMATION(f"{name}/{who}"))) for who in ("teacher", "aligned")]
        word = phase(transfer, module.env_steps.get(config.student, 0))
        styles = {"aligning": "yellow", "distilling": "green", "weight 0": "red"}
        table.add_row(
            Text.assemble((config.teacher, "bold"), " ─▶ ", (config.student, "bold")),
            Text(word, style=styles.get(word, "dim")),
            *((_since(transfer, standing),) if dated else ()),
            number(latest.get(metric_names.ALIGNMENT_KL(name))),
            number(latest.get(metric_names.DISTILLATION_KL(name))),
            f"{said[0]}{'▸' if narrow else ' ▸ '}{said[1]}",
        )
    return table


def _since(transfer: Transfer, standing: Standing) -> str:
    """When the last of its switches was made."""
    made = [at for switches in standing.switched.values() for at in switches.get(transfer.name, [])]
    return f"{max(made):,}" if made else "-"


def _time(module: Collaboration, standing: Standing) -> str:
    """Where the learner's time goes, in per cent of the last line's seconds."""
    latest = module.run_log.latest
    seconds = latest.get(metric_names.SECONDS(), 0.0)
    shares = {name: latest.get(metric(), 0.0) / seconds for name, metric in SPENT.items()} if seconds else {}
    if standing.waited is not None:
        shares["waiting for rollouts"] = standing.waited
    parts = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005]
    return "  ".join(parts) or "-"


def _machine(module: Collaboration, standing: Standing) -> str:
    latest = module.run_log.latest
    workers = sum(1 for name in latest if metric_names.WORKER_ROLLOUTS.matches(name))
    parts = [_count(cores(), "core"), _count(workers, "worker") if workers else ""]
    if restarts := latest.get(metric_names.WORKER_RESTARTS(), 0.0):
        parts.append(f"{restarts:.0f} replaced")
    if (memory := resident()) is not None:
        parts.append(f"{memory / 2**30:.1f} GB")
    if module.device.type == "cuda":
        used, name = torch.cuda.max_memory_allocated(module.device), torch.cuda.get_device_name(module.device)
        parts.append(f"{name} {used / 2**30:.1f} GB")
    lags = [latest[m] for name in module.env_steps if (m := metric_names.POLICY_LAG(name)) in latest]
    if lags:
        parts.append(f"policy lag {max(lags):.1f} updates")
    parts.append(f"checkpoint {standing.checkpoint.name}" if standing.checkpoint else "no checkpoint yet")
    return "  ".join(part for part in parts if part)


def decisions_per_second(module: Collaboration) -> float:
    """Of each playing agent, as of the last line."""
    return module.run_log.latest.get(metric_names.DECISIONS_PER_SECOND(), 0.0) / len(module.env_steps)


def clock(seconds: float) -> str:
    """h:mm:ss, or a dash where unknown."""
    if seconds == float("inf"):
        return "-"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def number(value: float | None) -> str:
    """A few digits, or a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 or value == round(value, 0) else f"{value:.3g}"


def resident() -> int | None:
    """Memory of this process, in bytes; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _count(many: int, what: str) -> str:
    return f"{many} {what}{'' if many == 1 else 's'}"
