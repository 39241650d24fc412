"""Worker processes: what they play, that it repeats and resumes bit for bit, and what they survive.

No test waits longer than a bound: the pool's stall timeout, or the seconds given to ``join`` and ``select``.
"""

from __future__ import annotations

import gc
import io
import multiprocessing as mp
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close
from toy_envs import COUNTING_SPEC, SMALL, CountingEnv, make_network, toy

from cdrl_pl.envs import EnvConfig, EnvSpec, describe
from cdrl_pl.losses import log_prob
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.actor import LocalActor
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.crew import WorkerError
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.rollouts.slots import SharedWeights, Slots, rollout_schema
from cdrl_pl.rollouts.worker import Player, WorkerConfig
from cdrl_pl.types import Episode, Rollout

MakePool = Callable[..., Pool]
CONTEXT = mp.get_context("forkserver")
CARTPOLE = EnvConfig("CartPole-v1", max_episode_steps=12)
CARTPOLE_SPEC = EnvSpec((4,), "float32", ("0", "1"))


def started(pool: Pool, network: PolicyNetwork | None = None, version: int = 0) -> Pool:
    pool.publish(network or make_network(), version)
    pool.start()
    return pool


def take(pool: Pool, count: int) -> list[Rollout]:
    """The next rollouts, in memory of their own."""
    return [pool.next().clone() for _ in range(count)]


def differences(one: list[Rollout], other: list[Rollout]) -> list[str]:
    """Where two streams are not equal bit for bit, as "number of the rollout: field"."""

    def part(rollout: Rollout, name: str) -> Any:
        value = getattr(rollout, name)
        return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value

    return [
        f"{number}: {field.name}"
        for number, (a, b) in enumerate(zip(one, other, strict=True))
        for field in fields(Rollout)
        if part(a, field.name) != part(b, field.name)
    ]


def worker_processes(pool: Pool) -> list[mp.Process]:
    """The live workers, in order."""
    named = {p.name: p for p in mp.active_children()}
    return [named[name] for name in sorted(named) if name.startswith(f"{pool.name}-")]


def kill(process: mp.Process) -> None:
    """SIGKILLs a worker and waits until it is dead."""
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


# What a rollout holds


class Replay:
    """Plays the counting toy in this process with the recorded actions, and says what every field must be."""

    def __init__(self, network: PolicyNetwork, copies: int) -> None:
        self.network = network
        self.envs = [CountingEnv() for _ in range(copies)]
        self.obs = torch.stack([torch.from_numpy(env.reset()[0]) for env in self.envs])
        self.resets = torch.ones(copies, dtype=torch.bool)
        self.state = network.initial_state(copies)
        self.returns, self.lengths = [0.0] * copies, [0] * copies

    @torch.no_grad()
    def check(self, rollout: Rollout) -> None:
        """The next rollout of this worker."""
        episodes = []
        assert_close(rollout.state, self.state)
        for t in range(rollout.steps):
            assert torch.equal(rollout.obs[t], self.obs) and torch.equal(rollout.resets[t], self.resets)
            logits, _, self.state = self.network.act(self.obs, self.state, self.resets)
            assert_close(rollout.log_probs[t], log_prob(logits, rollout.actions[t]))
            for b, env in enumerate(self.envs):
                obs, reward, terminated, truncated, _ = env.step(int(rollout.actions[t, b]))
                self.obs[b], final_value = torch.from_numpy(obs), 0.0
                self.returns[b] += reward
                self.lengths[b] += 1
                if truncated:
                    one = slice(b, b + 1)
                    no_reset = torch.zeros(1, dtype=torch.bool)
                    final_value = self.network.act(self.obs[one], self.state[one], no_reset)[1].item()
                assert rollout.rewards[t, b] == reward
                assert (rollout.terminated[t, b], rollout.truncated[t, b]) == (terminated, truncated)
                assert rollout.final_values[t, b].item() == pytest.approx(final_value, abs=1e-5)
                self.resets[b] = terminated or truncated
                if self.resets[b]:
                    episodes.append(Episode(self.returns[b], self.lengths[b]))
                    self.returns[b], self.lengths[b] = 0.0, 0
                    self.obs[b] = torch.from_numpy(env.reset()[0])
        assert torch.equal(rollout.obs[-1], self.obs) and torch.equal(rollout.resets[-1], self.resets)
        assert list(rollout.episodes) == episodes


