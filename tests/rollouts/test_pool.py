"""Worker processes: what they play, and that it repeats and resumes bit for bit.

No test waits longer than a bound: the pool's stall timeout, or the seconds given to ``join`` and ``select``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pools import (
    CARTPOLE,
    CARTPOLE_SPEC,
    CONTEXT,
    MakePool,
    Replay,
    differences,
    kill,
    shared_weights,
    started,
    take,
    worker_processes,
    write,
)
from torch.testing import assert_close
from toy_envs import COUNTING_SPEC, SMALL, make_network, toy

from cdrl_pl.checks import ConfigError
from cdrl_pl.distributions import log_prob
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.rollouts.actor import LocalActor
from cdrl_pl.rollouts.protocol import WorkerConfig
from cdrl_pl.rollouts.shared_memory import SharedWeights, Slots, rollout_schema
from cdrl_pl.rollouts.worker import EnvironmentLoop
from cdrl_pl.rollouts.worker_group import WorkerError
from cdrl_pl.types import Rollout

# What a rollout holds


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
    pool.worker_group.receive_until(lambda: len(pool._ready) == 3, "three rollouts")
    rollout, replay = pool.next(), Replay(network, copies=2)
    assert rollout.steps == 15
    replay.check(rollout)
    replay.check(pool.next())


def test_rollouts_of_a_dead_worker_and_its_replacement_are_not_joined(make_pool: MakePool, tmp_path: Path) -> None:
    """It dies in its second rollout: the first waits when the replacement's come, which begin new episodes."""
    env = toy("Killing", marker=str(tmp_path / "died"), at=7)
    pool = started(make_pool(env, copies=1, queue=3, concatenate=True))
    pool.worker_group.receive_until(lambda: len(pool._ready) == 3, "three rollouts")
    assert pool.worker_group.restarts == 1
    rollout = pool.next()
    assert torch.equal(rollout.resets[1:], rollout.terminated | rollout.truncated)
    Replay(make_network(), copies=1).check(rollout)


def test_a_rollout_stays_as_it_is_until_the_next_call(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=1))
    rollout = pool.next()
    before = rollout.clone()
    assert not pool.worker_group.receive(0.3)  # its memory is the only slot, so the worker has nothing to play
    assert differences([rollout], [before]) == []
    pool.next()
    assert "0: obs" in differences([rollout], [before])


def make_player(env: EnvConfig) -> tuple[EnvironmentLoop, Slots]:
    """A worker's player in this process, with its one slot of 7 steps and 2 copies."""
    network = make_network()
    slots = Slots(CONTEXT, rollout_schema(COUNTING_SPEC, network.state_size, steps=7, copies=2), 1)
    weights = shared_weights(network)
    write(weights, network, 0)
    return EnvironmentLoop(WorkerConfig("toy", env, COUNTING_SPEC, SMALL, 7, 2, False, (0,), slots, weights)), slots


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
    with pytest.raises(ConfigError, match=r"pool\.workers is 2, in the checkpoint of toy it was 1"):
        other.load_state_dict(pool.state_dict())


def test_an_environment_of_a_worker_may_start_processes_of_its_own(make_pool: MakePool) -> None:
    assert started(make_pool(toy("Parent"))).next().steps == 5
