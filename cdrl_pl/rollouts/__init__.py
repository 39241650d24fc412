"""The pool of asynchronous environment worker processes and the shared memory between them and the learner."""

from __future__ import annotations

import multiprocessing as mp
from multiprocessing import forkserver

PRELOAD = ["cdrl_pl.rollouts.worker", "gymnasium", "ale_py", "cdrl_pl.rollouts.frozen"]


def start_fork_server() -> None:
    """Starts the server that workers are forked from. It imports what they need while the trainer imports Lightning."""
    mp.get_context("forkserver").set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
