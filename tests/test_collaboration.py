"""The root module through the trainer: who learns when, from what, and what a step must never do."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import (
    HEADS,
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
    random_rollout,
    spread,
    step_once,
    store,
    transfer,
)
from pytorch_lightning.loggers import CSVLogger
from torch.testing import assert_close
from wide_cartpole import WIDE

from cdrl_pl import losses
from cdrl_pl.collaboration import Collaboration
from cdrl_pl.graph import AgentConfig
from cdrl_pl.student import Student
from cdrl_pl.types import Episode, Rollout

F, ALPHA, BETA = "transfers.0.alignment.", "_agents.alpha.network.", "_agents.beta.network."
PHASES = {"T1": 30, "T2": 60, "stop": 90}


def equal(one: State, other: State, prefix: str = "") -> bool:
    keys = [k for k in one if k.startswith(prefix)]
    assert keys
    return all(torch.equal(one[k], other[k]) for k in keys)


def student_of(module: Collaboration, name: str = "beta") -> Student:
    found = module.agents[name]
    assert isinstance(found, Student)
    return found


# Who learns when


class Watch(Recorder):
    """Also keeps what the workers and the learner said of each action before the learner's step."""

    def __init__(self) -> None:
        super().__init__()
        self.log_probs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.lags: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: dict[str, Rollout], index: int) -> None:
        super().on_train_batch_start(trainer, module, batch, index)
        for name, rollout in batch.items():
            with torch.no_grad():
                logits = module.agents[name](rollout).logits[: rollout.steps]
            self.log_probs.append((rollout.log_probs.clone(), losses.log_prob(logits, rollout.actions)))
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


def test_a_frozen_student_is_aligned_to_and_not_trained(tmp_path: Path) -> None:
    """The offline protocol: F learns between two experts."""
    for i, name in enumerate(("alpha", "beta")):
        store(tmp_path / name, new_network(i, actions=(5, 2)[i]), (WIDE, "CartPole-v1")[i])
    agents = {name: AgentConfig(certificate=str(tmp_path / name)) for name in ("alpha", "beta")}
    module, recorder = graph(transfer(T2=60), agents=agents), Recorder()
    assert list(module.playing) == ["beta"]
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(F) == list(range(0, 120, 10))
    assert recorder.changed_at(BETA) == recorder.changed_at(ALPHA) == []


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
    advice = expert(rollout.obs, torch.zeros_like(rollout.state), rollout.resets).logits[:5]
    total = total + weight * losses.kl(advice, output.distill_logits[:5], 2.0).mean(1).sum()
    total.backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    step_once(module, tmp_path, {"beta": rollout})
    found = [p.grad for p in network.parameters() if p.grad is not None]
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_each_small_batch_of_copies_is_taught_what_the_teacher_said_of_them(tmp_path: Path) -> None:
    module = graph(transfer(kind="identity"), agents={"alpha": agent(), "beta": agent(batch_copies=2)})
    (edge,) = module.edges
    said: list[torch.Tensor] = []
    taught: list[torch.Tensor] = []
    advise, loss = edge.advise, edge.distillation_loss

    def watched_advise(rollout: Rollout) -> torch.Tensor:
        said.append(advise(rollout))
        return said[-1]

    def watched_loss(output: Any, aligned: torch.Tensor) -> torch.Tensor:
        taught.append(aligned.clone())
        return loss(output, aligned)

    edge.advise, edge.distillation_loss = watched_advise, watched_loss  # type: ignore[method-assign]
    step_once(module, tmp_path, random_batch(module, copies=5))
    assert [part.shape[1] for part in taught] == [2, 2, 1]
    assert torch.equal(torch.cat(taught, 1), said[0])


def test_the_gradient_is_clipped_by_its_global_norm(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent(max_grad_norm=0.01)})
    step_once(module, tmp_path)
    gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    assert_close(torch.cat(gradients).norm().item(), 0.01, rtol=1e-3, atol=0.0)
    assert module.journal.latest["grad_norm/student/beta"] > 0.1  # before the clip


def test_several_teachers_have_an_f_each(tmp_path: Path) -> None:
    agents = {"one": agent(WIDE), "two": agent(), "beta": agent()}
    module, recorder = graph(transfer("one", T1=20, T2=40), transfer("two", T1=30, T2=30), agents=agents), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(F) == list(range(20, 120, 10))
    assert recorder.changed_at("transfers.1.alignment.") == list(range(30, 120, 10))
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
            found.append(root.journal.latest["distillation_kl/alpha-beta"])

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


# Steps that must not be taken


