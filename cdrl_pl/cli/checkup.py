"""What ``doctor`` finds by numbers: each check gets what a run needs and what there is."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cdrl_pl.system.hardware import descriptors_needed

OK, WARNING, FAILS = "ok", "warning", "fails"
MB = 1e6  # bytes


class Finding(NamedTuple):
    """One line of the doctor's.

    Attributes:
        what: was checked.
        state: ok, warning (the run goes, but not as well as it could) or fails.
        said: what was found, and what to change.
    """

    what: str
    state: str
    said: str


def check_cores(workers: int, agents: int, cores: int, best: int) -> Finding:
    """Whether there are workers enough, and not more than cores.

    Args:
        workers: of all agents and ranks of this machine.
        agents: that play, on all ranks of this machine.
        cores: that this process may use.
        best: workers of each that would be chosen where the config leaves it open.
    """
    counts = ((workers, "worker"), (agents, "agent"), (cores, "core"))
    said = "{} of {} on {}".format(*(f"{count} {what}{'s' * (count > 1)}" for count, what in counts))
    if workers > max(cores, agents):
        return Finding("cores", WARNING, f"{said}: they take turns; set --workers {best}, or leave it out")
    if 2 * workers <= best * agents:
        return Finding("cores", WARNING, f"{said}: too few to keep it busy; leave --workers out, or set {best}")
    return Finding("cores", OK, said)


def check_descriptors(workers: int) -> Finding:
    """Whether the system allows as many open files as the workers need.

    Args:
        workers: of one rank.
    """
    needed, (_, hard) = descriptors_needed(workers), resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        return Finding("open files", FAILS, f"{needed} are needed, {hard} are allowed; raise ulimit -Hn, or use fewer")
    return Finding("open files", OK, f"{needed} are needed; {'any number' if hard < 0 else hard} are allowed")


def check_shared_memory(blocks: Sequence[int], free: int, folder: Path, elsewhere: Path | None = None) -> Finding:
    """Whether rollouts and weights fit where Python keeps what processes share.

    A block that is larger than what is free goes to the temporary folder; blocks that fit one by one but not together
    end the run by SIGBUS once they are written to, since room is only taken then.

    Args:
        blocks: bytes of each.
        free: bytes there.
        folder: it is.
        elsewhere: the temporary folder; null: the system's.
    """
    there = sum(size for size in blocks if size <= free)
    moved = sum(size for size in blocks if size > free)
    said = f"{sum(blocks) / MB:,.1f} MB are needed, {free / MB:,.0f} MB are free in {folder}"
    change = "give it more (docker run --shm-size), or set fewer --workers or --copies"
    if there > free:
        return Finding("shared memory", FAILS, f"{said}; {change}")
    if moved:
        elsewhere = elsewhere or Path(tempfile.gettempdir())
        return Finding("shared memory", WARNING, f"{said}: {moved / MB:,.1f} MB go to {elsewhere}, a disk; {change}")
    return Finding("shared memory", OK, said)


def check_writing(root: Path) -> Finding:
    """Whether run folders can be made: tried where they go, or in the first folder above that is there.

    Args:
        root: in which every run has a folder.
    """
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        return Finding("writing", FAILS, f"{root} cannot be written ({error.strerror}); set --trainer.default_root_dir")
    return Finding("writing", OK, f"runs go to {root}")


def check_checkpoints(keep: int, size: int, free: int) -> Finding:
    """Whether the disk has room for the checkpoints that a run keeps.

    Args:
        keep: checkpoints at most, the one being written included.
        size: bytes of one, at least.
        free: bytes of that disk.
    """
    said = f"{keep} checkpoints of about {size / MB:,.1f} MB, {free / MB:,.0f} MB are free"
    if keep * size > free:
        return Finding("disk", FAILS, f"{said}; free some, or set --trainer.default_root_dir to another disk")
    return Finding("disk", OK, said)
