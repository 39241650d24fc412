"""How far a run is, for the display: curves, a bar over T_max with what is switched on at which T, speed, time left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdrl_pl import metric_names
from cdrl_pl.training.collaboration import Collaboration

from .lines import QUIET, Spans

BARS = "▁▂▃▄▅▆▇█"
KEPT = 240  # points of a curve; where there are more, every other one goes
FRAME = "cyan"


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


def marked_bar(done: float, marks: dict[float, str], width: int) -> list[Spans]:
    """A progress bar over T_max, and a line of marks under it where there are any.

    Args:
        done: share of T_max, 0 to 1.
        marks: share of T_max -> name.
        width: in columns.
    """
    full, rest = divmod(int(min(max(done, 0.0), 1.0) * width * 2), 2)
    bar: Spans = [("━" * full, f"bold {FRAME}"), ("╸" * rest, f"bold {FRAME}"), ("─" * (width - full - rest), QUIET)]
    line = [" "] * width
    for share, name in sorted(marks.items()):
        text, at = f"╵{name}", round(share * (width - 1))
        if at + len(text) > width:
            text = f"{name}╵"
            at = max(min(at, width - 1) - len(name), 0)
        if all(cell == " " for cell in line[max(at - 1, 0) : at + len(text)]):
            line[at : at + len(text)] = text
    return [bar, [("".join(line[:width]), "yellow")]] if marks else [bar]


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


def decisions_per_second(module: Collaboration) -> float:
    """Of each playing agent, as of the last line."""
    return module.run_log.latest.get(metric_names.DECISIONS_PER_SECOND(), 0.0) / len(module.env_steps)


def seconds_left(module: Collaboration) -> float:
    """At the speed of the last line; infinite where that is not known, 0 past T_max, which the last batch may pass."""
    speed = decisions_per_second(module)
    return max(0, module.T_max - module.clock) / speed if speed else float("inf")


def clock(seconds: float) -> str:
    """h:mm:ss, or a dash where unknown."""
    if seconds == float("inf"):
        return "-"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
