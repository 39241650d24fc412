"""Jobs in processes of their own: what is said where one cannot even be started."""

from __future__ import annotations

import multiprocessing as mp

import pytest

from cdrl_pl.system.processes import ProcessError, in_processes, started
from cdrl_pl.system.stop import Stopped


class Unborn:
    """A process whose server dies while it is started."""

    def start(self) -> None:
        raise EOFError


@pytest.mark.parametrize(("told", "error"), [(True, Stopped), (False, ProcessError)])
def test_a_process_that_cannot_be_started_is_an_end_where_one_was_told_to_end(
    told: bool, error: type[Exception]
) -> None:
    """A signal to the whole group may reach the server first."""
    ours, theirs = mp.Pipe(duplex=False)
    with pytest.raises(error, match="told to end" if told else "could not be started: EOFError"):
        started(Unborn(), theirs, lambda: told)
    assert theirs.closed
    with pytest.raises(EOFError):
        ours.recv()


def test_results_come_in_the_order_of_their_jobs() -> None:
    assert in_processes(square, [3, 1, 2]) == [9, 1, 4]


def square(number: int, tick: object) -> int:
    return number**2
