"""The root module through the trainer: who learns when, and from what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from collaborations import ALPHA, BETA, PHASES, F, equal, student_of
from graphs import (
    FixedData,
    Recorder,
    State,
    agent,
    copy_of,
    fit,
    graph,
    new_network,
    played,
    random_batch,
    spread,
    step_once,
    store,
    transfer,
)
from torch.testing import assert_close
from wide_cartpole import WIDE

from cdrl_pl import distributions, losses
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.types import Rollout, TeacherOutput

# Who learns when


class Watch(Recorder):
    """Also keeps what the workers and the learner said of each action before the learner's step."""

    def __init__(self) -> None:
        super().__init__()
        self.log_probs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.lags: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: dict[str, Rollout], index: int) -> None:
        super().on_train_batch_start(trainer, module, batch, index)
        for name, rollout in batch.rollouts.items():
            with torch.no_grad():
                logits = module.agents[name](rollout).logits[: rollout.steps]
            self.log_probs.append((rollout.log_probs.clone(), distributions.log_prob(logits, rollout.actions)))
            self.lags.append(rollout.policy_lag)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """A live five-action teacher and a two-action student on real rollouts, across T1, T2 and stop."""
    module, watch = graph(transfer(**PHASES)), Watch()
    for found in module.agents.values():
        spread(found.network)
    fit(module, played(), tmp_path_factory.mktemp("run"), watch)
    return watch


def test_f_changes_from_t1_to_stop_only(watched: Watch) -> None:
    assert watched.changed_at(F) == list(range(30, 90, 10))


def test_the_distillation_layer_changes_from_t2_to_stop_only(watched: Watch) -> None:
    assert watched.changed_at(BETA + "distill_head") == list(range(60, 90, 10))


@pytest.mark.parametrize("part", ["trunk", "lstm", "policy_head", "value_head"])
@pytest.mark.parametrize("name", [ALPHA, BETA])
def test_both_agents_reinforce_all_the_time(watched: Watch, name: str, part: str) -> None:
    assert watched.changed_at(name + part) == list(range(0, 120, 10))


def test_the_distillation_layer_of_an_agent_that_nobody_teaches_never_changes(watched: Watch) -> None:
    assert watched.changed_at(ALPHA + "distill_head") == []


def test_the_learner_reads_a_rollout_as_the_worker_played_it(watched: Watch) -> None:
    """The same policy, memory and resets: the probability of every action comes out the same."""
    assert watched.lags == [0] * 24
    for theirs, ours in watched.log_probs:
        assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_a_certificated_teacher_never_changes(tmp_path: Path, preset: str) -> None:
    store(tmp_path / "expert", new_network(3, actions=5), WIDE)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module, recorder = graph(transfer(**PHASES), agents=agents, preset=preset), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(ALPHA) == []
    assert recorder.changed_at(F) == list(range(30, 90, 10))  # while the others learn
    assert recorder.changed_at(BETA + "distill_head") == list(range(60, 90, 10))


