"""A run that was interrupted and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import FixedData, Recorder, agent, fit, graph, new_network, played, random_batch, spread, store, transfer
from resuming import SaveAt, differences, final_state
from wide_cartpole import WIDE

from callbacks import CertificatedTeacher, EnvStepsCheckpoint
from cdrl_pl.checks import ConfigError
from cdrl_pl.rollouts.worker_group import WorkerGroup
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig

T1, T2, STOP, T_MAX = 60, 120, 210, 260
POINTS = {"before T1": 30, "between T1 and T2": 90, "after T2": 150, "after stop": 230}
"""Odd multiples of a rollout's 10 decisions: of each round of two workers, one rollout waits in the checkpoint."""


def new_graph(T_max: int = T_MAX, log_every: int = 10, **options: Any) -> Collaboration:
    """A live five-action teacher and a student, both with an LSTM."""
    schedule = {"T1": T1, "T2": T2, "stop": STOP}
    module = graph(transfer(**schedule), T_max=T_max, log_every=log_every, **options)
    for found in module.agents.values():
        spread(found.network)
    return module


def watch() -> list[pl.Callback]:
    """A teacher that is certificated in the middle of the run, and again as it improves."""
    return [CertificatedTeacher("beta", threshold=9.0, window=10, episodes=2, improvement=0.01)]


