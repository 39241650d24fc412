"""A graph in the place of a policy network, and the one way to make either from a config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdrl_pl.networks import ONNX, NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.extra import OnnxError
from cdrl_pl.onnx.graph import OBS, OUT, VALUE, graph_options, read_graph
from cdrl_pl.onnx.session import start
from cdrl_pl.storage.verified import sha256
from cdrl_pl.types import PolicyOutput

FILE, CHECKSUM = "file", "sha256"
PLACE = (FILE, CHECKSUM)  # where a graph lies, beside the options by which it is read
ROWS = 256  # observations that are read at once


def build_network(config: NetworkConfig, obs_shape: tuple[int, ...], num_actions: int) -> PolicyNetwork:
    """The network of a config, learned or not.

    Args:
        config: structure; a graph's has the trunk ``onnx``.
        obs_shape: of one observation: [C, H, W] of an image, [N] of a vector.
        num_actions: number of actions, A.

    Raises:
        ConfigError: the network cannot read such observations, or is a graph that is refused.
    """
    return (OnnxNetwork if config.trunk == ONNX else PolicyNetwork)(config, obs_shape, num_actions)


def located(path: Path, options: dict[str, Any], checksum: str | None = None) -> NetworkConfig:
    """The structure of the network that is a graph in a file.

    Args:
        path: of the file.
        options: by which it is read.
        checksum: its SHA-256, in hexadecimal digits; None: as it is now.

    Raises:
        OnnxError: it cannot be read, or ``options`` names a place as well.
    """
    if wrong := [name for name in options if name in PLACE]:
        raise OnnxError(f"policy_options has {wrong[0]!r}, which is not given: a graph lies where it is")
    if checksum is None:
        checksum = sha256(read_graph(path, graph_options(options)).content)
    place = {FILE: str(path.absolute()), CHECKSUM: checksum}
    return NetworkConfig(trunk=ONNX, lstm=0, trunk_options={**options, **place})


def without_place(config: NetworkConfig) -> NetworkConfig:
    """The same structure of a graph that may lie anywhere, as a certificate has it."""
    return replace(config, trunk_options={k: v for k, v in config.trunk_options.items() if k not in PLACE})


class OnnxNetwork(PolicyNetwork):
    """A graph that is asked as a policy network is; it never learns, and runs on one thread of the CPU.

    Its recurrent state is all of the graph's side by side. Its distillation layer is its policy, and its values are 0
    where it gives none.

    Args:
        config: with the file, its checksum and the options by which it is read as ``trunk_options``.
        obs_shape: of one observation.
        num_actions: number of actions, A.

    Raises:
        OnnxError: the file is refused, or its graph is of other observations or actions.
    """

    temperature: Tensor

    def __init__(self, config: NetworkConfig, obs_shape: tuple[int, ...], num_actions: int) -> None:
        nn.Module.__init__(self)
        options = dict(config.trunk_options)
        if not all(isinstance(options.get(name), str) for name in PLACE):
            raise OnnxError("network.trunk is onnx, without the file and sha256 that a policy or a certificate has")
        self.file, self._checksum = Path(options.pop(FILE)), options.pop(CHECKSUM)
        self.config, self.obs_shape, self.num_actions = config, tuple(obs_shape), num_actions
        self.options = graph_options(options)
        self.graph = read_graph(self.file, self.options, self._checksum)
        theirs = (self.graph.obs_shape, self.graph.num_actions)
        if theirs != (self.obs_shape, num_actions):
            raise OnnxError(
                f"{self.file} reads observations of shape {theirs[0]} and has {theirs[1]} actions; the task gives "
                f"{self.obs_shape} and has {num_actions}; they must be equal"
            )
        self.state_size = sum(self.graph.states.values())
        self.normaliser = self.value_trunk = self.lstm = self.gru = self.after = None
        temperature = torch.tensor(float(self.options.temperature))
        self.register_buffer("temperature", temperature, persistent=False)  # the config's, whatever a checkpoint had
        checksum = torch.tensor([*bytes.fromhex(self._checksum)], dtype=torch.uint8)
        self.register_buffer("checksum", checksum)  # by which a checkpoint knows the graph
        self._session: Any = None

    @property
    def device(self) -> torch.device:
        """Where it takes and gives numbers; it runs on the CPU."""
        return self.temperature.device

    def check_observed(self, dtype: str) -> None:
        """Refuses a task whose observations the graph does not read.

        Args:
            dtype: of its observations.

        Raises:
            OnnxError: they are float32, and the graph reads uint8.
        """
        if dtype != "uint8" and self.graph.obs_dtype == "uint8":
            raise OnnxError(f"{self.file} reads uint8 observations; the task gives {dtype}; they must be equal")

    def step(self, obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """obs [B, *observation], state [B, S] -> logits [B, A], values [B], state [B, S], on the device of ``obs``."""
        if self._session is None:
            self._session = start(self.graph.content, str(self.file))
        parts = [self._run(rows, before) for rows, before in zip(obs.split(ROWS), state.split(ROWS), strict=True)]
        logits, values, state = (torch.cat(part).to(obs.device) for part in zip(*parts, strict=True))
        return logits / self.temperature, values, state

    def _run(self, obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        graph, names = self.graph, self.options.names
        if obs.dtype == torch.uint8 and graph.obs_dtype == "float32":
            obs = obs.float() / self.options.divisor
        states = state.split([*graph.states.values()], -1) if graph.states else ()
        fed = dict(zip((OBS, *graph.states), (obs, *states), strict=True))
        outputs = [self.options.output, *([VALUE] if graph.valued else []), *(name + OUT for name in graph.states)]
        said = self._session.run(
            [names.get(name, name) for name in outputs],
            {names.get(name, name): tensor.numpy(force=True) for name, tensor in fed.items()},
        )
        by_name = {name: torch.from_numpy(array) for name, array in zip(outputs, said, strict=True)}
        logits = by_name[self.options.output]
        values = by_name[VALUE].reshape(-1) if graph.valued else torch.zeros(len(logits))
        after = torch.cat([by_name[name + OUT] for name in graph.states], -1) if graph.states else state.cpu()
        return logits, values, after

    @torch.no_grad()
    def forward(self, obs: Tensor, state: Tensor, resets: Tensor) -> PolicyOutput:
        """As a policy network's; a graph with memory reads a row at a time."""
        steps, copies = resets.shape
        if not self.state_size:
            rows = state.new_zeros(steps * copies, 0)
            flat, values, _ = self.step(obs.flatten(0, 1), rows)
            logits = flat.view(steps, copies, -1)
            return PolicyOutput(logits, logits, values.view(steps, copies), state)
        said = []
        for row, begins in zip(obs, resets, strict=True):
            *both, state = self.act(row, state, begins.to(state.device))
            said.append(both)
        logits, values = (torch.stack(part) for part in zip(*said, strict=True))
        return PolicyOutput(logits, logits, values, state)

    def to_bf16(self) -> PolicyNetwork:
        """Itself: a graph has the precision that it was written with."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the session: a copy, or another process, starts its own."""
        return {**self.__dict__, "_session": None}
