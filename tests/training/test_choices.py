"""Agents of several choices at once, and of masked actions: played, learned, taught, certificated, resumed, watched."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from choices import choices
from graphs import TINY, agent, fit, graph, played, spread, transfer
from resuming import SaveAt, differences, final_state
from torch.testing import assert_close

from cdrl_pl.agents.certificate import CERTIFICATE, load_certificate, save_certificate
from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.agents.warm_start import warm_started
from cdrl_pl.checks import ConfigError
from cdrl_pl.distributions import log_prob
from cdrl_pl.evaluation.evaluate import CopyQuota, Decision, evaluate, play, share_out
from cdrl_pl.presets import PRESETS
from cdrl_pl.storage.verified import CertificateError
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.training.resuming import check_same_tasks
from cdrl_pl.transfer.advice import Advice
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.ground_truth import KnownAlignment, Task, accuracy, ground_truth_map, one_hot_accuracy
from cdrl_pl.types import Rollout, join, masked

COUNTS = (3, 2)
NAMES = ("0:L", "0:M", "0:R", "1:N", "1:F")


def chooser(masked: bool = True, network: Any = TINY, **kwargs: Any) -> AgentConfig:
    where = {} if masked else {"where": "unchecked"}
    return AgentConfig(choices(masked, **where, **kwargs), network, LearnerConfig(lr=1e-2))


class Watched(Collaboration):
    """Keeps every rollout that it learns from, and by how much its log probabilities differ from the workers'."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[Rollout] = []
        self.gaps: list[float] = []

    def _learn(self, name: str, rollout: Rollout) -> None:
        agent = self.agents[name]
        with torch.no_grad():
            logits = agent(rollout).logits[: rollout.steps]
        gap = log_prob(logits, rollout.actions, agent.spec.action_counts) - rollout.log_probs
        self.gaps.append(float(gap.abs().max()))
        self.seen.append(rollout.clone())
        super()._learn(name, rollout)


@pytest.mark.parametrize("joint", [False, True])
def test_nothing_is_played_that_may_not_be_and_both_sides_say_so(joint: bool, tmp_path: Path) -> None:
    """The game ends the run where a worker plays what may not be; the learner finds the workers' probabilities."""
    torch.manual_seed(0)
    module = Watched({"beta": chooser(joint=joint)}, T_max=80, log_every=10)
    spread(module.agents["beta"].network)
    fit(module, played(), tmp_path)
    assert len(module.gaps) == 8 and max(module.gaps) < 1e-4
    for rollout in module.seen:
        assert rollout.masks is not None and rollout.masks.shape == (6, 2, 6 if joint else 5)
        assert rollout.actions.shape == ((5, 2) if joint else (5, 2, 2))
        first = rollout.actions // 2 if joint else rollout.actions[..., 0]
        allowed = rollout.masks[:5, :, ::2] if joint else rollout.masks[:5, :, :3]
        assert allowed.gather(-1, first[..., None]).all() and (~allowed).sum() == 10
    for one, following in pairwise(module.seen):
        assert one.masks is not None and following.masks is not None
        assert torch.equal(one.masks[5], following.masks[0])
        both = join([one, following])
        both.check()
        assert both.masks is not None and torch.equal(both.masks, torch.cat([one.masks[:5], following.masks]))


