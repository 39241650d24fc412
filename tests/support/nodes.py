"""Two machines for tests: two network namespaces of this one, joined by a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Node:
    """One of them.

    Attributes:
        namespace: its name.
        address: in the network of both.
        device: by which it reaches the other.
    """

    namespace: str
    address: str
    device: str

    def command(self, *words: str) -> list[str]:
        """What runs a command there."""
        return ["ip", "netns", "exec", self.namespace, *words]


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two nodes; tests are skipped where this process may make none."""
    name = f"cdrl{os.getpid()}"
    pair = [Node(f"{name}n{i}", f"10.77.0.{i + 1}", f"v{os.getpid()}n{i}") for i in range(2)]
    if shutil.which("ip") is None:
        pytest.skip("two nodes need the command ip (iproute2)")
    try:
        for node in pair:
            _ip("netns", "add", node.namespace)
        _ip("link", "add", pair[0].device, "type", "veth", "peer", "name", pair[1].device)
        for node in pair:
            _ip("link", "set", node.device, "netns", node.namespace)
            _ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", node.device)
            for device in (node.device, "lo"):
                _ip("-n", node.namespace, "link", "set", device, "up")
        yield pair
    except subprocess.CalledProcessError as error:
        pytest.skip(f"two nodes need the right to make network namespaces: {error.stderr.strip()}")
    finally:
        for node in pair:
            subprocess.run(["ip", "netns", "del", node.namespace], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)
