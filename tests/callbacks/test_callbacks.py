"""The callbacks: when transfers are switched, what is stored when, and what a person sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import (
    SCORE,
    FixedData,
    agent,
    alone,
    copy_of,
    fit,
    graph,
    new_network,
    random_batch,
    random_rollout,
    store,
    transfer,
)
from numpy.testing import assert_allclose
from pytorch_lightning.loggers import CSVLogger
from wide_cartpole import WIDE

import callbacks.certificate
from callbacks import (
    ActionDistributions,
    AlignmentSchedule,
    CertificatedTeacher,
    DistillationSchedule,
    EnvStepsCheckpoint,
    Progress,
)
from cdrl_pl.agents.certificate import load_certificate
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.types import Episode, Rollout

Batch = dict[str, Rollout]


def returning(*returns: float) -> list[Batch]:
    """A rollout of 10 decisions for each return, in which one episode ends with it."""
    return [
        {"beta": replace(random_rollout(i), episodes=(Episode(float(ret), 9),))} for i, ret in enumerate(returns)
    ]  # fmt: skip


# Schedules


def callback(trainer: pl.Trainer, kind: type) -> Any:
    (found,) = (c for c in trainer.callbacks if type(c) is kind)  # type: ignore[attr-defined]
    return found


def test_the_schedules_remember_when_they_switched(tmp_path: Path) -> None:
    """Each transfer by itself; a batch is switched as a whole, by the T at its start."""
    agents = {"one": agent(WIDE), "two": agent(), "beta": agent()}
    first, second = transfer("one", T1=15, T2=40, stop=65), transfer("two", T1=0, T2=20, stop="never")
    module = graph(first, second, agents=agents)
    trainer = fit(module, FixedData(random_batch(module)), tmp_path)
    assert callback(trainer, AlignmentSchedule).switched == {"one-beta": [20, 70], "two-beta": [0]}
    assert callback(trainer, DistillationSchedule).switched == {"one-beta": [40, 70], "two-beta": [20]}


def test_the_identity_is_never_trained_and_still_distilled(tmp_path: Path) -> None:
    module = graph(transfer(kind="identity", T2=20), agents={"alpha": agent(), "beta": agent()})
    trainer = fit(module, FixedData(random_batch(module)), tmp_path)
    assert callback(trainer, AlignmentSchedule).switched == {"alpha-beta": []}
    assert callback(trainer, DistillationSchedule).switched == {"alpha-beta": [20]}


def test_transfers_without_their_schedules_are_refused(tmp_path: Path) -> None:
    module = graph(transfer(), T_max=20)
    with pytest.raises(ConfigError, match=r"alpha-beta: no callback switches aligning on; add AlignmentSchedule"):
        fit(module, FixedData(random_batch(module)), tmp_path, schedules=False)
    with pytest.raises(ConfigError, match="no callback switches distilling on"):
        fit(module, FixedData(random_batch(module)), tmp_path, AlignmentSchedule(), schedules=False)


@pytest.mark.parametrize("kind", [AlignmentSchedule, DistillationSchedule])
def test_the_state_of_a_schedule_goes_round(kind: type) -> None:
    one, other = kind(), kind()
    one.switched = {"alpha-beta": [3, 2**33]}
    other.load_state_dict(one.state_dict())
    assert other.switched == {"alpha-beta": [3, 2**33]}


# The certificated teacher


def certificate(folder: Path) -> Any:
    return load_certificate(folder / "teacher" / "beta")[0]


def train(folder: Path, watch: CertificatedTeacher, *returns: float, **options: Any) -> Collaboration:
    module = alone(T_max=10 * len(returns), **options)
    fit(module, FixedData(*returning(*returns), seed=6), folder, watch)
    return module


def test_a_teacher_is_stored_as_soon_as_its_last_episodes_pass_the_threshold(tmp_path: Path) -> None:
    """The mean of three: 1, 2.33, 3.67 and 5."""
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 1, 1, 1, 5, 5, 5, 5)
    training = certificate(tmp_path).training
    asked = {"threshold": 4.0, "window": 3, "mean_return": 5.0, "attempts": 1}
    assert training == {"env_steps": 60, "seed": 6, **asked, "reward_scale": 1.0, "clip_rewards": False}


def test_a_teacher_below_the_threshold_is_not_stored(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 1, 1, 1, 5, 5, 1)
    assert not (tmp_path / "teacher").exists()


def test_a_teacher_of_fewer_episodes_than_the_window_is_not_stored(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 50, 50)
    assert not (tmp_path / "teacher").exists()


def test_a_full_window_is_stored(tmp_path: Path) -> None:
    """The control of the test above."""
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 50, 50, 50)
    assert certificate(tmp_path).training["env_steps"] == 30


def test_a_teacher_is_stored_once(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 9, 99)
    assert certificate(tmp_path).training["mean_return"] == 5.0


def playing(monkeypatch: pytest.MonkeyPatch, *means: float) -> list[tuple[int, bool, int]]:
    """Frozen policies score these means, one evaluation after the other; what was asked: (episodes, greedy, seed)."""
    asked, scores = list[tuple[int, bool, int]](), iter(means)

    def fake(network: Any, env: EnvConfig, episodes: int, greedy: bool, seed: int, **_: Any) -> Score:
        asked.append((episodes, greedy, seed))
        return replace(SCORE, episodes=episodes, mean=next(scores))

    monkeypatch.setattr(callbacks.certificate, "evaluate", fake)
    return asked


def watch_trials(**options: Any) -> CertificatedTeacher:
    return CertificatedTeacher("beta", 4.0, **{"window": 1, "episodes": 4, "trial": 2, **options})


def test_a_teacher_whose_frozen_policy_falls_short_learns_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its training mean passes at once; its frozen policy in the third trial, and there in the full evaluation."""
    caplog.set_level("INFO")
    asked = playing(monkeypatch, 3.0, 3.9, 9.0, 5.0, 6.0)
    train(tmp_path, watch_trials(stop=True), *[5] * 9)
    assert [(episodes, greedy) for episodes, greedy, _ in asked] == [(2, False)] * 3 + [(4, False), (4, True)]
    found = certificate(tmp_path)
    assert [found.evaluation[p].mean for p in ("sampled", "greedy")] == [5.0, 6.0]
    assert (found.training["attempts"], found.training["env_steps"]) == (3, 50)
    assert "beta is not stored: its frozen policy scores 3.90 in 2 episodes, sampled, below 4.00" in caplog.text


