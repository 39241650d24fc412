"""Whatever happens to a run, in whatever order: a plain model of it says what it has come to.

A history is drawn: runs that end in one way or another and go on from any checkpoint, with more decisions, another
number of workers, agents and transfers named in another order, dead workers. The environment shows which decision it is
at, and the model knows every episode that must be played, by its seed. ``CDRL_PL_HISTORIES=100`` draws more of them.
"""

from __future__ import annotations

import copy
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from graphs import TINY, fit, graph, played, spread, transfer
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from resuming import differences, plain

from benchmarks.known_task import Decision, episode_seed, known, length, read
from callbacks import EnvStepsCheckpoint
from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.checks import ConfigError
from cdrl_pl.rollouts.worker_group import WorkerGroup
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig

SEED, STEPS, COPIES = 5, 5, 2
BATCH = STEPS * COPIES  # decisions
EVERY, KEEP, FAR = 30, 2, 160  # between checkpoints; how many are kept; where histories end
NAMES, EDGES = ("alpha", "beta"), (("alpha", "beta"), ("beta", "alpha"))
ENDS = ("T_max", "callback", "SIGTERM", "SIGINT", "waiting", "error")
pytestmark = pytest.mark.slow
HEALTH = ("time/", "workers/")  # names of metrics that depend on the machine
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


# The program: one run


@dataclass
class Setting:
    """What may change from run to run."""

    workers: int
    deterministic: bool = True
    backwards: bool = False


def made(T_max: int, backwards: bool) -> Collaboration:
    """Alpha and beta, which teach each other, in either order."""
    names, edges = (NAMES[::-1], EDGES[::-1]) if backwards else (NAMES, EDGES)
    agents = {name: AgentConfig(known(2 + NAMES.index(name)), TINY, LearnerConfig(lr=1e-2)) for name in names}
    module = graph(*[transfer(*ends, T1=20, T2=40, stop=150) for ends in edges], agents=agents, T_max=T_max)
    for name in NAMES:
        spread(module.agents[name].network, NAMES.index(name))
    return module


class Fate(pl.Callback):
    """What a run meets, and what can be seen of it after every batch.

    Args:
        end: one of ``ENDS``.
        at: T at which it comes.
        dies: T after which a worker dies, and which one of which agent; None: none does.
    """

    def __init__(self, end: str = "T_max", at: int = 0, dies: tuple[int, str, int] | None = None) -> None:
        self.end, self.at, self.dies = end, at, dies
        self.stands: dict[int, Any] = {}
        self.batches: dict[int, list[tuple[str, int, list[list[Decision]]]]] = {}  # by T: agent, worker, [T][B]

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if self.end in SIGNALS and module.clock + BATCH == self.at:
            os.kill(os.getpid(), SIGNALS[self.end])

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        for name, rollout in batch.rollouts.items():
            rows = [[read(obs) for obs in row] for row in rollout.obs[:-1]]
            self.batches.setdefault(module.clock, []).append((name, rollout.worker, rows))
        self.stands[module.clock] = stand(module, trainer)
        if self.dies and self.dies[0] == module.clock:
            worker = trainer.datamodule.pools[self.dies[1]].worker_group.workers[self.dies[2]]
            worker.process.kill()
            worker.process.join()
        if module.clock == self.at:
            if self.end == "callback":
                trainer.should_stop = True
            elif self.end == "error":
                raise RuntimeError("on purpose")
            elif self.end == "waiting":
                tell_in_the_next_wait(module, trainer.datamodule.pools["alpha"].worker_group.workers)


def tell_in_the_next_wait(module: Collaboration, workers: list[Any]) -> None:
    """Where there are two, the first of them answers last, after the run was told."""
    receive, late = WorkerGroup.receive, [worker.process.pid for worker in workers[:-1]]
    for process in late:
        os.kill(process, signal.SIGSTOP)

    def then_tell(group: WorkerGroup, timeout: float) -> bool:
        found = receive(group, timeout)
        module.stop_request.signal = signal.SIGTERM
        while late:
            os.kill(late.pop(), signal.SIGCONT)
        return found

    WorkerGroup.receive = then_tell  # type: ignore[method-assign]


def stand(module: Collaboration, trainer: pl.Trainer) -> Any:
    """Everything that a run has come to, by name, except how long it took and where it was saved."""
    optimizers = zip(module._optimizers.names, trainer.optimizers, strict=True)
    log = module.run_log
    return copy.deepcopy(
        plain(
            {
                "weights": dict(module.state_dict()),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers},
                "memory": {t.name: t.teacher.states for t in module.transfers},
                "episodes": [log.episodes, log.num_episodes],
                "log": {k: v for k, v in log.latest.items() if "second" not in k and not k.startswith(HEALTH)},
            }
        )
    )


