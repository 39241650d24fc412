"""Controls of a transfer, each against what it must be, and observation adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import (
    TINY,
    FixedData,
    Recorder,
    agent,
    copy_of,
    fit,
    graph,
    logits_on,
    new_network,
    parts_changed,
    random_batch,
    random_rollout,
    spread,
    step_once,
    store,
    transfer,
)
from resuming import SaveAt, differences, final_state
from torch import Tensor
from torch.testing import assert_close
from transfers import TeacherOf
from wide_cartpole import CARTPOLE, WIDE

from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.observations import adapt
from cdrl_pl.transfer.transfer import Transfer

CONTROLS = ("random", "shuffled", "constant", "lagged", "own")


def make(folder: Path, seed: int = 0, T_max: int = 120, game: str = WIDE, **options: Any) -> Collaboration:
    """A certificated teacher of five actions (unless another game is given), and a student of two."""
    store(folder / "expert", new_network(3, actions=5 if game == WIDE else 2), game)
    agents = {"alpha": AgentConfig(certificate=str(folder / "expert")), "beta": agent()}
    module = graph(transfer(**options), agents=agents, seed=seed, T_max=T_max)
    spread(module.agents["beta"].network)
    return module


def edge(module: Collaboration) -> Transfer:
    (found,) = module.transfers
    return found


def teacher_logits(module: Collaboration, seed: int = 0) -> Tensor:
    return logits_on(module, random_rollout(seed))


# What each control advises


def test_shuffled_advice_is_the_teachers_rows_in_another_order(tmp_path: Path) -> None:
    plain, mixed = (
        teacher_logits(make(tmp_path)).flatten(0, 1),
        teacher_logits(make(tmp_path, control="shuffled")).flatten(0, 1),
    )
    assert not torch.equal(mixed, plain)
    assert sorted(mixed.tolist()) == sorted(plain.tolist())


def test_shuffled_advice_is_shuffled_anew_each_time_and_by_the_runs_seed(tmp_path: Path) -> None:
    def orders(seed: int) -> list[list[list[float]]]:
        module = make(tmp_path, seed=seed, control="shuffled")
        found = []
        for _ in range(2):
            edge(module).teacher.states.clear()
            found.append(teacher_logits(module).flatten(0, 1).tolist())
        return found

    assert orders(0) == orders(0) != orders(1)
    assert orders(0)[0] != orders(0)[1]


@pytest.mark.parametrize(("control", "says_something"), [("none", True), ("constant", False)])
def test_the_log_says_how_much_advice_is_about_the_state(control: str, says_something: bool, tmp_path: Path) -> None:
    module = make(tmp_path, control=control, T1=0, T2=0)
    fit(module, FixedData(random_batch(module)), tmp_path)
    latest = module.run_log.latest
    for what in ("teacher", "aligned"):
        assert (latest[f"state_information/alpha-beta/{what}"] > 1e-6) == says_something
    assert latest["state_information/beta"] > 1e-6


def test_constant_advice_is_the_same_in_every_state(tmp_path: Path) -> None:
    assert torch.equal(teacher_logits(make(tmp_path, control="constant")), torch.zeros(5, 2, 5))


def test_a_random_teacher_has_the_teachers_structure_and_other_weights(tmp_path: Path) -> None:
    module = make(tmp_path, control="random")
    theirs, alpha = edge(module).control_network, module.agents["alpha"].network
    assert theirs is not None
    assert theirs.config == alpha.config and theirs.num_actions == 5
    assert parts_changed(copy_of(alpha), copy_of(theirs)) == {
        "trunk",
        "lstm",
        "policy_head",
        "value_head",
        "distill_head",
    }
    assert not any(p.requires_grad for p in theirs.parameters())
    other = edge(make(tmp_path, seed=1, control="random")).control_network
    again = edge(make(tmp_path, control="random")).control_network
    assert not torch.equal(theirs.policy_head.weight, other.policy_head.weight)
    assert torch.equal(theirs.policy_head.weight, again.policy_head.weight)


def test_a_random_teacher_says_different_things_in_different_states(tmp_path: Path) -> None:
    """Unlike constant control."""
    assert teacher_logits(make(tmp_path, control="random")).flatten(0, 1).std(0).max() > 0.01


@pytest.mark.parametrize("control", ["none", *CONTROLS])
def test_no_control_changes_what_the_student_starts_from(control: Any, tmp_path: Path) -> None:
    weights = copy_of(make(tmp_path, control=control).agents["beta"])
    assert all(torch.equal(v, weights[k]) for k, v in copy_of(make(tmp_path).agents["beta"]).items())


@pytest.mark.parametrize("control", ["random", "shuffled", "constant"])
def test_no_control_changes_what_the_alignment_starts_from(control: Any, tmp_path: Path) -> None:
    """Where it is of the same size: drawing the control's own numbers leaves those of the run alone."""
    weights = copy_of(edge(make(tmp_path, control=control)).alignment)
    assert all(torch.equal(v, weights[k]) for k, v in copy_of(edge(make(tmp_path)).alignment).items())