@pytest.mark.parametrize("lstm", [4, 0])
def test_rollouts_hold_what_an_independent_replay_sees(make_pool: MakePool, lstm: int) -> None:
    config = NetworkConfig(trunk="mlp", depth=1, hidden=8, lstm=lstm)
    network = make_network(config=config)
    pool = started(make_pool(toy("Counting"), network=config, workers=2, deterministic=True), network)
    replays = {0: Replay(network, copies=2), 1: Replay(network, copies=2)}
    rollouts = take(pool, 8)
    for rollout in rollouts:
        replays[rollout.worker].check(rollout)
    assert [rollout.worker for rollout in rollouts] == [0, 1] * 4
    assert sum(int(r.terminated.sum()) for r in rollouts) > 5 and sum(int(r.truncated.sum()) for r in rollouts) > 5
    assert any((r.final_values != 0).any() for r in rollouts)


def test_asynchronous_rollouts_hold_what_an_independent_replay_sees(make_pool: MakePool) -> None:
    network = make_network()
    pool = started(make_pool(toy("Counting"), workers=2, queue=3), network)
    replays = {0: Replay(network, copies=2), 1: Replay(network, copies=2)}
    for _ in range(12):
        rollout = pool.next()
        replays[rollout.worker].check(rollout)


def test_rollouts_that_wait_are_joined_on_request(make_pool: MakePool) -> None:
    network = make_network()
    pool = started(make_pool(toy("Counting"), queue=3, concatenate=True), network)
    pool.crew.receive_until(lambda: len(pool._ready) == 3, "three rollouts")
    rollout, replay = pool.next(), Replay(network, copies=2)
    assert rollout.steps == 15
    replay.check(rollout)
    replay.check(pool.next())


def test_rollouts_of_a_dead_worker_and_its_replacement_are_not_joined(make_pool: MakePool, tmp_path: Path) -> None:
    """It dies in its second rollout: the first waits when the replacement's come, which begin new episodes."""
    env = toy("Killing", marker=str(tmp_path / "died"), at=7)
    pool = started(make_pool(env, copies=1, queue=3, concatenate=True))
    pool.crew.receive_until(lambda: len(pool._ready) == 3, "three rollouts")
    assert pool.crew.restarts == 1
    rollout = pool.next()
    assert torch.equal(rollout.resets[1:], rollout.terminated | rollout.truncated)
    Replay(make_network(), copies=1).check(rollout)


def test_a_rollout_stays_as_it_is_until_the_next_call(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=1))
    rollout = pool.next()
    before = rollout.clone()
    assert not pool.crew.receive(0.3)  # its memory is the only slot, so the worker has nothing to play
    assert differences([rollout], [before]) == []
    pool.next()
    assert "0: obs" in differences([rollout], [before])


def make_player(env: EnvConfig) -> tuple[Player, Slots]:
    """A worker's player in this process, with its one slot of 7 steps and 2 copies."""
    network = make_network()
    slots = Slots(CONTEXT, rollout_schema(COUNTING_SPEC, network.state_size, steps=7, copies=2), 1)
    weights = shared_weights(network)
    write(weights, network, 0)
    return Player(WorkerConfig("toy", env, COUNTING_SPEC, SMALL, 7, 2, False, (0,), slots, weights)), slots


def test_every_number_of_a_slot_is_written() -> None:
    plain, poisoned = make_player(toy("Counting")), make_player(toy("Counting"))
    for _ in range(3):
        for value in poisoned[1][0].values():
            value.fill(np.nan if value.dtype == np.float32 else 1 if value.dtype == bool else -77)
        for player, slots in (plain, poisoned):
            player.play(slots[0])
        for name, value in plain[1][0].items():
            np.testing.assert_array_equal(value, poisoned[1][0][name], err_msg=name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["reward", "observation"])
def test_fault_25_a_number_that_is_not_finite_is_refused_by_name(where: str, value: float) -> None:
    player, slots = make_player(toy("NotFinite", where=where, value=value))
    with pytest.raises(FloatingPointError, match=rf"NotFiniteToy-v0 gave a {where} that is not finite \(copy 0\)"):
        player.play(slots[0])


