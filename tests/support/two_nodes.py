"""Two machines for tests: network namespaces with a cable between them, where the system lets one make them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

NETWORK = "192.0.2"  # for documentation: nobody's


@dataclass(frozen=True)
class Node:
    """One of them.

    Attributes:
        prefix: words before a command that is run there.
        address: its own.
        interface: the end of the cable.
    """

    prefix: tuple[str, ...]
    address: str
    interface: str


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """The two; tests are skipped where namespaces cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip, of Debian's iproute2")
    names = [f"cdrl{os.getpid() % 100000}{end}" for end in "ab"]
    with ExitStack() as stack:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if made.returncode != 0:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        one, other = names
        ip("link", "add", one, "netns", one, "type", "veth", "peer", "name", other, "netns", other)
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", name)
            for interface in ("lo", name):
                ip("-n", name, "link", "set", interface, "up")
        found = [Node(("ip", "netns", "exec", name), f"{NETWORK}.{n}", name) for n, name in enumerate(names, 1)]
        yield found[0], found[1]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
