"""Graphs of strangers: each that is hostile is refused by name, before a session is made."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import onnx_graphs
import pytest
from onnx_graphs import HOSTILE, counting, helper, linear, save

from cdrl_pl.checks import ConfigError
from cdrl_pl.onnx import graph, network
from cdrl_pl.onnx.graph import GraphOptions, graph_options, read_graph
from cdrl_pl.onnx.network import OnnxNetwork, located


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read here is never run."""
    monkeypatch.setattr(network, "start", lambda *_: pytest.fail("a session was made"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_by_name_before_anything_of_its_size_is_allocated(name: str, tmp_path: Path) -> None:
    make, said = HOSTILE[name]
    path = save(tmp_path / "a.onnx", make())
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, hard))
    try:
        with pytest.raises(ConfigError, match=said) as refusal:
            read_graph(path, GraphOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert str(path) in str(refusal.value) and len(str(refusal.value)) < 600


@pytest.mark.parametrize("make", [linear, counting, lambda: onnx_graphs.expand(10)])
def test_a_friendly_graph_is_read(make: Any, tmp_path: Path) -> None:
    """The control of the test above."""
    found = read_graph(save(tmp_path / "a.onnx", make()), GraphOptions())
    assert (found.obs_shape, found.obs_dtype, found.num_actions) == ((4,), "float32", 2)
    assert found.states == ({"h": 2} if make is counting else {}) and found.valued == (make is counting)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"\x0a" * 64])
def test_what_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match="is no ONNX graph"):
        read_graph(tmp_path / "a.onnx", GraphOptions())


def test_a_file_that_is_not_there_too_large_or_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_graph(path, GraphOptions())
    config = located(save(path, linear()), {})
    save(path, linear("q"))
    with pytest.raises(ConfigError, match="changed or damaged"):
        OnnxNetwork(config, (4,), 2)
    with open(path, "r+b") as file:
        file.truncate(graph.MAX_BYTES + 1)  # a hole: it takes no space
    with pytest.raises(ConfigError, match="at most"):
        read_graph(path, GraphOptions())


def test_names_of_its_own_are_given(tmp_path: Path) -> None:
    made = linear("q_values")
    made.graph.input[0].name = made.graph.node[0].input[0] = "state"
    path = save(tmp_path / "a.onnx", made)
    found = read_graph(path, GraphOptions(output="q", names={"obs": "state", "q": "q_values"}))
    assert found.num_actions == 2
    with pytest.raises(ConfigError, match="has no input 'obs'; it has state"):
        read_graph(path, GraphOptions(output="q"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output": "action"}, "policy_options.output is 'action'; it must be logits or q"),
        ({"temperature": 0}, "policy_options.temperature is 0; it must be above 0"),
        ({"temperature": "hot"}, "policy_options.temperature is 'hot'"),
        ({"divisor": float("nan")}, "policy_options.divisor is nan"),
        ({"names": ["obs"]}, "policy_options.names is"),
        ({"scale": 1}, "policy_options has 'scale'; a graph has output, temperature, divisor, names"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        graph_options(options)


@pytest.mark.parametrize("given", [{"file": "secret.onnx"}, {"sha256": "0"}])
def test_no_option_says_where_a_graph_lies(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which is not given"):
        located(save(tmp_path / "a.onnx", linear()), given)


@pytest.mark.parametrize(("shape", "actions"), [((5,), 2), ((4,), 3), ((4, 1), 2)])
def test_a_graph_of_another_task_is_refused(shape: tuple[int, ...], actions: int, tmp_path: Path) -> None:
    config = located(save(tmp_path / "a.onnx", linear()), {})
    with pytest.raises(ConfigError, match="they must be equal"):
        OnnxNetwork(config, shape, actions)


def test_metadata_are_read(tmp_path: Path) -> None:
    made = linear()
    helper.set_model_props(made, {"task": "CartPole"})
    assert read_graph(save(tmp_path / "a.onnx", made), GraphOptions()).metadata == {"task": "CartPole"}
