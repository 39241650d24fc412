"""What a checkpoint holds is matched by name: the order in a config does not count, and what differs is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import FixedData, agent, copy_of, env, fit, graph, new_network, random_batch, store, transfer
from resuming import SaveAt
from wide_cartpole import WIDE

from callbacks import CertificatedTeacher
from cdrl_pl.checks import ConfigError
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import AlignmentNetwork
from cdrl_pl.transfer.alignment_file import save_alignment

LARGER = NetworkConfig(trunk="mlp", depth=2, hidden=16, lstm=4)
EDGES = (("alpha", "beta"), ("beta", "alpha"))


def made(names: tuple[str, ...], edges: Any = EDGES, larger: bool = True, T_max: int = 60) -> Collaboration:
    configs: dict[str, AgentConfig] = {"alpha": agent(network=LARGER) if larger else agent(), "beta": agent()}
    options = {"alpha": {"align_lr": 0.02}, "beta": {}}
    transfers = [transfer(*ends, **options[ends[0]]) for ends in edges]  # type: ignore[arg-type]
    return graph(*transfers, agents={name: configs[name] for name in names}, T_max=T_max)


@pytest.fixture(params=[True, False], ids=["other shapes", "equal shapes"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bool]:
    """A checkpoint at T = 30 of alpha and beta that teach each other."""
    module = made(("alpha", "beta"), larger=request.param, T_max=30)
    fit(module, FixedData(random_batch(module)), tmp_path, SaveAt(tmp_path, 30))
    return tmp_path / "30.ckpt", request.param


def moments(module: Collaboration) -> dict[str, Any]:
    """Adam's moments, by the names of what they are of."""
    names = {id(p): name for name, p in module.named_parameters()}
    optimizers: Any = module.trainer.optimizers
    return {names[id(p)]: s["exp_avg"].clone() for o in optimizers for p, s in o.state.items()}


def resumed(folder: Path, checkpoint: Path, *names: str, **options: Any) -> Collaboration:
    module = made(names, **options)
    seen: dict[str, Any] = {}

    class Look(SaveAt):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            seen["weights"], seen["moments"] = copy_of(module), moments(module)

    fit(module, FixedData(random_batch(module)), folder, Look(folder), ckpt_path=checkpoint)
    module.seen = seen
    return module


def test_agents_and_transfers_in_another_order_take_their_own_states(saved: tuple[Path, bool], tmp_path: Path) -> None:
    checkpoint, larger = saved
    one = resumed(tmp_path / "one", checkpoint, "alpha", "beta", larger=larger).seen
    other = resumed(tmp_path / "other", checkpoint, "beta", "alpha", edges=EDGES[::-1], larger=larger).seen
    for kind in ("weights", "moments"):
        assert one[kind].keys() == other[kind].keys() and len(one[kind]) > 10
        assert all(torch.equal(value, other[kind][name]) for name, value in one[kind].items()), kind


def test_a_checkpoint_whose_states_were_exchanged_would_differ(saved: tuple[Path, bool], tmp_path: Path) -> None:
    """The control of the test above: by position alone, the moments are another agent's."""
    checkpoint, larger = saved
    content = torch.load(checkpoint, weights_only=True)
    content["collaboration"]["optimizers"][:2] = content["collaboration"]["optimizers"][1::-1]
    torch.save(content, tmp_path / "exchanged.ckpt")
    if larger:  # the names of other shapes would be caught by nothing but a crash
        pytest.skip("exchanged moments of other shapes are no control: they do not fit")
    one = resumed(tmp_path / "one", checkpoint, "alpha", "beta", larger=larger).seen["moments"]
    other = resumed(tmp_path / "other", tmp_path / "exchanged.ckpt", "alpha", "beta", larger=larger).seen["moments"]
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("edges", "says"),
    [
        (EDGES[:1], r"transfers differ \(gone: beta-alpha\)"),
        ((), r"transfers differ \(gone: alpha-beta, beta-alpha\)"),
    ],
)
def test_a_transfer_that_is_gone_is_named(saved: tuple[Path, bool], tmp_path: Path, edges: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resumed(tmp_path, saved[0], "alpha", "beta", edges=edges, larger=saved[1])


def test_an_agent_that_is_new_is_named(saved: tuple[Path, bool], tmp_path: Path) -> None:
    module = graph(agents={"alpha": agent(), "gamma": agent()})
    with pytest.raises(ConfigError, match=r"agents that play differ \(gone: beta; new: gamma\)"):
        fit(module, FixedData(random_batch(module)), tmp_path, ckpt_path=saved[0])


def test_another_game_of_equal_shapes_is_refused_and_another_limit_is_said(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent(WIDE)}, T_max=20)
    fit(module, FixedData(random_batch(module)), tmp_path, SaveAt(tmp_path, 20))

    def again(**options: Any) -> None:
        config = AgentConfig(env(WIDE), agent().network, agent().learner)
        for name, value in options.items():
            setattr(config.env, name, value)
        module = graph(agents={"beta": config}, T_max=30)
        fit(module, FixedData(random_batch(module)), tmp_path, ckpt_path=tmp_path / "20.ckpt")

    with pytest.raises(ConfigError, match=r"agents.beta: env.(actions|action_meanings) is .*goes on in the same task"):
        again(actions=(1, 0, 2, 3, 4))
    with pytest.warns(UserWarning, match=r"agents.beta: env.max_episode_steps is 7, in the checkpoint it was 12"):
        again(max_episode_steps=7)


