"""The graph of agents and transfers: the root module, which owns the clocks, steps the optimizers and logs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from cdrl_pl import metric_names
from cdrl_pl.agents.agent import Agent
from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.envs import EnvError, EnvSpec, View
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.presets import PresetOverrides, resolve_preset
from cdrl_pl.system.stop import StopRequest
from cdrl_pl.training.batch import Batch
from cdrl_pl.training.board import Board
from cdrl_pl.training.collapse import CollapseAlarm
from cdrl_pl.training.evaluator import EvaluationJob, Evaluator
from cdrl_pl.training.graph import AgentConfig, build_agent, check_graph, check_trained, teachers_view
from cdrl_pl.training.monitors import check_monitored, check_monitors, let_look, names, warn_of_unseen
from cdrl_pl.training.optimizers import Optimizers
from cdrl_pl.training.resuming import CHECKPOINT, restore, state_of
from cdrl_pl.training.run_folder import run_folder
from cdrl_pl.training.run_log import Episodes, LastLine, RunLog, write
from cdrl_pl.training.trainer_options import check_trainer
from cdrl_pl.training.update import Taught, Update
from cdrl_pl.transfer.controls import Control
from cdrl_pl.transfer.ground_truth import Task
from cdrl_pl.transfer.transfer import Phase, Transfer, TransferConfig
from cdrl_pl.types import Episode, Rollout


def silent(text: str) -> None:
    """Where nothing displays what the run does."""


class Collaboration(pl.LightningModule):
    """Agents that learn from their own rewards and teach each other along transfers (paper section 4, Algorithm 1).

    Every system of the paper is one such graph: one agent and no transfer is A3C; a certificated teacher, a student and
    a transfer is online transfer; two learning agents and a transfer is the collaboration.

    Args:
        agents: Agents by name; each learns in an environment, or is a frozen expert from a certificate.
        transfers: Who teaches whom, from when to when.
        T_max: Decisions of every learning agent at which the run ends, over all workers and ranks.
        preset: "paper" for the text's reading of its open points, "code" for the authors' program.
        preset_overrides: Single points to take differently from the preset.
        log_every: Decisions between two log lines.
        window: Training episodes in the reported mean return.
        T1: Decisions of the student at which alignment training starts, for every transfer; null: as each says.
        T2: Decisions of the student at which distillation starts, for every transfer; null: as each says.
        stop: Decisions of the student at which both end, for every transfer, or "never"; null: as each says.
        control: Stand-in for the teacher in every transfer: none, random, shuffled, constant, lagged or own; null: as
            each transfer says.
        weight: Weight of the distillation loss beside the reinforcement loss, without unit, for every transfer; 0
            computes everything and distils nothing; null: as each says.

    Raises:
        ConfigError: a graph that cannot be, naming the option, its value and what is allowed; before any worker starts.
    """

    def __init__(
        self,
        agents: dict[str, AgentConfig],
        transfers: list[TransferConfig] | None = None,
        T_max: int = 20_000_000,
        preset: str = "paper",
        preset_overrides: PresetOverrides | None = None,
        log_every: int = 10_000,
        window: int = 100,
        T1: int | None = None,
        T2: int | None = None,
        stop: int | Literal["never"] | None = None,
        control: Control | None = None,
        weight: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.T_max, self.log_every, self.window = T_max, log_every, window
        check_options(
            "model.", self, [(o, getattr(self, o) >= 1, "1 or more") for o in ("T_max", "log_every", "window")]
        )
        options = {"T1": T1, "T2": T2, "stop": stop, "control": control, "weight": weight}
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        configs = [replace(transfer, **given) for transfer in transfers or []]
        self.preset = resolve_preset(preset, preset_overrides or PresetOverrides())
        check_graph(agents, configs, self.preset)
        self._given = {
            "preset": preset,
            "agents": {name: asdict(config) for name, config in agents.items()},
            "transfers": {config.name: asdict(config) for config in configs},
        }
        # The order in which a config names them decides nothing: first weights, seeds, who learns first.
        agents, configs = dict(sorted(agents.items())), sorted(configs, key=lambda config: config.name)
        built = {name: build_agent(name, config) for name, config in agents.items()}
        self._agents = nn.ModuleDict(built)  # type: ignore[arg-type]
        self._teacher_weights = {name: config.teacher_weights for name, config in agents.items()}
        tasks = {
            name: Task(agent.game, agent.spec.action_meanings, agent.spec.action_counts)
            for name, agent in built.items()
        }
        self._transfers = nn.ModuleDict()
        # Views beside an agent's own, through which its teachers read its rollouts, and its task as each sees it.
        self.views: dict[str, dict[View, EnvSpec]] = {name: {} for name in built}
        for config in configs:
            teacher, student = built[config.teacher].network, built[config.student].network
            view, seen = teachers_view(config, built) or (None, None)
            if view is not None and seen is not None:
                self.views[config.student][view] = seen
            self._transfers[config.name] = Transfer(config, teacher, student, self.preset, tasks, view)
        self.env_steps = dict.fromkeys(self.playing, 0)
        self.policy_version = 0
        self.run_folder = Path()  # of the run's own files; known from setup on
        self.epoch_over = False
        self.run_log = RunLog(self.playing, log_every, window)
        self.collapse_alarm = CollapseAlarm(self.playing)
        self.stop_request, self._ending = StopRequest(), False
        self.announce: Callable[[str], None] = silent  # replaced by a display: what the run does besides learning
        self.evaluator = Evaluator(built, lambda: self.stop_request.requested, self.transfers)
        self._optimizers = Optimizers(self, self.run_log.meter)
        self._update = Update(self, self._optimizers, self.preset, self.run_log.meter)

    # The graph

    @property
    def agents(self) -> dict[str, Agent]:
        """Every agent by name."""
        return dict(self._agents.items())  # type: ignore[arg-type]

    @property
    def transfers(self) -> list[Transfer]:
        """Every transfer, in the order of their names."""
        return list(self._transfers.values())  # type: ignore[arg-type]

    @property
    def playing(self) -> dict[str, Agent]:
        """The agents that play their environment: those that learn, and frozen ones that a transfer aligns to."""
        taught = {t.config.student for t in self.transfers}
        return {name: agent for name, agent in self.agents.items() if agent.learner is not None or name in taught}

    def transfers_to(self, student: str) -> list[Transfer]:
        """The transfers that teach this agent."""
        return [t for t in self.transfers if t.config.student == student]

    def ends(self, transfer: Transfer) -> tuple[PolicyNetwork, PolicyNetwork]:
        """The networks of a transfer's teacher and student."""
        agents = self.agents
        return agents[transfer.config.teacher].network, agents[transfer.config.student].network

    def policies(self) -> dict[str, PolicyNetwork]:
        """The networks by which the workers play; ``policy_version`` counts their updates."""
        return {name: agent.network for name, agent in self.playing.items()}

    @property
    def clock(self) -> int:
        """T of the agents that play; equal for all of them, since their rollouts are taken together."""
        return min(self.env_steps.values())

    def phases(self) -> dict[str, Phase]:
        """What each transfer is doing now, by what was switched on."""
        return {t.name: t.phase(self.env_steps[t.config.student]) for t in self.transfers}

    def setup(self, stage: str) -> None:
        """Refuses to fit what has nothing to learn, options that cannot be, and transfers that nothing switches on.

        Raises:
            ConfigError: naming what is missing.
        """
        for name, agent in (self.playing if stage == "fit" else self.agents).items():
            try:
                agent.check_playable()
            except EnvError as error:
                raise EnvError(f"agents.{name}: {error}") from None
        check_trainer(self.trainer)
        if stage == "fit":
            check_trained(self.agents, self.playing, self.transfers, self.trainer.callbacks)  # type: ignore[attr-defined]
            if self.trainer.world_size > 1 and not any(p.requires_grad for p in self.parameters()):
                raise ConfigError(
                    f"trainer runs on {self.trainer.world_size} devices, which average gradients, but no agent learns "
                    "and no alignment has weights to train; use --trainer.devices 1"
                )
            check_monitors(self.trainer, self._names())
        self.run_folder = run_folder(self.trainer)

    def _say_how_agents_begin(self) -> None:
        """Where they have the weights they began with: a run that goes on has its checkpoint's."""
        for name, agent in self.agents.items():
            if agent.begun and not self.env_steps[name]:
                rank_zero_info("agents.%s %s", name, agent.begun)

    # Learning

    def configure_optimizers(self) -> list[torch.optim.Adam]:
        """All of them from the start; see ``Optimizers.make``."""
        return self._optimizers.make(self.agents, self.transfers)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One rollout of every playing agent: each learns from its own, and from those who teach it."""
        self.run_log.statistics = dict(batch.statistics)
        decisions = self._over_ranks({name: r.steps * r.copies for name, r in batch.rollouts.items()})
        for name, rollout in batch.rollouts.items():
            self._learn(name, rollout)
            self._normalise(name, rollout)
            before = self.env_steps[name]
            self.env_steps[name] += decisions[name]
            for transfer in self.transfers_to(name):
                transfer.refresh_lagged_policy(before, self.env_steps[name], self.agents[name].network)
            self.run_log.finished(name, rollout.episodes)
            self.run_log.meter.add(metric_names.POLICY_LAG(name), float(rollout.policy_lag))
        self.policy_version += 1
        counted = isinstance(self.trainer.limit_train_batches, int)  # an epoch's batches, and not its decisions
        if self.run_log.due(self.clock):
            self.log_line()
            self.epoch_over = not counted
        if self.clock >= self.T_max or (counted and self.trainer.is_last_batch):
            self.log_line()
        if self.clock >= self.T_max:
            self.trainer.should_stop = True

    def _over_ranks(self, decisions: dict[str, int]) -> dict[str, int]:
        """Sums over all ranks, whose rollouts may differ in length; and they agree whether any was told to end."""
        if self.trainer.world_size == 1:
            return decisions
        told = int(self.stop_request.requested)
        sums = torch.tensor([*decisions.values(), told], dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(sums)
        *totals, told = sums.tolist()
        if told:
            self.stop_request.signal = self.stop_request.signal or signal.SIGTERM  # of another rank
            self._ending = True
        return dict(zip(decisions, totals, strict=True))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Ends the run where it was told to end; on several ranks all of them at the same batch."""
        told = self.stop_request.signal
        if told is not None and (self._ending or self.trainer.world_size == 1):
            rank_zero_info("told to end by %s at T = %d", told.name, self.clock)
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """An epoch is what lies between two log lines, or ``limit_train_batches`` batches."""
        self.epoch_over = False

    def on_train_epoch_end(self) -> None:
        """However an epoch ends, or the run, its last line is written; then callbacks look at what was logged."""
        self.log_line()
        check_monitored(self.trainer, self._names())
        let_look(self.trainer, self)

    def on_train_end(self) -> None:
        """Warns of what callbacks watched for in vain."""
        warn_of_unseen(self.trainer)

    def _names(self) -> list[str]:
        optimizers = self._optimizers.named(self.agents, self.transfers)
        return list(names(self.playing, [transfer.name for transfer in self.transfers], optimizers))

    def _learn(self, name: str, rollout: Rollout) -> None:
        """Every active teacher reads the rollout once; then the agent is updated on its copies, some at a time."""
        agent, taught = self.agents[name], list[Taught]()
        for transfer in self.transfers_to(name):
            transfer.advance(self.env_steps[name], self.run_log.mean_return(name))
            if transfer.active:
                with self.run_log.meter.timed(metric_names.TIME_TEACHERS()):
                    taught.append((transfer, transfer.ask(rollout, *self.ends(transfer))))
        batch_copies = None if agent.learner is None else agent.learner.batch_copies
        for copies in rollout.split(batch_copies):
            self._update(
                name,
                agent,
                rollout.select(copies),
                [(transfer, said.of(copies)) for transfer, said in taught],
                self._teacher_weights[name],
                self.env_steps[name],
            )

    def _normalise(self, name: str, rollout: Rollout) -> None:
        """An agent that learns reads its next rollout by statistics that have this one in them, as its workers do."""
        agent = self.agents[name]
        learns = agent.learner is not None and self.env_steps[name] >= agent.learner.value_first
        if (normaliser := agent.network.normaliser) is not None and learns:
            sums = normaliser.sums(rollout.obs[: rollout.steps].flatten(0, 1))
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(sums)
            normaliser.add(sums)

    # Logs: with env_steps as the axis, every log_every decisions

    def on_fit_start(self) -> None:
        """TensorBoard is told what the run is made of."""
        for logger in self.loggers:
            if isinstance(logger, Board):
                results = [metric_names.RETURN(name) for name in self.playing]
                logger.begin(self._settings(), results, self.action_names())

    def _settings(self) -> dict[str, Any]:
        """What decides how the run goes, as plain nested values."""
        data: dict[str, Any] = getattr(self.trainer.datamodule, "settings", dict)()  # type: ignore[attr-defined]
        return {"T_max": self.T_max, "precision": self.trainer.precision, **data, **self._given}

    def action_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the actions of every policy in the log, by its source."""
        meanings = {name: agent.spec.action_meanings for name, agent in self.agents.items()}
        names = {name: meanings[name] for name in self.env_steps}
        for transfer in self.transfers:
            names[f"{transfer.name}/teacher"] = meanings[transfer.config.teaching_agent]
            names[f"{transfer.name}/aligned"] = meanings[transfer.config.student]
        return names

    def on_train_start(self) -> None:
        """The speed of the first log line counts from here; the config's learning rates hold, also on resume."""
        self.stop_request.install()
        self._say_how_agents_begin()
        self._optimizers.set_initial_rates()
        self.run_log.start(self.clock)
        self._show(self.run_log.latest)
        if self.clock >= self.T_max:
            rank_zero_info("nothing to do: T = %d has reached T_max = %d", self.clock, self.T_max)
            self.trainer.should_stop = True

    def configure_callbacks(self) -> list[pl.Callback]:
        """Where a run ends by an exception, its last line is written, too."""
        return [LastLine()]

    def log_line(self) -> None:
        """Writes the next line, where T has passed since the last one."""
        for name, phase in self.phases().items():
            self.run_log.statistics[metric_names.PHASE(name)] = metric_names.PHASES.index(phase)
        if line := self.run_log.line(self.clock, self._gather):
            write(self.loggers, line, self.clock)
            self._show(line)
            self._optimizers.check(line)
            self.collapse_alarm.check(line)

    def _show(self, line: dict[str, float]) -> None:
        """Lets Lightning's callbacks see the line: in ``trainer.callback_metrics``, where they look."""
        self.trainer.callback_metrics.update({k: torch.tensor(v, dtype=torch.float64) for k, v in line.items()})

    def _gather(self, own: Episodes) -> Episodes:
        """The episodes of all ranks."""
        if self.trainer.world_size == 1:
            return own
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, own)
        return {name: [Episode(*e) for part in parts for e in part[name]] for name in own}

    # Frozen policies

    def on_test_start(self) -> None:
        """Warns of agents that have learned nothing, which is seldom what was meant."""
        self.stop_request.install()
        self._say_how_agents_begin()
        learning = {name for name, agent in self.agents.items() if agent.learner is not None and not agent.begun}
        if untrained := [name for name in self.agents if name in learning and not self.env_steps[name]]:
            names = ", ".join(untrained)
            rank_zero_warn(f"no --ckpt_path was given: {names} will play with untrained, initial weights")

    on_validation_start = on_predict_start = on_test_start

    def validation_step(self, batch: EvaluationJob, batch_idx: int) -> None:
        """Evaluates one frozen policy; logs mean and std of its returns."""
        score = self.evaluator.evaluate(batch, None if self.announce is silent else self.announce)
        for key, value in (("mean", score.mean), ("std", score.std), ("episodes", score.episodes)):
            self.log(f"{batch.agent}/{score.policy}/{key}", float(value), batch_size=1, rank_zero_only=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Writes every score of the test, with its protocol, to ``scores.json`` in the run folder, and shows them."""
        if self.trainer.is_global_zero:
            self.evaluator.show()
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                self.evaluator.save(self.run_folder, self.env_steps)

    def on_validation_epoch_end(self) -> None:
        """Shows every score."""
        if self.trainer.is_global_zero and self.evaluator.scores:
            self.evaluator.show()

    def predict_step(self, batch: EvaluationJob, batch_idx: int) -> str:
        """Records one episode of one agent as a video below the run folder; returns its path."""
        return self.evaluator.record(batch, self.run_folder)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Clocks (ints), recent episodes and the teachers' recurrent states; weights and optimizers are Lightning's."""
        checkpoint[CHECKPOINT] = state_of(self, list(self._optimizers.names))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from ``on_save_checkpoint``.

        Raises:
            ConfigError: the checkpoint is of another graph, or of another version of this program.
        """
        restore(self, checkpoint, list(self._optimizers.named(self.agents, self.transfers)))
