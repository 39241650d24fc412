"""The server that worker processes are forked from. Torch-free, so that it starts while the trainer imports torch."""

from __future__ import annotations

import multiprocessing as mp
import os
import tempfile
from multiprocessing import forkserver

from cdrl_pl.checks import ConfigError

# What the server imports once for all workers; the last one keeps that memory shared.
PRELOAD = ["cdrl_pl.rollouts.worker", "gymnasium", "ale_py", "cdrl_pl.rollouts.freeze_gc"]


SOCKET_PATH = 107  # bytes that Linux lets the path of a socket have
SOCKET_NAME = len("/pymp-12345678/listener-12345678")  # what multiprocessing adds to the temporary folder


def start_fork_server() -> None:
    """Starts the server; it imports what workers need while the trainer imports Lightning.

    Raises:
        ConfigError: the temporary folder's name is too long for a socket in it.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + SOCKET_NAME > SOCKET_PATH:
        allowed = SOCKET_PATH - SOCKET_NAME
        raise ConfigError(f"TMPDIR is {folder!r}; for workers' sockets its name must have at most {allowed} bytes")
    mp.get_context("forkserver").set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
