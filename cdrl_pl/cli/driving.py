"""What the commands that drive runs share: where these go, and how a driver ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.options import OptionParser
from cdrl_pl.executors.choose import EXECUTORS
from cdrl_pl.storage.atomic import disk_full
from cdrl_pl.system.stop import take


def add_places(parser: OptionParser, what: str) -> None:
    """Adds the options that say where runs go and where they are started.

    Args:
        parser: of the command.
        what: it runs, in the plural.
    """
    parser.add_argument("--folder", metavar="DIR", help=f"where {what} go, instead of the file's folder")
    parser.add_argument(
        "--executor",
        metavar="NAME",
        help=f"where runs are started: {', '.join(EXECUTORS)} (default: the file's, local)",
    )


def end_when_told() -> None:
    """SIGTERM, or a closed terminal, ends this process through its ``finally`` clauses: its runs are told as well."""
    take(_told_to_end, signal.SIGTERM, signal.SIGHUP)


def drive(run: Callable[[], int], say: Callable[[str], None], close: Callable[[], None]) -> int:
    """The exit code of a driver: of ``run``, 130 where it was interrupted, 1 where it cannot go on.

    Args:
        run: until nothing is missing.
        say: prints one line.
        close: gives the folder free.
    """
    try:
        return run()
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        return 130
    except (ConfigError, OSError) as error:
        if isinstance(error, OSError) and not disk_full(error):
            raise
        say(f"error: {disk_full(error) or error}")
        return 1
    finally:
        close()


def _told_to_end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