def test_a_frozen_student_is_aligned_to_and_not_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The offline protocol: F learns between two experts; and it is said that nothing else does."""
    for i, name in enumerate(("alpha", "beta")):
        store(tmp_path / name, new_network(i, actions=(5, 2)[i]), (WIDE, "CartPole-v1")[i])
    agents = {name: AgentConfig(certificate=str(tmp_path / name)) for name in ("alpha", "beta")}
    module, recorder = graph(transfer(T2=60), agents=agents), Recorder()
    assert list(module.playing) == ["beta"]
    with caplog.at_level("INFO"):
        fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(F) == list(range(0, 120, 10))
    assert recorder.changed_at(BETA) == recorder.changed_at(ALPHA) == []
    assert "beta is certificated: alpha-beta aligns to it, and past T2 distils nothing into it" in caplog.text


# From what


def final_weights(folder: Path, *transfers: Any, T_max: int = 60, **options: Any) -> State:
    module = graph(*transfers, T_max=T_max, **options)
    fit(module, FixedData(*(random_batch(module, seed) for seed in range(3))), folder)
    return copy_of(module)


def test_a_teacher_learns_as_if_it_taught_nobody(tmp_path: Path) -> None:
    assert equal(final_weights(tmp_path, transfer()), final_weights(tmp_path), ALPHA)


def test_before_t2_a_student_learns_as_if_it_had_no_teacher(tmp_path: Path) -> None:
    with_transfer = final_weights(tmp_path, transfer(T1=0, T2=60))
    assert equal(with_transfer, final_weights(tmp_path), BETA)


def test_after_t2_a_student_learns_otherwise(tmp_path: Path) -> None:
    """The control of the test above."""
    with_transfer = final_weights(tmp_path, transfer(T1=0, T2=30))
    assert not equal(with_transfer, final_weights(tmp_path), BETA + "trunk")


def test_a_transfer_of_weight_0_teaches_nothing(tmp_path: Path) -> None:
    assert equal(final_weights(tmp_path, transfer(weight=0.0)), final_weights(tmp_path), BETA)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_student_follows_the_sum_of_its_reinforcement_and_weighted_distillation_losses(
    tmp_path: Path, weight: float
) -> None:
    """The teacher is certificated and joined by the identity, so every part of the loss can be computed here."""
    expert = new_network(3)
    store(tmp_path / "expert", expert)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent(max_grad_norm=1e6)}
    module = graph(transfer(kind="identity", weight=weight, temperature=2.0), agents=agents)
    network = spread(student_of(module).network, 1)
    rollout = random_batch(module)["beta"]
    output = student_of(module)(rollout)
    total = student_of(module).reinforcement_losses(output, rollout).total
    teacher_logits = expert(rollout.obs, torch.zeros_like(rollout.state), rollout.resets).logits[:5]
    total = total + weight * losses.kl(teacher_logits, output.distill_logits[:5], 2.0).mean(1).sum()
    total.backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    step_once(module, tmp_path, {"beta": rollout})
    found = [p.grad for p in network.parameters() if p.grad is not None]
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_each_small_batch_of_copies_is_taught_what_the_teacher_said_of_them(tmp_path: Path) -> None:
    module = graph(transfer(kind="identity"), agents={"alpha": agent(), "beta": agent(batch_copies=2)})
    (edge,) = module.transfers
    said: list[torch.Tensor] = []
    taught: list[torch.Tensor] = []
    ask, loss = edge.ask, edge.distillation_loss

    def watched_ask(*ends: Any) -> TeacherOutput:
        said.append(ask(*ends).logits)
        return TeacherOutput(said[-1])

    def watched_loss(output: Any, aligned: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        taught.append(aligned.clone())
        return loss(output, aligned)

    edge.ask, edge.distillation_loss = watched_ask, watched_loss  # type: ignore[method-assign]
    step_once(module, tmp_path, random_batch(module, copies=5))
    assert [part.shape[1] for part in taught] == [2, 2, 1]
    assert torch.equal(torch.cat(taught, 1), said[0])


def test_the_gradient_is_clipped_by_its_global_norm(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent(max_grad_norm=0.01)})
    step_once(module, tmp_path)
    gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    assert_close(torch.cat(gradients).norm().item(), 0.01, rtol=1e-3, atol=0.0)
    assert module.run_log.latest["grad_norm/student/beta"] > 0.1  # before the clip


def test_several_teachers_have_an_f_each(tmp_path: Path) -> None:
    agents = {"one": agent(WIDE), "two": agent(), "beta": agent()}
    module, recorder = graph(transfer("one", T1=20, T2=40), transfer("two", T1=30, T2=30), agents=agents), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at("_transfers.one-beta.alignment.") == list(range(20, 120, 10))
    assert recorder.changed_at("_transfers.two-beta.alignment.") == list(range(30, 120, 10))
    assert recorder.changed_at(BETA + "distill_head") == list(range(30, 120, 10))


def test_agents_can_teach_each_other(tmp_path: Path) -> None:
    module, recorder = graph(transfer("alpha", "beta", T2=50), transfer("beta", "alpha", T2=70)), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(BETA + "distill_head") == list(range(50, 120, 10))
    assert recorder.changed_at(ALPHA + "distill_head") == list(range(70, 120, 10))


# A student that only distils (Figure 3a)


def distiller(folder: Path, layer: str = "policy", reinforce: bool = False, **options: Any) -> Collaboration:
    store(folder / "expert", new_network(3))
    agents = {
        "alpha": AgentConfig(certificate=str(folder / "expert")),
        "beta": agent(reinforce=reinforce, lr=2e-2),
    }
    return graph(transfer(kind="identity", layer=layer, **options), agents=agents, T_max=10 * 150, log_every=10)


def test_a_student_that_only_distils_learns_its_teachers_policy(tmp_path: Path) -> None:
    module, found = distiller(tmp_path), []

    class Trace(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, root: Any, *_: Any) -> None:
            found.append(root.run_log.latest["distillation_kl/alpha-beta"])

    fit(module, FixedData(*(random_batch(module, seed) for seed in range(4))), tmp_path, Trace())
    assert sum(found[:4]) / 4 > 0.5
    assert sum(found[-4:]) < 0.1 * sum(found[:4])


def test_a_student_that_only_distils_does_not_see_rewards(tmp_path: Path) -> None:
    weights = []
    for factor in (1.0, -5.0):
        module = distiller(tmp_path)
        module.T_max = 50
        batch = random_batch(module)
        batch["beta"] = replace(batch["beta"], rewards=factor * batch["beta"].rewards)
        fit(module, FixedData(batch), tmp_path)
        weights.append(copy_of(module))
    assert equal(*weights)


def test_a_student_that_only_distils_does_nothing_before_t2(tmp_path: Path) -> None:
    module, recorder = distiller(tmp_path, T2=50), Recorder()
    module.T_max = 100
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(BETA) == list(range(50, 100, 10))
