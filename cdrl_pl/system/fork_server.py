"""The server that worker processes are forked from. Torch-free, so that it starts while the trainer imports torch."""

from __future__ import annotations

import multiprocessing as mp
from multiprocessing import forkserver

# What the server imports once for all workers; the last one keeps that memory shared.
PRELOAD = ["cdrl_pl.rollouts.worker", "gymnasium", "ale_py", "cdrl_pl.rollouts.freeze_gc"]


def start_fork_server() -> None:
    """Starts the server; it imports what workers need while the trainer imports Lightning."""
    mp.get_context("forkserver").set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