def trained(folder: Path, setting: Setting, fate: Fate, T_max: int, resume: Path | None) -> Collaboration:
    """One run, however it ends."""
    module = made(T_max, setting.backwards)
    data = played(workers=setting.workers, deterministic=setting.deterministic, copies=COPIES, steps=STEPS)
    receive = WorkerGroup.receive
    handlers = {number: signal.getsignal(number) for number in SIGNALS.values()}
    try:
        fit(module, data, folder, fate, EnvStepsCheckpoint(EVERY, KEEP), ckpt_path=resume)
    except Stopped:
        assert fate.end == "waiting"
    except RuntimeError as error:
        if fate.end != "error" or str(error) != "on purpose":
            raise
    finally:
        WorkerGroup.receive = receive  # type: ignore[method-assign]
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return module


@lru_cache
def uninterrupted(workers: int) -> dict[int, Any]:
    """Where a run stands at every T that nothing happens to."""
    with tempfile.TemporaryDirectory() as folder:
        fate = Fate()
        trained(Path(folder), Setting(workers), fate, FAR + 8 * BATCH, None)
        return fate.stands


# The model: plain numbers


@dataclass
class Copy:
    """Where one environment copy stands: the process that plays it, counted by worker; its episode; the next step."""

    generation: int = 0
    episode: int = 0
    step: int = 0


@dataclass
class Model:
    """What must be true at T; a checkpoint keeps one.

    Attributes:
        env_steps: T.
        setting: of the run that came here.
        exact: nothing has happened that may change weights.
        epoch: times that new episodes were begun on resume.
        copies: by agent, worker, copy.
        dead: agents and workers that died and have not been heard of since.
        seen: every decision learned from.
        lengths: of every finished episode, by agent.
    """

    setting: Setting
    env_steps: int = 0
    exact: bool = True
    epoch: int = 0
    copies: dict[tuple[str, int, int], Copy] = field(default_factory=dict)
    dead: set[tuple[str, int]] = field(default_factory=set)
    seen: set[Decision] = field(default_factory=set)
    lengths: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NAMES})

    def expected(self, agent: str, worker: int, index: int) -> Decision:
        """The next decision of a copy."""
        at = self.copies.setdefault((agent, worker, index), Copy())
        entropy = (SEED, 0, NAMES.index(agent), self.epoch, worker, at.generation)
        return Decision(episode_seed(entropy, COPIES, index, at.episode), at.step)

    def learn(self, agent: str, worker: int, rows: list[list[Decision]]) -> None:
        """Takes a rollout into account, each decision of which must be the next of its copy, and new."""
        if (agent, worker) in self.dead and rows[0][0] != self.expected(agent, worker, 0):
            self.dead.remove((agent, worker))
            for index in range(COPIES):
                at = self.copies[agent, worker, index]
                self.copies[agent, worker, index] = Copy(at.generation + 1)
        for row in rows:
            for index, decision in enumerate(row):
                assert decision == self.expected(agent, worker, index), (agent, worker, index)
                assert decision not in self.seen
                self.seen.add(decision)
                at = self.copies[agent, worker, index]
                at.step += 1
                if at.step == length(decision.seed):
                    self.lengths[agent].append(at.step)
                    at.episode, at.step = at.episode + 1, 0

    def resumed(self, setting: Setting) -> Model:
        """The model of a run that goes on from here."""
        model = copy.deepcopy(self)
        if not (setting.deterministic and self.setting.deterministic):
            model.epoch, model.copies, model.dead, model.exact = self.epoch + 1, {}, set(), False
        model.setting = copy.copy(setting)
        return model


