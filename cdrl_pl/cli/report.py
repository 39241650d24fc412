"""The command line of reports: ``python -m cdrl_pl report FOLDER`` and ``python -m cdrl_pl report NAME=RUN ...``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.options import OptionParser

ABOUT = """\
Compares arms: writes report.html (one file, figures inside), report.md, and the figures as PNG and SVG files.

FOLDER is an experiment's folder, finished or not, or one that --table has written; its report goes to FOLDER/report.
Otherwise every RUN is a run folder (such as runs/version_0), and runs of the same NAME form an arm (its folder's name
where none is given):
  python -m cdrl_pl report alone=runs/version_0 alone=runs/version_1 taught=runs/version_2 taught=runs/version_3

--table DIR keeps what the report is made of, to share or to put under version control: DIR/runs.csv.gz, one tidy table
of all runs (a row per metric, score and fact), beside the experiment's file. The report goes to DIR/report, and from
then on "report DIR" writes the same, without the run folders:
  python -m cdrl_pl report runs/experiments/cartpole --table results/cartpole
  python -m cdrl_pl report results/cartpole"""


def main(arguments: Sequence[str]) -> int:
    """Writes the reports and names their pages; 0.

    Raises:
        SystemExit: 2 where an option or a folder is wrong, or matplotlib is missing.
    """
    parser = OptionParser("report", ABOUT)
    parser.add_argument(
        "runs", nargs="+", metavar="FOLDER|[NAME=]RUN", help="an experiment's folder, or runs with the arms they are of"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where the report goes (default: FOLDER/report, or that of --table; runs: report)"
    )
    parser.add_argument(
        "--table",
        metavar="DIR",
        help="write all runs to DIR/runs.csv.gz as well, from which DIR's report can be made anew",
    )
    parser.add_argument("--agent", metavar="NAME", help="the agent measured (runs; default: the first that learned)")
    parser.add_argument("--baseline", metavar="NAME", help="the arm compared with (runs; default: the first)")
    parser.add_argument(
        "--threshold", type=float, metavar="R", help="training return, in points, whose first crossing is timed (runs)"
    )
    parser.add_argument(
        "--floor",
        type=float,
        metavar="R",
        help="return, in points, of a policy that knows nothing (runs; default: 0)",
    )
    given = parser.read(arguments)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        parser.error('the figures need matplotlib: pip install "cdrl-pl[plot]"')
    from cdrl_pl.report.page import write_report
    from cdrl_pl.report.run_table import Settings
    from cdrl_pl.report.runs import is_gathered, keep, read_folder, read_plain

    folders = [Path(word) for word in given.runs if is_gathered(Path(word))]
    settings = Settings(given.agent, given.baseline, given.threshold, given.floor)
    if folders and len(folders) < len(given.runs):
        parser.error("an experiment's folder, or one with a table, and other runs cannot be in one report")
    for option, value in (("--out", given.out), ("--table", given.table)):
        if value and len(folders) > 1:
            parser.error(f"{option} is for one report; each of these folders has its own")
    console = Console(stderr=True)
    try:
        for folder in folders or (None,):
            if console.is_terminal:  # it may take half a minute
                console.print(f"reading {folder or f'{len(given.runs)} runs'} and drawing the figures", markup=False)
            if folder is None:
                comparison = read_plain([_labelled(word) for word in given.runs], settings)
            else:
                comparison = read_folder(folder, settings)
            if given.table:
                keep(comparison, folder, Path(given.table))
            again = list(arguments)
            if folder:  # one of several
                again = [str(folder), *(word for word in arguments if word not in given.runs)]
            if given.table:  # which has all that was said
                again = [given.table, *(["--out", given.out] if given.out else [])]
            place = Path(given.out or Path(given.table or folder or "", "report"))
            print(write_report(comparison, place, f"python -m cdrl_pl report {shlex.join(again)}"))
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    return 0


def _labelled(word: str) -> tuple[str, Path]:
    label, equals, path = word.partition("=")
    return (label, Path(path)) if equals and not Path(word).exists() else (Path(word).name, Path(word))
