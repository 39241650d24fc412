"""A teacher reads the student's game through its own view: the same logits as where it plays the game itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import REPOSITORY
from graphs import Recorder, fit, graph, played, spread
from graphs import transfer as edge
from pools import MakePool, differences, started, take
from toy_envs import COUNTING_SPEC, make_network, toy

from cdrl_pl.agents.certificate import load_certificate, save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.envs import EnvConfig, EnvSpec, View, describe, make_game, resolve
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.teacher import Teacher
from cdrl_pl.types import Rollout, join

NATURE = View(84, (0, 210), maximum=True, stack=4)
EXPERT = EnvConfig("Pong-2017", view=NATURE)
CONV = NetworkConfig(channels=4, depth=3, lstm=8)
STACKED = View(stack=2)
PAIR = EnvSpec((6,), "float32", COUNTING_SPEC.action_meanings)


WITHOUT_MEMORY = NetworkConfig(channels=4, depth=3, lstm=0)


def certificated(folder: Path, env: EnvConfig, config: NetworkConfig) -> Path:
    spec = describe(env)
    torch.manual_seed(3)
    network = spread(PolicyNetwork(config, spec.obs_shape, spec.num_actions))
    save_certificate(folder, network, env, spec, {}, {"env_steps": 3})
    return folder


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    """A certificated Pong teacher without memory that reads 84 x 84 x 4."""
    return certificated(tmp_path / "expert", EXPERT, WITHOUT_MEMORY)


def test_the_view_is_part_of_the_certificate_and_goes_with_the_policy_into_another_game(expert: Path) -> None:
    certificate, _ = load_certificate(expert)
    assert certificate.env.view == NATURE
    moved = CertificatedAgent(expert, env=EnvConfig("Bowling-2017"))
    assert moved.view == NATURE and moved.spec.obs_shape == (4, 84, 84)


def test_a_certificate_from_before_there_were_views_has_the_one_it_was_trained_with() -> None:
    certificate, _ = load_certificate("teachers/pong")
    assert certificate.env.view == View(42, (34, 194)) == resolve(EnvConfig("Pong-2017")).view


PAPERS = View(42, (34, 194))


@pytest.mark.parametrize("game", ["Pong-2017", "Bowling-2017"])
@pytest.mark.parametrize(
    ("name", "view", "students", "own"),
    [("pong_84", NATURE, PAPERS, CONV), ("bowling", PAPERS, NATURE, WITHOUT_MEMORY)],
    ids=["84-without-memory-teaches-42-with-memory", "and-back"],
)
def test_the_teacher_says_through_the_students_workers_what_it_says_in_its_own_game(
    game: str, name: str, view: View, students: View, own: NetworkConfig, make_pool: MakePool
) -> None:
    """The stored experts: 84 x 84 x 4 over a student of 42 x 42 x 1, or the other way round; bit for bit."""
    expert = REPOSITORY / "teachers" / name
    student = EnvConfig(game, max_episode_steps=13, noop_max=4, view=students)
    agents = {"expert": AgentConfig(certificate=str(expert)), "beta": AgentConfig(student, own)}
    module = graph(edge("expert", "beta"), agents=agents)
    (transfer,), beta = module.transfers, module.agents["beta"]
    assert transfer.view == view and list(module.views["beta"]) == [view]
    pool = make_pool(student, beta.spec, beta.network.config, copies=1, others=module.views["beta"])
    rollouts = take(started(pool, beta.network), 6)
    seeds = np.random.SeedSequence((0, 0, 0, 0)).spawn(2)
    played = make_game(EnvConfig(game, max_episode_steps=13, noop_max=4, view=view), _seed(seeds[0]))
    out = np.zeros(played.spec.obs_shape, np.uint8)
    played.reset(out)
    asked, teacher, ended = module.agents["expert"].network, Teacher(), 0
    for rollout in rollouts:
        seen = [out.copy()]
        for action in rollout.actions[:, 0].tolist():
            if any(played.step(action, out)[1:]):
                played.reset(out)
                ended += 1
            seen.append(out.copy())
        direct = Rollout(**{**rollout.tensors(), "obs": torch.from_numpy(np.stack(seen))[:, None]})
        expected = teacher(asked, direct).logits
        assert torch.equal(transfer.ask(rollout, asked, beta.network).logits, expected)
        assert expected.std() > 0.01
    assert ended >= 2


def _seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1)[0])


def test_no_view_is_written_where_both_are_the_same() -> None:
    agents = {name: AgentConfig(EnvConfig("Pong-2017"), CONV) for name in ("alpha", "beta")}
    module = graph(edge(), agents=agents)
    assert module.transfers[0].view is None and module.views == {"alpha": {}, "beta": {}}


@pytest.mark.parametrize("control", ["own", "lagged"])
def test_the_students_own_controls_read_what_the_student_sees(control: str) -> None:
    agents = {"alpha": AgentConfig(EXPERT, CONV), "beta": AgentConfig(EnvConfig("Pong-2017"), CONV)}
    assert graph(edge(control=control), agents=agents).transfers[0].view is None
    assert graph(edge(control="random"), agents=agents).transfers[0].view == NATURE


def test_an_adapter_that_is_asked_for_is_used() -> None:
    agents = {"alpha": AgentConfig(EnvConfig("Pong-2017", view=View(84)), CONV)}
    agents["beta"] = AgentConfig(EnvConfig("Bowling-2017"), CONV)
    assert graph(edge(observations="resize"), agents=agents).transfers[0].view is None


@pytest.mark.slow
def test_both_ends_learn_through_their_own_views(tmp_path: Path) -> None:
    """Two ways at once: each agent's rollouts have the other's view."""
    agents = {
        "alpha": AgentConfig(EXPERT, NetworkConfig(channels=4, depth=3, lstm=0), LearnerConfig(lr=1e-3)),
        "beta": AgentConfig(EnvConfig("Bowling-2017"), CONV, LearnerConfig(lr=1e-3)),
    }
    module, recorder = graph(edge(), edge("beta", "alpha"), agents=agents, T_max=40), Recorder()
    fit(module, played(steps=5), tmp_path, recorder)
    for part in ("_agents.alpha.network.trunk", "_agents.beta.network.distill_head", "_transfers.beta-alpha.alignment"):
        assert len(recorder.changed_at(part)) >= 3, part


# Rollouts with further views


def stacked(make_pool: MakePool, **options: object) -> Pool:
    return make_pool(toy("Counting"), others={STACKED: PAIR}, **options)


def check_stacks(rollouts: list[Rollout]) -> None:
    """Row t is the observation before it, or itself where an episode begins, and itself."""
    before: torch.Tensor | None = None
    for rollout in rollouts:
        seen = rollout.views[STACKED]
        for t in range(rollout.steps + 1):
            for b in range(rollout.copies):
                now = rollout.obs[t, b]
                last = rollout.obs[t - 1, b] if t else now if before is None else before[b]
                last = now if rollout.resets[t, b] else last
                assert torch.equal(seen[t, b], torch.cat([last, now])), (t, b)
        before = rollout.obs[-2]


def test_a_rollout_has_every_row_through_the_other_view(make_pool: MakePool) -> None:
    rollouts = take(started(stacked(make_pool)), 6)
    check_stacks(rollouts)
    plain = take(started(make_pool(toy("Counting"))), 6)
    assert {d.partition(": ")[2] for d in differences(rollouts, plain)} == {"views"}  # and nothing else changed


def test_rollouts_are_selected_joined_moved_and_checked_with_their_views(make_pool: MakePool) -> None:
    rollouts = take(started(stacked(make_pool)), 3)
    check_stacks([join(rollouts)])
    assert torch.equal(rollouts[0].select(slice(1, 2)).views[STACKED], rollouts[0].views[STACKED][:, 1:])
    assert rollouts[0].to("meta").views[STACKED].device.type == "meta"
    broken = rollouts[0].select(slice(0, 2))
    broken.views[STACKED] = broken.views[STACKED][1:]  # type: ignore[index]
    with pytest.raises(ValueError, match=r"rollout.views\[View\(.*stack=2.*must be .* of shape"):
        broken.check()


def test_a_resumed_stream_has_the_same_views_bit_for_bit(make_pool: MakePool) -> None:
    """With a stack of the agent's own, too: CartPole, whose snapshots replay an episode."""
    env = EnvConfig("CartPole-v1", view=STACKED, max_episode_steps=9)
    spec, other = describe(env), {View(stack=3): describe(EnvConfig("CartPole-v1", view=View(stack=3)))}
    network = make_network(spec=spec)
    pool = started(make_pool(env, spec, others=other, deterministic=True), network)
    take(pool, 3)
    state = pool.state_dict()
    expected = take(pool, 4)
    resumed = make_pool(env, spec, others=other, deterministic=True)
    resumed.load_state_dict(state)
    assert differences(take(started(resumed, network), 4), expected) == []
