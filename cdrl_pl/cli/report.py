"""The command line of reports: ``python -m cdrl_pl report FOLDER`` and ``python -m cdrl_pl report NAME=RUN ...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdrl_pl.cli.options import OptionParser
from cdrl_pl.experiment.folder import EXPERIMENT
from cdrl_pl.experiment.plan import ExperimentError

ABOUT = """\
Compares arms: writes report.html (one file, figures inside), report.md and the figures as PNG files.

FOLDER is an experiment's folder, finished or not; its report goes to FOLDER/report. Otherwise every RUN is a run folder
(such as runs/version_0), and runs of the same NAME form an arm (its folder's name where none is given):
  python -m cdrl_pl report alone=runs/version_0 alone=runs/version_1 taught=runs/version_2 taught=runs/version_3"""


def main(arguments: Sequence[str]) -> int:
    """Writes the reports and names their pages; 0.

    Raises:
        SystemExit: 2 where an option or a folder is wrong, or matplotlib is missing.
    """
    parser = OptionParser("report", ABOUT)
    parser.add_argument(
        "runs", nargs="+", metavar="FOLDER|[NAME=]RUN", help="an experiment's folder, or runs with the arms they are of"
    )
    parser.add_argument("--out", metavar="DIR", help="where the report goes (default: FOLDER/report; for runs: report)")
    parser.add_argument("--agent", metavar="NAME", help="the agent measured (runs; default: the first that learned)")
    parser.add_argument("--baseline", metavar="NAME", help="the arm compared with (runs; default: the first)")
    parser.add_argument(
        "--threshold", type=float, metavar="R", help="training return, in points, whose first crossing is timed (runs)"
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=0.0,
        metavar="R",
        help="return, in points, of a policy that knows nothing (runs; default: 0)",
    )
    given = parser.read(arguments)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        parser.error('the figures need matplotlib: pip install -c constraints.txt -e ".[plot]"')
    from cdrl_pl.report.page import write_report
    from cdrl_pl.report.runs import ReportError, read_folder, read_plain

    experiments = [Path(word) for word in given.runs if (Path(word) / EXPERIMENT).is_file()]
    try:
        if experiments:
            if len(experiments) < len(given.runs):
                parser.error("an experiment's folder and other runs cannot be in one report")
            if given.out and len(experiments) > 1:
                parser.error("--out is for one report; each experiment has its own")
            for folder in experiments:
                print(write_report(read_folder(folder), Path(given.out or folder / "report")))
            return 0
        labelled = [_labelled(word) for word in given.runs]
        comparison = read_plain(labelled, given.agent, given.baseline, given.threshold, given.floor)
        print(write_report(comparison, Path(given.out or "report")))
    except (ReportError, ExperimentError, OSError) as error:
        parser.error(str(error))
    return 0


def _labelled(word: str) -> tuple[str, Path]:
    label, equals, path = word.partition("=")
    return (label, Path(path)) if equals and not Path(word).exists() else (Path(word).name, Path(word))
