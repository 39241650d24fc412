"""The log of a run: finished episodes, averages between two log lines, and the lines themselves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cdrl_pl import metric_names
from cdrl_pl.storage.atomic import named
from cdrl_pl.training.meter import Meter
from cdrl_pl.types import Episode

Episodes = dict[str, list[Episode]]
FILES = {
    "CSVLogger": "metrics.csv",
    "TensorBoardLogger": "events.out.tfevents",
    "Board": "events.out.tfevents",
}  # that loggers write in their folders


def write(loggers: Iterable[Any], line: dict[str, float], env_steps: int) -> None:
    """Gives a line to every logger.

    Raises:
        OSError: one cannot be written; names the file.
    """
    for logger in loggers:
        with named(Path(logger.log_dir or logger.save_dir or "") / FILES.get(type(logger).__name__, "")):
            logger.log_metrics(line, step=env_steps)


class LastLine(pl.Callback):
    """Writes the last line of a run that failed, or was told to end while it waited; one rank cannot do so alone."""

    began = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """From here on there is something to write."""
        self.began = True

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Before a checkpoint of the end is saved."""
        if self.began and trainer.world_size == 1:
            pl_module.log_line()


class RunLog:
    """One line every ``every`` decisions, with T (``env_steps``, an int) as the axis.

    Args:
        agents: names of those that play.
        every: decisions between two lines.
        window: episodes in the reported mean return.

    Attributes:
        latest: the last line.
        statistics: further columns of the next line, such as the health of the workers.
    """

    def __init__(self, agents: Iterable[str], every: int, window: int) -> None:
        names = list(agents)
        self.every, self.window = every, window
        self.meter = Meter()
        self.episodes: dict[str, deque[Episode]] = {name: deque(maxlen=window) for name in names}
        self.num_episodes: dict[str, int] = dict.fromkeys(names, 0)
        self.latest: dict[str, float] = {}
        self.statistics: dict[str, float] = {}
        self._new: Episodes = {name: [] for name in names}  # since the last line, on this rank
        self._written_at = 0  # T of the last line
        self._elapsed = 0.0  # seconds up to the last line, over all starts
        self._timed_at, self._timed_since = 0, time.perf_counter()  # from where the next line's speed counts

    def start(self, env_steps: int) -> None:
        """The speed of the next line counts from here."""
        self._timed_at, self._timed_since = env_steps, time.perf_counter()

    def finished(self, agent: str, episodes: Iterable[Episode]) -> None:
        """Notes episodes that ended; they count from the next line on."""
        self._new[agent] += episodes

    def mean_return(self, agent: str) -> float | None:
        """Mean return of the last ``window`` finished episodes; None before the first."""
        episodes = self.episodes[agent]
        return sum(e.ret for e in episodes) / len(episodes) if episodes else None

    def due(self, env_steps: int) -> bool:
        """Returns whether T has passed another multiple of ``every``."""
        return env_steps // self.every > self._written_at // self.every

    def line(self, env_steps: int, gather: Callable[[Episodes], Episodes]) -> dict[str, float] | None:
        """The next line, which becomes ``latest``; None where T stands at the last one.

        Args:
            env_steps: T.
            gather: the episodes of all ranks from this rank's, so that every rank decides alike.
        """
        if env_steps == self._written_at:
            return None
        now = time.perf_counter()
        seconds = max(now - self._timed_since, 1e-9)
        line: dict[str, float] = {metric_names.ENV_STEPS(): env_steps}
        own, self._new = self._new, {name: [] for name in self._new}
        for name, episodes in gather(own).items():
            self.episodes[name].extend(episodes)
            self.num_episodes[name] += len(episodes)
            if (mean := self.mean_return(name)) is not None:
                line[metric_names.RETURN(name)] = mean
                line[metric_names.LENGTH(name)] = sum(e.length for e in self.episodes[name]) / len(self.episodes[name])
            line[metric_names.EPISODES(name)] = self.num_episodes[name]
        line[metric_names.DECISIONS_PER_SECOND()] = (env_steps - self._timed_at) * len(self.episodes) / seconds
        line[metric_names.SECONDS()] = seconds
        self._elapsed += seconds
        line[metric_names.ELAPSED()] = self._elapsed
        self.latest = {**line, **self.meter.flush(), **self.statistics}
        self._written_at, self._timed_at, self._timed_since = env_steps, env_steps, now
        return self.latest

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "written_at": self._written_at,
            "elapsed": self._elapsed,
            "latest": dict(self.latest),
            "episodes": {k: [list(e) for e in v] for k, v in self.episodes.items()},
            "num_episodes": dict(self.num_episodes),
            "new_episodes": {k: [list(e) for e in v] for k, v in self._new.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self._written_at, self.latest = state["written_at"], dict(state["latest"])
        self._elapsed = state.get("elapsed", 0.0)  # checkpoints of before have none
        self.num_episodes = dict(state["num_episodes"])
        for name in self.episodes:
            self.episodes[name].extend(Episode(*e) for e in state["episodes"][name])
            self._new[name] = [Episode(*e) for e in state["new_episodes"][name]]