def run(folder: Path, data: pl.LightningDataModule, *points: int, resume: Path | None = None, **options: Any) -> Any:
    module = new_graph(**options)
    trainer = fit(module, data, folder, *watch(), SaveAt(folder, *points), ckpt_path=resume)
    return final_state(module, trainer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> Any:
    """A run that nobody saved."""
    return run(folder / "reference", played(workers=2))


@pytest.fixture(scope="module")
def saved(folder: Path) -> Any:
    """The same, saved at every point."""
    return run(folder, played(workers=2), *POINTS.values())


# Bit for bit


def test_the_run_that_is_compared_did_all_there_is_to_do(uninterrupted: Any) -> None:
    switched = {name: state.get("switched") for name, state in uninterrupted["callbacks"]}
    assert switched["AlignmentSchedule"] == {"alpha-beta": [T1, STOP]}
    assert switched["DistillationSchedule"] == {"alpha-beta": [T2, STOP]}
    assert dict(uninterrupted["callbacks"])["CertificatedTeacher"]["certificated"] >= 9.0
    assert uninterrupted["clocks"] == [{"alpha": T_MAX, "beta": T_MAX}, T_MAX // 10]
    assert all(m.abs().sum() > 0 for m in uninterrupted["memory"][0].values())


def test_saving_changes_nothing(uninterrupted: Any, saved: Any) -> None:
    assert differences(saved, uninterrupted) == []


@pytest.mark.parametrize("shift", range(4))
def test_the_same_seed_gives_the_same_run_wherever_its_memory_lies(tmp_path: Path, shift: int) -> None:
    """Matrix products round differently on memory that is not aligned; other blocks shift what is allocated next."""
    context = multiprocessing.get_context("forkserver")
    others = [context.RawArray("b", 8) for _ in range(shift)]
    addresses = []

    class Addresses(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
            addresses.append(batch.rollouts["beta"].obs.data_ptr() % 16)

    fit(graph(agents={"beta": agent()}, T_max=20), played(), tmp_path, Addresses())
    assert addresses == [0, 0] and len(others) == shift


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_fault_15_a_resumed_run_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, uninterrupted: Any, saved: Any, point: int
) -> None:
    found = run(tmp_path, played(workers=2), resume=folder / f"{point}.ckpt")
    assert differences(found, uninterrupted) == []


def test_a_run_that_lost_the_teachers_memory_would_differ(
    folder: Path, tmp_path: Path, uninterrupted: Any, saved: Any
) -> None:
    """The control of the test above."""
    checkpoint = torch.load(folder / "150.ckpt", weights_only=True)
    checkpoint["collaboration"]["transfers"]["alpha-beta"]["teacher_states"] = {}
    torch.save(checkpoint, tmp_path / "lost.ckpt")
    found = run(tmp_path, played(workers=2), resume=tmp_path / "lost.ckpt")
    assert any(where.startswith("/weights/_agents.beta") for where in differences(found, uninterrupted))


def test_a_run_may_be_interrupted_twice(folder: Path, tmp_path: Path, uninterrupted: Any, saved: Any) -> None:
    run(tmp_path, played(workers=2), 150, resume=folder / "90.ckpt", T_max=150)
    found = run(tmp_path, played(workers=2), resume=tmp_path / "150.ckpt")
    assert differences(found, uninterrupted) == []


def test_resuming_between_two_log_lines_changes_neither_lines_nor_episodes(tmp_path: Path) -> None:
    """The lines come at 40, 80, 120 and 160, wherever the run was interrupted."""
    lines: dict[str, list[Any]] = {"whole": [], "resumed": []}

    class Lines(pl.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            keys = ("env_steps", "return/beta", "episodes/beta")
            line = {key: module.run_log.latest.get(key) for key in keys}
            if module.clock > 70 and line not in lines[self.name]:
                lines[self.name].append(line)

    options = {"log_every": 40, "T_max": 160}
    module = new_graph(**options)
    fit(module, FixedData(*batches(module)), tmp_path, Lines("whole"), SaveAt(tmp_path, 70))
    module = new_graph(**options)
    shifted = batches(module)[7:] + batches(module)[:7]
    fit(module, FixedData(*shifted), tmp_path, Lines("resumed"), ckpt_path=tmp_path / "70.ckpt")
    assert lines["resumed"] == lines["whole"]


def batches(module: Collaboration) -> list[Any]:
    return [random_batch(module, seed) for seed in range(16)]


def test_a_checkpoint_before_the_other_callbacks_loses_none_of_their_work(tmp_path: Path) -> None:
    """In the order of the shipped configs: the checkpoint comes first, and the teacher is stored on the same batch."""
    store_at: dict[str, list[int]] = {"whole": [], "resumed": []}

    class Stored(CertificatedTeacher):
        def _certificate(self, trainer: pl.Trainer, module: Collaboration, mean: float) -> None:
            store_at[name].append(module.clock)
            self.certificated = mean

    def callbacks() -> list[pl.Callback]:
        return [EnvStepsCheckpoint(every=20, keep=9), Stored("beta", threshold=0.0, window=2)]

    name, module = "whole", new_graph(T_max=40)
    fit(module, FixedData(*batches(module)), tmp_path, *callbacks())
    name, module = "resumed", new_graph(T_max=40)
    checkpoint = tmp_path / "checkpoints" / "env_steps=20.ckpt"
    fit(module, FixedData(*batches(module)[2:]), tmp_path, *callbacks(), ckpt_path=checkpoint)
    assert store_at["whole"] == [20] and store_at["resumed"] in ([], [20])


# What a checkpoint is


def test_a_checkpoint_loads_with_weights_only(folder: Path, saved: Any) -> None:
    for point in POINTS.values():
        checkpoint = torch.load(folder / f"{point}.ckpt", weights_only=True)
        assert checkpoint["collaboration"]["env_steps"] == {"alpha": point, "beta": point}


def test_clocks_in_a_checkpoint_are_ints(folder: Path, saved: Any) -> None:
    state = torch.load(folder / "150.ckpt", weights_only=True)["collaboration"]
    values = [*state["env_steps"].values(), *state["run_log"]["num_episodes"].values(), state["policy_version"]]
    assert [type(v) for v in values] == [int] * 5


def test_a_checkpoint_has_every_optimizer_from_the_start(folder: Path, saved: Any) -> None:
    optimizers = torch.load(folder / "30.ckpt", weights_only=True)["optimizer_states"]
    assert [bool(o["state"]) for o in optimizers] == [True, True, False]  # alpha, beta, and F that waits for T1


def test_a_checkpoint_of_another_graph_is_refused(folder: Path, tmp_path: Path, saved: Any) -> None:
    module = graph(transfer("alpha", "gamma"), agents={"alpha": agent(WIDE), "gamma": agent()})
    with pytest.raises((ValueError, RuntimeError), match="gamma"):
        fit(module, FixedData(random_batch(module)), tmp_path, ckpt_path=folder / "30.ckpt")


@pytest.mark.parametrize(("option", "before", "now"), [("workers", 2, 1), ("copies", 2, 3), ("steps", 5, 4)])
def test_a_deterministic_run_goes_on_with_as_many_of_each(
    folder: Path, tmp_path: Path, saved: Any, monkeypatch: pytest.MonkeyPatch, option: str, before: int, now: int
) -> None:
    monkeypatch.setattr(WorkerGroup, "start", lambda *_: pytest.fail("a worker was started"))
    says = rf"pool.{option} is {now}, in the checkpoint of alpha it was {before}"
    with pytest.raises(ConfigError, match=says):
        fit(new_graph(), played(**{"workers": 2, option: now}), tmp_path, ckpt_path=folder / "30.ckpt")


def test_an_asynchronous_run_resumes_its_clocks_with_new_episodes(tmp_path: Path) -> None:
    run(tmp_path, played(deterministic=False), 90, T_max=90)
    module = new_graph(T_max=130)
    trainer = fit(module, played(deterministic=False), tmp_path, *watch(), ckpt_path=tmp_path / "90.ckpt")
    assert module.env_steps == {"alpha": 130, "beta": 130} and module.policy_version == 13
    assert {int(s["step"]) for s in trainer.optimizers[0].state.values()} == {13}


def test_a_student_of_a_certificated_teacher_resumes_too(tmp_path: Path) -> None:
    store(tmp_path / "expert", new_network(3, actions=5), WIDE)
    results = []
    for resume in (None, tmp_path / "90.ckpt"):
        agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
        module = graph(transfer(T1=T1, T2=T2), agents=agents, T_max=160)
        data = batches(module)[9 if resume else 0 :]
        trainer = fit(module, FixedData(*data), tmp_path, SaveAt(tmp_path, 90), ckpt_path=resume)
        results.append(final_state(module, trainer))
    assert differences(*results) == []


# From every checkpoint that a run can write: not only those in its middle


def checkpoint_in(folder: Path) -> Path:
    """The newest checkpoint of a run, as ``EnvStepsCheckpoint`` writes it."""
    found = sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.stem.partition("=")[2]))
    return found[-1]


def stopped(folder: Path, *callbacks: pl.Callback, T_max: int = T_MAX, resume: Path | None = None) -> Path:
    """The checkpoint that a run leaves at its end, wherever that is."""
    module = new_graph(T_max=T_max)
    with suppress(Stopped):
        fit(module, played(workers=2), folder, *watch(), *callbacks, EnvStepsCheckpoint(10**6), ckpt_path=resume)
    return checkpoint_in(folder)


class TellAt(pl.Callback):
    """Tells the process to end, as a batch system does, while it learns from the batch at which T reaches a number."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if module.clock + 10 == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


class TellInTheNextWait(pl.Callback):
    """Tells the process to end once it waits for a round of rollouts, some of which have come."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.monkeypatch = at, monkeypatch

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if module.clock != self.at:
            return
        receive = WorkerGroup.receive

        def then_tell(group: WorkerGroup, timeout: float) -> bool:
            found = receive(group, timeout)
            module.stop_request.signal = signal.SIGTERM
            return found

        self.monkeypatch.setattr(WorkerGroup, "receive", then_tell)


@pytest.mark.parametrize("end", [90, 150, 160, 230])
def test_a_run_that_ended_at_t_max_and_is_extended_equals_one_that_did_not_end(
    tmp_path: Path, uninterrupted: Any, end: int
) -> None:
    last = stopped(tmp_path / "first", T_max=end)
    assert last.name == f"env_steps={end}.ckpt"
    found = run(tmp_path / "second", played(workers=2), resume=last)
    assert differences(found, uninterrupted) == []


@pytest.mark.parametrize("at", [90, 160])
def test_fault_09_a_run_that_was_told_to_end_while_it_learned_goes_on_exactly(
    tmp_path: Path, uninterrupted: Any, at: int
) -> None:
    last = stopped(tmp_path / "first", TellAt(at))
    assert last.name == f"env_steps={at}.ckpt"
    assert differences(run(tmp_path / "second", played(workers=2), resume=last), uninterrupted) == []


@pytest.mark.parametrize("at", [60, 160])
def test_fault_10_a_run_that_was_told_to_end_while_it_waited_goes_on_exactly(
    tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    with monkeypatch.context() as patched:
        last = stopped(tmp_path / "first", TellInTheNextWait(at, patched))
    assert last.name == f"env_steps={at}.ckpt"
    assert differences(run(tmp_path / "second", played(workers=2), resume=last), uninterrupted) == []


def test_a_run_that_has_reached_t_max_has_nothing_to_do(tmp_path: Path) -> None:
    last = stopped(tmp_path / "first", T_max=90)
    recorder = Recorder()
    again = stopped(tmp_path / "first", recorder, T_max=90, resume=last)
    assert recorder.starts == [] and again == last
    assert stopped(tmp_path / "first", recorder, T_max=50, resume=last) == last and recorder.starts == []


def test_a_certificate_that_was_told_to_end_begins_again(
    tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: Any, **__: Any) -> Any:
        raise Stopped("told to end")

    with monkeypatch.context() as patched:
        patched.setattr("callbacks.certificate.evaluate", told)
        first = stopped(tmp_path / "first", TellAt(160), T_max=160)
    assert not (tmp_path / "first" / "teacher").exists()
    found = run(tmp_path / "second", played(workers=2), resume=first)
    assert (tmp_path / "second" / "teacher" / "beta" / "certificate.json").is_file()
    assert [d for d in differences(found, uninterrupted) if not d.startswith("/callbacks")] == []