def test_self_distillation_advises_what_the_student_says_now(tmp_path: Path) -> None:
    module = make(tmp_path, control="own")
    for _ in range(2):
        edge(module).teacher.states.clear()
        assert torch.equal(teacher_logits(module), TeacherOf(module.agents["beta"].network)(random_rollout()))
        step_once(module, tmp_path)


def test_lagged_advice_is_the_students_of_the_last_multiple_of_its_lag(tmp_path: Path) -> None:
    """Rollouts of 10 decisions, a lag of 40: the copy is renewed after the 4th, the 8th and the 12th."""
    module, recorder = make(tmp_path, control="lagged", lag=40), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at("_transfers.alpha-beta.control_network.") == [30, 70, 110]
    for before, now in ((4, 4), (7, 4), (8, 8), (12, 12)):
        copied = {
            k.removeprefix("_transfers.alpha-beta.control_network."): v
            for k, v in recorder.weights[before].items()
            if "control_network" in k
        }
        student = {k.removeprefix("_agents.beta.network."): v for k, v in recorder.weights[now].items()}
        assert copied and all(torch.equal(v, student[k]) for k, v in copied.items())


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_distils_other_things_than_the_teacher(control: Any, tmp_path: Path) -> None:
    weights = []
    for other in ("none", control):
        module = make(tmp_path, control=other)
        step_once(module, tmp_path)
        weights.append(copy_of(module.agents["beta"]))
    assert parts_changed(*weights, "network.") >= {"trunk", "lstm"}


@pytest.mark.parametrize("control", ["own", "lagged"])
def test_f_maps_from_the_students_actions_where_the_student_is_the_teacher(control: Any, tmp_path: Path) -> None:
    module = make(tmp_path, control=control)
    assert teacher_logits(module).shape == (5, 2, 2) and edge(module).config.teaching_agent == "beta"


# The same compute with no transfer


@pytest.mark.parametrize(("layer", "game"), [("distillation", WIDE), ("policy", CARTPOLE)])
def test_a_weight_of_0_gives_the_gradients_of_no_transfer_bit_for_bit(layer: Any, game: str, tmp_path: Path) -> None:
    """Through several rollouts, with everything computed and F trained."""
    none, idle = make(tmp_path, T2=10**6, game=game), make(tmp_path, weight=0.0, layer=layer, game=game)
    gradients: list[list[Tensor | None]] = []
    weights = []
    for module in (none, idle):
        recorder = Recorder()
        fit(module, FixedData(random_batch(module)), tmp_path, recorder)
        gradients.append([p.grad for p in module.agents["beta"].network.parameters()])
        weights.append(recorder.weights)
    for one, other in zip(*gradients, strict=True):
        pair = [torch.zeros(()) if gradient is None else gradient for gradient in (one, other)]
        assert torch.equal(*torch.broadcast_tensors(*pair))
    assert not any(parts_changed(one, other, "_agents.beta.") for one, other in zip(*weights, strict=True))
    assert idle.run_log.latest["distillation_kl/alpha-beta"] > 0
    assert parts_changed(weights[1][0], weights[1][-1], "_transfers.alpha-beta.alignment.")


def test_another_weight_does_not(tmp_path: Path) -> None:
    """The control of the test above."""
    modules = [make(tmp_path, T2=10**6), make(tmp_path, weight=1e-3)]
    for module in modules:
        fit(module, FixedData(random_batch(module)), tmp_path)
    assert parts_changed(*(copy_of(module.agents["beta"]) for module in modules), "network.")


# For every transfer at once, and on resume


def test_the_runs_control_wins_over_the_transfers() -> None:
    module = graph(transfer(control="shuffled"), control="constant", weight=0.0)
    assert (edge(module).config.control, edge(module).config.weight) == ("constant", 0.0)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_resumed_control_equals_an_uninterrupted_one(control: Any, tmp_path: Path) -> None:
    """The random network, the order of the shuffles and the lagged copy are in the checkpoint."""
    results = []
    for resume in (None, tmp_path / "70.ckpt"):
        module = make(tmp_path, seed=0 if resume is None else 5, control=control, lag=50)
        batches = [random_batch(module, seed) for seed in range(12)]
        torch.manual_seed(0)
        if edge(module).shuffle is not None:
            edge(module).shuffle._seed = 0  # type: ignore[union-attr]
        data = FixedData(*(batches[7:] if resume else batches))
        trainer = fit(module, data, tmp_path, SaveAt(tmp_path, 70), ckpt_path=resume)
        results.append(final_state(module, trainer))
    assert differences(*results) == []


def test_fault_28_a_lag_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="transfer alpha-beta: lag is 0; it must be 1 or more"):
        graph(transfer(lag=0))


# A certificated expert in its own game, relabelled


