"""The policy network, where its memory is reset, its separate distillation layer, and the alignment network."""

from __future__ import annotations

from typing import Literal

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.testing import assert_close
from toy_envs import make_network

from cdrl_pl import distributions, losses
from cdrl_pl.envs import EnvSpec
from cdrl_pl.networks import AlignmentNetwork, NetworkConfig, PolicyNetwork
from cdrl_pl.types import PolicyOutput

VECTOR, IMAGE = (3,), (1, 12, 12)
STRUCTURES = {
    "conv": (NetworkConfig("conv", channels=4, depth=2, lstm=6), IMAGE),
    "residual": (NetworkConfig("residual", channels=4, depth=2, lstm=6), IMAGE),
    "mlp": (NetworkConfig("mlp", depth=2, hidden=8, lstm=6), VECTOR),
    "mlp without memory": (NetworkConfig("mlp", depth=2, hidden=8, lstm=0), VECTOR),
    "conv without memory": (NetworkConfig("conv", channels=4, depth=2, lstm=0), IMAGE),
}
T, B, A = 6, 3, 4
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def make(structure: str) -> PolicyNetwork:
    config, obs_shape = STRUCTURES[structure]
    return make_network(spec=EnvSpec(obs_shape, "uint8", tuple("abcd")), config=config)


