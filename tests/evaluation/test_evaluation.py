"""Evaluation of a frozen policy: exactly the episodes asked for, none favoured, the same again with the same seed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from graphs import agent, copy_of, graph, make_trainer, new_network, played, spread
from gymnasium.spaces import Box, Discrete
from numpy.testing import assert_allclose
from toy_envs import make_network, toy
from wide_cartpole import CARTPOLE, WIDE

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.envs import EnvConfig, EnvError, EnvSpec, make_game, resolve
from cdrl_pl.evaluation import evaluate as evaluation
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.system.processes import ProcessError, in_processes
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration

ENV = EnvConfig(CARTPOLE, max_episode_steps=60)
SHORT, LONG = 1, 60


class CoinEnv(gym.Env):
    """An episode is short or long by the toss of a coin; each step pays the action that was taken."""

    observation_space = Box(-1, 1, (4,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.left = LONG if self.np_random.random() < 0.5 else SHORT
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.left -= 1
        return np.zeros(4, np.float32), float(action), self.left == 0, False, {}


gym.register("Coin-v0", CoinEnv, disable_env_checker=True)
COIN = EnvConfig("Coin-v0")


def lively() -> PolicyNetwork:
    """Plays short and long episodes, and remembers: mixing up the copies' memories would change what it does."""
    network, make = new_network(), torch.Generator().manual_seed(12)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=make))
    return network


def leaning(logit: float) -> PolicyNetwork:
    """A policy whose action 1 has this logit and action 0 none."""
    network = PolicyNetwork(NetworkConfig("mlp", depth=1, hidden=2, lstm=0), (4,), 2)
    with torch.no_grad():
        network.policy_head.weight.zero_()
        network.policy_head.bias.copy_(torch.tensor([0.0, logit]))
    return network


def streams(seed: int, copies: int) -> list[np.random.SeedSequence]:
    """The seeds of the environments and, last, of the sampling."""
    return np.random.SeedSequence(seed).spawn(copies + 1)


def play_alone(
    network: PolicyNetwork, env: EnvConfig, own: np.random.SeedSequence, episodes: int, rng: Any = None
) -> tuple[list[float], list[int]]:
    """One copy, one step at a time: greedy, or sampled where there is an ``rng``."""
    game = make_game(env, int(own.generate_state(1)[0]))
    obs = np.zeros(4, np.float32)
    returns, lengths = [], []
    for _ in range(episodes):
        game.reset(obs)
        state, first, ended = torch.zeros(1, network.state_size), True, False
        total, length = 0.0, 0
        while not ended:
            with torch.no_grad():
                logits, _, state = network.act(torch.tensor(obs[None]), state, torch.tensor([first]))
            p = logits[0].double().softmax(-1).numpy()
            action = int(p.argmax()) if rng is None else int(np.searchsorted(p.cumsum(), rng.random(), side="right"))
            reward, terminated, truncated = game.step(action, obs)
            first, ended = False, terminated or truncated
            total, length = total + reward, length + 1
        returns.append(total)
        lengths.append(length)
    game.close()
    return returns, lengths


# How many, and which


@pytest.mark.parametrize(("episodes", "copies"), [(1, 16), (5, 1), (7, 3), (16, 16), (20, 16)])
def test_exactly_the_episodes_asked_for_are_played(episodes: int, copies: int) -> None:
    score = evaluate(new_network(), ENV, episodes, copies=copies)
    assert score.episodes == len(score.returns) == episodes


def test_every_copy_plays_a_fixed_share() -> None:
    """Ten episodes by four copies: 3, 3, 2 and 2, whichever are done first."""
    score = evaluate(leaning(50.0), COIN, 10, greedy=True, copies=4)
    expected = []
    for own, share in zip(streams(0, 4), (3, 3, 2, 2), strict=False):
        expected += play_alone(leaning(50.0), COIN, own, share)[0]
    assert sorted(score.returns) == sorted(expected)


def test_short_episodes_are_not_favoured() -> None:
    """Half of the episodes are long; the first 64 to end among 64 copies would say otherwise."""
    truth, error = (SHORT + LONG) / 2, (LONG - SHORT) / 2 / 8  # of the mean of 64
    score = evaluate(leaning(50.0), COIN, 64, greedy=True, copies=64)
    assert abs(score.mean - truth) < 3 * error
    ends = []  # when each episode of each copy ends, and what it returns
    for own in streams(0, 64)[:64]:
        game, obs, now = make_game(COIN, int(own.generate_state(1)[0])), np.zeros(4, np.float32), 0
        while now < LONG:
            game.reset(obs)
            began, ended = now, False
            while not ended:
                _, ended, _ = game.step(1, obs)
                now += 1
            ends.append((now, now - began))
    assert truth - np.mean([ret for _, ret in sorted(ends)[:64]]) > 3 * error


# What is played