def test_a_relabelled_expert_plays_the_same(tmp_path: Path) -> None:
    store(tmp_path, new_network(3, actions=5), WIDE)
    order = (4, 0, 1, 2, 3, 0)
    found = {
        actions: graph(agents={"a": AgentConfig(certificate=str(tmp_path), actions=actions)}).agents["a"]
        for actions in (None, order)
    }
    rollout = random_rollout()
    plain, other = (found[key](rollout).logits.softmax(-1) for key in (None, order))
    expected = plain[..., list(order)] * torch.tensor([1, 0.5, 1, 1, 1, 0.5])
    assert_close(other, expected)
    assert found[order].spec.action_meanings == ("4", "0", "1", "2", "3", "0") and found[order].env.actions == order


def test_an_expert_without_some_of_its_actions_plays_as_where_it_happens_to_play_none_of_them(tmp_path: Path) -> None:
    store(tmp_path, new_network(3, actions=5), WIDE)
    kept, rollout = (3, 0, 3), random_rollout()
    agents = {str(len(of or ())): AgentConfig(certificate=str(tmp_path), actions=of) for of in (None, kept)}
    plain, other = (agent(rollout).logits.softmax(-1) for agent in graph(agents=agents).agents.values())
    shares = plain[..., list(kept)] * torch.tensor([0.5, 1, 0.5])
    assert_close(other, shares / shares.sum(-1, keepdim=True))


@pytest.mark.parametrize("actions", [(), (0, 1, 2, 3, 5)])
def test_a_relabelling_to_an_action_that_is_not_there_or_to_none_is_refused(
    actions: tuple[int, ...], tmp_path: Path
) -> None:
    store(tmp_path, new_network(3, actions=5), WIDE)
    with pytest.raises(ValueError, match=r"agents.a: actions is \[.*\]; it must list some of its own, 0 to 4"):
        graph(agents={"a": AgentConfig(certificate=str(tmp_path), actions=actions)})


def test_a_relabelling_of_an_agent_that_learns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"agents.a.actions is for certificated agents; one that learns"):
        graph(agents={"a": replace(agent(), actions=(1, 0))})


# Observations of another size


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        ([1.0, 2.0, 3.0], (5,), [1.0, 2.0, 3.0, 0.0, 0.0]),
        ([1.0, 2.0, 3.0], (2,), [1.0, 2.0]),
        ([1.0, 2.0, 3.0], (3,), [1.0, 2.0, 3.0]),
    ],
)
def test_vectors_are_padded_and_cut_at_their_end(own: list[float], theirs: tuple[int], expected: list[float]) -> None:
    assert adapt(torch.tensor([[own]]), theirs, "pad").tolist() == [[expected]]


def test_images_are_padded_and_cut_around_their_middle() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 1, 4, 4)
    larger = adapt(image, (1, 6, 6), "pad")
    assert larger.dtype == torch.uint8 and larger.sum() == image.sum()
    assert torch.equal(larger[..., 1:5, 1:5], image)
    assert adapt(image, (1, 2, 2), "pad").flatten().tolist() == [6, 7, 10, 11]
    assert adapt(image, (1, 2, 6), "pad")[0, 0, 0].tolist() == [[0, 5, 6, 7, 8, 0], [0, 9, 10, 11, 12, 0]]


def test_images_are_resized() -> None:
    image = torch.zeros(2, 3, 1, 84, 84, dtype=torch.uint8)
    image[1, 2, 0, :42] = 200
    small = adapt(image, (1, 42, 42), "resize")
    assert small.shape == (2, 3, 1, 42, 42) and small.dtype == torch.uint8
    assert (small[1, 2, 0, :20] == 200).all() and (small[1, 2, 0, 22:] == 0).all() and small[0].sum() == 0
    assert abs(float(small.float().mean() / image.float().mean()) - 1) < 0.05


@pytest.mark.parametrize(
    ("theirs", "how", "message"),
    [
        ("Acrobot-v1", "none", r"\(6,\).*\(4,\), .*; they must be equal, or observations one of resize, pad"),
        ("Acrobot-v1", "resize", r"\(6,\).*\(4,\); observations: resize is for images, use pad"),
        ("Pong-2017", "pad", r"\(1, 42, 42\).*\(4,\); observations: pad cannot bridge that"),
    ],
)
def test_fault_24_observations_that_cannot_be_bridged_are_refused(theirs: str, how: Any, message: str) -> None:
    network = TINY if theirs == "Acrobot-v1" else replace(TINY, trunk="conv", channels=4)
    agents = {"alpha": agent(theirs, network), "beta": agent()}
    with pytest.raises(ValueError, match=f"transfer alpha-beta: .*{message}"):
        graph(transfer(observations=how), agents=agents)


def test_a_teacher_of_longer_vectors_reads_the_padded_ones() -> None:
    agents = {"alpha": agent("Acrobot-v1"), "beta": agent()}
    module, rollout = graph(transfer(observations="pad"), agents=agents), random_rollout()
    padded = replace(rollout, obs=torch.cat([rollout.obs, torch.zeros(6, 2, 2)], -1))
    assert torch.equal(logits_on(module, rollout), TeacherOf(module.agents["alpha"].network)(padded))
