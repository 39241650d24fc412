"""The command ``import``: what it stores, what it refuses, and how it proves what it made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import MODULE, Run, build, edge, environment, pole, run, tiny, write
from import_command import DATA, Import, imports

from cdrl_pl.agents.certificate import load_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.cli import importing as command
from cdrl_pl.envs import EnvConfig, View
from cdrl_pl.evaluation.score import Score
from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.importing.proof import Proof, causes, temperature_for
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.importing.task import as_its_library, checked, read_task
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

__all__ = ["build", "imports", "run"]


def test_a_policy_becomes_a_teacher_that_plays_and_teaches(imports: Import, tmp_path: Path, run: Run) -> None:
    options = ("--env", "{id: CartPole-v1, max_episode_steps: 100}", "--episodes", 4, "--expect", 100)
    code, out, err = imports("sb3", DATA / "ppo.zip", "--out", "teachers/pole", *options)
    assert code == 0 and "stored teachers/pole: sampled 100.00, greedy 100.00" in out
    assert "PPO, A2C or MaskablePPO of stable-baselines3 2.9.2" in err
    certificate, _ = load_certificate("teachers/pole")
    imported = certificate.training["imported"]
    assert {name: imported[name] for name in ("format", "version", "file", "expected")} == {
        "format": "sb3", "version": "2.9.2", "file": "ppo.zip", "expected": 100.0
    }  # fmt: skip
    assert len(imported["sha256"]) == 64 and "forced" not in imported
    assert certificate.training["env_steps"] == read_sb3(DATA / "ppo.zip").env_steps
    assert certificate.evaluation["sampled"].episodes == 4
    played = run("test", "--teacher", "teachers/pole", "--episodes", "4")
    assert played.model.evaluator.scores["teacher"]["greedy"].mean == 100.0
    transfer = {"teacher": "expert", "student": "pole", "T1": 40, "T2": 80}
    agents = {"expert": {"certificate": "teachers/pole"}, "pole": pole()}
    assert run("fit", "--config", write(tmp_path / "c.yaml", tiny(transfers=[transfer], **agents))).model.clock >= 120


def test_a_teacher_starts_students_has_stand_ins_and_is_shown(imports: Import, tmp_path: Path, build: Run) -> None:
    task = "{id: CartPole-v1, max_episode_steps: 50}"
    code, _, _ = imports("sb3", DATA / "ppo.zip", "--out", "expert", "--env", task, "--episodes", 2, "--expect", 50)
    assert code == 0
    begun = {"env": {"id": "CartPole-v1"}, "init": "expert"}
    agents = {"alpha": {"certificate": "expert"}, "beta": pole(), "begun": begun}
    for control in ("random", "shuffled", "lagged"):
        config = write(tmp_path / f"{control}.yaml", tiny(transfers=[edge(control=control)], **agents))
        module = build("fit", "--config", config).model
        network, theirs = module.agents["begun"].network, read_sb3(DATA / "ppo.zip").weights
        assert all(torch.equal(network.state_dict()[name], theirs[name]) for name in theirs)
        assert module.transfers[0].config.control == control
    assert build("predict", "--teacher", "expert").model.agents["teacher"].game == "CartPole-v1"


def test_one_that_was_made_wrong_is_not_stored_but_by_force(imports: Import) -> None:
    told = ("sb3", DATA / "normalised.zip", "--env", "CartPole-v1", "--episodes", 8, "--out", "wrong")
    for more, reason in (((), "no better than random actions"), (("--expect", 500), "500 was expected")):
        code, out, err = imports(*told, *more)
        assert code == 1 and reason in err and "--statistics" in err and "stored wrong" not in out
        assert not Path("wrong").exists()
    code, out, err = imports(*told, "--force")
    assert code == 0 and "it plays too badly" in err and "stored wrong" in out
    assert "no better than random" in load_certificate("wrong")[0].training["imported"]["forced"]
    with pytest.warns(UserWarning, match="wrong was imported by force: .* no better than random"):
        CertificatedAgent("wrong")
    code, out, _ = imports(*told[:-1], "right", "--statistics", DATA / "normalised_statistics.npz", "--expect", 500)
    assert code == 0 and "greedy 500.00" in out
    certificate, weights = load_certificate("right")
    assert certificate.network.normalise
    with np.load(DATA / "normalised_statistics.npz") as file:
        np.testing.assert_allclose(weights["normaliser.mean"], file["mean"], rtol=1e-6)


def test_a_q_network_gets_a_temperature(imports: Import) -> None:
    told = ("sb3", DATA / "dqn.zip", "--env", "CartPole-v1", "--episodes", 8)
    code, _, err = imports(*told, "--out", "measured")
    assert code == 0 and "Q-values divided by the temperature" in err
    code, _, _ = imports(*told, "--out", "given", "--temperature", 2.0)
    assert code == 0
    heads = {}
    for name in ("measured", "given"):
        certificate, weights = load_certificate(name)
        heads[name] = weights["policy_head.weight"] * certificate.training["imported"]["temperature"]
    torch.testing.assert_close(heads["measured"], heads["given"])
    agent = CertificatedAgent("measured")
    cold = temperature_for(agent.network, agent.env, 0)  # of what has been divided already
    assert cold == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "CartPole-v1"], "--out is missing; an import needs it"),
        (["--out", "x"], "--env is missing; an import needs it"),
        (["--env", "CartPole-v9", "--out", "x"], "env.id is 'CartPole-v9', which is not known"),
        (["--env", "{frame_skip: 4}", "--out", "x"], "it must be an id, or a mapping of env's options with an id"),
        (["--env", "{id: CartPole-v1, speed: 4}", "--out", "x"], "--env: env has no speed"),
        (["--env", "{id: CartPole-v1, noop_max: many}", "--out", "x"], "--env: env.noop_max is 'many'"),
        (["--env", "{id: [}", "--out", "x"], "--env is no YAML"),
        (["--env", "task.yaml", "--out", "x"], "--env is 'task.yaml', which cannot be read"),
        (["--env", "Acrobot-v1", "--out", "x"], "the policy reads observations of shape (4,), Acrobot-v1 gives (6,)"),
        (["--env", "CartPole-v1", "--out", "x", "--episodes", "1"], "--episodes is 1; it must be 2 or more"),
        (["--env", "CartPole-v1", "--out", "x", "--seed", "-1"], "--seed is -1; it must be"),
        (["--env", "CartPole-v1", "--out", "x", "--expect", "nan"], "--expect is nan; it must be a number"),
        (["--env", "CartPole-v1", "--out", "x", "--temperature", "0"], "--temperature is 0.0; it must be above 0"),
        (["--env", "CartPole-v1", "--out", "x", "--graph", "{}"], "--graph is '{}', but the format is sb3"),
        (["--env", "CartPole-v1", "--out", "x", "--temperature", "1"], "ppo.zip has no Q-values; leave it out"),
        (["--env", "CartPole-v1", "--out", "x", "--statistics", "none.npz"], "none.npz cannot be read: No such file"),
        (["--env", "CartPole-v1", "--out", "there"], "--out is 'there', where there is a teacher already"),
        (["--env", "CartPole-v1", "--out", "x", "--tempreature", "1"], "there is no option --tempreature"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_played(
    imports: Import, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], said: str
) -> None:
    monkeypatch.setattr(command, "evaluate", None)
    Path("there").mkdir()
    Path("there/certificate.json").write_text("{}")
    code, _, err = imports("sb3", DATA / "ppo.zip", *words)
    first, last = err.strip().splitlines()
    assert code == 2 and first.startswith("error: ") and said in first
    assert last == "python -m cdrl_pl import --help lists every option"


def test_what_is_told_to_end_stores_nothing(imports: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(*arguments: Any, interrupted: Callable[[], bool], **options: Any) -> Score:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()
        raise command.Stopped

    monkeypatch.setattr(command, "evaluate", play)
    code, _, err = imports("sb3", DATA / "ppo.zip", "--env", "CartPole-v1", "--out", "x")
    assert code == 143 and "nothing is stored" in err and not Path("x").exists()


@pytest.mark.slow
def test_the_whole_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    import subprocess

    shutil.copy(DATA / "a2c.zip", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"mean_reward": 500.0}))
    words = ("import", "sb3", "a2c.zip", "--env", "CartPole-v1", "--out", "t", "--episodes", "4")
    ended = subprocess.run(
        [*MODULE, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert ended.returncode in (0, 1), ended.stderr
    assert (ended.returncode == 0) == (tmp_path / "t" / "certificate.json").exists()
    assert ended.returncode == 0 or "500 was expected" in ended.stderr


# Parts


def test_a_task_is_an_id_a_mapping_or_a_file(tmp_path: Path) -> None:
    assert read_task("CartPole-v1") == EnvConfig("CartPole-v1")
    wanted = EnvConfig("CartPole-v1", actions=(1, 0), view=View(stack=2))
    assert read_task("{id: CartPole-v1, actions: [1, 0], view: {stack: 2}}") == wanted
    (tmp_path / "task.yaml").write_text("id: CartPole-v1\nactions: [1, 0]\nview:\n  stack: 2\n")
    assert read_task(str(tmp_path / "task.yaml")) == wanted


NATURE = NetworkConfig("nature", lstm=0)
PICTURES = ImportedPolicy(NATURE, (4, 84, 84), 6, PolicyNetwork(NATURE, (4, 84, 84), 6).state_dict())


def test_atari_is_seen_as_the_fields_wrappers_show_it_but_for_what_was_named() -> None:
    env, filled = as_its_library(EnvConfig("PongNoFrameskip-v4"), PICTURES)
    seen = View(size=84, crop=(0, 210), stack=4, maximum=True)
    assert filled == {"view": seen, "frame_skip": 4, "fire_on_reset": True}
    assert env == EnvConfig("PongNoFrameskip-v4", **filled)
    assert checked(env, PICTURES)[0].obs_shape == (4, 84, 84)
    _, filled = as_its_library(EnvConfig("ALE/Pong-v5"), PICTURES)  # which has a skip of its own
    assert filled == {"view": seen, "fire_on_reset": True}
    own = EnvConfig("PongNoFrameskip-v4", view=View(size=84, stack=4), frame_skip=2, fire_on_reset=True)
    assert as_its_library(own, PICTURES) == (own, {})
    vector = replace(PICTURES, obs_shape=(4,))
    assert as_its_library(EnvConfig("CartPole-v1"), vector) == (EnvConfig("CartPole-v1"), {})


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (View(size=84, crop=(0, 210)), "gives (1, 84, 84); env.view.stack 4 reads as many together"),
        (View(size=42, stack=4), "gives (4, 42, 42); env.view.size [84, 84] makes them so large"),
    ],
)
def test_another_view_is_named(view: View, said: str) -> None:
    with pytest.raises(ValueError, match="reads observations of shape") as refused:
        checked(EnvConfig("ALE/Pong-v5", view=view), PICTURES)
    assert said in str(refused.value)


def test_pictures_of_as_many_features_are_read_too() -> None:
    for side in (84, 87):
        spec, policy = checked(EnvConfig("ALE/Pong-v5", view=View(size=side, stack=4)), PICTURES)
        assert spec.obs_shape == policy.obs_shape == (4, side, side)
        assert policy.build().obs_shape == (4, side, side)


def score(mean: float, std: float = 1.0, episodes: int = 101, policy: str = "greedy") -> Score:
    return Score(episodes, mean, std, 10.0, (mean,) * episodes, policy, 0, 0)


@pytest.mark.parametrize(
    ("best", "expected", "short"),
    [
        (18.7, 20.5, False),  # a tenth of what lies between -20.5 and 20.5 is 4.1
        (16.3, 20.5, False),
        (16.1, 20.5, True),
        (-20.0, -20.5, False),
        (-20.25, None, True),  # two standard errors of both: 0.28
        (-20.2, None, False),
    ],
)
def test_how_far_below_is_far_below(best: float, expected: float | None, short: bool) -> None:
    proof = Proof(score(best - 3, policy="sampled"), score(best), score(-20.5), expected)
    assert proof.best.mean == best and bool(proof.shortfall) == short


def test_the_causes_are_of_what_was_imported() -> None:
    env = EnvConfig("PongNoFrameskip-v4", frame_skip=4, view=View(size=84, stack=4), fire_on_reset=True)
    assert "stack 4" in (words := "\n".join(causes(PICTURES, env)))
    assert "frame_skip is 4" in words and "fire_on_reset True" in words and "statistics" not in words
    vector = replace(PICTURES, obs_shape=(4,), network=NetworkConfig("mlp", lstm=0))
    assert "--statistics" in (words := "\n".join(causes(vector, EnvConfig("CartPole-v1")))) and "wrappers" in words
