"""The live display."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError
from cdrl_pl.training.collaboration import Collaboration

OF_AN_AGENT = (
    metric_names.RETURN,
    metric_names.LENGTH,
    metric_names.EPISODES,
    metric_names.POLICY_LOSS,
    metric_names.VALUE_LOSS,
    metric_names.ENTROPY,
    metric_names.POLICY_LAG,
)
HEALTH = (
    metric_names.TIME_WAITING,
    metric_names.WORKERS_PLAYING,
    metric_names.WORKERS_WAITING,
    metric_names.WORKER_RESTARTS,
)


class Progress(pl.Callback):
    """One panel: decisions of T_max, speed, time left, phases, returns, losses, workers; on a plain output, lines.

    Args:
        refresh: Redraws per second on a terminal.
    """

    def __init__(self, refresh: float = 2.0) -> None:
        if not refresh > 0:
            raise ConfigError(f"Progress.refresh is {refresh}; it must be above 0")
        self.refresh = refresh
        self._live: Live | None = None
        self._console = Console(stderr=True)
        self._drawn, self._line = 0.0, -1.0
        self._began: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the panel on a terminal."""
        self._began = time.monotonic()
        if trainer.is_global_zero and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraws the panel, or prints a line for each log line, at most every 5 seconds and the last in any case."""
        assert isinstance(pl_module, Collaboration)
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        if self._began is not None:
            self._console.print(
                f"first update {now - self._began:.1f} s after training began", highlight=False, soft_wrap=True
            )
            self._began = None
        if now - self._drawn >= (5.0 if self._live is None else 1 / self.refresh):
            self._show(pl_module, now)

    def _show(self, module: Collaboration, now: float) -> None:
        line = module.run_log.latest.get(metric_names.ENV_STEPS(), -1.0)
        if self._live is not None:
            self._live.update(render(module), refresh=True)
        elif line != self._line:
            self._console.print(summary(module), highlight=False, soft_wrap=True)
        else:
            return
        self._drawn, self._line = now, line

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows where the run ended, and closes the panel."""
        assert isinstance(pl_module, Collaboration)
        if trainer.is_global_zero:
            self._show(pl_module, time.monotonic())
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the panel, so that the error can be read."""
        self._stop()


def summary(module: Collaboration) -> str:
    """One line for logs."""
    latest, done = module.run_log.latest, module.clock
    speed = latest.get(metric_names.DECISIONS_PER_SECOND(), 0.0) / len(module.env_steps)
    left = (module.T_max - done) / speed if speed else float("inf")
    parts = [f"T {done:,}/{module.T_max:,}", f"{speed:,.0f} decisions/s", f"ETA {clock(left)}"]
    for name in module.env_steps:
        mean = module.run_log.mean_return(name)
        parts.append(f"{name} return " + ("-" if mean is None else f"{mean:.2f}"))
    parts += [f"{name}: {what}" for name, what in module.phases().items()]
    return " | ".join(parts)


def clock(seconds: float) -> str:
    """h:mm:ss, or a dash where unknown."""
    if seconds == float("inf"):
        return "-"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def render(module: Collaboration) -> Group:
    """The panel."""
    latest = module.run_log.latest
    table = Table(box=None, pad_edge=False)
    mean = f"return (last {module.run_log.window})"
    for column in ("agent", mean, "length", "episodes", "policy loss", "value loss", "entropy", "lag"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for name in module.env_steps:
        table.add_row(name, *(_number(latest.get(metric(name))) for metric in OF_AN_AGENT))
    parts: list[Any] = [Text(summary(module), style="bold"), table]
    if module.phases():
        edges = Table(box=None, pad_edge=False)
        for column in ("transfer", "phase", "alignment KL", "distillation KL"):
            edges.add_column(column)
        for name, what in module.phases().items():
            kls = [_number(latest.get(m(name))) for m in (metric_names.ALIGNMENT_KL, metric_names.DISTILLATION_KL)]
            edges.add_row(name, what, *kls)
        parts.append(edges)
    health = [f"{m().split('/')[1].replace('_', ' ')} {_number(latest.get(m()))}" for m in HEALTH]
    parts.append(Text("  ".join(health)))
    return Group(*parts)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 or value == round(value, 0) else f"{value:.3g}"
