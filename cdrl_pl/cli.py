"""The Lightning command line: short options, defaults that fit endless rollouts, and errors that say what to type."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from cdrl_pl.collaboration import Collaboration
from cdrl_pl.dataset import RolloutDataModule

SHORT = {
    "--T1": "--model.T1",
    "--T2": "--model.T2",
    "--stop": "--model.stop",
    "--T_max": "--model.T_max",
    "--workers": "--data.pool.workers",
    "--copies": "--data.pool.copies",
    "--seed": "--seed_everything",
    "--precision": "--trainer.precision",
    "--devices": "--trainer.devices",
}
# Warnings that are about other uses of Lightning than this one.
QUIET = [
    "Experiment logs directory .* exists and is not empty",  # TensorBoard's files; the folder is this run's own
    "Total length of `Jobs` across ranks is zero",
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "`weights_only` was not set",
    "You are trying to `self.log\\(\\)`",
]
RUN_VERSION = "CDRL_PL_RUN_VERSION"  # tells the processes that a strategy launches which run folder it is


def expand(arguments: list[str]) -> list[str]:
    """Short options spelled out."""
    expanded = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        expanded.append(SHORT.get(option, option) + equals + value)
    return expanded


class _Parser(LightningArgumentParser):
    """Says which option was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = sorted(set(_leaves(self)) | set(SHORT))
        hints = []
        for wrong in _unknown(message):
            near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
            if not near:  # compare the last part alone
                tails = {name.split(".")[-1]: name for name in known}
                close = difflib.get_close_matches(wrong.split(".")[-1].lstrip("-"), tails, n=1, cutoff=0.5)
                near = [tails[close[0]]] if close else []
            if near:
                hints.append(f"{wrong}: did you mean {near[0]}?")
        super().error("\n".join([*dict.fromkeys(hints), message]), ex)
        raise AssertionError("the parser's error() returned")


def _unknown(message: str) -> list[str]:
    found = re.findall(r"Option '([\w.]+)' is not accepted", message)
    found += re.findall(r"Group '[\w.]*' does not accept option '([\w.]+)'", message)
    found += re.findall(r"Key '([\w.]+)' is not expected", message)
    found += re.findall(r"key='([\w.]+)'", message)
    for group in re.findall(r"[Uu]nrecognized arguments: ([^\n]+)", message):
        found += [word.split("=")[0] for word in group.split() if word.startswith("-")]
    return found


def _leaves(parser: Any) -> list[str]:
    """Every option of the parser and of its subcommands, spelled as a user types it."""
    names = []
    for action in parser._actions:
        names += [o for o in action.option_strings if o.startswith("--")]
        for choice in (getattr(action, "choices", None) or {}) if isinstance(getattr(action, "choices", None), dict) else ():
            names += _leaves(action.choices[choice])
    from dataclasses import fields

    from cdrl_pl.alignment import AlignmentConfig
    from cdrl_pl.collaboration import AgentConfig
    from cdrl_pl.envs import EnvConfig
    from cdrl_pl.networks import NetworkConfig
    from cdrl_pl.student import LearnerConfig
    from cdrl_pl.transfer import TransferConfig

    for record in (AgentConfig, EnvConfig, NetworkConfig, LearnerConfig, TransferConfig, AlignmentConfig):
        names += [f.name for f in fields(record)]
    return names


class CLI(LightningCLI):
    """``LightningCLI`` whose runs write below one folder, and whose flags hold on resume."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            Collaboration,
            RolloutDataModule,
            parser_class=_Parser,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            trainer_defaults={
                "max_epochs": -1,
                "max_steps": -1,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "default_root_dir": "runs",
            },
            **kwargs,
        )

    def _parse_ckpt_path(self) -> None:
        """Flags given beside a checkpoint hold: nothing is taken from its hyper-parameters."""

    def before_instantiate_classes(self) -> None:
        """TensorBoard and CSV, both in one run folder below ``default_root_dir``, unless the config names loggers."""
        trainer = self.config[self.subcommand].trainer
        if trainer.logger not in (None, True):
            return
        root = trainer.default_root_dir
        version = os.environ.setdefault(RUN_VERSION, next_version(Path(root)))
        where = {"save_dir": root, "name": "", "version": version}
        trainer.logger = [
            {"class_path": "pytorch_lightning.loggers.TensorBoardLogger", "init_args": where},
            {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {**where, "flush_logs_every_n_steps": 1}},
        ]


def next_version(root: Path) -> str:
    """The first free ``version_N`` below ``root``."""
    taken = [int(m[1]) for p in root.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", p.name))]
    return f"version_{max(taken, default=-1) + 1}"


def run(arguments: list[str]) -> None:
    """Runs one command line.

    Raises:
        SystemExit: 2 where an option or its value is wrong, with the reason on the standard error.
    """
    sys.argv[1:] = expand(arguments)
    logging.getLogger("callbacks").setLevel(logging.INFO)
    for noise in QUIET:
        warnings.filterwarnings("ignore", message=noise)
    CLI()