@pytest.mark.parametrize("seed", [0, 7])
def test_a_sampled_score_equals_an_independent_loop(seed: int) -> None:
    network = lively()
    game_seed, own = streams(seed, 1)
    rng = np.random.Generator(np.random.PCG64(own.spawn(1)[0]))
    returns, lengths = play_alone(network, ENV, game_seed, 12, rng)
    score = evaluate(network, ENV, 12, seed=seed, copies=1)
    assert score.returns == tuple(returns) and len(set(returns)) > 5
    assert_allclose([score.mean, score.std], [np.mean(returns), np.std(returns)])
    assert_allclose(score.mean_length, np.mean(lengths))


def test_a_greedy_score_equals_independent_loops() -> None:
    network, expected = lively(), []
    for own in streams(3, 3)[:3]:
        expected += play_alone(network, ENV, own, 4)[0]
    score = evaluate(network, ENV, 12, greedy=True, seed=3, copies=3)
    assert sorted(score.returns) == sorted(expected) and len(set(expected)) > 5


def test_a_policy_that_remembers_otherwise_scores_otherwise() -> None:
    """A control of the loops above: this policy's memory decides what it does."""
    forgetful = lively()
    assert forgetful.lstm is not None
    with torch.no_grad():
        forgetful.lstm.weight_hh_l0.zero_()
    assert evaluate(lively(), ENV, 12, True).returns != evaluate(forgetful, ENV, 12, True).returns


def test_the_greedy_policy_takes_the_most_probable_action() -> None:
    score = evaluate(leaning(0.1), COIN, 8, greedy=True)
    assert score.mean == score.mean_length and score.policy == "greedy"


def test_the_sampled_policy_takes_each_action_as_often_as_it_says() -> None:
    score = evaluate(leaning(float(np.log(3.0))), COIN, 60, greedy=False)
    assert_allclose(score.mean / score.mean_length, 0.75, atol=0.04)
    assert score.policy == "sampled"


# The same again


@pytest.mark.parametrize("greedy", [False, True])
def test_the_same_seed_gives_the_same_score(greedy: bool) -> None:
    assert evaluate(new_network(), ENV, 9, greedy, seed=4) == evaluate(new_network(), ENV, 9, greedy, seed=4)


@pytest.mark.parametrize("greedy", [False, True])
def test_another_seed_gives_another_score(greedy: bool) -> None:
    """The control of the test above."""
    assert (
        evaluate(new_network(), ENV, 9, greedy, seed=4).returns
        != evaluate(new_network(), ENV, 9, greedy, seed=5).returns
    )


def test_the_score_says_how_it_was_played() -> None:
    score = evaluate(new_network(), ENV, 3, seed=11)
    assert (score.seed, score.noop_max) == (11, 0)


def test_evaluation_leaves_the_network_as_it_is() -> None:
    network = new_network()
    before = copy_of(network)
    evaluate(network, ENV, 3)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_evaluation_uses_no_global_randomness() -> None:
    network = new_network()
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    evaluate(network, ENV, 3)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


# Ends


