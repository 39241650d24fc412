"""The command line of experiments: ``python -m cdrl_pl experiment FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.driving import add_places, drive, end_when_told
from cdrl_pl.cli.options import OptionParser
from cdrl_pl.executors.executor import COMMAND
from cdrl_pl.experiment.driver import Driver
from cdrl_pl.experiment.plan import read_experiment
from cdrl_pl.shipped import config_file

ABOUT = """\
Runs what is missing of an experiment: every arm with every seed, seed by seed, each run as a process of its own in
FOLDER/<arm>/seed-<n>/; then scores the frozen final policy, sampled and greedy, on fresh environments.

The same command goes on after any interruption, from each run's newest checkpoint. Runs of other code, configs or
versions are never mixed into an arm: that is an error which says what differs."""


def main(arguments: Sequence[str], command: Sequence[str] = COMMAND) -> int:
    """The exit code: 0 where every run is done, 1 where one failed, 143 where it was told to end.

    Raises:
        SystemExit: 2 where an option, the file or the folder is wrong, with the reason on the standard error.
    """
    parser = OptionParser("experiment", ABOUT)
    parser.add_argument(
        "file", metavar="FILE", help="the experiment's file, or the name of a shipped one, such as cartpole"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of runs at once (default: 1)")
    add_places(parser, "runs")
    parser.add_argument(
        "--set-aside", action="store_true", help="move runs that differ out of the way; none is deleted"
    )
    given = parser.read(arguments)
    end_when_told()
    try:
        experiment = read_experiment(file := config_file(given.file, experiments=True))
        if given.folder:
            experiment = replace(experiment, folder=Path(given.folder))
        if given.executor:
            experiment = replace(experiment, executor=given.executor)
        driver = Driver(experiment, Path(file), given.jobs, command, given.set_aside)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    say = driver.display.say

    def run() -> int:
        """Until nothing is missing; then says what is done, and what failed and why."""
        failed = driver.run()
        say(f"{len(driver.runs) - len(failed)} of {len(driver.runs)} runs done")
        say(f"python -m cdrl_pl report {experiment.folder}")
        for one in failed:
            say(f"failed: {one.name}: {one.reason}; see {one.folder.path / 'log.txt'}")
        return 1 if failed else 0

    return drive(run, say, driver.close)