class Optimizers(Recorder):
    """Also keeps every optimizer's state after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch, index)
        states = [s for o in trainer.optimizers for s in o.state.values()]
        self.moments.append([s[k].clone() for s in states for k in ("step", "exp_avg", "exp_avg_sq")])


def spoilt(batch: dict[str, Rollout], value: float) -> dict[str, Rollout]:
    """Beta's rewards are not finite."""
    return {**batch, "beta": replace(batch["beta"], rewards=torch.full_like(batch["beta"].rewards, value))}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_fault_26_a_loss_that_is_not_finite_steps_nothing(tmp_path: Path, value: float) -> None:
    module, seen = graph(agents={"beta": agent()}, T_max=30), Optimizers()
    good = random_batch(module)
    fit(module, FixedData(good, spoilt(good, value), good), tmp_path, seen)
    assert equal(seen.weights[1], seen.weights[2])
    assert all(torch.equal(a, b) for a, b in zip(seen.moments[0], seen.moments[1], strict=True))
    assert not equal(seen.weights[2], seen.weights[3])  # and the next good rollout is learned from


def test_fault_26_a_poisoned_weight_spreads_no_further(tmp_path: Path) -> None:
    module, seen = graph(agents={"beta": agent()}, T_max=20), Optimizers()
    with torch.no_grad():
        student_of(module).network.policy_head.weight[0, 0] = float("nan")
    before = copy_of(module)
    fit(module, FixedData(random_batch(module)), tmp_path, seen)
    assert all(torch.equal(v.nan_to_num(7.0), before[k].nan_to_num(7.0)) for k, v in seen.weights[-1].items())
    assert seen.moments[-1] and not any(moment.any() for moment in seen.moments[-1])


def test_fault_26_a_teacher_that_gives_nan_trains_nothing(tmp_path: Path) -> None:
    expert = new_network(3, actions=5)
    with torch.no_grad():
        expert.policy_head.bias[1] = float("nan")
    store(tmp_path / "expert", expert, WIDE)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module, recorder = graph(transfer(T1=30, T2=60), agents=agents), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(F) == []
    assert recorder.changed_at(BETA) == list(range(0, 60, 10))  # until the joint loss has the teacher's part


def test_fault_26_one_agents_bad_rollout_does_not_stop_the_other(tmp_path: Path) -> None:
    module, recorder = graph(T_max=20), Recorder()
    fit(module, FixedData(spoilt(random_batch(module), float("nan"))), tmp_path, recorder)
    assert recorder.changed_at(ALPHA) == [0, 10]
    assert recorder.changed_at(BETA) == []


def test_fault_26_skipped_steps_are_counted(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent()}, T_max=40, log_every=40)
    good = random_batch(module)
    bad = spoilt(good, float("nan"))
    fit(module, FixedData(good, bad, bad, good), tmp_path)
    assert module.journal.latest["skipped_steps/student/beta"] == 2


def test_steps_that_are_taken_are_not_counted_as_skipped(tmp_path: Path) -> None:
    module = graph(transfer())
    step_once(module, tmp_path)
    assert not any(name.startswith("skipped_steps") and value for name, value in module.journal.latest.items())


# Clocks


def far_along(start: int, **options: Any) -> Collaboration:
    """A run at T = ``start``: one decision per rollout, T1, T2 and stop at the second, third and fifth from here."""
    schedule = {"T1": start + 1, "T2": start + 2, "stop": start + 4}
    module = graph(transfer(**schedule), T_max=start + 6, log_every=1, **options)
    module.env_steps = dict.fromkeys(module.env_steps, start)
    return module


FAR = [2**24, 2**31 - 3, 2**33]


@pytest.mark.parametrize("start", FAR)
def test_fault_30_the_schedule_is_exact_far_along(tmp_path: Path, start: int) -> None:
    module, recorder = far_along(start), Recorder()
    fit(module, FixedData(random_batch(module, steps=1, copies=1)), tmp_path, recorder)
    assert recorder.starts == list(range(start, start + 6))
    assert recorder.changed_at(F) == [start + 1, start + 2, start + 3]
    assert recorder.changed_at(BETA + "distill_head") == [start + 2, start + 3]


@pytest.mark.parametrize("start", FAR)
def test_fault_30_clocks_are_exact_ints_in_module_and_checkpoint(tmp_path: Path, start: int) -> None:
    module = far_along(start)
    trainer = fit(module, FixedData(random_batch(module, steps=1, copies=1)), tmp_path)
    trainer.save_checkpoint(tmp_path / "far.ckpt")
    saved = torch.load(tmp_path / "far.ckpt", weights_only=True)["collaboration"]["env_steps"]
    for clocks in (module.env_steps, saved):
        assert clocks == {"alpha": start + 6, "beta": start + 6}
        assert all(type(value) is int for value in clocks.values())