def test_two_choices_are_learned(tmp_path: Path) -> None:
    """Chance gives 4 of an episode's 8 points (2.67 + 4 / 2 ...); a policy that reads its observation gives all."""
    network = replace(TINY, hidden=32, lstm=0)
    learner = LearnerConfig(lr=1e-2, gamma=0.5)
    module = graph(agents={"beta": AgentConfig(choices(False, where="unchecked"), network, learner)}, T_max=8000)
    fit(module, played(copies=16), tmp_path)
    score = evaluate(module.agents["beta"].network, choices(False, where="unchecked"), episodes=20, greedy=True)
    assert score.mean > 7.5


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("ends", [("choices", "pole"), ("pole", "choices"), ("choices", "masked")])
def test_teachers_and_students_may_choose_differently(ends: tuple[str, str], divergence: str, tmp_path: Path) -> None:
    made = {"choices": chooser(False), "masked": chooser(), "pole": agent()}
    agents = {"alpha": made[ends[0]], "beta": made[ends[1]]}
    control: Any = {"alarm": None, "observations": "none" if "pole" not in ends else "pad"}
    module = graph(transfer(divergence=divergence, **control), agents=agents, T_max=40)
    for one in module.agents.values():
        spread(one.network)
    fit(module, played(), tmp_path)
    line = module.run_log.latest
    for metric in ("alignment_kl", "distillation_kl"):
        assert 0 < line[f"{metric}/alpha-beta"] < 20  # and not as much as a mask that one side does not keep to
    if "pole" not in ends:
        assert 0 <= line["alignment_accuracy/alpha-beta"] <= 1
        aligned = [line[f"actions/alpha-beta/aligned/{i}"] for i in range(5)]
        assert sum(aligned[:3]) == pytest.approx(1) and sum(aligned[3:]) == pytest.approx(1)


@pytest.mark.parametrize("control", ["random", "shuffled", "constant", "lagged", "own"])
def test_controls_choose_as_often_as_the_teacher(control: Any, tmp_path: Path) -> None:
    module = graph(transfer(control=control), agents={"alpha": chooser(), "beta": chooser()}, T_max=20)
    fit(module, played(), tmp_path)
    assert module.run_log.latest["distillation_kl/alpha-beta"] >= 0


def test_a_run_of_masked_choices_resumes_exactly(tmp_path: Path) -> None:
    results = []
    for resume in (None, tmp_path / "30.ckpt"):
        module = graph(transfer(), agents={"alpha": chooser(), "beta": chooser(joint=True)}, T_max=60)
        trainer = fit(module, played(), tmp_path, SaveAt(tmp_path, 30), ckpt_path=resume)
        results.append(final_state(module, trainer))
    assert differences(*results) == []


# Certificates


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    module = graph(agents={"beta": chooser()})
    beta = module.agents["beta"]
    spread(beta.network)
    save_certificate(tmp_path / "expert", beta.network, beta.env, beta.spec, {}, {"env_steps": 1})
    return tmp_path / "expert"


def test_a_certificate_says_what_is_chosen(expert: Path, tmp_path: Path) -> None:
    certificate, _ = load_certificate(expert)
    assert (certificate.spec.action_counts, certificate.spec.masked) == (COUNTS, True)
    assert certificate.spec.action_meanings == NAMES and certificate.env.action_mask
    with pytest.raises(ConfigError, match=r"actions is \[1, 0\], but .* makes several choices, of \(3, 2\) actions"):
        graph(agents={"beta": AgentConfig(certificate=str(expert), actions=(1, 0))})
    text = (expert / CERTIFICATE).read_text()
    (expert / CERTIFICATE).write_text(text.replace('"action_counts": [\n      3', '"action_counts": [\n      4'))
    with pytest.raises(CertificateError, match=r"5 actions in choices of \(4, 2\): refused"):
        load_certificate(expert)


def test_heads_of_one_size_for_other_choices_are_new(expert: Path) -> None:
    one = replace(choices(masked=False, where="unchecked", joint=True), actions=(0, 1, 2, 3, 4))
    made = warm_started(str(expert), one, TINY, LearnerConfig())
    assert "policy_head and distill_head are new, for 5 actions where it has 5" in made.begun
    same = warm_started(str(expert), choices(), TINY, LearnerConfig())
    assert "no head is new" in same.begun


@pytest.mark.parametrize("greedy", [False, True])
def test_frozen_policies_play_what_may_be_played_and_are_watched(greedy: bool, expert: Path) -> None:
    agents = {"alpha": AgentConfig(certificate=str(expert)), "beta": chooser()}
    module = graph(transfer(), agents=agents)
    beta, seen = module.agents["beta"], list[Decision]()
    spread(beta.network)

    class Watch:
        def saw(self, game: Any) -> None:
            pass

        def decided(self, decision: Decision) -> None:
            seen.append(decision)

    quotas: list[CopyQuota] = share_out(3, 1, 0)
    (episodes,) = play(beta.network, choices(), quotas, greedy, watch=Watch())
    assert [episode.length for episode in episodes] == [8, 8, 8]
    advise = Advice(module.agents, "beta", module.transfers)
    for decision in seen:
        assert decision.masks is not None and isinstance(decision.action, list)
        own, _, aligned = advise(decision)
        assert own.chosen == [decision.action[0], 3 + decision.action[1]]
        for bars in (own, aligned):
            assert bars.probabilities[:3].sum() == pytest.approx(1) and bars.probabilities[3:].sum() == pytest.approx(1)
            assert (bars.probabilities[~decision.masks[0].numpy()] == 0).all()


