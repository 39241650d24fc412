"""A value trunk of its own, and the activations of a trunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cdrl_pl.checks import ConfigError
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

VALUED = NetworkConfig(trunk="mlp", depth=2, hidden=6, lstm=0, activation="tanh", value="own")


def test_a_value_trunk_of_its_own_is_no_business_of_the_policys() -> None:
    network = PolicyNetwork(VALUED, (4,), 3)
    obs, resets = torch.randn(5, 2, 4), torch.zeros(5, 2, dtype=torch.bool)
    output = network(obs, network.initial_state(2), resets)
    output.values.sum().backward()
    assert all(p.grad is None for p in [*network.trunk.parameters(), *network.policy_head.parameters()])
    assert network.value_trunk is not None and all(p.grad is not None for p in network.value_trunk.parameters())
    assert torch.allclose(output.values, network.value_head(network.value_trunk(obs.flatten(0, 1))).view(5, 2))
    logits, values, _ = network.act(obs[3], network.initial_state(2), resets[3])
    assert torch.allclose(values, output.values[3]) and torch.allclose(logits, output.logits[3])


@pytest.mark.parametrize(("name", "function"), [("elu", F.elu), ("relu", F.relu), ("tanh", torch.tanh)])
def test_the_activation_stands_after_every_layer(name: str, function: Any) -> None:
    network = PolicyNetwork(replace(VALUED, activation=name, value="shared"), (4,), 3)  # type: ignore[arg-type]
    first, second = (module for module in network.trunk if isinstance(module, nn.Linear))  # type: ignore[union-attr]
    obs = torch.randn(7, 4)
    wanted = network.policy_head(function(second(function(first(obs)))))
    assert torch.allclose(network.act(obs, network.initial_state(7), torch.zeros(7, dtype=torch.bool))[0], wanted)


@pytest.mark.parametrize("name", ["elu", "relu", "tanh"])
def test_a_residual_block_adds_what_it_read(name: str) -> None:
    config = NetworkConfig(trunk="residual", channels=3, depth=1, lstm=0, activation=name)  # type: ignore[arg-type]
    trunk = PolicyNetwork(config, (1, 8, 8), 2).trunk
    block: Any = trunk[1]  # type: ignore[index]
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(block(x.clone()), x + block.body(x.clone()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"value": "own", "lstm": 4}, "network.value is 'own'; it must be shared, but for lstm 0"),
        ({"value": "other"}, "network.value is 'other'; it must be shared or own"),
        ({"activation": "gelu"}, "network.activation is 'gelu'; it must be elu or relu or tanh"),
    ],
)
def test_a_value_or_activation_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        NetworkConfig(**options)


GRU = NetworkConfig(trunk="mlp", hidden=(7, 5), lstm=0, gru=6, after=(9, 4), activation="tanh")


def test_a_list_of_widths_says_how_many_layers_there_are() -> None:
    network = PolicyNetwork(GRU, (3,), 2)
    sizes = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(3, 7), (7, 5), (6, 9), (9, 4), (4, 2), (4, 1), (4, 2)]
    assert PolicyNetwork(NetworkConfig("mlp", hidden=(), lstm=0), (3,), 2).policy_head.in_features == 3


@pytest.mark.parametrize("config", [GRU, replace(GRU, gru=0, lstm=6), replace(GRU, hidden=())])
def test_the_memory_step_by_step_is_that_of_the_rollout_and_of_torch(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(config, (3,), 2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    obs, resets = torch.randn(12, 2, 3), torch.rand(12, 2) < 0.3
    start = torch.randn(2, network.state_size)
    output = network(obs, start, resets)
    state, steps = start, []
    for row, begins in zip(obs, resets, strict=True):
        logits, values, state = network.act(row, state, begins)
        steps.append((logits, values))
    torch.testing.assert_close(torch.stack([logits for logits, _ in steps]), output.logits)
    torch.testing.assert_close(torch.stack([values for _, values in steps]), output.values)
    torch.testing.assert_close(state, output.state)
    memory, alone = network.memory, torch.zeros(12, 2, dtype=torch.bool)
    assert memory is not None and network.after is not None
    theirs, _ = memory(network.trunk(obs.flatten(0, 1)).view(12, 2, -1))
    wanted = network.policy_head(network.after(theirs))
    torch.testing.assert_close(network(obs, network.initial_state(2), alone).logits, wanted)


def test_the_convolutions_of_nature_can_be_others() -> None:
    config = NetworkConfig("nature", convolutions=((4, 8, 4), (6, 4, 2), (5, 3, 2)), hidden=(8, 7), lstm=0)
    network = PolicyNetwork(config, (2, 84, 84), 3)
    kinds = [(m.out_channels, m.kernel_size, m.stride) for m in network.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert kinds == [(4, (8, 8), (4, 4)), (6, (4, 4), (2, 2)), (5, (3, 3), (2, 2))]
    logits, _, _ = network.act(torch.zeros(1, 2, 84, 84, dtype=torch.uint8), torch.zeros(1, 0), torch.ones(1) > 0)
    assert logits.shape == (1, 3)


def test_bfloat16_is_of_the_trunk_and_the_memory_alone() -> None:
    network = PolicyNetwork(replace(GRU, hidden=()), (3,), 2).to_bf16()
    logits, _, state = network.act(torch.randn(2, 3), network.initial_state(2), torch.zeros(2, dtype=torch.bool))
    assert logits.dtype == state.dtype == torch.float32
    assert network.memory is not None and next(network.memory.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gru": 4}, "network.gru is 4; it must be 0, but for lstm 0"),
        ({"hidden": (4, 0), "trunk": "mlp"}, r"network.hidden is \(4, 0\); it must be 1 or more, or a list"),
        ({"hidden": (4, 4)}, r"network.hidden is \(4, 4\); it must be one width, but for mlp, nature and impala"),
        ({"convolutions": ((4, 8, 4),)}, "network.convolutions is .*but for the trunk nature"),
        ({"convolutions": ((4, 8, 0),), "trunk": "nature"}, "network.convolutions is .*each 1 or more"),
        ({"after": (0,)}, r"network.after is \(0,\); it must be a list of widths, each 1 or more"),
        ({"after": (4,), "lstm": 0, "value": "own"}, "network.value is 'own'; it must be shared, but for after"),
        ({"clip": 5.0}, "network.clip is 5.0; it must be 10.0, but for normalise true"),
        ({"clip": 0.0, "normalise": True}, "network.clip is 0.0; it must be above 0"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        NetworkConfig(**options)