def inputs(network: PolicyNetwork, resets: list[tuple[int, int]] = (), seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random observations [T, B, ...], a state [B, S] that is not zero, and resets at the given (step, copy)."""
    draw = torch.Generator().manual_seed(seed)
    if len(network.obs_shape) == 3:
        obs = torch.randint(256, (T, B, *network.obs_shape), dtype=torch.uint8, generator=draw)
    else:
        obs = torch.randn(T, B, *network.obs_shape, generator=draw)
    mask = torch.zeros(T, B, dtype=torch.bool)
    for step, copy in resets:
        mask[step, copy] = True
    return obs, torch.randn(B, network.state_size, generator=draw), mask


# Memory


@every_structure
@given(resets=st.sets(st.tuples(st.integers(0, T - 1), st.integers(0, B - 1))))
@settings(max_examples=20)
def test_a_segment_equals_its_steps_one_by_one(structure: str, resets: set[tuple[int, int]]) -> None:
    network = make(structure)
    obs, state, mask = inputs(network, sorted(resets))
    with torch.no_grad():
        whole = network(obs, state, mask)
        for t in range(T):
            logits, values, state = network.act(obs[t], state, mask[t])
            assert_close(logits, whole.logits[t])
            assert_close(values, whole.values[t])
    assert_close(state, whole.state)


@given(resets=st.sets(st.tuples(st.integers(0, T - 1), st.integers(0, B - 1))))
@settings(max_examples=20)
def test_memory_equals_an_lstm_that_is_zeroed_at_each_reset(resets: set[tuple[int, int]]) -> None:
    """The slow reference: every copy alone, step by step, through an LSTM cell of the same weights."""
    network = make("mlp")
    obs, state, mask = inputs(network, sorted(resets))
    assert network.lstm is not None
    cell = nn.LSTMCell(8, 6)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in network.lstm.state_dict().items()})
    with torch.no_grad():
        features, _ = network.features(obs, state, mask)
        for b in range(B):
            h, c = state[b : b + 1, :6], state[b : b + 1, 6:]
            for t in range(T):
                if mask[t, b]:
                    h, c = torch.zeros(1, 6), torch.zeros(1, 6)
                h, c = cell(network.trunk(obs[t, b : b + 1]), (h, c))
                assert_close(features[t, b], h[0])


def outputs_with_a_changed_past(reset: bool) -> tuple[PolicyOutput, PolicyOutput]:
    """The outputs over two rollouts that differ before step 3 of copy 1 and in its first state, and agree after."""
    network = make("mlp")
    obs, state, mask = inputs(network, [(3, 1)] if reset else [])
    other_obs, other_state = obs.clone(), state.clone()
    other_obs[:3, 1] += 1.0
    other_state[1] += 1.0
    with torch.no_grad():
        return network(obs, state, mask), network(other_obs, other_state, mask)


def test_nothing_before_a_reset_reaches_past_it() -> None:
    one, other = outputs_with_a_changed_past(reset=True)
    for name, before, after in zip(PolicyOutput._fields[:3], one[:3], other[:3], strict=True):
        assert_close(before[3:, 1], after[3:, 1], rtol=0, atol=0, msg=name)
    assert_close(one.state[1], other.state[1], rtol=0, atol=0)


def test_without_a_reset_the_past_does_matter() -> None:
    """The control of the test above."""
    one, other = outputs_with_a_changed_past(reset=False)
    assert all((before[3:, 1] != after[3:, 1]).any() for before, after in zip(one[:3], other[:3], strict=True))
    assert (one.state[1] != other.state[1]).all()


def test_a_reset_of_one_copy_leaves_the_others() -> None:
    network = make("mlp")
    obs, state, mask = inputs(network)
    _, _, reset = inputs(network, [(0, 1), (3, 1)])
    with torch.no_grad():
        plain, other = network(obs, state, mask), network(obs, state, reset)
    assert_close(plain.logits[:, [0, 2]], other.logits[:, [0, 2]])
    assert (plain.logits[:, 1] != other.logits[:, 1]).any(-1).all()


def test_a_reset_at_row_0_forgets_the_given_state() -> None:
    network = make("mlp")
    obs, state, mask = inputs(network, [(0, b) for b in range(B)])
    with torch.no_grad():
        assert_close(network(obs, state, mask).state, network(obs, network.initial_state(B), mask).state)


def test_no_gradient_flows_back_through_a_reset() -> None:
    network = make("mlp")
    obs, state, mask = inputs(network, [(3, 1)])
    obs.requires_grad_()
    network(obs, state, mask).logits[3:, 1].sum().backward()
    assert obs.grad is not None
    assert (obs.grad[:3] == 0).all() and (obs.grad[3:, 1] != 0).any()


def test_a_network_without_memory_has_an_empty_state() -> None:
    network = make("mlp without memory")
    assert network.initial_state(B).shape == (B, 0)


# Heads


def test_the_distillation_head_shares_no_parameters() -> None:
    network = make("mlp")
    distillation = {id(p) for p in network.distill_head.parameters()}
    others = {id(p) for name, p in network.named_parameters() if not name.startswith("distill_head")}
    assert len(distillation) == 2 and not distillation & others


@every_structure
def test_the_distillation_head_never_influences_the_policy(structure: str) -> None:
    network = make(structure)
    arguments = inputs(network)
    with torch.no_grad():
        before = network(*arguments)
        for parameter in network.distill_head.parameters():
            parameter.normal_(std=100.0)
        after = network(*arguments)
        acted, _, _ = network.act(arguments[0][0], arguments[1], arguments[2][0])
    assert torch.equal(before.logits, after.logits) and torch.equal(before.values, after.values)
    assert_close(acted, before.logits[0])
    assert (before.distill_logits != after.distill_logits).all()


def trained_parts(network: PolicyNetwork, loss: Tensor) -> set[str]:
    """The parts of the network that ``loss`` gives a gradient."""
    network.zero_grad()
    loss.backward()
    return {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_distillation_trains_trunk_memory_and_its_own_head_only() -> None:
    network = make("mlp")
    output = network(*inputs(network))
    loss = losses.kl(torch.randn(T, B, A), output.distill_logits).sum()
    assert trained_parts(network, loss) == {"trunk", "lstm", "distill_head"}


def test_reinforcement_does_not_train_the_distillation_head() -> None:
    network = make("mlp")
    output = network(*inputs(network))
    loss = distributions.entropy(output.logits).sum() + output.values.square().sum()
    assert trained_parts(network, loss) == {"trunk", "lstm", "policy_head", "value_head"}


def test_a_new_network_is_near_the_uniform_policy_and_values_nothing() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(*STRUCTURES["conv"], A)
    output = network(*inputs(network))
    assert_close(output.logits.softmax(-1), torch.full((T, B, A), 1 / A), atol=0.02, rtol=0)
    assert output.values.abs().max() < 0.05


@every_structure
def test_heads_are_fp32_and_finite_under_bf16_autocast(structure: str) -> None:
    network = make(structure)
    arguments = inputs(network, [(0, 0), (3, 1)])
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*arguments)
    exact = network(*arguments)
    for name, found, expected in zip(PolicyOutput._fields[:4], output[:4], exact[:4], strict=True):
        assert found.dtype == torch.float32, name
        assert_close(found, expected, atol=0.15, rtol=0.05, msg=lambda text, name=name: f"{name}: {text}")


def test_fault_27_extreme_logits_train_the_network_finitely_under_bf16_autocast() -> None:
    network = make("conv")
    with torch.no_grad():
        network.distill_head.bias.copy_(torch.tensor([120.0, 0.0, 0.0, -120.0]))
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*inputs(network))
        loss = losses.kl(torch.tensor([-120.0, 0.0, 0.0, 120.0]).expand(T, B, A), output.distill_logits).sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert loss.isfinite() and len(gradients) > 4 and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("trunk", ["conv", "residual"])
def test_a_plain_background_gives_the_first_filters_nothing(trunk: Literal["conv", "residual"]) -> None:
    first = PolicyNetwork(NetworkConfig(trunk), (3, 42, 42), A).trunk[0]
    response = first(torch.full((1, 3, 42, 42), 0.7))[..., 1:-1, 1:-1]  # without the padded border
    assert_close(response, torch.zeros_like(response), atol=1e-4, rtol=0)
    assert first(torch.rand(1, 3, 42, 42)).std() > 0.5


def test_a_new_memory_forgets_little() -> None:
    lstm = make("mlp").lstm
    assert lstm is not None
    gates = (lstm.bias_ih_l0 + lstm.bias_hh_l0).view(4, 6).mean(1)  # in, forget, cell, out
    assert gates[1] > 0.5 and (gates[[0, 2, 3]].abs() < 0.5).all()


# Trunks


def test_the_papers_network_has_the_papers_parameters() -> None:
    """Four 3x3 convolutions of 32 channels, stride 2 (42 -> 21 -> 11 -> 6 -> 3), LSTM 256, and heads of 6, 1 and 6."""
    convolutions = (9 * 1 * 32 + 32) + 3 * (9 * 32 * 32 + 32)
    memory = 4 * 256 * (3 * 3 * 32 + 256) + 2 * 4 * 256
    heads = 257 * (6 + 1 + 6)
    network = PolicyNetwork(NetworkConfig(), (1, 42, 42), 6)
    assert sum(p.numel() for p in network.parameters()) == convolutions + memory + heads


def test_the_papers_trunk_is_convolutions_and_elu() -> None:
    trunk = PolicyNetwork(NetworkConfig(), (1, 42, 42), 6).trunk
    assert [type(layer) for layer in trunk] == [nn.Conv2d, nn.ELU] * 4 + [nn.Flatten]
    assert all(c.stride == (2, 2) and c.kernel_size == (3, 3) for c in trunk if isinstance(c, nn.Conv2d))


@every_structure
def test_outputs_have_their_documented_shapes(structure: str) -> None:
    network = make(structure)
    output = network(*inputs(network))
    shapes = {name: tuple(tensor.shape) for name, tensor in output._asdict().items() if tensor is not None}
    state = (B, network.state_size)
    assert shapes == {"logits": (T, B, A), "distill_logits": (T, B, A), "values": (T, B), "state": state}


@every_structure
def test_every_parameter_is_trained(structure: str) -> None:
    network = make(structure)
    output = network(*inputs(network))
    (output.logits[..., 0] + output.distill_logits[..., 0] + output.values).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_residual_blocks_add_to_their_input() -> None:
    """With the blocks' last convolutions at zero, the residual trunk is the plain one."""
    network, plain = make("residual"), make("conv")
    weights = network.state_dict()
    blocks = [k for k in weights if ".body." in k]
    own = [k for k in weights if k.startswith("trunk.") and k not in blocks]
    with torch.no_grad():
        for key in blocks:
            weights[key].zero_()
    plain_keys = [k for k in plain.state_dict() if k.startswith("trunk.")]
    plain.load_state_dict(
        {k: v for k, v in weights.items() if not k.startswith("trunk.")}
        | {theirs: weights[ours] for ours, theirs in zip(own, plain_keys, strict=True)}
    )
    arguments = inputs(network)
    assert len(blocks) == 8
    assert_close(network(*arguments).logits, plain(*arguments).logits)


def test_pixels_are_scaled_to_0_to_1() -> None:
    network = make("conv")
    obs, state, mask = inputs(network)
    assert_close(network(obs, state, mask).logits, network(obs.float() / 255, state, mask).logits)


def test_observations_are_not_changed() -> None:
    network = make("conv")
    obs, state, mask = inputs(network)
    copies = obs.clone(), state.clone()
    network(obs, state, mask)
    assert torch.equal(obs, copies[0]) and torch.equal(state, copies[1])


def test_images_of_odd_and_uneven_sizes_fit() -> None:
    network = PolicyNetwork(NetworkConfig("conv", channels=2, depth=3, lstm=0), (3, 17, 10), A)
    output = network(torch.rand(2, 1, 3, 17, 10), network.initial_state(1), torch.zeros(2, 1, dtype=torch.bool))
    assert output.logits.shape == (2, 1, A) and output.logits.isfinite().all()


@pytest.mark.parametrize(
    ("trunk", "obs_shape", "allowed"),
    [("mlp", (1, 42, 42), "conv, residual, nature or impala"), ("conv", (4,), "mlp"), ("residual", (4,), "mlp")],
)
def test_fault_24_a_trunk_that_cannot_read_the_observations_is_refused(
    trunk: str, obs_shape: tuple[int, ...], allowed: str
) -> None:
    with pytest.raises(ValueError, match=f"network.trunk is {trunk}.*need {allowed}"):
        PolicyNetwork(NetworkConfig(trunk), obs_shape, A)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("channels", 0), ("depth", 0), ("hidden", -1), ("lstm", -1)])
