"""The live display."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cdrl_pl.collaboration import Collaboration


class Progress(pl.Callback):
    """One panel: decisions of T_max, speed, time left, phases, returns, losses, workers; on a plain output, lines.

    Args:
        refresh: redraws per second on a terminal.
    """

    def __init__(self, refresh: float = 2.0) -> None:
        if not refresh > 0:
            raise ValueError(f"Progress.refresh is {refresh}; it must be above 0")
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
        line = module.journal.latest.get("env_steps", -1.0)
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
    latest, done = module.journal.latest, module.clock
    speed = latest.get("decisions_per_second", 0.0) / len(module.env_steps)
    left = (module.T_max - done) / speed if speed else float("inf")
    parts = [f"T {done:,}/{module.T_max:,}", f"{speed:,.0f} decisions/s", f"ETA {clock(left)}"]
    for name in module.env_steps:
        mean = module.journal.mean_return(name)
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
    latest = module.journal.latest
    table = Table(box=None, pad_edge=False)
    mean = f"return (last {module.journal.window})"
    for column in ("agent", mean, "length", "episodes", "policy loss", "value loss", "entropy", "lag"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for name in module.env_steps:
        keys = ("return", "length", "episodes", "policy_loss", "value_loss", "entropy", "policy_lag")
        table.add_row(name, *(_number(latest.get(f"{key}/{name}")) for key in keys))
    parts: list[Any] = [Text(summary(module), style="bold"), table]
    if module.phases():
        edges = Table(box=None, pad_edge=False)
        for column in ("transfer", "phase", "alignment KL", "distillation KL"):
            edges.add_column(column)
        for name, what in module.phases().items():
            kls = [_number(latest.get(f"{kind}/{name}")) for kind in ("alignment_kl", "distillation_kl")]
            edges.add_row(name, what, *kls)
        parts.append(edges)
    health = ("time/waiting_for_rollouts", "workers/playing", "workers/waiting_for_learner", "workers/restarts")
    parts.append(Text("  ".join(f"{k.split('/')[1].replace('_', ' ')} {_number(latest.get(k))}" for k in health)))
    return Group(*parts)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 or value == round(value, 0) else f"{value:.3g}"