def test_two_certificates_in_one_run_have_two_states(tmp_path: Path) -> None:
    def watch() -> list[CertificatedTeacher]:
        return [
            CertificatedTeacher("alpha", threshold=-1e9, window=1, episodes=1),
            CertificatedTeacher("beta", threshold=1e9, window=1, episodes=1),
        ]

    module, one = made(("alpha", "beta"), T_max=30), watch()
    fit(module, FixedData(random_batch(module)), tmp_path, *one, SaveAt(tmp_path, 30))
    assert one[0].certificated is not None and one[1].certificated is None
    module, other = made(("alpha", "beta"), T_max=40), watch()
    fit(module, FixedData(random_batch(module)), tmp_path, *other, ckpt_path=tmp_path / "30.ckpt")
    assert [o.certificated for o in other] == [o.certificated for o in one]


def test_another_teacher_of_equal_shapes_is_refused_wherever_the_same_one_lies(tmp_path: Path) -> None:
    """The checkpoint's weights would take its place, and nothing would say so."""
    for folder, seed in (("one", 1), ("other", 2), ("elsewhere", 1)):
        store(tmp_path / folder, new_network(seed))

    def taught(by: str, T_max: int = 20, **options: Any) -> Collaboration:
        agents = {"alpha": AgentConfig(certificate=str(tmp_path / by), **options), "beta": agent()}
        return graph(transfer(), agents=agents, T_max=T_max)

    def again(module: Collaboration) -> None:
        fit(module, FixedData(random_batch(module)), tmp_path, ckpt_path=tmp_path / "20.ckpt")

    module = taught("one")
    fit(module, FixedData(random_batch(module)), tmp_path, SaveAt(tmp_path, 20))
    with pytest.raises(ConfigError, match=r"agents.alpha is another than in the checkpoint .*the same teachers"):
        again(taught("other"))
    with pytest.raises(ConfigError, match=r"agents.alpha is another"):
        again(taught("one", actions=(1, 0)))
    again(moved := taught("elsewhere", T_max=40))
    assert moved.clock == 40


def test_another_stored_alignment_is_refused(tmp_path: Path) -> None:
    sides = [agents.spec.action_meanings for agents in graph().agents.values()]

    def taught(seed: int) -> Collaboration:
        torch.manual_seed(seed)
        file = tmp_path / f"{seed}.safetensors"
        save_alignment(file, AlignmentNetwork(5, 2, 8, 2, "relu"), (sides[0], sides[1]), {})
        edge = transfer(stop="never")
        edge.alignment.file = str(file)
        return graph(edge, T_max=20)

    module = taught(1)
    fit(module, FixedData(random_batch(module)), tmp_path, SaveAt(tmp_path, 20))
    with pytest.raises(ConfigError, match=r"transfers.alpha-beta.alignment is another .*the same stored alignments"):
        module = taught(2)
        fit(module, FixedData(random_batch(module)), tmp_path, ckpt_path=tmp_path / "20.ckpt")
