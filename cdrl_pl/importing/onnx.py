"""Policies as ONNX graphs, from any library that writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.onnx.graph import graph_options, read_graph
from cdrl_pl.onnx.network import located
from cdrl_pl.storage.verified import sha256


def read_onnx(path: Path, options: dict[str, Any] | None = None) -> ImportedPolicy:
    """The policy that is a graph; it stays one, and is run as it is.

    Args:
        path: of the file.
        options: by which it is read; see ``GraphOptions``.

    Raises:
        OnnxError: the file is refused, or a package is missing.
        ConfigError: an option is not known, or its value is not allowed.
    """
    given = options or {}
    graph = read_graph(path, graph_options(given))
    origin = {
        "format": "onnx", "library": graph.metadata.get("producer", "unknown"), "version": "unknown",
        "algorithm": "a graph", "file": path.name, "sha256": sha256(graph.content),
    }  # fmt: skip
    return ImportedPolicy(
        located(path, given), graph.obs_shape, graph.num_actions, {}, origin, is_q=given.get("output") == "q"
    )
