"""One gradient step of one agent: forward, losses, steps, record."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from cdrl_pl import metric_names
from cdrl_pl.agents.agent import Agent
from cdrl_pl.agents.student import A3CLosses
from cdrl_pl.distributions import action_statistics
from cdrl_pl.presets import Preset
from cdrl_pl.schedule import linear
from cdrl_pl.training.meter import Meter
from cdrl_pl.training.optimizers import PROGRAMS_CLIP, Optimizers, scaled
from cdrl_pl.transfer.transfer import Lesson, Transfer
from cdrl_pl.transfer.weighting import TeacherWeights, compare_gradients, set_teacher_factors, teacher_value
from cdrl_pl.types import PolicyOutput, Rollout, TeacherOutput

Taught = tuple[Transfer, TeacherOutput]
"""An active transfer, and what its teacher says on the rows of the update."""


class Update:
    """What an agent learns from some copies of one rollout, and from those who teach it.

    Args:
        root: the module that the trainer trains.
        optimizers: of the graph, which take the steps.
        preset: the paper's text or its authors' program.
        meter: gets what is to be logged.
    """

    def __init__(self, root: pl.LightningModule, optimizers: Optimizers, preset: Preset, meter: Meter) -> None:
        self._root, self._optimizers, self._preset, self._meter = root, optimizers, preset, meter

    def __call__(
        self,
        name: str,
        agent: Agent,
        rollout: Rollout,
        taught: Sequence[Taught],
        weights: TeacherWeights,
        env_steps: int,
    ) -> None:
        """One forward pass serves all joint losses.

        Args:
            name: of the agent.
            agent: one that learns, or a frozen one that transfers align to.
            rollout: the agent's own.
            taught: the transfers that teach it now.
            weights: how it shares its attention among several teachers.
            env_steps: T of the agent.
        """
        meter, preset = self._meter, self._preset
        set_teacher_factors([transfer.weighting for transfer, _ in taught if transfer.distilling], weights)
        # forward
        with meter.timed(metric_names.TIME_LEARNING()):
            output = agent(rollout)
            # losses
            own = agent.reinforcement_losses(output, rollout, preset.time_limit, env_steps)
        if preset.order == "align_first":
            self._train_alignments(output, taught)
        with meter.timed(metric_names.TIME_DISTILLATION()):
            lessons = [transfer.lesson(output, said) for transfer, said in taught]
        transfers = [transfer for transfer, _ in taught]
        joint = self._weighted(agent, rollout, output, own, transfers, lessons, weights)
        # steps
        if preset.order == "distill_first":
            self._train_alignments(output, taught)
        self._step(name, agent, joint, env_steps)
        if preset.distill_step == "separate" and agent.learner is not None:
            for transfer, lesson in zip(transfers, lessons, strict=True):
                if transfer.distilling:
                    self._step_separately(agent, rollout, transfer, lesson)
        # record
        self._record(name, agent, rollout, output, own, lessons)

    def _train_alignments(self, output: PolicyOutput, taught: Sequence[Taught]) -> None:
        """One step of every alignment function that is being trained."""
        for transfer, said in taught:
            alignment = transfer.alignment
            if not transfer.aligning:
                continue
            if alignment.fitted is not None:
                with self._meter.timed(metric_names.TIME_ALIGNMENT()):
                    transfer.fit_alignment(output, said, self._summed)
            if alignment.trainable:
                with self._meter.timed(metric_names.TIME_ALIGNMENT()):
                    loss = transfer.alignment_loss(output, said)
                    parameters = list(alignment.parameters())
                    self._optimizers.step(f"align/{transfer.name}", loss, parameters, alignment.config.max_grad_norm)

    def _weighted(
        self,
        agent: Agent,
        rollout: Rollout,
        output: PolicyOutput,
        own: A3CLosses | None,
        transfers: Sequence[Transfer],
        lessons: Sequence[Lesson],
        weights: TeacherWeights,
    ) -> list[Tensor]:
        """The losses of the agent's own step: its reinforcement loss, and every lesson's by its weight."""
        losses = [] if own is None else [own.total]
        for transfer, lesson in zip(transfers, lessons, strict=True):
            weighting, name = transfer.weighting, transfer.name
            if own is not None and weights.by == "value":
                target = lesson.aligned_logits / transfer.temperature
                logits, counts = output.logits[: rollout.steps], agent.spec.action_counts
                value = teacher_value(target, logits, rollout.actions, own.advantages, counts)
                measured = self._over_ranks(value)
                self._meter.add(metric_names.TEACHER_VALUE(name), measured)
                self._meter.add(metric_names.TEACHER_FACTOR(name), weighting.factor)
                weighting.update_teacher_value(measured, weights.span)
            if lesson.distillation_loss is not None and agent.learner is not None:
                if own is not None:
                    if weighting.alarm_is_due:
                        self._ask_the_alarm(agent, transfer, own.total, lesson.distillation_loss)
                    weighting.stepped()
                self._meter.add(metric_names.DISTILLATION_WEIGHT(name), weighting.weight)
                losses.append(weighting.weight * lesson.distillation_loss)
        return losses

    def _ask_the_alarm(self, agent: Agent, transfer: Transfer, own: Tensor, distillation: Tensor) -> None:
        """Measures whether the distillation loss works against the agent's own, and how large its gradient is."""
        with self._meter.timed(metric_names.TIME_ALARM()):
            trunk, trainer = list(agent.network.trunk.parameters()), self._root.trainer
            found = compare_gradients(scaled(trainer, own), scaled(trainer, distillation), trunk)
            cosine = self._over_ranks(found.cosine)
            self._meter.add(metric_names.GRADIENT_RATIO(transfer.name), self._over_ranks(found.ratio))
            self._meter.add(metric_names.GRADIENT_COSINE(transfer.name), cosine)
            transfer.weighting.update_alarm(cosine)

    def _step(self, name: str, agent: Agent, losses: list[Tensor], env_steps: int) -> None:
        """One step of the agent on the sum of its losses, where it learns and there are any."""
        learner = agent.learner
        if learner is None or not losses:
            return
        with self._meter.timed(metric_names.TIME_LEARNING()):
            rate = linear(learner.lr, learner.lr_end, learner.lr_steps, env_steps)
            loss = sum(losses[1:], losses[0])
            learning = agent.learning(env_steps)
            self._optimizers.step(f"student/{name}", loss, learning, learner.max_grad_norm, rate)

    def _step_separately(self, agent: Agent, rollout: Rollout, transfer: Transfer, lesson: Lesson) -> None:
        """A step of distillation alone, on the agent as it is after its own (the authors' program)."""
        with self._meter.timed(metric_names.TIME_DISTILLATION()):
            loss = transfer.distillation_loss(agent(rollout), lesson.aligned_logits, lesson.row_weights)
            parameters = list(agent.network.parameters())
            self._optimizers.step(f"distill/{transfer.name}", loss, parameters, PROGRAMS_CLIP)

    def _record(
        self,
        name: str,
        agent: Agent,
        rollout: Rollout,
        output: PolicyOutput,
        own: A3CLosses | None,
        lessons: Sequence[Lesson],
    ) -> None:
        meter = self._meter
        if own is not None:
            meter.add(metric_names.POLICY_LOSS(name), own.policy_loss / rollout.steps)
            meter.add(metric_names.VALUE_LOSS(name), own.value_loss / rollout.steps)
            meter.add(metric_names.ENTROPY(name), own.entropy / rollout.steps)
        counts = agent.spec.action_counts
        sources = {name: (output.logits[: rollout.steps], counts)}
        for lesson in lessons:
            sources[f"{lesson.transfer}/teacher"] = (lesson.teacher_logits, lesson.teacher_counts)
            sources[f"{lesson.transfer}/aligned"] = (lesson.aligned_logits, counts)
            for metric, value in lesson.metrics.items():
                meter.add(metric, value)
        for source, said in sources.items():
            mean, information = action_statistics(*said)
            meter.add(metric_names.ACTIONS(source), mean)
            meter.add(metric_names.STATE_INFORMATION(source), information)

    def _summed(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        if self._root.trainer.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def _over_ranks(self, value: Tensor) -> float:
        """The mean over ranks, so that every rank weighs alike."""
        return float(self._root.trainer.strategy.reduce(value, reduce_op="mean"))