def test_a_trial_that_passes_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = playing(monkeypatch, 9.0, 3.0, 9.0, 3.9)
    train(tmp_path, watch_trials(), *[5] * 9)
    assert [episodes for episodes, *_ in asked] == [2, 4, 2, 4] and not (tmp_path / "teacher").exists()


def test_the_next_trial_comes_after_as_many_episodes_as_it_took_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first at T = 10, 2 episodes later the second, which takes 2 and 4, the third after 6 more."""
    at = []
    scores = iter([3.0, 9.0, 3.0, 3.0])

    class Watched(CertificatedTeacher):
        def _evaluate(self, trainer: pl.Trainer, module: Collaboration, *_: Any, **__: Any) -> Score:
            at.append(module.clock)
            return replace(SCORE, mean=next(scores))

    train(tmp_path, Watched("beta", 4.0, window=1, episodes=4, trial=2), *[5] * 10)
    assert at == [10, 30, 30, 90]


def test_no_evaluation_is_asked_with_the_seeds_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the luck that passed a trial would count again; sampled and greedy play the same starts."""
    asked = playing(monkeypatch, 9.0, 3.0, 9.0, 9.0, 9.0)
    train(tmp_path, watch_trials(), *[5] * 9)
    seeds = [seed for *_, seed in asked]
    assert len(set(seeds)) == 4 and seeds[-1] == seeds[-2]


