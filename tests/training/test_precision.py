"""Steps under a gradient scaler (16-mixed), on the CPU: the scaler is real, the accelerator is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import FixedData, agent, copy_of, graph, make_trainer, random_batch, switches, transfer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.testing import assert_close

from cdrl_pl.training import update
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.transfer.weighting import AlarmConfig, GradientComparison, compare_gradients
from cdrl_pl.types import Rollout


class HalfPrecision(MixedPrecision):
    """16-mixed with its scaler, computing in fp32, so that only the scaling differs from no mixed precision."""

    def __init__(self, scale: float) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    def forward_context(self) -> torch.autocast:  # type: ignore[override]
        return torch.autocast("cpu", torch.float16, enabled=False)


def one_step(
    folder: Path, batch: dict[str, Rollout] | None, scale: float | None, **options: Any
) -> tuple[Collaboration, pl.Trainer, dict[str, Rollout]]:
    """One training step of a student with a teacher; its weights are those of the seed."""
    pl.seed_everything(3)
    module = graph(transfer(T1=0, T2=0, **options), agents={"alpha": agent(), "beta": agent(max_grad_norm=0.5)})
    batch = batch or random_batch(module)
    rollout = batch["beta"]
    module.T_max = rollout.steps * rollout.copies
    trainer = make_trainer(folder, *switches())
    if scale is not None:
        trainer.strategy.precision_plugin = HalfPrecision(scale)
    trainer.fit(module, datamodule=FixedData(batch))
    return module, trainer, batch


def test_clipping_sees_unscaled_gradients_and_every_optimizer_steps(tmp_path: Path) -> None:
    plain, _, batch = one_step(tmp_path / "plain", None, None)
    scaled, trainer, _ = one_step(tmp_path / "scaled", batch, 2.0**10)
    assert isinstance(trainer.precision_plugin, HalfPrecision)
    names = [name for name in plain.run_log.latest if name.startswith("grad_norm/")]
    assert len(names) == 3  # two students and one alignment
    for name in names:
        assert scaled.run_log.latest[name] == pytest.approx(plain.run_log.latest[name], rel=1e-4)
    before, after = copy_of(plain), copy_of(scaled)
    for name, value in before.items():
        assert_close(after[name], value, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_overflows_steps_nothing_and_lowers_the_scale(tmp_path: Path) -> None:
    _, _, batch = one_step(tmp_path / "plain", None, None)
    batch = {name: replace(rollout, rewards=1e6 * rollout.rewards.abs() + 1e6) for name, rollout in batch.items()}
    untouched = one_step(tmp_path / "kept", batch, 2.0**10)[0]
    module, trainer, _ = one_step(tmp_path / "over", batch, 2.0**127)
    assert module.run_log.latest["skipped_steps/student/beta"] == 1
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**127
    pl.seed_everything(3)
    fresh = copy_of(graph(transfer(T1=0, T2=0), agents={"alpha": agent(), "beta": agent(max_grad_norm=0.5)}))
    student = [k for k in fresh if k.startswith("_agents.beta.")]
    assert all(torch.equal(module.state_dict()[k], fresh[k]) for k in student)
    assert not all(torch.equal(untouched.state_dict()[k], fresh[k]) for k in student)  # the control


def test_the_alarm_compares_scaled_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unscaled, they could vanish in fp16; the cosine is the same."""
    seen: dict[str, list[float]] = {}
    measured: dict[str, float] = {}
    for name, scale in (("plain", None), ("scaled", 2.0**10)):

        def note(one: Tensor, other: Tensor, parameters: list[Tensor], name: str = name) -> GradientComparison:
            seen[name] = [one.item(), other.item()]
            return compare_gradients(one, other, parameters)

        monkeypatch.setattr(update, "compare_gradients", note)
        module = one_step(tmp_path / name, None, scale, alarm=AlarmConfig(every=1))[0]
        measured[name] = module.run_log.latest["gradient_cosine/alpha-beta"]
    assert seen["scaled"] == pytest.approx([2.0**10 * loss for loss in seen["plain"]], rel=1e-4)
    assert measured["scaled"] == pytest.approx(measured["plain"], abs=1e-4)