class Histories(RuleBasedStateMachine):
    """Runs one after another, each from a checkpoint of one before."""

    def __init__(self) -> None:
        super().__init__()
        self.folder, self.runs = Path(tempfile.mkdtemp()), 0
        self.kept: list[tuple[Path, Model]] = []  # checkpoints, and what must be true of them

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(workers=st.sampled_from((1, 2)))
    def begin(self, workers: int) -> None:
        self.setting = Setting(workers)
        self.now: tuple[Path | None, Model] = (None, Model(self.setting))

    # What may change between two runs

    @rule()
    def name_in_the_other_order(self) -> None:
        self.setting.backwards = not self.setting.backwards

    @rule(deterministic=st.sampled_from((True, True, False)))
    def play(self, deterministic: bool) -> None:
        self.setting.deterministic = deterministic

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 9))
    def go_back(self, which: int) -> None:
        self.now = self.kept[which % len(self.kept)]

    # Runs

    @precondition(lambda self: self.now[0])
    @rule()
    def another_number_of_workers(self) -> None:
        resume, model = self.now
        other = Setting(3 - self.setting.workers, self.setting.deterministic, self.setting.backwards)
        if other.deterministic and model.setting.deterministic and model.setting.workers != other.workers:
            with pytest.raises(ConfigError, match=rf"pool.workers is {other.workers}, .* was {model.setting.workers}"):
                self._run(Fate(), model.env_steps + BATCH, other, resume)
        else:
            self.setting = other

    @precondition(lambda self: self.now[0])
    @rule(below=st.sampled_from((0, BATCH)))
    def no_more_decisions(self, below: int) -> None:
        resume, model = self.now
        fate, T_max = Fate(), model.env_steps - below
        module, folder = self._run(fate, max(1, T_max), self._playable(model), resume)
        assert module.clock == model.env_steps and not fate.batches and saved(folder) == {}

    @precondition(lambda self: self.now[1].env_steps < FAR)
    @rule(
        batches=st.integers(1, 7),
        end=st.sampled_from(ENDS),
        death=st.sampled_from((0, 0, 1, 2)),
        which=st.sampled_from((0, 0, 0, 1, 2, 3)),
    )
    def train(self, batches: int, end: str, death: int, which: int) -> None:
        """One run; of its workers, one may die after ``death`` batches."""
        resume, before = self.now
        setting = self._playable(before)
        at = before.env_steps + batches * BATCH
        dies = None
        if 0 < death < batches + (end != "error"):  # the last moment: before the checkpoint of the end
            dies = (before.env_steps + death * BATCH, NAMES[which % 2], which // 2 % setting.workers)
        fate = Fate(end, at, dies)
        module, folder = self._run(fate, at if end == "T_max" else at + 5 * BATCH, setting, resume)

        model = before.resumed(setting) if resume else Model(copy.copy(setting), exact=setting.deterministic)
        models = {}
        for clock, rollouts in fate.batches.items():
            model = models[clock] = copy.deepcopy(model)
            model.env_steps += BATCH
            for rollout in rollouts:
                model.learn(*rollout)
            if model.exact:
                assert differences(fate.stands[clock], uninterrupted(setting.workers)[clock]) == []
            if dies and clock == dies[0]:
                model.dead.add(dies[1:])
                model.exact = False
        assert model.env_steps in ((at, at + BATCH) if end == "waiting" else (at,))
        assert module.env_steps == dict.fromkeys(NAMES, model.env_steps)
        assert all(type(steps) is int for steps in module.env_steps.values())
        assert module.policy_version * BATCH == model.env_steps
        for name in NAMES:
            assert module.run_log.num_episodes[name] == len(model.lengths[name])
            assert [e.length for e in module.run_log.episodes[name]] == model.lengths[name][-module.run_log.window :]

        ended = [] if end == "error" else [model.env_steps]
        every = [T for T in models if T % EVERY == 0 and (end != "error" or at > T)]
        files = saved(folder)
        assert sorted(files) == sorted({*every, *ended})[-KEEP:]
        self.kept += [(path, models[T]) for T, path in files.items()]
        if files:
            self.now = (files[max(files)], models[max(files)])

    def _playable(self, model: Model) -> Setting:
        """The setting, with as many workers as a deterministic run needs to go on."""
        setting = copy.copy(self.setting)
        if setting.deterministic and model.setting.deterministic and self.now[0]:
            setting.workers = model.setting.workers
        return setting

    def _run(self, fate: Fate, T_max: int, setting: Setting, resume: Path | None) -> tuple[Collaboration, Path]:
        self.runs += 1
        folder = self.folder / str(self.runs)
        return trained(folder, setting, fate, T_max, resume), folder


def saved(folder: Path) -> dict[int, Path]:
    """The checkpoints in a run's folder, by T."""
    return {int(path.stem.partition("=")[2]): path for path in folder.glob("checkpoints/*")}


@pytest.mark.parametrize(
    ("workers", "runs"),
    [
        (2, [(2, "waiting", 0), (2, "callback", 0)]),  # of a round that was interrupted, the second worker came first
        (1, [(2, "SIGTERM", 1), (2, "SIGTERM", 1)]),  # a worker's replacement dies in the run after
        (1, [(2, "SIGINT", 2), (2, "T_max", 0)]),  # a worker dies just before the last checkpoint
    ],
)
def test_some_histories_that_are_seldom_drawn(workers: int, runs: list[tuple[int, str, int]]) -> None:
    history = Histories()
    history.begin(workers)
    for batches, end, death in runs:
        history.train(batches, end, death, 0)
    history.teardown()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=int(os.environ.get("CDRL_PL_HISTORIES", "12")),
    stateful_step_count=15,
    phases=[Phase.explicit, Phase.generate],  # to make a failing one shorter takes minutes
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