def test_fault_25_a_first_observation_that_is_not_finite_is_refused_by_name() -> None:
    player, slots = make_player(toy("NotFinite", where="reset", value=float("nan")))
    with pytest.raises(FloatingPointError, match=r"NotFiniteToy-v0 gave a.* observation that is not finite"):
        player.play(slots[0])


def test_fault_25_a_reward_that_is_not_finite_ends_the_run(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("NotFinite", where="reward", value=float("nan"))))
    with pytest.raises(WorkerError, match=r"worker 0 of toy.*FloatingPointError: toy_envs:NotFinite\S+ gave a reward"):
        take(pool, 3)


# Weights and versions


def shared_weights(network: PolicyNetwork) -> SharedWeights:
    return SharedWeights(CONTEXT, sum(p.numel() for p in network.parameters()))


def write(weights: SharedWeights, network: PolicyNetwork, version: int) -> None:
    with weights.writing(version) as flat:
        flat[:] = parameters_to_vector(network.parameters()).detach().numpy()


def test_rollouts_record_the_version_that_played_them(make_pool: MakePool) -> None:
    """The newest weights play once the few rollouts are through that a worker may be ahead."""
    networks = [make_network(seed) for seed in range(3)]
    pool = started(make_pool(toy("Counting"), queue=2), networks[0])
    seen = []
    for version in range(3):
        pool.publish(networks[version], version)
        for _ in range(4):
            rollout = pool.next()
            seen.append(rollout.policy_version)
            assert rollout.policy_lag == version - rollout.policy_version
            output = networks[rollout.policy_version](rollout.obs, rollout.state, rollout.resets)
            assert_close(rollout.log_probs, log_prob(output.logits[:-1], rollout.actions).detach())
        assert seen[-1] == version
    assert seen == sorted(seen)


def test_an_actor_plays_the_first_weights_even_if_it_looked_before_they_came() -> None:
    network = make_network()
    weights = shared_weights(network)
    actor = LocalActor(SMALL, COUNTING_SPEC, weights, 1, np.random.default_rng(0))
    actor.refresh()
    write(weights, network, 0)
    assert actor.refresh() == 0
    obs = np.ones((1, 3), np.float32)
    with torch.no_grad():
        expected = network.act(torch.from_numpy(obs), network.initial_state(1), torch.zeros(1, dtype=torch.bool))[1]
    assert_close(torch.from_numpy(actor.values(obs, np.array([0])).copy()), expected)


def test_an_actor_under_bf16_decides_nearly_the_same() -> None:
    network = make_network()
    weights = shared_weights(network)
    write(weights, network, 0)
    obs, found = np.linspace(-1, 1, 30, dtype=np.float32).reshape(10, 3), []
    for bf16 in (False, True):
        actor = LocalActor(SMALL, COUNTING_SPEC, weights, 10, np.random.default_rng(0), bf16)
        actor.refresh()
        found.append(torch.from_numpy(actor.values(obs, np.arange(10)).copy()))
    assert not torch.equal(*found)
    assert_close(*found, atol=0.1, rtol=0.05)


def test_weights_are_not_read_while_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedWeights, "PATIENCE", 0.05)
    weights = SharedWeights(CONTEXT, 10)
    out = np.zeros(10, np.float32)
    with weights.writing(5) as flat:
        flat[6:] = 1.0
        with pytest.raises(RuntimeError, match="kept changing"):
            weights.read(out)
    assert weights.read(out) == 5
    np.testing.assert_array_equal(out, [0] * 6 + [1] * 4)


def test_fields_and_slots_do_not_overlap() -> None:
    slots = Slots(CONTEXT, rollout_schema(COUNTING_SPEC, 8, steps=3, copies=3), 3)
    for index in range(3):
        for number, value in enumerate(slots[index].values()):
            value.fill((10 * index + number) % 2 if value.dtype == bool else 10 * index + number)
    for index in range(3):
        for number, (name, value) in enumerate(slots[index].items()):
            expected = (10 * index + number) % 2 if value.dtype == bool else 10 * index + number
            assert (value == expected).all(), name


