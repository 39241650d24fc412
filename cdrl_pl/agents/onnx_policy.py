"""A frozen expert that is an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdrl_pl.agents.certificated import FrozenAgent
from cdrl_pl.envs import EnvConfig, describe, resolve
from cdrl_pl.onnx.network import OnnxNetwork, located

SUFFIX = ".onnx"


class OnnxPolicy(FrozenAgent):
    """A frozen expert that is an ONNX graph: observations, and recurrent states where it has some, to logits.

    Args:
        path: of the file, ``FILE.onnx``.
        options: by which it is read; see ``GraphOptions``.
        env: the task it plays, with the view it reads.

    Raises:
        OnnxError: the file is refused, or its graph is of other observations or actions than the task.
        EnvError: ``env`` cannot be used.
    """

    certificated_at: int | None = None

    def __init__(self, path: str, options: dict[str, Any], env: EnvConfig) -> None:
        super().__init__()
        played, self.env, self.spec = resolve(env), env, describe(env)
        assert played.view is not None
        self.view, self.game = played.view, played.id.rpartition(":")[2]
        network = OnnxNetwork(located(Path(path), options), self.spec.obs_shape, self.spec.num_actions)
        network.check_observed(self.spec.obs_dtype)
        self.network = network
        self.requires_grad_(False)

    def check_playable(self) -> None:
        """Nothing: its task was made to describe it."""
