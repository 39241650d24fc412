"""Running normalisation: the statistics of all that an agent learned from, in its workers, checkpoints, certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphs import (
    TINY,
    FixedData,
    agent,
    fit,
    graph,
    played,
    random_batch,
    spread,
    store,
    transfer,
)
from numpy.testing import assert_allclose
from resuming import SaveAt, differences, final_state
from wide_cartpole import WIDE

from cdrl_pl.agents.certificate import load_certificate
from cdrl_pl.distributions import log_prob
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.normaliser import Normaliser
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.types import Rollout

NORMAL = replace(TINY, normalise=True)


def rows(seed: int = 0, count: int = 900) -> np.ndarray:
    """Far from 0 beside how much they vary: where sums of squares would lose every digit in fp32."""
    draws = np.random.default_rng(seed).normal(size=(count, 3))
    return (draws * [1.0, 0.01, 50.0] + [1000.0, -7.0, 0.0]).astype(np.float32)


def fed(*parts: np.ndarray) -> Normaliser:
    normaliser = Normaliser((3,))
    for part in parts:
        normaliser.add(normaliser.sums(torch.from_numpy(part)))
    return normaliser


def check(normaliser: Normaliser, data: np.ndarray) -> None:
    exact = data.astype(np.float64)
    assert_allclose(normaliser.mean, exact.mean(0), rtol=1e-6, atol=1e-4)
    assert_allclose(normaliser.variance, exact.var(0), rtol=1e-3)
    assert normaliser.count.item() == len(data)


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    data = rows()
    check(fed(data), data)
    check(fed(*np.split(data, 30)), data)
    check(fed(data[:1], data[1:3], data[3:]), data)


def test_the_sums_of_ranks_are_those_of_their_rows_together() -> None:
    first, data = rows(1, 40), rows()
    ranks, alone = fed(first), fed(first, data)
    ranks.add(ranks.sums(torch.from_numpy(data[:300])) + ranks.sums(torch.from_numpy(data[300:])))
    for name, value in alone.state_dict().items():
        assert_allclose(ranks.state_dict()[name], value, rtol=1e-6)


def test_vectors_are_read_in_deviations_from_their_mean_cut_off_at_ten() -> None:
    data = rows()
    normaliser = fed(data)
    read = normaliser(torch.from_numpy(data)).numpy()
    exact = data.astype(np.float64)
    assert_allclose(read, (exact - exact.mean(0)) / exact.std(0), atol=0.02)
    assert normaliser(torch.tensor([1e9, -1e9, 0.0])).tolist()[:2] == [10.0, -10.0]


def test_vectors_are_read_as_they_are_before_the_first_row() -> None:
    torch.testing.assert_close(Normaliser((3,))(torch.tensor([1.0, -2.0, 3.0])), torch.tensor([1.0, -2.0, 3.0]))


def test_a_number_that_never_varies_is_read_as_zero() -> None:
    assert fed(np.full((5, 3), 7.0, np.float32))(torch.full((3,), 7.0)).tolist() == [0.0, 0.0, 0.0]


def test_every_pixel_of_pictures_has_statistics_of_its_own() -> None:
    pictures = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (50, 2, 4, 4), np.uint8))
    normaliser = Normaliser((2, 4, 4))
    normaliser.add(normaliser.sums(pictures))
    exact = pictures.double()
    wanted = ((exact - exact.mean(0)) / exact.std(0, correction=0)).float()
    torch.testing.assert_close(normaliser(pictures), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        normaliser(pictures.view(5, 10, 2, 4, 4)), wanted.view(5, 10, 2, 4, 4), atol=1e-4, rtol=1e-4
    )


def test_what_is_read_is_cut_off_where_the_network_says() -> None:
    network = PolicyNetwork(NetworkConfig("mlp", lstm=0, normalise=True, clip=5.0), (3,), 2)
    assert network.normaliser is not None
    assert network.normaliser(torch.tensor([[1e9, -1e9, 0.5]])).tolist() == [[5.0, -5.0, 0.5]]


# In a run


def normal(T_max: int = 60, **options: Any) -> Collaboration:
    module = graph(agents={"beta": agent(network=NORMAL)}, T_max=T_max, **options)
    spread(module.agents["beta"].network)
    return module


class Watched(Collaboration):
    """Keeps what it learned from, and the log probabilities that its own network gives it before it learns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[Rollout] = []
        self.gaps: list[float] = []

    def _learn(self, name: str, rollout: Rollout) -> None:
        with torch.no_grad():
            logits = self.agents[name](rollout).logits[: rollout.steps]
        self.gaps.append(float((log_prob(logits, rollout.actions) - rollout.log_probs).abs().max()))
        self.seen.append(rollout.clone())
        super()._learn(name, rollout)


