"""What the machine decides of a training where the config leaves it open, and one line that says what it was."""

from __future__ import annotations

import math
from dataclasses import replace

import pytorch_lightning as pl

from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.system.balance import LARGE, PICTURES, VECTORS, Balance, balance
from cdrl_pl.system.hardware import cores, cpu_has_bf16
from cdrl_pl.training.collaboration import Collaboration


def shared_cores(module: Collaboration, trainer: pl.Trainer, pool: PoolConfig, threads: int | None) -> Balance:
    """Workers and learner threads of a rank, which has its share of this machine's cores.

    Args:
        module: that learns.
        trainer: with its ranks.
        pool: as configured.
        threads: of the learner, as configured.
    """
    playing = module.playing
    pictures = any(math.prod(agent.spec.obs_shape) >= LARGE for agent in playing.values())
    return balance(
        max(1, cores() // local_ranks(trainer)),
        len(playing),
        PICTURES if pictures else VECTORS,
        len(module.transfers) / len(playing),
        pool.workers,
        threads,
        gpu=trainer.strategy.root_device.type != "cpu",
        in_turn=pool.deterministic,
    )


def local_ranks(trainer: pl.Trainer) -> int:
    """Ranks of this machine."""
    return trainer.world_size // trainer.num_nodes


def resolved(pool: PoolConfig, workers: int, module: Collaboration, precision: str) -> PoolConfig:
    """The pool with what was left open filled in.

    Args:
        pool: as configured.
        workers: per agent.
        module: that learns.
        precision: the trainer's.
    """
    return replace(
        pool,
        workers=workers,
        bf16=precision.startswith("bf16") and cpu_has_bf16() if pool.bf16 is None else pool.bf16,
        concatenate=pool.concatenate or (module.preset.concatenate and not pool.deterministic),
    )


def said(pool: PoolConfig, chosen: Balance, device: str, precision: str, given: bool) -> str:
    """What was chosen, and why, in one line.

    Args:
        pool: resolved.
        chosen: workers and threads.
        device: that learns.
        precision: the trainer's.
        given: whether the config says both, so that nothing was chosen.
    """
    plural = "s" * (chosen.threads > 1)
    learner = f"{chosen.threads} CPU thread{plural}" if device == "cpu" else device
    playing = f"{pool.workers} workers x {pool.copies} copies per agent, acting in {'bf16' if pool.bf16 else 'fp32'}"
    reason = "" if given else f"; chosen for {cores()} cores: {chosen.why}"
    return f"{playing}; learning on {learner} in {precision}{reason}"