def test_slots_start_on_cache_lines() -> None:
    """The last bits of a network's output depend on where its input lies, so equal seeds need equal places."""
    kept: list[Any] = []
    for _ in range(8):
        kept.append(CONTEXT.RawArray("b", 4096 + 8))  # moves what comes after it off the line
        kept.append(Slots(CONTEXT, rollout_schema(COUNTING_SPEC, 8, steps=3, copies=3), 2))
        assert {value.ctypes.data % 64 for index in range(2) for value in kept[-1][index].values()} == {0}


@pytest.mark.parametrize("index", [-1, 3])
def test_a_slot_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=f"slot {index} of 3"):
        Slots(CONTEXT, {"a": ((2,), "float32")}, 3)[index]


# The same seed, and resuming


def cartpole_stream(make_pool: MakePool, seed: int) -> list[Rollout]:
    pool = make_pool(CARTPOLE, CARTPOLE_SPEC, workers=2, deterministic=True, seed=seed)
    rollouts = take(started(pool, make_network(spec=CARTPOLE_SPEC)), 8)
    pool.close()
    return rollouts


def test_the_same_seed_plays_the_same_rollouts_bit_for_bit(make_pool: MakePool) -> None:
    first = cartpole_stream(make_pool, seed=0)
    assert differences(first, cartpole_stream(make_pool, seed=0)) == []
    other = differences(first, cartpole_stream(make_pool, seed=1))
    assert {f"{number}: {name}" for number in range(8) for name in ("obs", "log_probs")} <= set(other)


def test_workers_and_copies_play_different_episodes(make_pool: MakePool) -> None:
    pool = make_pool(CARTPOLE, CARTPOLE_SPEC, workers=2, deterministic=True)
    first = torch.cat([r.obs[0] for r in take(started(pool, make_network(spec=CARTPOLE_SPEC)), 2)])
    assert len({tuple(obs) for obs in first.tolist()}) == 4


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


ATARI = EnvConfig("Bowling-2017", noop_max=5, max_episode_steps=23)
ATARI_NETWORK = NetworkConfig(channels=2, depth=3, lstm=4)


@pytest.mark.parametrize(
    ("env", "network", "stop"),
    [(CARTPOLE, SMALL, 4), (CARTPOLE, SMALL, 5), (ATARI, ATARI_NETWORK, 5)],
    ids=["CartPole between rounds", "CartPole within a round", "Atari within a round"],
)
def test_fault_15_a_resumed_stream_equals_one_that_never_stopped(
    make_pool: MakePool, env: EnvConfig, network: NetworkConfig, stop: int
) -> None:
    spec = describe(env)
    policy = make_network(spec=spec, config=network)
    options = {"spec": spec, "network": network, "workers": 2, "deterministic": True}
    pool = started(make_pool(env, **options), policy)
    take(pool, stop)
    saved = through_a_file(pool.state_dict())
    expected = take(pool, 12)
    pool.close()

    resumed = make_pool(env, **options)
    resumed.load_state_dict(saved)
    assert differences(take(started(resumed, policy), 12), expected) == []
    assert sum(len(rollout.episodes) for rollout in expected) >= 4  # new episodes began after the stop


def test_saving_does_not_change_the_stream(make_pool: MakePool) -> None:
    pool = started(make_pool(CARTPOLE, CARTPOLE_SPEC, deterministic=True), make_network(spec=CARTPOLE_SPEC))
    rollouts = []
    for _ in range(6):
        rollouts += take(pool, 1)
        pool.state_dict()
    pool.close()
    other = started(make_pool(CARTPOLE, CARTPOLE_SPEC, deterministic=True), make_network(spec=CARTPOLE_SPEC))
    assert differences(take(other, 6), rollouts) == []


def test_a_state_that_was_loaded_but_not_started_is_saved_unchanged(make_pool: MakePool) -> None:
    pool = started(make_pool(CARTPOLE, CARTPOLE_SPEC, deterministic=True), make_network(spec=CARTPOLE_SPEC))
    take(pool, 3)
    saved = pool.state_dict()
    waiting = make_pool(CARTPOLE, CARTPOLE_SPEC, deterministic=True)
    waiting.load_state_dict(saved)
    assert waiting.state_dict().keys() == saved.keys()