@pytest.mark.parametrize("trial", [0, 4, 9])
def test_without_a_trial_the_full_evaluation_is_asked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: int
) -> None:
    asked = playing(monkeypatch, 9.0, 9.0)
    train(tmp_path, watch_trials(trial=trial), 5, 5)
    assert [(episodes, greedy) for episodes, greedy, _ in asked] == [(4, False), (4, True)]


def test_when_the_next_trial_is_due_outlasts_a_resume() -> None:
    one, other = watch_trials(), watch_trials()
    one.certificated, one._attempts, one._next = 4.5, 3, 17
    other.load_state_dict(one.state_dict())
    assert (other.certificated, other._attempts, other._next) == (4.5, 3, 17)


def test_a_teacher_is_stored_again_as_it_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both means must pass the stored score, 5, by 3 points: training at 8 asks, the frozen policy says 8.5."""
    playing(monkeypatch, 5.0, 5.0, 7.0, 8.5, 8.5)
    train(tmp_path, watch_trials(trial=0, episodes=1, improvement=3.0), 5, 5, 7, 8, 8, 8, 11, 2)
    assert (certificate(tmp_path).training["env_steps"], certificate(tmp_path).evaluation["sampled"].mean) == (50, 8.5)


def test_the_run_goes_on_unless_it_is_told_to_stop_with_the_teacher(tmp_path: Path) -> None:
    on = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 5, 5)
    off = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2, stop=True), 1, 5, 5, 5)
    assert (on.clock, off.clock) == (40, 20)


def test_the_stored_weights_are_those_that_passed(tmp_path: Path) -> None:
    """Not those at the end of the run."""
    module = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 5, 5)
    _, weights = load_certificate(tmp_path / "teacher" / "beta")
    control = alone(T_max=20)
    fit(control, FixedData(*returning(1, 5)), tmp_path)
    for name, value in control.agents["beta"].network.state_dict().items():
        assert torch.equal(weights[name], value)
    assert not torch.equal(weights["value_head.bias"], module.agents["beta"].network.value_head.bias)


def test_the_scores_of_the_frozen_policy_are_recorded_sampled_and_greedy(tmp_path: Path) -> None:
    module = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=5), 1, 5)
    found, weights = load_certificate(tmp_path / "teacher" / "beta")
    network = PolicyNetwork(found.network, found.spec.obs_shape, found.spec.num_actions)
    network.load_state_dict(weights)
    assert list(found.evaluation) == ["sampled", "greedy"]
    for name, score in found.evaluation.items():
        assert score == evaluate(network, module.agents["beta"].env, 5, name == "greedy", seed=score.seed)
        assert score.policy == name and score.episodes == len(score.returns) == 5
        mean = sum(score.returns) / 5
        assert_allclose(score.mean, mean)
        assert_allclose(score.std, (sum((r - mean) ** 2 for r in score.returns) / 5) ** 0.5)


def test_the_evaluation_has_seeds_of_its_own(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 5)
    assert {score.seed for score in certificate(tmp_path).evaluation.values()}.isdisjoint(range(1000))


def test_its_evaluation_is_as_patient_as_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def evaluated(*_: Any, stall_timeout: float, **__: Any) -> Any:
        seen.append(stall_timeout)
        raise Stopped

    monkeypatch.setattr("callbacks.certificate.evaluate", evaluated)
    module = graph(agents={"beta": agent()}, T_max=10)
    data = FixedData(random_batch(module, ends=1.0))
    data.pool = PoolConfig(stall_timeout=7.0)
    fit(module, data, tmp_path, CertificatedTeacher("beta", threshold=-1e9, window=1, episodes=1))
    assert seen == [7.0]


def test_storing_a_teacher_does_not_change_its_training(tmp_path: Path) -> None:
    watched = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 5)
    control = alone(T_max=30)
    fit(control, FixedData(*returning(1, 5, 5)), tmp_path)
    assert all(torch.equal(v, copy_of(watched)[k]) for k, v in control.state_dict().items())


def test_an_atari_teacher_is_evaluated_from_random_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[int, bool]] = []

    def fake(network: Any, env: EnvConfig, episodes: int, greedy: bool, *_: Any, **__: Any) -> Score:
        played.append((env.noop_max, greedy))
        return SCORE

    monkeypatch.setattr(callbacks.certificate, "evaluate", fake)
    config = AgentConfig(EnvConfig("Pong-2017"), NetworkConfig("conv", channels=2, depth=2, lstm=0))
    module = graph(agents={"beta": config}, T_max=10)
    rollout = replace(random_rollout(), obs=torch.zeros(6, 2, 1, 42, 42, dtype=torch.uint8), state=torch.zeros(2, 0))
    watch = CertificatedTeacher("beta", -1.0, window=1, noop_max=17)
    fit(module, FixedData({"beta": rollout}), tmp_path, watch)
    assert played == [(17, False)] * 2 + [(17, True)]  # a trial, then both


def test_the_teacher_lies_below_the_run_folder(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    watch = CertificatedTeacher("beta", 4.0, window=1, episodes=2, folder="experts/best")
    fit(alone(T_max=10), FixedData(*returning(5)), tmp_path, watch, logger=logger)
    assert load_certificate(Path(logger.log_dir) / "experts" / "best")


def test_a_stored_teacher_teaches(tmp_path: Path) -> None:
    """Round: the folder goes straight into a graph."""
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 5)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "teacher" / "beta")), "beta": agent()}
    module = graph(transfer(kind="identity"), agents=agents, T_max=10)
    fit(module, FixedData(random_batch(module)), tmp_path)
    assert module.run_log.latest["distillation_kl/alpha-beta"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "gamma"}, "CertificatedTeacher.agent is 'gamma'; it must be one of beta"),
        ({"agent": "alpha"}, "CertificatedTeacher.agent is 'alpha'; it must be one of beta"),  # it does not learn
        ({"agent": "beta", "window": 101}, "CertificatedTeacher.window is 101; it must be at most model.window, 100"),
    ],
)
def test_fault_28_a_teacher_that_can_never_be_stored_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    store(tmp_path / "expert", new_network())
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module = graph(transfer(kind="identity"), agents=agents)
    with pytest.raises(ValueError, match=message):
        fit(module, FixedData(random_batch(module)), tmp_path, CertificatedTeacher(threshold=1.0, **options))


@pytest.mark.parametrize("option", ["window", "episodes"])
def test_fault_28_a_teacher_of_no_episodes_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"CertificatedTeacher.{option} is 0; it must be 1 or more"):
        CertificatedTeacher("beta", 1.0, **{option: 0})


# Action distributions


def test_action_distributions_are_written_once_per_interval_and_at_the_end(tmp_path: Path) -> None:
    module = alone(T_max=70)
    fit(module, FixedData(random_batch(module)), tmp_path, ActionDistributions(20))
    lines = (tmp_path / "action_distributions.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_steps"] for line in lines] == [20, 40, 60, 70]


def test_a_students_action_distribution_is_that_of_its_policy(tmp_path: Path) -> None:
    module = alone(T_max=10)
    batch = random_batch(module)
    with torch.no_grad():
        expected = module.agents["beta"](batch["beta"]).logits[:5].softmax(-1).mean((0, 1))
    fit(module, FixedData(batch), tmp_path, ActionDistributions(10))
    line = json.loads((tmp_path / "action_distributions.jsonl").read_text().splitlines()[-1])
    assert_allclose(list(line["beta"].values()), expected, atol=1e-3)


# All of them


def test_the_states_of_all_callbacks_are_plain(tmp_path: Path) -> None:
    """Ints, floats, strings, lists and dicts, which load with ``weights_only``."""
    module = graph(transfer(), T_max=20)
    watch = [CertificatedTeacher("beta", -1e9, window=1, episodes=1), EnvStepsCheckpoint(10), Progress()]
    trainer = fit(module, FixedData(random_batch(module)), tmp_path, *watch)
    for found in trainer.callbacks:  # type: ignore[attr-defined]
        state = found.state_dict()
        assert json.loads(json.dumps(state)) == state