def test_fault_28_a_size_out_of_range_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"network.{name} is {value}"):
        NetworkConfig(**{name: value})


def test_fault_28_an_unknown_trunk_is_refused() -> None:
    with pytest.raises(ValueError, match="trunk"):
        PolicyNetwork(NetworkConfig("transformer"), IMAGE, A)  # type: ignore[arg-type]


# Alignment


@pytest.mark.parametrize(("teacher_actions", "student_actions"), [(6, 3), (6, 18), (3, 6)])
def test_fault_23_the_alignment_maps_between_action_spaces(teacher_actions: int, student_actions: int) -> None:
    aligned = AlignmentNetwork(teacher_actions, student_actions)(torch.randn(T, B, teacher_actions))
    assert aligned.shape == (T, B, student_actions)


def test_the_alignment_is_four_hidden_layers_of_512_and_a_linear_map() -> None:
    layers = AlignmentNetwork(6, 3).layers
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * 4 + [nn.Linear]
    widths = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    assert widths == [(6, 512), (512, 512), (512, 512), (512, 512), (512, 3)]


def test_the_programs_alignment_has_elu() -> None:
    layers = AlignmentNetwork(6, 3, activation="elu").layers
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ELU] * 4 + [nn.Linear]


def test_aligned_logits_are_fp32_under_bf16_autocast() -> None:
    alignment, logits = AlignmentNetwork(6, 3, hidden=16), 10 * torch.randn(T, B, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = alignment(logits)
    assert found.dtype == torch.float32
    assert_close(found, alignment(logits), atol=0.1, rtol=0.1)


def test_training_the_alignment_leaves_teacher_and_student() -> None:
    """The teacher's logits are only read and the student's are only the target: neither gets a gradient."""
    teacher, student = torch.randn(T, B, 6), torch.randn(T, B, 3, requires_grad=True)
    alignment = AlignmentNetwork(6, 3, hidden=16)
    losses.kl(student, alignment(teacher), 2.0).sum().backward()
    assert student.grad is None and all(p.grad is not None for p in alignment.parameters())


def test_fault_28_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation is 'gelu'; it must be relu or elu"):
        AlignmentNetwork(6, 3, activation="gelu")  # type: ignore[arg-type]
