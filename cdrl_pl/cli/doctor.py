"""The command line of ``python -m cdrl_pl doctor``: whether this machine can do a run, said before it begins."""

from __future__ import annotations

import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.cli import LightningArgumentParser

from cdrl_pl.callbacks import EnvStepsCheckpoint
from cdrl_pl.cli.checkup import (
    FAILS,
    OK,
    WARNING,
    Finding,
    check_checkpoints,
    check_cores,
    check_descriptors,
    check_shared_memory,
    check_writing,
)
from cdrl_pl.cli.errors import clean_errors
from cdrl_pl.cli.main import CLI, expand, restored
from cdrl_pl.cli.options import PROGRAM
from cdrl_pl.cli.trackers import login_problem
from cdrl_pl.cli.trainer import DEFAULTS
from cdrl_pl.envs import EnvConfig, EnvError, describe
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.system.balance import PICTURES, balance
from cdrl_pl.system.hardware import cores, cpu_has_bf16, fast_precision
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.machine import local_ranks, shared_cores

ABOUT = f"""\
usage: {PROGRAM} doctor [--config FILE] [options of fit]

Checks this machine before a long run: versions, emulator, shared memory, open files, cores, accelerator and precision,
where it writes, free disk. With a config, the run is built as fit builds it, up to its first worker, in a temporary
folder: options, environments, certificates and trackers are checked as well. A line for each, with what to change.

Exit code: 0 where the run can begin, warnings or not; 1 where it would fail."""


class Rehearsal(CLI):
    """Everything that ``fit`` does before its first worker starts, in a folder that is no run's.

    Args:
        folder: that takes the place of ``trainer.default_root_dir``.

    Attributes:
        root: ``trainer.default_root_dir``, as the run would have it.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self.root = folder, Path()
        super().__init__()

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As ``fit``'s, with another folder."""
        super().parse_arguments(parser, args)
        settings = self.config.fit.trainer
        self.root, settings.default_root_dir = Path(settings.default_root_dir or "."), self._folder

    def _run_subcommand(self, subcommand: str) -> None:
        """Sets up instead of training."""
        trainer, module, data = self.trainer, self.model, self.datamodule
        module.trainer = data.trainer = trainer
        trainer.datamodule = data  # type: ignore[attr-defined]
        trainer.strategy.connect(module)
        with clean_errors():
            data.setup("fit")
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.setup(trainer, module, "fit")
            module.setup("fit")


def main(arguments: Sequence[str]) -> int:
    """Prints every finding; 1 where the run would fail, 0 otherwise."""
    if {"-h", "--help"} & {*arguments}:
        print(ABOUT)
        return 0
    failed = False
    for finding in findings(arguments):
        failed |= finding.state == FAILS
        print(f"{finding.state:<8} {finding.what:<14} {finding.said}", flush=True)
    print("the run would fail; see above" if failed else "the run can begin")
    return int(failed)


def findings(arguments: Sequence[str]) -> Iterator[Finding]:
    """What is found, in the order in which a run needs it.

    Args:
        arguments: those of ``fit``; none: the machine alone is checked.
    """
    yield check_versions(requirements())
    yield check_emulator()
    if not arguments:
        chosen = balance(cores(), 1, PICTURES, gpu=torch.cuda.is_available()).workers
        yield check_cores(chosen, 1, cores(), chosen)
        yield check_descriptors(chosen)
        yield check_shared_memory([], shutil.disk_usage(_shared()).free, _shared())
        yield check_accelerator(fast_precision(), "cuda" if torch.cuda.is_available() else "cpu")
        yield check_writing(Path(DEFAULTS["default_root_dir"]))
        return
    with tempfile.TemporaryDirectory(prefix="cdrl-") as folder, restored():
        run, refusal = rehearse(arguments, folder)
        if run is None:
            yield Finding("config", FAILS, refusal)
            return
        yield Finding("config", OK, "every option is taken; environments, networks and callbacks can be made")
        yield from _of_a_run(run)
        for pool in run.datamodule.pools.values():
            pool.close()


def rehearse(arguments: Sequence[str], folder: str) -> tuple[Rehearsal | None, str]:
    """The run, set up; or None, and why it was refused.

    Args:
        arguments: those of ``fit``.
        folder: for what a set-up writes.

    Raises:
        SystemExit: the arguments ask for something to be printed instead.
    """
    said = io.StringIO()
    sys.argv = [*sys.argv[:1], *expand(["fit", *arguments])]
    try:
        with redirect_stderr(said):
            return Rehearsal(folder), ""
    except SystemExit as end:
        if not end.code:
            raise
        lines = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
        return None, (lines or ["error: refused"])[-1].removeprefix("error: ")