@pytest.mark.parametrize("start", FAR)
def test_fault_30_clocks_are_exact_in_the_log(tmp_path: Path, start: int) -> None:
    module, logger = far_along(start), CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fit(module, FixedData(random_batch(module, steps=1, copies=1)), tmp_path, logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    expected = [str(start + i) for i in range(1, 7)]
    assert [row["step"] for row in rows] == [row["env_steps"] for row in rows] == expected


def test_the_clock_counts_decisions_of_all_copies_and_the_run_ends_at_t_max(tmp_path: Path) -> None:
    module = graph(T_max=100)
    trainer = fit(module, FixedData(random_batch(module, steps=7, copies=3)), tmp_path)
    assert module.env_steps == {"alpha": 105, "beta": 105}  # the first multiple of 21 past 100
    assert module.policy_version == 5 and trainer.fit_loop.total_batch_idx == 4


# Returns and logs


def test_the_reported_return_is_the_mean_of_the_last_window(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent()}, T_max=50, window=3)
    batches = []
    for ret in range(5):
        rollout = replace(random_rollout(), episodes=(Episode(float(ret), 4 + ret),))
        batches.append({"beta": rollout})
    fit(module, FixedData(*batches), tmp_path)
    assert module.journal.latest["return/beta"] == 3.0 and module.journal.latest["length/beta"] == 7.0
    assert module.journal.latest["episodes/beta"] == 5


def test_there_is_no_return_before_the_first_episode(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent()})
    assert module.journal.mean_return("beta") is None
    step_once(module, tmp_path, {"beta": replace(random_rollout(), episodes=())})
    assert "return/beta" not in module.journal.latest


def test_a_line_is_logged_every_log_every_decisions_and_at_the_end(tmp_path: Path) -> None:
    module, logger = graph(agents={"beta": agent()}, T_max=100, log_every=30), CSVLogger(tmp_path)
    fit(module, FixedData(random_batch(module)), tmp_path, logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["30", "60", "90", "100"]


def test_the_phases_for_people_follow_the_clock() -> None:
    module = graph(transfer(**PHASES))
    seen = []
    for clock in (29, 30, 60, 90):
        module.env_steps["beta"] = clock
        seen.append(module.phases()["alpha-beta"])
    assert seen == ["reinforce", "align", "distil", "stopped"]


# Optimizers


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", ["student/alpha", "student/beta", "align/alpha-beta"]),
        ("code", ["student/alpha", "student/beta", "align/alpha-beta", "distill/alpha-beta"]),
    ],
)
def test_all_optimizers_exist_from_the_start_in_a_fixed_order(preset: str, expected: list[str]) -> None:
    module = graph(transfer(**PHASES), preset=preset)
    optimizers = module.configure_optimizers()
    owners = {"student/alpha": "alpha", "student/beta": "beta", "distill/alpha-beta": "beta"}
    for name, optimizer in zip(expected, optimizers, strict=True):
        owner = module.agents[owners[name]].network if name in owners else module.edges[0].alignment
        assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in owner.parameters()}


def test_no_parameter_is_stored_twice() -> None:
    """The teacher reads its agent's network and does not own it."""
    module = graph(transfer(), transfer("beta", "alpha"))
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(module.parameters())) and not any(".teacher." in name for name in names)


def test_no_parameter_is_frozen_before_its_phase() -> None:
    assert all(p.requires_grad for p in graph(transfer(**PHASES)).parameters())


# Graphs that cannot be


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([transfer("gamma", "beta")], r"transfers\[0\].teacher is 'gamma'; it must be one of alpha, beta"),
        ([transfer(), transfer("alpha", "gamma")], r"transfers\[1\].student is 'gamma'; .* alpha, beta"),
        ([transfer(), transfer("beta", "alpha"), transfer()], r"transfers\[2\]: there is already .*alpha-beta"),
    ],
)
def test_fault_28_an_impossible_edge_is_refused(edges: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph(*edges)


@pytest.mark.parametrize("option", ["T_max", "log_every", "window"])
def test_fault_28_a_run_setting_below_1_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"model.{option} is 0; it must be 1 or more"):
        graph(**{option: 0})


def test_fault_28_a_graph_without_agents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.agents is empty"):
        Collaboration({})


def test_fault_28_an_agent_needs_a_task() -> None:
    with pytest.raises(ValueError, match=r"agents.beta needs an env or a certificate"):
        graph(agents={"beta": AgentConfig()})


def test_fault_28_a_graph_in_which_nothing_learns_is_refused(tmp_path: Path) -> None:
    store(tmp_path, new_network(3))
    with pytest.raises(ValueError, match="nothing would be trained"):
        graph(agents={"alpha": AgentConfig(certificate=str(tmp_path))}).setup("fit")


def test_a_graph_in_which_nothing_learns_can_be_evaluated(tmp_path: Path) -> None:
    store(tmp_path, new_network(3))
    module = graph(agents={"alpha": AgentConfig(certificate=str(tmp_path))})
    module.setup("test")
    assert list(module.agents) == ["alpha"] and not module.playing


def test_fault_28_an_unknown_environment_is_refused_by_its_agents_name() -> None:
    with pytest.raises(ValueError, match=r"agents.beta: env.id is 'CartPole-v11'.*nearest.*'CartPole-v1'"):
        graph(agents={"beta": agent("CartPole-v11")})


def test_heads_are_those_that_these_tests_name() -> None:
    names = {name for name, _ in graph(agents={"beta": agent()}).agents["beta"].network.named_children()}
    assert names == {"trunk", "lstm", *HEADS}
