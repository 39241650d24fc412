"""Policy networks as ONNX graphs; each is compared with its network before it is called written."""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdrl_pl import __version__
from cdrl_pl.envs import EnvConfig, EnvSpec
from cdrl_pl.networks import ONNX, PolicyNetwork
from cdrl_pl.onnx.extra import OnnxError, needed
from cdrl_pl.onnx.session import start
from cdrl_pl.storage.atomic import named, write_whole

OBS, LOGITS, VALUE = "obs", "logits", "value"
STATES = ("h", "c")  # hidden and cell of the LSTM; what they are afterwards has OUT behind its name
OUT = "_out"
TOLERANCE = 1e-5  # as a share of the greatest number of its kind, or of 1 where that is less
ROUNDING = 2.0  # times a network's own error that its graph may differ by, where that is more
STEPS, COPIES = 100, 10  # of the comparison: 1,000 observations
MAX_BYTES = 2**31 - 1  # of a graph in one file


@dataclass(frozen=True)
class Written:
    """A graph in its file.

    Attributes:
        inputs: name, type and shape of each; the first number of a shape is the batch's.
        outputs: the same of the outputs.
        difference: the greatest between graph and network, as ``TOLERANCE`` is.
        size: of the file, in bytes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    size: int


class _Step(nn.Module):
    """One step of a network whose recurrent state goes in and out by name."""

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """obs [B, *observation], h and c [B, W] -> logits [B, A], values [B], h and c [B, W]."""
        state = torch.cat(states, -1) if states else obs.new_zeros(0)
        logits, values, state = self.network.step(obs, state)
        return (logits, values, *(state.chunk(len(states), -1) if states else ()))


def states_of(network: PolicyNetwork) -> tuple[str, ...]:
    """The names of its recurrent states: of an LSTM hidden and cell, of a GRU one."""
    return STATES if network.lstm is not None else STATES[: network.gru is not None]


def write_onnx(path: Path, network: PolicyNetwork, env: EnvConfig, spec: EnvSpec, origin: dict[str, str]) -> Written:
    """Writes a network as an ONNX graph, whole or not at all, to a file that is not there yet.

    Inputs are ``obs`` [batch, *observation], as the task's view gives it (uint8 or float32: scaling and normalisation
    are in the graph), and, of a network with memory, its state ``h`` and ``c`` [batch, width], zeros where an episode
    begins; of a GRU ``h`` alone. Outputs are ``logits`` [batch, actions], ``value`` [batch], and ``h_out`` and
    ``c_out``.

    Args:
        path: of the file.
        network: on the CPU.
        env: the task, whose id is written beside the graph.
        spec: of the task: what is observed, and the names of the actions.
        origin: where the network is from, written as it is.

    Raises:
        OnnxError: the file is there, a package is missing, the network cannot be a graph, or it says something else.
        OSError: it cannot be written.
    """
    if path.exists():
        raise OnnxError(f"{path} is there already; nothing is overwritten")
    if network.config.trunk == ONNX:
        raise OnnxError(f"what is to be written to {path} is an ONNX graph already; copy its file")
    network = network.eval()
    content = graph_of(network, spec, described(env, spec) | origin)
    difference = compare(content, network, spec, str(path))
    with named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    if path.read_bytes() != content:
        raise OnnxError(f"{path} was written, and does not read back as it was; the disk may be damaged")
    session = start(content, str(path))
    inputs, outputs = (tuple(_shown(port) for port in ports) for ports in (session.get_inputs(), session.get_outputs()))
    return Written(inputs, outputs, difference, len(content))


def described(env: EnvConfig, spec: EnvSpec) -> dict[str, str]:
    """What stands beside the graph: the version that wrote it, the task, and what it sees and does there."""
    return {
        "cdrl_pl.version": __version__,
        "cdrl_pl.env": env.id,
        "cdrl_pl.obs_shape": json.dumps(spec.obs_shape),
        "cdrl_pl.obs_dtype": spec.obs_dtype,
        "cdrl_pl.actions": json.dumps(spec.action_meanings),
        "cdrl_pl.action_counts": json.dumps(spec.action_counts),
    }


def graph_of(network: PolicyNetwork, spec: EnvSpec, metadata: dict[str, str]) -> bytes:
    """The network as the content of an ONNX file, for batches of any size.

    Args:
        network: on the CPU.
        spec: of the task that it plays.
        metadata: written beside the graph.

    Raises:
        OnnxError: a package is missing, or the network cannot be a graph.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        needed(module)
    states = states_of(network)
    example = (_observations(spec, 2), *(torch.zeros(2, network.state_size // len(states)) for _ in states))
    batch = torch.export.Dim("batch")
    try:
        with _quietly():
            program = torch.onnx.export(
                _Step(network),
                example,
                dynamo=True,
                input_names=[OBS, *states],
                output_names=[LOGITS, VALUE, *(name + OUT for name in states)],
                dynamic_shapes=({0: batch}, *([tuple({0: batch} for _ in states)] if states else [])),
                verbose=False,
            )
    except Exception as error:  # a trunk of the user's own may do anything
        reason = " ".join(str(error).split())[:200]
        raise OnnxError(f"network.trunk {network.config.trunk!r} cannot be written as ONNX: {reason}") from error
    assert program is not None
    model: Any = program.model_proto
    _forget_sources(model)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "cdrl_pl", __version__
    if (size := model.ByteSize()) > MAX_BYTES:
        raise OnnxError(f"the network has {size:,} bytes; one file of ONNX holds {MAX_BYTES:,}")
    content: bytes = model.SerializeToString()
    return content


def _forget_sources(model: Any) -> None:
    """Takes out the lines and the paths of the code that every node came from."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@torch.no_grad()
def compare(content: bytes, network: PolicyNetwork, spec: EnvSpec, name: str) -> float:
    """The greatest difference between graph and network, of logits, values and both halves of the state.

    Both read ``STEPS`` rows of ``COPIES`` random observations, in which a tenth of the rows begin an episode; the
    network reads them as it does in learning, the graph a row at a time. Then both read a single observation. Each kind
    of number is measured by its greatest: an LSTM's cells reach 50 and more, and fp32 has seven digits. Where the
    network itself is not as exact as ``TOLERANCE`` (by what it says in fp64), the graph may be ``ROUNDING`` times as
    far from it.

    Args:
        content: of the file.
        network: that it should be.
        spec: of the task.
        name: of the file, for the message.

    Raises:
        OnnxError: they differ by more.
    """
    make = torch.Generator().manual_seed(0)
    session, greatest, states = start(content, name), 0.0, states_of(network)
    for steps, copies in ((STEPS, COPIES), (1, 1)):
        obs = _observations(spec, steps * copies, network, make).unflatten(0, (steps, copies))
        resets = torch.rand(steps, copies, generator=make) < 0.1
        begun = torch.randn(copies, network.state_size, generator=make).tanh()
        output = network(obs, begun, resets)
        expected = _kinds(states, output.logits, output.values, output.state)
        found = _differences(_sequence(partial(run, session, states), states, obs, begun, resets), expected)
        allowed = dict.fromkeys(found, TOLERANCE)
        if max(found.values()) > TOLERANCE:
            own = _differences(_sequence(_exact(network).step, states, obs, begun, resets), expected)
            allowed = {kind: max(TOLERANCE, ROUNDING * own[kind]) for kind in own}
        for kind, difference in found.items():
            if not difference <= allowed[kind]:
                raise OnnxError(
                    f"{name}: {kind} of the graph differs from the network's by {difference:.1e}; not written"
                )
        greatest = max(greatest, *found.values())
    return greatest


Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _sequence(step: Step, states: tuple[str, ...], obs: Tensor, state: Tensor, resets: Tensor) -> dict[str, Tensor]:
    """What ``step`` says of rows, one after another."""
    logits, values = [], []
    for row, begins in zip(obs, resets, strict=True):
        said, value, state = step(row, state.masked_fill(begins.unsqueeze(-1), 0.0))
        logits.append(said)
        values.append(value)
    return _kinds(states, torch.stack(logits), torch.stack(values), state)


def _kinds(states: tuple[str, ...], logits: Tensor, values: Tensor, state: Tensor) -> dict[str, Tensor]:
    parts = state.chunk(len(states), -1) if states else ()
    return {LOGITS: logits, VALUE: values, **dict(zip(states, parts, strict=True))}


def _differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Of each kind of number, by its greatest (or 1); infinite where one is not finite."""
    shares = {
        kind: (found[kind] - own).abs().amax() / own.abs().amax().clamp(min=1.0) for kind, own in expected.items()
    }
    return {kind: share.nan_to_num(nan=math.inf).item() for kind, share in shares.items()}


def _exact(network: PolicyNetwork) -> PolicyNetwork:
    """The same with trunk and memory in fp64."""
    exact = copy.deepcopy(network)
    for part in (exact.trunk, exact.value_trunk, exact.memory):
        if part is not None:
            part.double()
    return exact


def run(session: Any, states: tuple[str, ...], obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a graph that this module writes: obs [B, *observation], state [B, S] -> logits, values, state.

    Args:
        session: of the graph.
        states: names of its recurrent states.
        obs: [B, *observation].
        state: before it, [B, S].
    """
    parts = state.chunk(len(states), -1) if states else ()
    fed = {OBS: obs.numpy(), **{name: part.numpy() for name, part in zip(states, parts, strict=True)}}
    outputs = [LOGITS, VALUE, *(name + OUT for name in states)]
    logits, values, *after = (torch.from_numpy(array) for array in session.run(outputs, fed))
    return logits, values, torch.cat(after, -1) if after else state


def _observations(
    spec: EnvSpec, count: int, network: PolicyNetwork | None = None, make: torch.Generator | None = None
) -> Tensor:
    """Random observations [count, *observation].

    Vectors are as the network has seen them where it keeps count.
    """
    if spec.obs_dtype == "uint8":
        return torch.randint(0, 256, (count, *spec.obs_shape), dtype=torch.uint8, generator=make)
    rows = torch.randn(count, *spec.obs_shape, generator=make)
    if network is None or network.normaliser is None:
        return rows
    return rows * network.normaliser.variance.sqrt() + network.normaliser.mean


def _shown(port: Any) -> str:
    kind = port.type.removeprefix("tensor(").removesuffix(")").replace("float", "float32")
    return f"{port.name} {kind} [{', '.join(map(str, port.shape))}]"


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells of packages that are not needed, and of arguments to come."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
