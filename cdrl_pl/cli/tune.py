"""The command line of sweeps: ``python -m cdrl_pl tune FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.driving import add_places, drive, end_when_told
from cdrl_pl.cli.options import OptionParser
from cdrl_pl.executors.executor import COMMAND
from cdrl_pl.shipped import config_file
from cdrl_pl.tuning.driver import Tuner
from cdrl_pl.tuning.plan import read_sweep
from cdrl_pl.tuning.results import BEST, REPORT
from cdrl_pl.tuning.study import need_optuna

ABOUT = """\
Searches for better options: trials of one config, each a run of its own in FOLDER/trials/, whose values Optuna chooses
and which are given up early where the file has a pruner. Needs the extra "tune".

The same command goes on after any interruption: trials that were under way keep their values and go on from their
newest checkpoints. Writes FOLDER/best.yaml, which fit --config takes, and FOLDER/report.md."""


def main(arguments: Sequence[str], command: Sequence[str] = COMMAND) -> int:
    """The exit code: 0 where there is a best trial, 1 where there is none, 143 where it was told to end.

    Raises:
        SystemExit: 2 where an option, the file or the folder is wrong, with the reason on the standard error.
    """
    parser = OptionParser("tune", ABOUT)
    parser.add_argument("file", metavar="FILE", help="the sweep's file, or the name of a shipped one, such as cartpole")
    parser.add_argument("--jobs", type=int, metavar="N", help="number of trials at once, instead of the file's")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="number of trials, those done counted, instead of the file's"
    )
    add_places(parser, "trials")
    given = parser.read(arguments)
    end_when_told()
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    try:
        for option in ("jobs", "trials"):
            if (number := getattr(given, option)) is not None and number < 1:
                parser.error(f"--{option} is {number}; it must be 1 or more")
        sweep = read_sweep(file := config_file(given.file, tuning=True))
        sweep = replace(
            sweep,
            jobs=given.jobs or sweep.jobs,
            trials=given.trials or sweep.trials,
            executor=given.executor or sweep.executor,
            folder=Path(given.folder) if given.folder else sweep.folder,
        )
        need_optuna()
        tuner = Tuner(sweep, Path(file), command, say)
    except (ConfigError, OSError) as error:
        parser.error(str(error))

    def run() -> int:
        """Until nothing is missing; then says where the report is, and how the best config is run."""
        found = tuner.run()
        say(f"{sweep.folder / REPORT}")
        say(
            f"python -m cdrl_pl fit --config {sweep.folder / BEST}"
            if found
            else "no trial is done, so none is the best"
        )
        return 0 if found else 1

    return drive(run, say, tuner.close)
