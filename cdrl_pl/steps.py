"""The optimizers of a graph, and how one of them takes a step, on one device or over ranks, under any precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Adam

from cdrl_pl.graph import Agent
from cdrl_pl.meter import Meter
from cdrl_pl.student import Student
from cdrl_pl.transfer import Transfer

PROGRAMS_RATE, PROGRAMS_CLIP = 1e-4, 40.0  # of the separate distillation step (spec section 6)


def make_optimizers(agents: Mapping[str, Agent], edges: Iterable[Transfer]) -> dict[str, Adam]:
    """One Adam per learning agent, per trainable alignment, and per separate distillation step.

    All of them from the start and in a fixed order, so that resuming never mismatches them.
    """
    made: dict[str, Adam] = {}
    for name, agent in agents.items():
        if isinstance(agent, Student):
            made[f"student/{name}"] = _adam(agent.network, agent.learner.lr)
    for transfer in edges:
        if transfer.alignment.trainable:
            made[f"align/{transfer.name}"] = _adam(transfer.alignment, transfer.alignment.config.lr)
        student = agents[transfer.config.student]
        if transfer.reading.distill_step == "separate" and isinstance(student, Student):
            made[f"distill/{transfer.name}"] = _adam(student.network, PROGRAMS_RATE)
    return made


def _adam(module: nn.Module, lr: float) -> Adam:
    return Adam(module.parameters(), lr=lr, fused=True)


def scaler_of(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    """Under 16-mixed, what keeps small gradients above fp16's smallest number."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler


def scaled(trainer: pl.Trainer, loss: Tensor) -> Tensor:
    """The loss as the scaler would have it, for gradients of which only the direction counts."""
    scaler = scaler_of(trainer)
    return loss if scaler is None else scaler.scale(loss)


def take_step(
    root: pl.LightningModule,
    name: str,
    optimizer: LightningOptimizer,
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    max_norm: float,
    meter: Meter,
) -> None:
    """Backward, mean over ranks, clip, step. A gradient that is not finite steps nothing, and is counted.

    Nothing here waits for a GPU: whether the step is taken is decided on the device that takes it.

    Args:
        root: the module that the trainer trains. name: of the optimizer, for ``meter``. max_norm: global-norm clip.
    """
    trainer, strategy = root.trainer, root.trainer.strategy
    optimizer.zero_grad(set_to_none=True)
    with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
        root.manual_backward(loss)  # only some parameters have gradients, so ranks are averaged here, not by DDP
    if trainer.world_size > 1:
        with meter.timed("time/synchronising"):  # waiting for the slowest rank included
            _average([p.grad for p in parameters if p.grad is not None], trainer.world_size)
    scaler = scaler_of(trainer)
    if scaler is not None:
        scaler.unscale_(optimizer.optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    skipped = (~torch.isfinite(norm)).float()
    meter.add(f"grad_norm/{name}", norm)
    meter.count(f"skipped_steps/{name}", skipped)
    if scaler is None:  # else the scaler sets this, and lowers its scale
        optimizer.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by the fused Adam
    optimizer.step()


def _average(gradients: list[Tensor], ranks: int) -> None:
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= ranks
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
