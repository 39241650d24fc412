"""An update never reads a value that the learner computed: on a GPU, that would wait for all work before it. Nor does
it mix the learner's device with the host's memory."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import FixedData, agent, fit, graph, random_batch, random_rollout, transfer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from wide_cartpole import WIDE

from cdrl_pl.envs import EnvConfig, View
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.training.batch import Batch
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.weighting import AlarmConfig, TeacherWeights
from cdrl_pl.types import Rollout


class ReadsOnTheHost(TorchDispatchMode):
    """Notes where the value of a tensor is read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            ours = [frame for frame in traceback.extract_stack() if "cdrl_pl" in frame.filename]
            self.found += [f"{frame.filename}:{frame.lineno}" for frame in ours[-1:]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("decisions", "log_every", "reads"), [(60, 1000, False), (60, 10, True)])
def test_no_update_reads_a_value(tmp_path: Path, decisions: int, log_every: int, reads: bool) -> None:
    """Only a log line does, the control."""
    module = graph(transfer(), T_max=1000, log_every=log_every)
    seen = ReadsOnTheHost()

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.__enter__()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.__exit__(None, None, None)
            trainer.should_stop = module.clock >= decisions

    fit(module, FixedData(random_batch(module)), tmp_path, Watch())
    assert bool(seen.found) is reads, seen.found


# Tensors without data: they have a device of their own, and reading one is an error


def learn_without_data(monkeypatch: pytest.MonkeyPatch, module: Collaboration) -> tuple[set[str], set[str]]:
    """Two updates of every agent, from the batch to the gradients, on the device "meta": what was trained, and the
    devices of its gradients."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda device, **options: autocast("cpu" if device == "meta" else device, **options)
    )
    module.to("meta")
    trained: set[str] = set()
    devices: set[str] = set()

    def step(name: str, loss: Tensor, parameters: list[nn.Parameter], *_: Any) -> None:
        loss.backward()
        devices.update(p.grad.device.type for p in parameters if p.grad is not None)
        trained.add(name.split("/")[0])

    monkeypatch.setattr(module._optimizers, "step", step)
    monkeypatch.setattr(module._update, "_over_ranks", lambda value: 0.5)  # what the alarm and the value must read
    trainer = SimpleNamespace(world_size=1, precision_plugin=None, limit_train_batches=1.0)
    monkeypatch.setattr(module, "_trainer", trainer)
    for edge in module.transfers:
        edge.aligning = edge.distilling = True
    batch = {name: played(module, name).to("meta") for name in module.playing}
    for index in range(2):
        module.training_step(Batch(batch, {}), index)
    return trained, devices


def played(module: Collaboration, name: str) -> Rollout:
    playing = module.agents[name]
    rollout = random_rollout(actions=playing.spec.num_actions, width=playing.network.state_size)
    dtype = getattr(torch, playing.spec.obs_dtype)
    return replace(rollout, obs=torch.zeros(rollout.steps + 1, rollout.copies, *playing.spec.obs_shape, dtype=dtype))


def atari(name: str, network: NetworkConfig | None = None, **env: Any) -> AgentConfig:
    return AgentConfig(EnvConfig(name, **env), network or NetworkConfig())


WITHOUT_LSTM = NetworkConfig(trunk="mlp", depth=1, hidden=8, lstm=0)
BOWLING = atari("Bowling-2017")
GRAPHS: dict[str, tuple[dict[str, Any], dict[str, AgentConfig], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "the program's preset": ({}, {}, {"preset": "code"}),
    "V-trace": ({}, {"beta": agent(off_policy="vtrace", batch_copies=1)}, {}),
    **{control: ({"control": control}, {}, {}) for control in ("random", "shuffled", "constant", "lagged", "own")},
    "a known answer, policy layer": ({"layer": "policy", "kind": "identity"}, {"alpha": agent()}, {}),
    "reverse KL": ({"divergence": "reverse", "temperature_squared": True}, {}, {}),
    "no memory": ({}, {"alpha": agent(WIDE, WITHOUT_LSTM), "beta": agent(network=WITHOUT_LSTM)}, {}),
    "weighed, with an alarm": (
        {"alarm": AlarmConfig(every=1)},
        {"beta": replace(agent(), teacher_weights=TeacherWeights(by="value"))},
        {},
    ),
    "images": ({}, {"alpha": atari("Pong-2017"), "beta": BOWLING}, {}),
    **{
        f"images, {how}": (
            {"observations": how},
            {"alpha": atari("Pong-2017", view=View(size=84)), "beta": BOWLING},
            {},
        )
        for how in ("resize", "pad")
    },
    "residual": (
        {},
        {"alpha": atari("ALE/Breakout-v5", NetworkConfig(trunk="residual", lstm=0)), "beta": BOWLING},
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_an_update_stays_on_the_learners_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    edge, agents, options = GRAPHS[name]
    module = graph(
        transfer(**edge),
        agents={"alpha": agent(WIDE), "beta": agent(), **agents},
        **{"T_max": 10**6, "log_every": 10**6, **options},
    )
    trained, devices = learn_without_data(monkeypatch, module)
    kinds = {"student"}
    kinds |= {"align"} if module.transfers[0].alignment.trainable else set()
    kinds |= {"distill"} if module.preset.distill_step == "separate" else set()
    assert (trained, devices) == (kinds, {"meta"})


def test_a_batch_on_two_devices_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    moved = Rollout.to
    monkeypatch.setattr(Rollout, "to", lambda self, *args: replace(moved(self, *args), rewards=self.rewards))
    with pytest.raises(RuntimeError, match="device"):
        learn_without_data(monkeypatch, graph(transfer(), T_max=10**6, log_every=10**6))
