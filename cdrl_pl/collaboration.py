"""The graph of agents and transfers: the root module, which owns the clocks, steps the optimizers and logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from cdrl_pl import losses
from cdrl_pl.advice import Advice
from cdrl_pl.alignment import accuracy, one_hot_accuracy
from cdrl_pl.envs import EnvConfig, resolve, with_noops
from cdrl_pl.evaluation import SCORES, Score, evaluate, save_scores, score_record
from cdrl_pl.graph import Agent, AgentConfig, build_agent, check_graph
from cdrl_pl.guidance import gradient_cosine, share, teacher_value
from cdrl_pl.journal import Episodes, Journal
from cdrl_pl.machine import evaluation_processes
from cdrl_pl.reading import ReadingOverrides, resolve_reading
from cdrl_pl.schedule import linear, phase
from cdrl_pl.steps import PROGRAMS_CLIP, make_optimizers, scaled, take_step
from cdrl_pl.student import A3CLosses, Student
from cdrl_pl.transfer import Transfer, TransferConfig
from cdrl_pl.types import Episode, PolicyOutput, Rollout


class Collaboration(pl.LightningModule):
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
        super().__init__()
        self.automatic_optimization = False
        options = {"T1": T1, "T2": T2, "stop": stop, "advice": advice, "weight": weight}
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        transfers = [replace(transfer, **given) for transfer in transfers or []]
        for option, value in (("T_max", T_max), ("log_every", log_every), ("window", window)):
            if value < 1:
                raise ValueError(f"model.{option} is {value}; it must be 1 or more")
        self.T_max = T_max
        self.reading = resolve_reading(preset, reading or ReadingOverrides())
        check_graph(agents, transfers, self.reading)
        self.teacher_weights = {name: config.teacher_weights for name, config in agents.items()}
        built = {name: build_agent(name, config) for name, config in agents.items()}
        self._agents = nn.ModuleDict(built)
        tasks = {name: (resolve(a.env).id.rpartition(":")[2], a.spec.action_meanings) for name, a in built.items()}
        self.transfers = nn.ModuleList(
            Transfer(t, built[t.teacher].network, built[t.student].network, self.reading, tasks) for t in transfers
        )
        self.env_steps: dict[str, int] = dict.fromkeys(self.playing, 0)
        self.policy_version = 0
        self.scores: dict[str, dict[str, Score]] = {}  # of validate and test: agent -> policy -> score
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
    def agents(self) -> dict[str, Agent]:
        """Every agent by name."""
        return dict(self._agents.items())  # type: ignore[arg-type]

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
        add, steps = self.journal.meter.add, rollout.steps
        total: Tensor | None = None
        a3c: A3CLosses | None = None
        weights = self.teacher_weights[name]
        share([t.guidance for t, _ in advice if t.distilling], weights)
        with self.journal.meter.timed("time/learning"):
            output: PolicyOutput = agent(rollout)
            if isinstance(agent, Student) and agent.learner.reinforce:
                a3c = agent.reinforcement_losses(output, rollout, self.reading.time_limit, self.env_steps[name])
                total = a3c.total
                add(f"policy_loss/{name}", a3c.policy_loss / steps)
                add(f"value_loss/{name}", a3c.value_loss / steps)
                add(f"entropy/{name}", a3c.entropy / steps)
        self._note_actions(name, output.logits[:steps])
        separate: list[tuple[Transfer, Tensor]] = []
        for transfer, logits in advice:
            aligned = transfer.alignment(logits).detach() if self.reading.order == "distill_first" else None
            if transfer.aligning and transfer.alignment.trainable:
                with self.journal.meter.timed("time/alignment"):
                    self._align(transfer, output, logits)
            with torch.no_grad():
                if aligned is None:
                    aligned = transfer.alignment(logits)
                self._observe(transfer, output, logits, aligned)
            if a3c is not None and weights.by == "value":
                value = teacher_value(
                    aligned / transfer.temperature, output.logits[:steps], rollout.actions, a3c.advantages
                )
                transfer.guidance.appraise(self._over_ranks(value), weights.memory, self.journal.meter)
            if transfer.distilling and isinstance(agent, Student):
                if self.reading.distill_step == "separate":
                    separate.append((transfer, aligned))
                else:
                    with self.journal.meter.timed("time/distillation"):
                        loss = transfer.distillation_loss(output, aligned)
                    if a3c is not None and transfer.guidance.due():
                        with self.journal.meter.timed("time/alarm"):
                            trunk = list(agent.network.trunk.parameters())
                            cosine = gradient_cosine(scaled(self.trainer, a3c.total), scaled(self.trainer, loss), trunk)
                            transfer.guidance.judge(self._over_ranks(cosine), self.journal.meter)
                    weight = transfer.guidance.weight
                    add(f"distillation_weight/{transfer.name}", weight)
                    total = weight * loss + (0.0 if total is None else total)
        if isinstance(agent, Student):
            parameters = list(agent.network.parameters())
            if total is not None:
                with self.journal.meter.timed("time/learning"):
                    own = agent.learner
                    rate = linear(own.lr, own.lr_end, own.lr_steps, self.env_steps[name])
                    self._step(f"student/{name}", total, parameters, own.max_grad_norm, rate)
            for transfer, aligned in separate:
                with self.journal.meter.timed("time/distillation"):
                    loss = transfer.distillation_loss(agent(rollout), aligned)
                    self._step(f"distill/{transfer.name}", loss, parameters, PROGRAMS_CLIP)

    def _align(self, transfer: Transfer, output: PolicyOutput, advice: Tensor) -> None:
        loss = transfer.alignment_loss(output, advice)
        parameters = list(transfer.alignment.parameters())
        self._step(f"align/{transfer.name}", loss, parameters, transfer.alignment.config.max_grad_norm)

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

    # Evaluation of the frozen policies on fresh environments

    def on_test_start(self) -> None:
        """Warns of agents that have learned nothing, which is seldom what was meant."""
        if untrained := [name for name, agent in self.agents.items() if agent.learns and not self.env_steps[name]]:
            names = ", ".join(untrained)
            rank_zero_warn(f"no --ckpt_path was given: {names} will play with untrained, initial weights")

    on_validation_start = on_predict_start = on_test_start

    def _evaluate(self, job: tuple[str, bool, int]) -> Score:
        name, greedy, episodes = job
        agent = self.agents[name]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        score = evaluate(
            agent.network,
            self._evaluated_env(agent),
            episodes,
            greedy,
            data.resolved_seed(),
            interrupted=lambda: self.trainer.received_sigterm,
            processes=evaluation_processes(episodes),
        )
        self.scores.setdefault(name, {})[score.policy] = score
        return score

    def _evaluated_env(self, agent: Agent) -> EnvConfig:
        return with_noops(agent.env, self.trainer.datamodule.noop_max)  # type: ignore[attr-defined]

    def validation_step(self, batch: tuple[str, bool, int], batch_idx: int) -> None:
        """Evaluates one frozen policy; logs mean and std of its returns."""
        score = self._evaluate(batch)
        for key, value in (("mean", score.mean), ("std", score.std), ("episodes", score.episodes)):
            self.log(f"{batch[0]}/{score.policy}/{key}", float(value), batch_size=1, rank_zero_only=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Writes every score of the test, with its protocol, to ``scores.json`` in the run folder."""
        if not self.trainer.is_global_zero:
            return
        records = {}
        for name, evaluation in self.scores.items():
            agent = self.agents[name]
            learned = (
                self.env_steps[name] if isinstance(agent, Student) else agent.certificate.training.get("env_steps")
            )
            records[name] = score_record(self._evaluated_env(agent), learned, evaluation)
        save_scores(Path(self.trainer.log_dir or self.trainer.default_root_dir) / SCORES, records)

    def predict_step(self, batch: tuple[str, bool, int], batch_idx: int) -> str:
        """Records one episode of one agent as a video below the run's root folder; returns its path."""
        from cdrl_pl.video import save_episode

        return save_episode(self.agents[batch[0]], batch[0], self.trainer.default_root_dir, self.trainer.datamodule)  # type: ignore[attr-defined]

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