# Where the right alignment is known


TASK = Task("game", NAMES, COUNTS)


def test_the_accuracy_of_every_choice_counts() -> None:
    truth = ground_truth_map(TASK, TASK)
    assert truth is not None
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    assert accuracy(logits, logits, truth, COUNTS, COUNTS) == 1
    half = logits.clone()
    half[:, 3:] *= -1  # the second choice the other way round
    assert accuracy(logits, half, truth, COUNTS, COUNTS) == 0.5
    assert one_hot_accuracy(torch.nn.Identity(), truth, counts=COUNTS, student_counts=COUNTS) == 1

    class Exchanged(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows[:, [1, 0, 2, 3, 4]]

    assert one_hot_accuracy(Exchanged(), truth, counts=COUNTS, student_counts=COUNTS).item() == pytest.approx(0.6)


def test_a_known_alignment_keeps_to_each_choice() -> None:
    truth = ground_truth_map(TASK, TASK)
    assert truth is not None
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    right = KnownAlignment(truth, counts=COUNTS)(logits).split([3, 2], -1)
    for part, own in zip(right, logits.split([3, 2], -1), strict=True):
        assert_close(part.softmax(-1), own.softmax(-1), atol=1e-5, rtol=1e-4)
    most = KnownAlignment(truth, right=0.7, counts=COUNTS)(logits).split([3, 2], -1)
    first = logits[:, :3].softmax(-1)
    assert_close(most[0].softmax(-1), 0.7 * first + 0.15 * (1 - first), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["identity", "known"])
def test_what_stays_as_it_is_needs_the_same_choices(kind: str) -> None:
    agents = {"alpha": chooser(False), "beta": AgentConfig(
        replace(choices(False, where="unchecked", joint=True), actions=(0, 1, 2, 3, 4)), TINY)}  # fmt: skip
    with pytest.raises(ConfigError, match=rf"alignment.kind is '{kind}', but the teacher chooses from \(3, 2\)"):
        graph(transfer(kind=kind), agents=agents)
    graph(transfer(kind=kind), agents={"alpha": chooser(False), "beta": chooser(False)})


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
def test_an_alignment_learns_of_what_may_be_played_alone(divergence: Any) -> None:
    """Masking the third of three actions is as having two."""
    policy, said = torch.randn(4, 2, 3), torch.randn(4, 2, 3).requires_grad_()
    masks = torch.tensor([True, True, False]).expand(4, 2, 3)

    def loss(policy: torch.Tensor, said: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        config = AlignmentConfig("identity", divergence=divergence)
        size = policy.shape[-1]
        return Alignment(config, size, size, PRESETS["paper"]).loss(masked(policy, masks), said, 2.0, masks)

    found = loss(policy, said, masks)
    assert_close(found, loss(policy[..., :2], said[..., :2], None))
    found.backward()
    assert said.grad is not None and (said.grad[..., 2] == 0).all() and said.grad[..., :2].any()


def test_a_checkpoint_from_before_there_were_choices_goes_on(recwarn: pytest.WarningsRecorder) -> None:
    before = {"beta": {"id": "CartPole-v1"}}
    check_same_tasks(before, {"beta": {"id": "CartPole-v1", "action_counts": [], "masked": False}})
    assert not recwarn
    with pytest.raises(ConfigError, match=r"agents.beta: env.action_counts is \[3, 2\], in the checkpoint it was None"):
        check_same_tasks(before, {"beta": {"id": "CartPole-v1", "action_counts": [3, 2], "masked": False}})