@pytest.mark.parametrize("episodes", [0, -1])
def test_fault_28_no_episodes_are_refused(episodes: int) -> None:
    with pytest.raises(ValueError, match=f"episodes is {episodes}; it must be 1 or more"):
        evaluate(new_network(), ENV, episodes)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_evaluation_that_is_told_to_end_ends(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr(evaluation, "TICK_SECONDS", 0.0)
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        evaluate(new_network(), ENV, 100_000, interrupted=lambda: next(asked), processes=processes)


# In several processes


@pytest.mark.parametrize("greedy", [False, True])
def test_several_processes_give_the_score_of_one(greedy: bool) -> None:
    """11 episodes by 5 copies, of which one process plays 3 and the other 2."""
    one = evaluate(lively(), ENV, 11, greedy, seed=4, copies=5)
    assert evaluate(lively(), ENV, 11, greedy, seed=4, copies=5, processes=2) == one and len(set(one.returns)) > 3


def test_more_processes_than_copies_leave_some_idle() -> None:
    assert evaluate(lively(), ENV, 2, processes=3) == evaluate(lively(), ENV, 2)


def test_fault_03_an_environment_that_raises_in_a_process_is_reported() -> None:
    with pytest.raises(ProcessError, match=r"(?s)^EnvError: .*NoSuchGame.*Traceback"):
        evaluate(lively(), EnvConfig("NoSuchGame-v0"), 4, processes=2)


def _stuck(job: int, tick: Any) -> int:
    if job == 1:
        time.sleep(60)
    return job


def _killed(job: int, tick: Any) -> int:
    if job == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


@pytest.mark.slow
def test_jobs_come_back_in_order() -> None:
    assert in_processes(_squared, [3, 1, 2]) == [9, 1, 4]


def _squared(job: int, tick: Any) -> int:
    tick()
    return job * job


@pytest.mark.slow
def test_fault_06_a_job_that_makes_no_progress_ends_the_wait() -> None:
    began = time.monotonic()
    with pytest.raises(ProcessError, match=r"1 of 2 jobs made no progress for 20 s"):
        in_processes(_stuck, [0, 1], stall=20.0)  # of which the other job has enough to start
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("told", [False, True])
def test_fault_09_a_process_that_a_signal_ends_as_it_starts_is_told_to_end_too(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """A signal to the whole group may reach it before it ignores signals."""

    def start(self: Any) -> None:
        raise EOFError("unexpected EOF")

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", start)
    with pytest.raises(Stopped if told else ProcessError, match="told to end" if told else "could not be started"):
        in_processes(_stuck, [0], interrupted=lambda: told)


@pytest.mark.slow
def test_fault_01_a_job_whose_process_is_killed_is_reported() -> None:
    with pytest.raises(ProcessError, match=r"the process of job 1 died \(exit code -9\)"):
        in_processes(_killed, [0, 1])


# Through the trainer


def validated(stage: str, folder: Path) -> tuple[Collaboration, dict[str, float]]:
    module = graph(agents={"alpha": agent(WIDE), "beta": agent(limit=30)})
    for found in module.agents.values():
        spread(found.network)
    data = played()
    data.evaluation_episodes = 6
    (metrics,) = getattr(make_trainer(folder), stage)(module, datamodule=data, verbose=False)
    return module, metrics


def test_a_test_writes_every_score_with_its_protocol(tmp_path: Path) -> None:
    module, _ = validated("test", tmp_path)
    written = json.loads((tmp_path / "scores.json").read_text())
    assert set(written["agents"]) == set(module.agents)
    for name, found in module.agents.items():
        record = written["agents"][name]
        assert record["env"] == json.loads(json.dumps(asdict(resolve(found.env)))) and record["env_steps"] == 0
        for greedy in (False, True):
            score = evaluate(found.network, found.env, 6, greedy, seed=5)
            assert record["evaluation"][score.policy] == {**asdict(score), "returns": list(score.returns)}


def test_a_validation_writes_none(tmp_path: Path) -> None:
    validated("validate", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_agents_asked_for_are_evaluated(tmp_path: Path) -> None:
    module = graph(agents={"alpha": agent(WIDE), "beta": agent(limit=30)})
    data = played()
    data.evaluation_episodes, data.evaluation_agents = 2, ["beta"]
    make_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert set(json.loads((tmp_path / "scores.json").read_text())["agents"]) == {"beta"}
    data.evaluation_agents = ["gamma"]
    with pytest.raises(ValueError, match=r"data.evaluation_agents names 'gamma'; it must name some of alpha, beta"):
        make_trainer(tmp_path).test(module, datamodule=data, verbose=False)


# A certificated teacher in any task


def stored(folder: Path, actions: int = 2) -> Path:
    """An expert of CartPole with this many actions, as a folder."""
    network = PolicyNetwork(NetworkConfig("mlp", depth=1, hidden=8, lstm=4), (4,), actions)
    spec = EnvSpec((4,), "float32", tuple("ABCDEF"[:actions]))
    save_certificate(folder, network, EnvConfig("CartPole-v1"), spec, {"sampled": evaluate(leaning(0.0), ENV, 1)}, {})
    return folder


def test_a_teacher_plays_another_task(tmp_path: Path) -> None:
    expert = CertificatedAgent(stored(tmp_path), env=COIN)
    assert (expert.env.id, expert.env.kwargs) == (COIN.id, COIN.kwargs) and expert.spec.action_meanings == ("0", "1")
    assert evaluate(expert.network, expert.env, 3).episodes == 3


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("Acrobot-v1", r"reads float32 observations of shape \(4,\), Acrobot-v1 gives float32 of shape \(6,\)"),
        ("CartPole-v1", r"chooses among 3 actions \(A, B, C\), CartPole-v1 has 2 \(0, 1\)"),
    ],
)
def test_a_teacher_that_does_not_fit_a_task_is_refused_naming_both(env: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=says):
        CertificatedAgent(stored(tmp_path, actions=3), env=EnvConfig(env))


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_the_trainer_evaluates_every_agent_both_ways(tmp_path: Path, stage: str) -> None:
    module, metrics = validated(stage, tmp_path)
    for name, found in module.agents.items():
        for greedy in (False, True):
            score = evaluate(found.network, found.env, 6, greedy, seed=5)
            assert_allclose(metrics[f"{name}/{score.policy}/mean"], score.mean, rtol=1e-6)
            assert_allclose(metrics[f"{name}/{score.policy}/std"], score.std, rtol=1e-6)
            assert metrics[f"{name}/{score.policy}/episodes"] == 6


@pytest.mark.parametrize("where", ["observation", "reward", "reset"])
@pytest.mark.parametrize("processes", [1, 2])
def test_fault_25_a_score_is_not_made_of_what_is_not_finite(where: str, processes: int) -> None:
    env = toy("NotFinite", where=where, value=float("nan"))
    what = "reward" if where == "reward" else "observation"
    with pytest.raises((FloatingPointError, ProcessError), match=f"NotFiniteToy-v0 gave a {what} that is not finite"):
        evaluate(make_network(), env, episodes=64, processes=processes)


def test_an_environment_may_start_processes_of_its_own() -> None:
    assert evaluate(make_network(), toy("Parent"), episodes=16, processes=2).episodes == 16
