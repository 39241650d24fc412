"""The server that worker processes are forked from. Torch-free, so that it starts while the trainer imports torch."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    if not sys.stderr.isatty():
        forkserver.ensure_running()
        return
    theirs, ours = os.pipe()
    with _standing_for_both(ours):
        forkserver.ensure_running()
    os.close(ours)  # where the server ran before, nobody writes to it, and the thread ends
    threading.Thread(target=_pass_on, args=(theirs,), name="what workers say", daemon=True).start()


@contextmanager
def _standing_for_both(descriptor: int) -> Iterator[None]:
    """The standard output and error of what is started meanwhile."""
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in kept:
            os.dup2(descriptor, number)
        yield
    finally:
        for number, own in kept.items():
            os.dup2(own, number)
            os.close(own)


def _pass_on(descriptor: int) -> None:
    """What workers and what they start print on a terminal, line by line, to wherever this process's errors go then:
    a live display puts it above itself, while their own writing would be drawn over.
    """
    with open(descriptor, errors="replace") as said:
        for line in said:
            sys.stderr.write(line)
            sys.stderr.flush()
