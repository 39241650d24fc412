"""A certificate and the task it was given on: options that go with it, and modules imported only where trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from graphs import FixedData, agent, fit, graph, random_batch, spread, transfer
from toy_envs import make_network, toy
from wide_cartpole import WIDE

from cdrl_pl.agents.certificate import CERTIFICATE, save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.envs import EnvConfig, EnvError, describe
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.storage.verified import CertificateError
from cdrl_pl.training.graph import AgentConfig

ID = "ScaledToy-v0"


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    """A teacher that was certificated where each decision pays 7."""
    env = toy("Scaled", pay=7.0)
    save_certificate(tmp_path / "scaled", make_network(), env, describe(env), {}, {"env_steps": 3})
    return tmp_path / "scaled"


def pay(env: EnvConfig) -> float:
    score = evaluate(make_network(), env, episodes=4)
    return score.mean / score.mean_length


def test_the_options_of_a_task_go_with_it(scaled: Path) -> None:
    assert pay(CertificatedAgent(scaled, env=EnvConfig(f"toy_envs:{ID}")).env) == 7.0


def test_what_is_given_beside_the_id_holds(scaled: Path) -> None:
    given = EnvConfig(f"toy_envs:{ID}", kwargs={"pay": 2.0}, max_episode_steps=2)
    assert pay(CertificatedAgent(scaled, env=given).env) == 2.0


def test_another_task_has_its_own_options(scaled: Path) -> None:
    assert CertificatedAgent(scaled, env=toy("Counting")).env.kwargs == {}


@pytest.fixture
def unknown(scaled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same where nobody has registered its environment."""
    monkeypatch.delitem(gymnasium.registry, ID)
    return scaled


def test_a_teacher_whose_module_is_not_there_says_which_it_was(unknown: Path) -> None:
    with pytest.raises(
        EnvError, match=rf"{ID} was registered by the module 'toy_envs'.*--trust toy_envs .*toy_envs:{ID}"
    ):
        CertificatedAgent(unknown).check_playable()


def test_the_module_stands_in_the_certificate_for_people_alone(scaled: Path) -> None:
    content: dict[str, Any] = json.loads((scaled / CERTIFICATE).read_text())
    assert content["env"]["id"] == ID and content["training"] == {"env_steps": 3, "module": "toy_envs"}


def test_a_teacher_of_an_unknown_environment_teaches_without_it(unknown: Path, tmp_path: Path) -> None:
    agents = {"alpha": AgentConfig(certificate=str(unknown)), "beta": agent(WIDE)}
    module = graph(transfer(observations="pad"), agents=agents, T_max=20)
    spread(module.agents["beta"].network)
    fit(module, FixedData(random_batch(module)), tmp_path)
    assert module.run_log.latest["distillation_kl/alpha-beta"] > 0
    with pytest.raises(EnvError, match=r"agents.alpha: .*registered by the module"):
        module.setup("test")


def test_a_certificate_that_cannot_be_read_back_is_not_called_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = toy("Scaled")

    def lossy(path: Path, content: bytes) -> None:
        path.write_bytes(bytes(content)[:-1])

    monkeypatch.setattr("cdrl_pl.agents.certificate.write_whole", lossy)
    with pytest.raises(ValueError, match="SHA-256"):
        save_certificate(tmp_path, make_network(), env, describe(env), {}, {})


CLIP = {"gymnasium.wrappers.ClipReward": {"min_reward": 0.0, "max_reward": 0.5}}


def test_wrappers_are_said_in_a_certificate_and_not_imported_unasked(tmp_path: Path) -> None:
    env = EnvConfig("CartPole-v1", wrappers=(CLIP,))
    save_certificate(tmp_path, make_network(spec=describe(env)), env, describe(env), {}, {})
    agent_ = CertificatedAgent(tmp_path)
    assert agent_.env.wrappers == () and agent_.certificate.training["wrappers"] == [CLIP]
    with pytest.raises(EnvError, match=r"CartPole-v1 was played within the wrappers .*ClipReward.*--trust"):
        agent_.check_playable()
    CertificatedAgent(tmp_path, env=env).check_playable()


def test_a_certificate_that_names_wrappers_is_refused(tmp_path: Path) -> None:
    env = EnvConfig("CartPole-v1")
    save_certificate(tmp_path, make_network(spec=describe(env)), env, describe(env), {}, {})
    path = tmp_path / CERTIFICATE
    content = json.loads(path.read_text())
    content["env"]["wrappers"] = ["gymnasium.wrappers.FlattenObservation"]
    path.write_text(json.dumps(content))
    with pytest.raises(CertificateError, match=r"env.wrappers is \('gymnasium.*',\); refused"):
        CertificatedAgent(tmp_path)