def test_after_a_replacement_a_resumed_stream_still_equals_one_that_never_stopped(make_pool: MakePool) -> None:
    policy = make_network(spec=CARTPOLE_SPEC)
    pool = started(make_pool(CARTPOLE, CARTPOLE_SPEC, deterministic=True), policy)
    take(pool, 2)
    kill(worker_processes(pool)[0])
    take(pool, 2)
    saved = pool.state_dict()
    expected = take(pool, 6)
    pool.close()

    resumed = make_pool(CARTPOLE, CARTPOLE_SPEC, deterministic=True)
    resumed.load_state_dict(saved)
    assert differences(take(started(resumed, policy), 6), expected) == []


def test_an_asynchronous_stream_resumes_with_new_episodes(make_pool: MakePool) -> None:
    policy = make_network(spec=CARTPOLE_SPEC)
    pool = started(make_pool(CARTPOLE, CARTPOLE_SPEC), policy, version=9)
    first = take(pool, 1)[0]
    saved = through_a_file(pool.state_dict())
    resumed = make_pool(CARTPOLE, CARTPOLE_SPEC)
    resumed.load_state_dict(saved)
    assert resumed.version == 9
    again = take(started(resumed, policy), 1)[0]
    assert again.resets[0].all() and (again.obs[0] != first.obs[0]).all()


def test_a_deterministic_stream_does_not_resume_with_other_workers(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), deterministic=True))
    take(pool, 1)
    other = make_pool(toy("Counting"), workers=2, deterministic=True)
    other.load_state_dict(pool.state_dict())
    with pytest.raises(ValueError, match=r"was played by 1 workers, pool\.workers is 2"):
        other.start()


# Faults


@pytest.mark.parametrize(("workers", "deterministic"), [(1, False), (2, True)])
def test_fault_01_a_killed_worker_is_replaced_and_the_stream_goes_on(
    make_pool: MakePool, workers: int, deterministic: bool
) -> None:
    """Its replacement starts new episodes with an empty memory, and everything it plays from there on is whole."""
    pool = started(make_pool(toy("Counting"), workers=workers, queue=1, deterministic=deterministic))
    take(pool, 4)
    victim = worker_processes(pool)[0]
    kill(victim)
    rollouts = [rollout for rollout in take(pool, 10) if rollout.worker == 0]
    assert pool.crew.restarts == 1
    assert len(worker_processes(pool)) == workers and victim.pid not in [p.pid for p in worker_processes(pool)]
    first = next(i for i, rollout in enumerate(rollouts) if (rollout.obs[0] == torch.tensor([1, 0, -1])).all())
    assert first <= 1  # at most one rollout of the dead worker was on its way
    replay = Replay(make_network(), copies=2)
    for rollout in rollouts[first:]:
        replay.check(rollout)


def test_fault_02_a_worker_that_dies_inside_a_step_loses_only_its_own_rollout(
    make_pool: MakePool, tmp_path: Path
) -> None:
    """It dies in the third of five steps; what is handed over is as if nothing had happened."""
    pool = started(make_pool(toy("Killing", marker=str(tmp_path / "died")), copies=1, deterministic=True))
    replay = Replay(make_network(), copies=1)
    for rollout in take(pool, 3):
        replay.check(rollout)
    assert pool.crew.restarts == 1


def test_fault_03_an_exception_in_a_worker_is_reported_whole(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Raising", where="step"), workers=1, seed=42))
    with pytest.raises(WorkerError) as caught:
        pool.next()
    text = str(caught.value)
    assert "worker 0 of toy (seed (42, 0, 0, 0)) raised OddError: code 7: the toy broke in step" in text
    assert "Traceback" in text and "toy_envs.py" in text and "raise OddError" in text


@pytest.mark.parametrize("where", ["init", "reset"])
def test_fault_04_an_exception_before_the_first_step_is_reported(make_pool: MakePool, where: str) -> None:
    pool = started(make_pool(toy("Raising", where=where)))
    with pytest.raises(WorkerError, match=f"raised OddError: code 7: the toy broke in {where}"):
        pool.next()


def test_fault_05_a_worker_that_always_dies_ends_the_run(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Killing"), max_restarts=2))
    with pytest.raises(WorkerError, match=r"worker 0 of toy .*died 3 times in a row.*exit code -9"):
        pool.next()
    assert pool.crew.restarts == 2


def test_fault_05_deaths_count_only_without_progress(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=1, max_restarts=1))
    for deaths in range(1, 4):
        kill(worker_processes(pool)[0])
        take(pool, 3)
        assert pool.crew.restarts == deaths


@pytest.mark.parametrize("deterministic", [False, True])
def test_fault_06_workers_that_hang_end_the_run_within_the_stall_timeout(
    make_pool: MakePool, deterministic: bool
) -> None:
    pool = started(make_pool(toy("Hanging"), deterministic=deterministic, stall_timeout=1.0))
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"waited 1 s for a .* of toy; workers \[0\] are late"):
        pool.next()
    assert time.monotonic() - began < 20


