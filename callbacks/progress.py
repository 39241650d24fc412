"""The live display: a panel on a terminal, lines elsewhere; what a run begins and ends with."""

from __future__ import annotations

import shlex
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError
from cdrl_pl.system.console import said_above
from cdrl_pl.system.usage import Usage
from cdrl_pl.training.collaboration import Collaboration, silent

from .certificate import CertificatedTeacher
from .checkpoint import EnvStepsCheckpoint
from .course import Curve, clock, decisions_per_second, seconds_left
from .panel import Cockpit, Standing, phase
from .transfers import AlignmentSchedule, DistillationSchedule

LINE_SECONDS = 5.0  # at least, between two lines where there is no terminal
LOOK_SECONDS = 2.0  # at least, between two looks at what the processes use
PROGRAM = "python -m cdrl_pl"


class Progress(pl.Callback):
    """One panel: decisions of T_max, speed, time left, phases, returns, losses, workers; on a plain output, lines.

    While the panel is open every message and warning is written above it. At its end a run says where it is, how its
    certificated teachers play, and how to go on.

    Args:
        refresh: Redraws per second on a terminal.
    """

    def __init__(self, refresh: float = 2.0) -> None:
        if not refresh > 0:
            raise ConfigError(f"Progress.refresh is {refresh}; it must be above 0")
        self.refresh = refresh
        self._live: Live | None = None
        self._open_displays = ExitStack()
        self._console = Console(stderr=True)
        self._standing = Standing()
        self._drawn, self._line, self._waited = 0.0, -1.0, 0.0
        self._started, self._first, self._printed = 0.0, True, True
        self._module: Collaboration | None = None
        self._usage, self._looked = Usage(), 0.0

    # The life of a run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says where the run writes, and opens the panel on a terminal."""
        assert isinstance(pl_module, Collaboration)
        if not trainer.is_global_zero:
            return
        self._started, self._first = time.monotonic(), True
        self._module, standing = pl_module, self._standing
        standing.folder = pl_module.run_folder
        standing.curves = {name: standing.curves.get(name, Curve()) for name in pl_module.env_steps}
        self._line = pl_module.run_log.latest.get(metric_names.ENV_STEPS(), -1.0)
        self._waited = 0.0
        self._say(f"run folder: {standing.folder}")
        if trainer.ckpt_path:
            before = Path(trainer.ckpt_path).resolve().parent.parent
            self._say(f"goes on at T = {pl_module.clock:,} from {trainer.ckpt_path}; its log until then is in {before}")
        if self._console.is_terminal:
            self._open()
            self._draw(trainer, pl_module)
        pl_module.announce = lambda text: self._announce(trainer, pl_module, text)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraws the panel, or prints a line for each log line, at most every 5 seconds and the last in any case."""
        assert isinstance(pl_module, Collaboration)
        if not trainer.is_global_zero:
            return
        now, first = time.monotonic(), self._first
        if first:
            self._say(f"first update {now - self._started:.1f} s after training began")
            self._first = False
        self._note(pl_module)
        if first or now - self._drawn >= (LINE_SECONDS if self._live is None else 1 / self.refresh):
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows where the run ended, and closes the panel."""
        assert isinstance(pl_module, Collaboration)
        if trainer.is_global_zero:
            self._note(pl_module)
            self._show(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the panel, so that the error can be read."""
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Says where the run is, what its teachers score, and how to go on; once everything is saved."""
        if stage == "fit" and trainer.is_global_zero and self._module is not None:
            for line in closing(trainer, self._module):
                self._say(line)
        self._close()
        self._module = None

    # What is shown

    def _note(self, module: Collaboration) -> None:
        """Takes a new log line into account."""
        latest = module.run_log.latest
        line = latest.get(metric_names.ENV_STEPS(), -1.0)
        if line == self._line:
            return
        self._line, self._printed = line, False
        for name, curve in self._standing.curves.items():
            if (value := latest.get(metric_names.RETURN(name))) is not None:
                curve.add(line, value)
        waited, seconds = latest.get(metric_names.TIME_WAITING(), 0.0), latest.get(metric_names.SECONDS(), 0.0)
        self._standing.waited = (waited - self._waited) / seconds if seconds and waited >= self._waited else None
        self._waited = waited

    def _show(self, trainer: pl.Trainer, module: Collaboration) -> None:
        if self._live is not None:
            self._draw(trainer, module)
        elif not self._printed:
            self._say(summary(module))
            self._drawn, self._printed = time.monotonic(), True

    def _draw(self, trainer: pl.Trainer, module: Collaboration) -> None:
        if self._live is None:
            return
        standing = self._standing
        now = time.monotonic()
        standing.seconds = now - self._started
        if now - self._looked >= LOOK_SECONDS:
            pools = getattr(getattr(trainer, "datamodule", None), "pools", {})
            workers = [worker for pool in pools.values() for worker in pool.worker_group.workers]
            standing.used, self._looked = self._usage.look(worker.process.pid for worker in workers), now
        kinds = {AlignmentSchedule: "aligning", DistillationSchedule: "distilling"}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EnvStepsCheckpoint) and callback.saved:
                standing.checkpoint = Path(callback.saved[-1])
            elif isinstance(callback, AlignmentSchedule | DistillationSchedule):
                standing.switched[kinds[type(callback)]] = callback.switched
        self._live.update(Cockpit(module, standing), refresh=True)
        self._drawn = time.monotonic()

    def _announce(self, trainer: pl.Trainer, module: Collaboration, text: str) -> None:
        """Shows what the run does besides learning; an empty text ends it."""
        self._standing.doing = text
        if self._live is not None:
            self._draw(trainer, module)
        elif text and time.monotonic() - self._drawn >= LINE_SECONDS:
            self._say(text)
            self._drawn = time.monotonic()

    def _say(self, text: str) -> None:
        self._console.print(Text(text), highlight=False, soft_wrap=True)

    # The terminal

    def _open(self) -> None:
        """From here on, what is printed, logged or warned of goes above the panel."""
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._open_displays.enter_context(self._live)
        self._open_displays.enter_context(said_above(self._console))

    def _close(self) -> None:
        self._open_displays.close()
        self._live = None
        if self._module is not None:
            self._module.announce = silent

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The curves of the returns, thinned."""
        return {"curves": {k: [list(point) for point in v.points] for k, v in self._standing.curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self._standing.curves = {k: Curve(points) for k, points in state_dict.get("curves", {}).items()}


def summary(module: Collaboration) -> str:
    """One line for logs."""
    done, speed = module.clock, decisions_per_second(module)
    parts = [f"T {done:,}/{module.T_max:,}", f"{speed:,.0f} decisions/s", f"ETA {clock(seconds_left(module))}"]
    for name in module.env_steps:
        mean = module.run_log.mean_return(name)
        parts.append(f"{name} return " + ("-" if mean is None else f"{mean:.2f}"))
    for transfer in module.transfers:
        student = transfer.config.student
        parts.append(f"{transfer.name}: {phase(transfer, module.agents[student], module.env_steps[student])}")
    return " | ".join(parts)


def closing(trainer: pl.Trainer, module: Collaboration) -> list[str]:
    """What a person needs once a run has ended: where it is, what its teachers score, and the next commands."""
    folder = module.run_folder
    lines = [f"ended at T = {module.clock:,} in {folder}"]
    checkpoint = None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, CertificatedTeacher) and callback.stored is not None:
            path, sampled, greedy = callback.stored
            lines.append(f"teacher {path}: frozen policy {sampled:.2f} sampled, {greedy:.2f} greedy")
        if isinstance(callback, EnvStepsCheckpoint) and callback.saved:
            checkpoint = callback.saved[-1]
    if not (folder / "config.yaml").is_file() or checkpoint is None:
        return lines
    run = shlex.quote(str(folder))
    options = f"--config {run}/config.yaml --ckpt_path {run}"
    more = f"--T_max {2 * module.T_max}" if module.clock >= module.T_max else ""
    commands = {
        "watch": f"{PROGRAM} predict {options}",
        "test": f"{PROGRAM} test {options}",
        "resume": f"{PROGRAM} fit {options} {more}".rstrip(),
    }
    return [*lines, *(f"  {name:<7} {command}" for name, command in commands.items())]