def test_workers_act_by_the_statistics_that_the_learner_reads_by(tmp_path: Path) -> None:
    """In the deterministic mode a rollout was played by the newest policy, so that both say the same of it."""
    torch.manual_seed(0)
    module = Watched({"beta": agent(network=NORMAL)}, T_max=80, log_every=10)
    network = spread(module.agents["beta"].network)
    fit(module, played(), tmp_path)
    assert len(module.gaps) == 8 and max(module.gaps) < 1e-5
    data = torch.cat([rollout.obs[:5].flatten(0, 1) for rollout in module.seen]).double().numpy()
    assert network.normaliser is not None and network.normaliser.count.item() == len(data) == 80
    assert_allclose(network.normaliser.mean, data.mean(0), atol=1e-6)
    assert_allclose(network.normaliser.variance, data.var(0), rtol=1e-4)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    results = []
    for resume in (None, tmp_path / "30.ckpt"):
        trainer = fit(module := normal(), played(), tmp_path, SaveAt(tmp_path, 30), ckpt_path=resume)
        results.append(final_state(module, trainer))
    assert any("normaliser" in name for name in results[0]["weights"])
    assert differences(*results) == []


def test_statistics_stay_while_a_value_head_learns_alone(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent(network=NORMAL, value_first=20)}, T_max=20)
    fit(module, FixedData(*(random_batch(module, seed) for seed in range(2))), tmp_path)
    normaliser = module.agents["beta"].network.normaliser
    assert normaliser is not None and normaliser.count.item() == 0


def expert(folder: Path) -> PolicyNetwork:
    """A certificated teacher whose statistics are not those of what it will read."""
    torch.manual_seed(5)
    network = spread(PolicyNetwork(NORMAL, (4,), 5), 5)
    assert network.normaliser is not None
    network.normaliser.add(network.normaliser.sums(3.0 + 2.0 * torch.randn(50, 4)))
    store(folder, network, WIDE)
    return network


def test_a_teacher_reads_by_its_own_frozen_statistics(tmp_path: Path) -> None:
    network = expert(tmp_path / "expert")
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent(network=NORMAL)}
    module = graph(transfer(), agents=agents, T_max=20)
    batch = random_batch(module)
    (edge,) = module.transfers
    rollout = batch["beta"]

    def said() -> torch.Tensor:
        edge.teacher.states.clear()
        return edge.ask(rollout, *module.ends(edge)).logits

    by_hand = replace(rollout, obs=network.normaliser(rollout.obs))  # type: ignore[misc]
    plain = PolicyNetwork(TINY, (4,), 5)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("normaliser")})
    with torch.no_grad():
        expected = plain(by_hand.obs[:5], torch.zeros(2, 8), rollout.resets[:5]).logits
    torch.testing.assert_close(said(), expected)
    before = said()
    fit(module, FixedData(batch, random_batch(module, 1)), tmp_path)
    assert torch.equal(said(), before)
    student = module.agents["beta"].network.normaliser
    assert student is not None and student.count.item() == 20


def test_a_certificate_holds_the_statistics(tmp_path: Path) -> None:
    network = expert(tmp_path)
    certificate, weights = load_certificate(tmp_path)
    assert certificate.network.normalise
    for name in ("mean", "variance", "count"):
        assert torch.equal(weights[f"normaliser.{name}"], network.state_dict()[f"normaliser.{name}"])


def test_a_random_stand_in_reads_what_the_teacher_reads(tmp_path: Path) -> None:
    network = expert(tmp_path / "expert")
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module = graph(transfer(control="random"), agents=agents)
    stand_in = module.transfers[0].control_network
    assert stand_in is not None and stand_in.normaliser is not None and network.normaliser is not None
    assert torch.equal(stand_in.normaliser.mean, network.normaliser.mean)
    assert not torch.equal(stand_in.policy_head.weight, network.policy_head.weight)
