"""The graph of agents and transfers: the root module, which owns the clocks, steps the optimizers and logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.advice import Advice
from cdrl_pl.alignment import accuracy, one_hot_accuracy
from cdrl_pl.envs import resolve
from cdrl_pl.frozen_play import FrozenPlay
from cdrl_pl.graph import Agent, AgentConfig, build_agent, check_graph
from cdrl_pl.guidance import gradient_cosine, share, teacher_value
from cdrl_pl.journal import Episodes, Journal
from cdrl_pl.reading import ReadingOverrides, resolve_reading
from cdrl_pl.schedule import linear, phase
from cdrl_pl.steps import PROGRAMS_CLIP, make_optimizers, scaled, take_step
from cdrl_pl.student import A3CLosses, Student
from cdrl_pl.transfer import Transfer, TransferConfig
from cdrl_pl.types import Episode, PolicyOutput, Rollout


class Collaboration(FrozenPlay):
    """Agents that learn from their own rewards and teach each other along transfers (paper section 4, Algorithm 1).

    Every system of the paper is one such graph: one agent and no transfer is A3C; a certificated teacher, a student and
    a transfer is online transfer; two learning agents and a transfer is the collaboration.

    Args:
        agents: by name. transfers: the edges.
        T_max: decisions of every learning agent at which the run ends, over all workers and ranks.
        preset: "paper" for the text's reading of its open points, "code" for the authors' program.
        reading: rows to take differently from the preset.
        log_every: decisions between two log lines.
        window: episodes in the reported mean return.
        T1, T2, stop, advice, weight: where given, for every transfer, whatever the transfers say.

    Raises:
        ValueError: a graph that cannot be, naming the option, its value and what is allowed; before any worker starts.
    """

    def __init__(
        self,
        agents: dict[str, AgentConfig],
        transfers: list[TransferConfig] | None = None,
        T_max: int = 20_000_000,
        preset: str = "paper",
        reading: ReadingOverrides | None = None,
        log_every: int = 10_000,
        window: int = 100,
        T1: int | None = None,
        T2: int | None = None,
        stop: int | Literal["never"] | None = None,
        advice: Advice | None = None,
        weight: float | None = None,
    ) -> None:
        options = {"T1": T1, "T2": T2, "stop": stop, "advice": advice, "weight": weight}
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        transfers = [replace(transfer, **given) for transfer in transfers or []]
        for option, value in (("T_max", T_max), ("log_every", log_every), ("window", window)):
            if value < 1:
                raise ValueError(f"model.{option} is {value}; it must be 1 or more")
        resolved = resolve_reading(preset, reading or ReadingOverrides())
        check_graph(agents, transfers, resolved)
        built = {name: build_agent(name, config) for name, config in agents.items()}
        super().__init__(built)
        self.automatic_optimization = False
        self.T_max, self.reading = T_max, resolved
        self.teacher_weights = {name: config.teacher_weights for name, config in agents.items()}
        tasks = {name: (resolve(a.env).id.rpartition(":")[2], a.spec.action_meanings) for name, a in built.items()}
        self.transfers = nn.ModuleList(
            Transfer(t, built[t.teacher].network, built[t.student].network, self.reading, tasks) for t in transfers
        )
        self.env_steps = dict.fromkeys(self.playing, 0)
        self.policy_version = 0
        self.journal = Journal(self.playing, log_every, window)
        self._optimizer_index: dict[str, int] = {}
        self._rates: list[float] = []

    def setup(self, stage: str) -> None:
        """Refuses to fit what has nothing to learn; such a graph can still be evaluated."""
        if stage != "fit":
            return
        if not self.playing:
            raise ValueError("model.agents: every agent is certificated and none is taught; nothing would be trained")
        for transfer in self.edges:
            if not self.agents[student := transfer.config.student].learns:
                rank_zero_info(
                    "%s is certificated: %s aligns to it, and past T2 distils nothing into it", student, transfer.name
                )

    # The graph

    @property
    def edges(self) -> list[Transfer]:
        """Every transfer, in the config's order."""
        return list(self.transfers)  # type: ignore[arg-type]

    @property
    def playing(self) -> dict[str, Agent]:
        """The agents that play their environment: those that learn, and frozen ones that a transfer aligns to."""
        taught = {t.config.student for t in self.edges}
        return {name: agent for name, agent in self.agents.items() if agent.learns or name in taught}

    def transfers_to(self, student: str) -> list[Transfer]:
        """The transfers that teach this agent."""
        return [t for t in self.edges if t.config.student == student]

    @property
    def clock(self) -> int:
        """T of the agents that play; equal for all of them, since their rollouts are taken together."""
        return min(self.env_steps.values())

    def phases(self) -> dict[str, str]:
        """What each transfer is doing now, for people."""
        return {t.name: phase(t.schedule, self.env_steps[t.config.student]) for t in self.edges}

    # Optimizers

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """All of them from the start; see ``make_optimizers``."""
        made = make_optimizers(self.agents, self.edges)
        self._optimizer_index = {name: i for i, name in enumerate(made)}
        self._rates = [optimizer.param_groups[0]["lr"] for optimizer in made.values()]
        return list(made.values())

    def _step(
        self, name: str, loss: Tensor, parameters: list[nn.Parameter], max_norm: float, rate: float | None = None
    ) -> None:
        optimizers: Any = self.optimizers()
        optimizer = optimizers[self._optimizer_index[name]] if isinstance(optimizers, list) else optimizers
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate
        take_step(self, name, optimizer, loss, parameters, max_norm, self.journal.meter)

    # Learning

    def training_step(self, batch: dict[str, Rollout], batch_idx: int) -> None:
        """One rollout of every playing agent: each learns from its own, and from those who teach it."""
        for name, rollout in batch.items():
            self._learn(name, rollout)
            before = self.env_steps[name]
            self.env_steps[name] += rollout.steps * rollout.copies * self.trainer.world_size
            for transfer in self.transfers_to(name):
                transfer.follow(before, self.env_steps[name])
            self.journal.finished(name, rollout.episodes)
            self.journal.meter.add(f"policy_lag/{name}", float(rollout.policy_lag))
        self.policy_version += 1
        if self.journal.due(self.clock):
            self._log()
        if self.clock >= self.T_max:
            self._log()
            self.trainer.should_stop = True

    def _learn(self, name: str, rollout: Rollout) -> None:
        agent = self.agents[name]
        advice: list[tuple[Transfer, Tensor]] = []
        for transfer in self.transfers_to(name):
            transfer.advance(self.env_steps[name], self.journal.mean_return(name))
            if transfer.active:
                with self.journal.meter.timed("time/advice"):
                    advice.append((transfer, transfer.advise(rollout)))
        batch_copies = agent.learner.batch_copies if isinstance(agent, Student) else None
        for copies in rollout.split(batch_copies):
            self._update(name, agent, rollout.select(copies), [(t, a[:, copies]) for t, a in advice])

    def _update(self, name: str, agent: Agent, rollout: Rollout, advice: list[tuple[Transfer, Tensor]]) -> None:
        """One gradient step of every loss on some copies of a rollout; one forward pass serves all joint losses."""
        weights = self.teacher_weights[name]
        share([t.guidance for t, _ in advice if t.distilling], weights)
        with self.journal.meter.timed("time/learning"):
            output: PolicyOutput = agent(rollout)
            a3c = self._reinforce(name, agent, output, rollout)
        self._note_actions(name, output.logits[: rollout.steps])
        joint: list[Tensor] = [] if a3c is None else [a3c.total]
        separate: list[tuple[Transfer, Tensor]] = []
        for transfer, logits in advice:
            aligned = self._align(transfer, output, logits)
            if a3c is not None and weights.by == "value":
                follower = aligned / transfer.temperature
                value = teacher_value(follower, output.logits[: rollout.steps], rollout.actions, a3c.advantages)
                transfer.guidance.appraise(self._over_ranks(value), weights.memory, self.journal.meter)
            if transfer.distilling and isinstance(agent, Student):
                if self.reading.distill_step == "separate":
                    separate.append((transfer, aligned))
                else:
                    joint.append(self._distil(transfer, agent, output, aligned, a3c))
        if isinstance(agent, Student):
            self._take_steps(name, agent, rollout, joint, separate)

    def _reinforce(self, name: str, agent: Agent, output: PolicyOutput, rollout: Rollout) -> A3CLosses | None:
        """The agent's loss from its own rewards, where it learns from them."""
        if not isinstance(agent, Student) or not agent.learner.reinforce:
            return None
        a3c = agent.reinforcement_losses(output, rollout, self.reading.time_limit, self.env_steps[name])
        for loss in ("policy_loss", "value_loss", "entropy"):
            self.journal.meter.add(f"{loss}/{name}", getattr(a3c, loss) / rollout.steps)
        return a3c

    def _align(self, transfer: Transfer, output: PolicyOutput, advice: Tensor) -> Tensor:
        """Trains the alignment where it is due; returns what it makes of the advice, without gradient."""
        alignment = transfer.alignment
        aligned: Tensor | None = alignment(advice).detach() if self.reading.order == "distill_first" else None
        if transfer.aligning and alignment.trainable:
            with self.journal.meter.timed("time/alignment"):
                loss = transfer.alignment_loss(output, advice)
                parameters = list(alignment.parameters())
                self._step(f"align/{transfer.name}", loss, parameters, alignment.config.max_grad_norm)
        with torch.no_grad():
            made: Tensor = alignment(advice) if aligned is None else aligned
            self._observe(transfer, output, advice, made)
        return made

    def _distil(
        self, transfer: Transfer, agent: Student, output: PolicyOutput, aligned: Tensor, a3c: A3CLosses | None
    ) -> Tensor:
        """The weighted distillation loss; first asks the alarm whether it works against the student's own."""
        guidance, meter = transfer.guidance, self.journal.meter
        with meter.timed("time/distillation"):
            loss = transfer.distillation_loss(output, aligned)
        if a3c is not None and guidance.due():
            with meter.timed("time/alarm"):
                trunk = list(agent.network.trunk.parameters())
                cosine = gradient_cosine(scaled(self.trainer, a3c.total), scaled(self.trainer, loss), trunk)
                guidance.judge(self._over_ranks(cosine), meter)
        meter.add(f"distillation_weight/{transfer.name}", guidance.weight)
        return guidance.weight * loss

    def _take_steps(
        self,
        name: str,
        agent: Student,
        rollout: Rollout,
        joint: list[Tensor],
        separate: list[tuple[Transfer, Tensor]],
    ) -> None:
        """One step on the sum of the joint losses, then one for each that has a step of its own."""
        parameters, own = list(agent.network.parameters()), agent.learner
        if joint:
            with self.journal.meter.timed("time/learning"):
                rate = linear(own.lr, own.lr_end, own.lr_steps, self.env_steps[name])
                self._step(f"student/{name}", sum(joint[1:], joint[0]), parameters, own.max_grad_norm, rate)
        for transfer, aligned in separate:
            with self.journal.meter.timed("time/distillation"):
                loss = transfer.distillation_loss(agent(rollout), aligned)
                self._step(f"distill/{transfer.name}", loss, parameters, PROGRAMS_CLIP)

    def _over_ranks(self, value: Tensor) -> float:
        """The mean over ranks, so that every rank weighs alike."""
        return float(self.trainer.strategy.reduce(value, reduce_op="mean"))

    def _observe(self, transfer: Transfer, output: PolicyOutput, advice: Tensor, aligned: Tensor) -> None:
        """Both KLs per step, measured alike whatever is trained and however reduced; what the teacher does; the share
        that F got right, where the right alignment is known."""
        steps, name, add = len(advice), transfer.name, self.journal.meter.add
        layer = output.distill_logits if transfer.config.layer == "distillation" else output.logits
        add(f"alignment_kl/{name}", losses.kl(output.logits[:steps], aligned).mean())
        add(f"distillation_kl/{name}", losses.kl(aligned, layer[:steps]).mean())
        self._note_actions(f"{name}/teacher", advice)
        self._note_actions(f"{name}/aligned", aligned)
        if transfer.known is not None:
            add(f"alignment_accuracy/{name}", accuracy(advice, aligned, transfer.known))
            add(f"alignment_accuracy/{name}/one_hot", one_hot_accuracy(transfer.alignment, transfer.known))

    def _note_actions(self, source: str, logits: Tensor) -> None:
        mean, information = losses.action_statistics(logits)
        self.journal.meter.add(f"actions/{source}", mean)
        self.journal.meter.add(f"state_information/{source}", information)

    # Logs: with env_steps as the axis, every log_every decisions

    def _log(self) -> None:
        statistics: Callable[[], dict[str, float]] = getattr(
            getattr(self.trainer, "datamodule", None), "statistics", dict
        )
        if line := self.journal.line(self.clock, self._gather, statistics()):
            for logger in self.loggers:
                logger.log_metrics(line, step=self.clock)

    def _gather(self, own: Episodes) -> Episodes:
        """The episodes of all ranks."""
        if self.trainer.world_size == 1:
            return own
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, own)
        return {name: [Episode(*e) for part in parts for e in part[name]] for name in own}

    def on_train_start(self) -> None:
        """The speed of the first log line counts from here; the config's learning rates hold, also on resume."""
        for optimizer, rate in zip(self.trainer.optimizers, self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
        self.journal.start(self.clock)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Clocks (ints), recent episodes and the teachers' recurrent states; weights and optimizers are Lightning's."""
        checkpoint["collaboration"] = {
            "env_steps": dict(self.env_steps),
            "policy_version": self.policy_version,
            "journal": self.journal.state_dict(),
            "memory": [dict(t.teacher.memory) for t in self.edges],
            "guidance": [t.guidance.state_dict() for t in self.edges],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from ``on_save_checkpoint``; raises where the checkpoint is of another graph."""
        state = checkpoint["collaboration"]
        if set(state["env_steps"]) != set(self.env_steps):
            raise ValueError(
                f"the checkpoint has the agents {', '.join(state['env_steps'])}, the config {', '.join(self.env_steps)}"
            )
        self.env_steps, self.policy_version = dict(state["env_steps"]), state["policy_version"]
        self.journal.load_state_dict(state["journal"])
        for transfer, memory in zip(self.edges, state["memory"], strict=True):
            transfer.teacher.memory = dict(memory)
        for transfer, guidance in zip(self.edges, state.get("guidance", ()), strict=False):  # none in old checkpoints
            transfer.guidance.load_state_dict(guidance)