def test_fault_06_a_worker_that_hangs_is_replaced_while_its_peer_plays(
    make_pool: MakePool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not before its peer has finished 20 rollouts, nor before 15 s by the pool's clock; the stream never stops."""
    now = [0.0]
    env = toy("Hanging", marker=str(tmp_path / "hung"))
    pool = started(make_pool(env, workers=2, copies=1, hang_rollouts=20, clock=lambda: now[0]))
    played = take(pool, 100)
    while len({rollout.worker for rollout in played[-40:]}) > 1:  # until both have started, and one hangs
        played += take(pool, 40)
    hung = 1 - played[-1].worker
    assert pool.crew.restarts == 0  # far behind, but by the clock no time has passed
    now[0] = 15.1
    played = take(pool, 3)
    while pool.crew.restarts == 0 or played[-1].worker != hung:
        assert len(played) < 50_000
        played += take(pool, 1)
    assert pool.crew.restarts == 1
    assert f"worker {hung} of toy has finished nothing for 15 s" in caplog.text


def test_fault_08_a_worker_that_is_slow_is_not_taken_for_hung(make_pool: MakePool, tmp_path: Path) -> None:
    """The control of the test above: time passes, but the peer is not far enough ahead."""
    now = [0.0]
    env = toy("Hanging", marker=str(tmp_path / "hung"))
    pool = started(make_pool(env, workers=2, copies=1, hang_rollouts=10**6, clock=lambda: now[0]))
    for _ in range(300):
        now[0] += 100.0
        pool.next()
    assert pool.crew.restarts == 0


def test_fault_08_the_rollouts_of_every_worker_are_counted(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), workers=2))
    counts = Counter(rollout.worker for rollout in take(pool, 40))
    counts.update(index for index, _ in pool._ready)
    assert {w.index: w.rollouts for w in pool.crew.workers} == counts and min(counts.values()) > 0


def test_fault_07_what_a_worker_sent_before_it_died_counts_once_and_nothing_is_read_after(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=2, copies=1))
    old = pool.crew.workers[0]
    deadline, second = time.monotonic() + 60, pool._slots[1]["log_probs"]
    while not second[-1].any():  # until it writes the second rollout: the first then lies in its pipe, unread
        assert time.monotonic() < deadline
    kill(old.process)
    rollouts = take(pool, 6)
    assert pool.crew.restarts == 1 and pool.crew.workers[0] is not old
    assert old.connection.closed  # its replacement has another, so a late reply has nowhere to arrive
    starts = [number for number, rollout in enumerate(rollouts) if number and rollout.resets[0].all()]
    assert len(starts) == 1  # the replacement's first
    for part in (rollouts[: starts[0]], rollouts[starts[0] :]):
        replay = Replay(make_network(), copies=1)
        for rollout in part:
            replay.check(rollout)


def test_fault_10_a_run_that_is_told_to_end_stops_waiting(make_pool: MakePool) -> None:
    told: list[bool] = []
    pool = started(make_pool(toy("Hanging"), interrupted=lambda: bool(told)))
    told.append(True)
    with pytest.raises(KeyboardInterrupt, match="told to end"):
        pool.next()


TRAINER = """
import sys
import torch
from toy_envs import COUNTING_SPEC, SMALL, make_network, toy
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.pool import Pool
torch.set_num_threads(1)
if __name__ == "__main__":
    pool = Pool("toy", toy("Hanging", pipe=sys.argv[1]), COUNTING_SPEC, SMALL, PoolConfig(workers=2, copies=1), (0,))
    pool.publish(make_network(), 0)
    pool.start()
    pool.next()
"""


