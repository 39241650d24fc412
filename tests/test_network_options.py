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
