"""The optimizers of a graph, and how one of them takes a step, on one device or over ranks, under any precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Adam

from cdrl_pl import metric_names
from cdrl_pl.agents.agent import Agent
from cdrl_pl.training.meter import Meter
from cdrl_pl.transfer.transfer import Transfer

STEPS_IN_VAIN = (10, 500)  # in a row not taken: for a warning, and for the end of the run
PROGRAMS_RATE, PROGRAMS_CLIP = 1e-4, 40.0  # of the separate distillation step (spec section 6)


class Optimizers:
    """One Adam per learning agent, per trainable alignment, and per separate distillation step, by name.

    Args:
        root: the module that the trainer trains.
        meter: gets gradient norms and skipped steps.
    """

    def __init__(self, root: pl.LightningModule, meter: Meter) -> None:
        self._root, self._meter = root, meter
        self.names: list[str] = []  # in the order in which Lightning keeps them
        self._steps: dict[str, int] = {}  # since the last ``check``
        self._in_vain: dict[str, int] = {}  # steps in a row that were not taken
        self._rates: list[float] = []

    def make(self, agents: Mapping[str, Agent], transfers: Iterable[Transfer]) -> list[Adam]:
        """Makes all of them from the start and in a fixed order, so that resuming never mismatches them."""
        trained = self.named(agents, transfers)
        self.names = list(trained)
        self._rates = [rate for _, rate in trained.values()]
        return [Adam(module.parameters(), lr=rate, fused=True) for module, rate in trained.values()]

    @staticmethod
    def named(agents: Mapping[str, Agent], transfers: Iterable[Transfer]) -> dict[str, tuple[nn.Module, float]]:
        """What each optimizer steps, and its first learning rate, in the order in which they are made."""
        trained: dict[str, tuple[nn.Module, float]] = {}
        for name, agent in agents.items():
            if agent.learner is not None:
                trained[f"student/{name}"] = (agent.network, agent.learner.lr)
        for transfer in transfers:
            if transfer.alignment.trainable:
                trained[f"align/{transfer.name}"] = (transfer.alignment, transfer.alignment.config.lr)
            student = agents[transfer.config.student]
            if transfer.preset.distill_step == "separate" and student.learner is not None:
                trained[f"distill/{transfer.name}"] = (student.network, PROGRAMS_RATE)
        return trained

    def set_initial_rates(self) -> None:
        """The config's learning rates hold, also where a checkpoint brought others."""
        for optimizer, rate in zip(self._root.trainer.optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate

    def step(
        self,
        name: str,
        loss: Tensor,
        parameters: Sequence[nn.Parameter],
        max_norm: float,
        rate: float | None = None,
    ) -> None:
        """Backward, mean over ranks, clip, step. A gradient that is not finite steps nothing, and is counted.

        Nothing here waits for a GPU: whether the step is taken is decided on the device that takes it.

        Args:
            name: of the optimizer.
            loss: a scalar.
            parameters: that it steps, all of its own or some; no others get a gradient.
            max_norm: global-norm clip.
            rate: learning rate from now on; null keeps it.
        """
        root, meter = self._root, self._meter
        trainer, strategy = root.trainer, root.trainer.strategy
        optimizer = self._optimizer(name)
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            # only some parameters have gradients, so ranks are averaged here, not by DDP
            root.manual_backward(loss, inputs=list(parameters))
        if trainer.world_size > 1:
            with meter.timed(metric_names.TIME_SYNCHRONISING()):  # waiting for the slowest rank included
                _average([p.grad for p in parameters if p.grad is not None], trainer.world_size)
        scaler = scaler_of(trainer)
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        skipped = (~torch.isfinite(norm)).float()
        meter.add(metric_names.GRAD_NORM(name), norm)
        meter.count(metric_names.SKIPPED_STEPS(name), skipped)
        if scaler is None:  # else the scaler sets this, and lowers its scale
            optimizer.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by the fused Adam
        optimizer.step()
        self._steps[name] = self._steps.get(name, 0) + 1

    def check(self, line: Mapping[str, float]) -> None:
        """Warns where no step has been taken for some time, and ends a run that goes on so.

        Args:
            line: the log line; it has how many of the steps since the last one were not taken.

        Raises:
            FloatingPointError: the gradient was not finite for ``STEPS_IN_VAIN[1]`` steps in a row.
        """
        few, many = STEPS_IN_VAIN
        for name, steps in self._steps.items():
            before = self._in_vain.get(name, 0)
            in_vain = before + steps if line.get(metric_names.SKIPPED_STEPS(name), 0.0) >= steps else 0
            self._in_vain[name] = in_vain
            said = (
                f"the gradient of {name} was not finite in the last {in_vain} steps, none of which was taken; its loss "
                "may be too large (see the rewards), or its learning rate"
            )
            if in_vain >= many:
                raise FloatingPointError(said)
            if before < few <= in_vain:
                rank_zero_warn(said)
        self._steps = {}

    def _optimizer(self, name: str) -> LightningOptimizer:
        made: Any = self._root.optimizers()
        optimizer: LightningOptimizer = made[self.names.index(name)] if isinstance(made, list) else made
        return optimizer


def scaler_of(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    """What keeps small gradients above fp16's smallest number under 16-mixed; else None."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler


def scaled(trainer: pl.Trainer, loss: Tensor) -> Tensor:
    """The loss as the scaler would have it, for gradients of which only the direction counts."""
    scaler = scaler_of(trainer)
    return loss if scaler is None else scaler.scale(loss)


def _average(gradients: list[Tensor], ranks: int) -> None:
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= ranks
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