def _of_a_run(run: Rehearsal) -> Iterator[Finding]:
    pools: list[Pool] = list(run.datamodule.pools.values())
    ranks = local_ranks(run.trainer)
    workers = sum(pool.num_workers for pool in pools)
    left_open = replace(run.datamodule.pool, workers=None)
    best = shared_cores(run.model, run.trainer, left_open, run.datamodule.learner_threads).workers
    yield check_cores(workers * ranks, len(pools) * ranks, cores(), best)
    yield check_descriptors(workers)
    blocks = [size for pool in pools for size in pool.shared_bytes] * ranks
    yield check_shared_memory(blocks, shutil.disk_usage(_shared()).free, _shared())
    yield check_accelerator(run.trainer.precision, run.trainer.strategy.root_device.type)
    stored = [name for name, agent in run.config.fit.model.agents.items() if agent.certificate or agent.init]
    if stored:
        yield Finding(
            "teachers", OK, f"the certificates of {', '.join(stored)} are whole, and their weights are theirs"
        )
    if track := run.config.fit.track:
        problem = login_problem(track)
        yield Finding("tracker", FAILS if problem else OK, f"{track}: {problem or 'it can be reported to'}")
    yield check_writing(run.root)
    callbacks: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
    saving = [callback for callback in callbacks if isinstance(callback, EnvStepsCheckpoint)]
    keep = sum(callback.keep + 1 for callback in saving)  # one is whole before another is deleted
    yield check_checkpoints(keep, checkpoint_bytes(run.model), shutil.disk_usage(existing(run.root)).free)


def checkpoint_bytes(module: Collaboration) -> int:
    """Bytes of a checkpoint, about: every weight, and two numbers of Adam's for each that is learned."""
    size = {name: tensor.numel() * tensor.element_size() for name, tensor in module.named_parameters()}
    learned = sum(size[name] for name, tensor in module.named_parameters() if tensor.requires_grad)
    return sum(size.values()) + 2 * learned


def requirements() -> list[str]:
    """What this program needs, as ``pip`` was told; empty where it was not installed by it."""
    try:
        return [entry for entry in requires("cdrl-pl") or [] if "extra ==" not in entry]
    except PackageNotFoundError:
        return []


def check_versions(needed: Sequence[str]) -> Finding:
    """Whether what is installed is what is needed.

    Args:
        needed: requirements, such as ``torch>=2.10``.
    """
    plain = [re.sub(r"\[.*?\]", "", entry) for entry in needed]  # jsonargparse[signatures]>=4 asks for more packages
    if missing := [entry for entry in plain if not RequirementCache(entry)]:
        return Finding("versions", FAILS, f'not as needed: {", ".join(missing)}; pip install "{missing[0]}"')
    python = ".".join(map(str, sys.version_info[:3]))
    if not plain:
        return Finding("versions", WARNING, f"Python {python}; pip has not installed cdrl-pl, nothing to compare with")
    return Finding(
        "versions", OK, f"Python {python}, torch {torch.__version__}; all {len(plain)} packages are as needed"
    )


def check_emulator() -> Finding:
    """Whether Atari games can be played: the emulator with its ROMs."""
    try:
        spec = describe(EnvConfig(id="PongNoFrameskip-v4"))
    except (EnvError, ImportError, OSError) as error:
        return Finding("emulator", FAILS, f"{error}; pip install --force-reinstall ale-py")
    return Finding("emulator", OK, f"Pong can be played, with {spec.num_actions} actions")


def check_accelerator(precision: str, device: str) -> Finding:
    """What is learned on, in which precision, and whether that is fast there.

    Args:
        precision: the trainer's.
        device: cpu, cuda or mps.
    """
    fast = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bf16()
    said = f"learning on {device} in {precision}"
    if precision.startswith("bf16") and not fast:
        return Finding("accelerator", WARNING, f"{said}, at which it is slow; set --precision 32-true")
    if device == "cpu" and torch.cuda.is_available():
        return Finding("accelerator", WARNING, f"{said}, but there is a GPU; set --trainer.accelerator gpu")
    return Finding("accelerator", OK, said)


def existing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _shared() -> Path:
    """Where Python keeps memory that processes share."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else Path(tempfile.gettempdir())
