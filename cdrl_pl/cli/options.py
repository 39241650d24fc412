"""What all command lines share: short options, and refusals; and plain parsers for ``experiment`` and ``report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from cdrl_pl.spelling import nearest

PROGRAM = "python -m cdrl_pl"
SHORT = {  # of fit, validate, test and predict
    "--T1": "--model.T1",
    "--T2": "--model.T2",
    "--stop": "--model.stop",
    "--T_max": "--model.T_max",
    "--workers": "--data.pool.workers",
    "--copies": "--data.pool.copies",
    "--seed": "--seed_everything",
    "--precision": "--trainer.precision",
    "--devices": "--trainer.devices",
    "--episodes": "--data.evaluation_episodes",
}


class OptionParser(argparse.ArgumentParser):
    """An argument parser of one command that refuses in the words of the other commands.

    Args:
        command: its name.
        description: for its help.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"{PROGRAM} {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        refuse(message, self.prog)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments; ends with exit code 2 and the nearest option where one is not known."""
        unknown = [word.partition("=")[0] for word in arguments if word.startswith("--")]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in unknown:
            if word not in known:
                self.error(f"there is no option {word}{nearest(word, known)}")
        return self.parse_args(arguments)


def refuse(message: str, program: str) -> NoReturn:
    """Says what is wrong and where to look, and ends with exit code 2."""
    sys.stderr.write(f"error: {message}\n{program} --help lists every option\n")
    raise SystemExit(2)
