"""Independent jobs side by side, each in a process of its own. Nothing here waits without a bound."""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

from cdrl_pl.system.fork_server import start_fork_server
from cdrl_pl.system.hardware import use_one_thread
from cdrl_pl.system.main_module import main_kept_out
from cdrl_pl.system.patience import TICK, Patience
from cdrl_pl.system.stop import Stopped, ignore_signals

Job = TypeVar("Job")
Result = TypeVar("Result")
Tick = Callable[..., None]
"""Called by a job as it gets on, with how far it is, whatever that is; with nothing to say, without."""

STALL = 120.0  # seconds


class _Tick(NamedTuple):
    """The message of a job that gets on."""

    state: Any


class _Result(NamedTuple):
    """The message of a job that has ended."""

    value: Any


class Failure(NamedTuple):
    """An exception in a worker, as text, since its class may not exist in the trainer.

    Attributes:
        kind: name of the exception's class.
        text: of the exception.
        traceback: of the exception, as text.
    """

    kind: str
    text: str
    traceback: str


class ProcessError(RuntimeError):
    """A job raised, its process died, or it made no progress; with its own error and traceback."""


def die_with_the_trainer() -> None:
    """Waits for the trainer's end, then ends this process."""
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def started(process: Any, theirs: Connection, interrupted: Callable[[], bool]) -> None:
    """Starts a process through the server, and leaves its end of the channel to it.

    Args:
        process: not started yet.
        theirs: its end.
        interrupted: whether this process was told to end: a signal to the whole group may reach the server, or the new
            process before it ignores signals.

    Raises:
        ProcessError: see there.
        Stopped: ``interrupted`` said so.
    """
    try:
        with main_kept_out():
            process.start()
    except (EOFError, ConnectionError) as error:
        if interrupted():
            raise Stopped("told to end while a process was started") from None
        raise ProcessError(f"a process could not be started: {type(error).__name__}: {error}") from None
    finally:
        theirs.close()


def in_processes(
    function: Callable[[Job, Tick], Result],
    jobs: Sequence[Job],
    interrupted: Callable[[], bool] = lambda: False,
    stall: float = STALL,
    progress: Callable[[int, Any], None] = lambda index, state: None,
) -> list[Result]:
    """``function(job, tick)`` of every job, in the jobs' order; on one thread each. All processes end with the call.

    Args:
        function: importable by name, as everything it is sent; it calls ``tick`` as it gets on.
        jobs: each in a process of its own.
        interrupted: asked twice a second whether the call should end.
        stall: seconds without a tick of any job after which the call ends.
        progress: called here with the index of a job and what it said in its tick.

    Raises:
        ProcessError: see there.
        Stopped: ``interrupted`` said so.
    """
    start_fork_server()
    context: Any = mp.get_context("forkserver")
    processes: list[Any] = []
    channels: list[Any] = []
    results: dict[int, Result] = {}
    try:
        for job in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_main, args=(function, job, theirs), daemon=False)
            channels.append(ours)
            started(process, theirs, interrupted)
            processes.append(process)
        patience = Patience(stall)
        while len(results) < len(jobs):
            if interrupted():
                raise Stopped("told to end while others worked")
            missing = {channels[i]: i for i in range(len(jobs)) if i not in results}
            ready: list[Any] = wait(list(missing), TICK)
            if ready:
                patience.renew()
            elif patience.is_over():
                raise ProcessError(f"{len(missing)} of {len(jobs)} jobs made no progress for {stall:g} s")
            for channel in ready:
                index = missing[channel]
                try:
                    message = channel.recv()
                except EOFError:
                    processes[index].join(5.0)
                    if interrupted():  # it, too
                        raise Stopped("told to end while others worked") from None
                    raise ProcessError(
                        f"the process of job {index} died (exit code {processes[index].exitcode})"
                    ) from None
                if isinstance(message, Failure):
                    raise ProcessError(f"{message.kind}: {message.text}\n{message.traceback}")
                if isinstance(message, _Tick):
                    progress(index, message.state)
                else:
                    results[index] = message.value
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join(5.0)
        for channel in channels:
            channel.close()
    return [results[i] for i in range(len(jobs))]


def _main(function: Callable[[Any, Tick], Any], job: Any, connection: Connection) -> None:
    ignore_signals()
    threading.Thread(target=die_with_the_trainer, daemon=True).start()
    use_one_thread()
    with suppress(ConnectionError):  # the trainer has left
        try:
            connection.send(_Result(function(job, lambda state=None: connection.send(_Tick(state)))))
        except ConnectionError:
            raise
        except Exception as error:
            connection.send(Failure(type(error).__name__, str(error), traceback.format_exc()))