def read_lines(pipe: int, count: int, seconds: float) -> list[str]:
    """That many lines from a named pipe; fails after so many seconds."""
    text, deadline = "", time.monotonic() + seconds
    while text.count("\n") < count:
        assert select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0], "nothing came"
        text += os.read(pipe, 100).decode()
    return text.split()


def test_fault_11_hung_workers_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)  # open for writing too, so that it never reads as ended
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, path], env={**os.environ, "PYTHONPATH": paths})
    try:
        workers = [os.pidfd_open(int(pid)) for pid in read_lines(pipe, count=2, seconds=60)]
    finally:
        trainer.kill()
        trainer.wait(10)
        os.close(pipe)
    ended = [bool(select.select([worker], [], [], 20)[0]) for worker in workers]
    for worker, gone in zip(workers, ended, strict=True):
        if not gone:
            signal.pidfd_send_signal(worker, signal.SIGKILL)
        os.close(worker)
    assert ended == [True, True]


def test_fault_12_shared_memory_has_no_name_to_leak(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting")))
    pool.next()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if re.search(r"/pym-", line)]
    assert mapped and all(line.endswith("(deleted)") for line in mapped)


def test_fault_31_replacing_workers_leaks_no_file_descriptor(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=1, max_restarts=5))
    counts = []
    for _ in range(4):
        kill(worker_processes(pool)[0])
        take(pool, 3)
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert pool.crew.restarts == 4 and counts[1:] == counts[:-1]


def test_a_checkpoint_survives_a_worker_that_died(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), workers=2, deterministic=True, stall_timeout=5.0))
    take(pool, 2)
    kill(worker_processes(pool)[1])
    assert len(pool.state_dict()["workers"]) == 2


# Life


def test_close_leaves_no_process(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), workers=2))
    pool.next()
    workers = worker_processes(pool)
    pool.close()
    assert len(workers) == 2 and [w.exitcode for w in workers] == [0, 0]


def test_close_ends_workers_that_hang(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Hanging"), workers=2, stall_timeout=0.5))
    with pytest.raises(WorkerError):
        pool.next()
    workers, began = worker_processes(pool), time.monotonic()
    pool.close()
    assert time.monotonic() - began < 20
    assert len(workers) == 2 and [w.exitcode for w in workers] == [-signal.SIGKILL] * 2


def test_close_after_an_error_leaves_no_process(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Raising", where="reset"), workers=2))
    with pytest.raises(WorkerError):
        pool.next()
    pool.close()
    assert not worker_processes(pool)


def test_close_and_start_may_come_twice(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting")))
    pool.start()
    assert len(worker_processes(pool)) == 1
    pool.close()
    pool.close()
    assert not worker_processes(pool)


def test_a_pool_that_is_dropped_ends_even_workers_that_hang(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    env = toy("Hanging", pipe=path)
    pool = started(Pool("dropped", env, COUNTING_SPEC, SMALL, PoolConfig(workers=2, copies=1), (0,)))
    read_lines(pipe, count=2, seconds=60)
    os.close(pipe)
    workers = worker_processes(pool)
    del pool
    gc.collect()
    for worker in workers:
        worker.join(10)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [-signal.SIGKILL] * 2


def test_workers_may_be_spawned(make_pool: MakePool) -> None:
    network = make_network()
    Replay(network, copies=2).check(started(make_pool(toy("Counting"), start_method="spawn"), network).next())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "pool.workers is 0"),
        ({"copies": 0}, "pool.copies is 0"),
        ({"steps": -1}, "pool.steps is -1"),
        ({"queue": 0}, "pool.queue is 0"),
        ({"max_restarts": 0}, "pool.max_restarts is 0"),
        ({"hang_rollouts": 0}, "pool.hang_rollouts is 0"),
        ({"stall_timeout": 0.0}, "pool.stall_timeout is 0.0"),
        ({"start_method": "fork"}, "pool.start_method is 'fork'"),
        ({"concatenate": True, "deterministic": True}, "cannot be used with pool.deterministic"),
    ],
)
def test_fault_28_pool_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PoolConfig(**options)
