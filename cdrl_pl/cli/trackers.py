"""Trackers beside a run's own logs: ``--track wandb``, ``mlflow`` and ``trackio``, each an extra."""

from __future__ import annotations

import netrc
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytorch_lightning as pl
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_fabric.utilities.logger import _convert_params
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger

from cdrl_pl.checks import ConfigError
from cdrl_pl.storage.atomic import write_json
from cdrl_pl.storage.fingerprint import fingerprint
from cdrl_pl.storage.stored import CERTIFICATE
from cdrl_pl.training.board import flattened
from cdrl_pl.training.run_folder import run_folder
from cdrl_pl.yaml_file import load

TRACKERS = ("wandb", "mlflow", "trackio")
PROJECT = "cdrl_pl"  # unless the tracker's own variable names another
OFFLINE = ("offline", "disabled", "dryrun")  # values of WANDB_MODE that need no login
CONFIG, FINGERPRINT, REPORT = "config.yaml", "fingerprint.json", "report"
PATIENCE = 3.0  # seconds for a server to answer
DRAWING = 300.0  # seconds that a run's report may take


class Wandb(WandbLogger):
    """W&B's logger, whose run ends with the training: the next one in this process is another."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """After the last line."""
        super().finalize(status)
        self.experiment.finish(exit_code=int(status == "failed"))

    def keep(self, path: Path, folder: str) -> None:
        """Stores a file as an artefact of the run, named by its folder and name."""
        self.experiment.log_artifact(str(path), name=artefact(self.experiment.id, path, folder), type=kind(folder))


class MLflow(MLFlowLogger):
    """MLflow's logger; its server may be a database, which has no folder."""

    def keep(self, path: Path, folder: str) -> None:
        """Stores a file as an artefact of the run, below a folder."""
        self.experiment.log_artifact(self.run_id, str(path), folder or None)


class Trackio(Logger):
    """Trackio's, of which Lightning has none, over its ``init``, ``log`` and ``finish``.

    Args:
        project: that the run is of.
        name: of the run.
    """

    def __init__(self, project: str, name: str) -> None:
        super().__init__()
        self._project, self._name = project, name
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project's."""
        return self._project

    @property
    def version(self) -> str:
        """The run's."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, as ``trackio.init`` gives it."""
        import trackio

        if self._run is None:
            self._run = trackio.init(self._project, self._name, embed=False)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Before the first line, with which they are stored."""
        self.experiment.config.update(_convert_params(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One line."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """After the last line."""
        if self._run is not None:
            import trackio

            trackio.finish()
            self._run = None

    def keep(self, path: Path, folder: str) -> None:
        """Stores a file as an artefact of the run, named by its folder and name."""
        self.experiment.log_artifact(path, name=artefact(self.experiment.id, path, folder), type=kind(folder))


def artefact(run: str, path: Path, folder: str) -> str:
    """An artefact's name, where a tracker has no folders in a run."""
    return "-".join(filter(None, (run, folder.replace("/", "-"), path.name)))


def kind(folder: str) -> str:
    """An artefact's type: its folder's first, such as teacher."""
    return folder.split("/")[0] or "run"


def check_tracker(name: str | None) -> None:
    """Refuses a tracker whose package is not there.

    Raises:
        ConfigError: naming the extra.
    """
    if name and find_spec(name) is None:
        raise ConfigError(f'track is {name!r}, which is not installed: pip install "cdrl-pl[{name}]"')


def add_tracker(trainer: pl.Trainer, name: str) -> None:
    """Puts the tracker behind the other loggers; none where the run writes nothing (``fast_dev_run``).

    Where it goes is said by the tracker's own variables: ``WANDB_PROJECT``, ``WANDB_MODE``, ``WANDB_TAGS``,
    ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``, ``TRACKIO_DIR``. Without them, MLflow's is a database beside
    the run folders, and Trackio's is in its own folder of this user.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    folder = Path(trainer.default_root_dir)
    title = f"{folder.parent.name}/{folder.name}"
    logger: Wandb | MLflow | Trackio
    if name == "trackio":
        logger = Trackio(os.environ.get("TRACKIO_PROJECT", PROJECT), title)
    elif name == "wandb":
        logger = Wandb(project=os.environ.get("WANDB_PROJECT", PROJECT), name=title, save_dir=folder)
    else:
        given, root = os.environ.get("MLFLOW_TRACKING_URI"), folder.parent.absolute()
        logger = MLflow(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
            run_name=title,
            tracking_uri=given or f"sqlite:///{root / 'mlflow.db'}",
            artifact_location=None if given else str(root / "mlartifacts"),
        )
    trainer.loggers = [*trainer.loggers, logger]
    trainer.callbacks.append(Tracked(logger))  # type: ignore[attr-defined]


class Tracked(pl.Callback):
    """Gives a tracker what the log has not: config, fingerprint, versions; at the end, certificates and a report.

    Args:
        logger: the tracker's.
    """

    def __init__(self, logger: Wandb | MLflow | Trackio) -> None:
        self.logger, self._failed = logger, False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The config is written."""
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        config: dict[str, Any] = load((folder / CONFIG).read_text(), CONFIG)
        made_of = asdict(fingerprint(config))
        write_json(folder / FINGERPRINT, made_of)
        self.logger.log_hyperparams({**dict(flattened(config)), **dict(flattened({"fingerprint": made_of}))})
        for name in (CONFIG, FINGERPRINT):
            self.logger.keep(folder / name, "")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """What was stored before stays stored."""
        self._failed = True
        self._keep_certificates(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the loggers are ended."""
        self._keep_certificates(trainer)
        if trainer.is_global_zero and not self._failed:
            self._keep_report(Path(trainer.default_root_dir))

    def _keep_certificates(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        for certificate in sorted(folder.rglob(CERTIFICATE)):
            for path in sorted(certificate.parent.iterdir()):
                self.logger.keep(path, certificate.parent.relative_to(folder).as_posix())

    def _keep_report(self, folder: Path) -> None:
        if find_spec("matplotlib") is None:
            rank_zero_warn('no report goes to the tracker: its figures need matplotlib, pip install "cdrl-pl[plot]"')
            return
        place = folder / REPORT
        command = [sys.executable, "-m", "cdrl_pl", "report", str(folder), "--out", str(place)]  # is no part of a run
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=DRAWING)
        except subprocess.TimeoutExpired:
            rank_zero_warn(f"no report goes to the tracker: it took more than {DRAWING:g} s")
            return
        if answer.returncode != 0:
            said = next(
                (line for line in answer.stderr.splitlines() if line.startswith("error: ")), answer.stderr[-300:]
            )
            rank_zero_warn(f"no report goes to the tracker: {said.removeprefix('error: ')}")
            return
        for path in sorted(place.iterdir()):
            self.logger.keep(path, REPORT)


def login_problem(name: str) -> str:
    """Why a run could not report to the tracker, and what to change; empty where it can."""
    if name == "wandb":
        if os.environ.get("WANDB_MODE") in OFFLINE or os.environ.get("WANDB_API_KEY") or _in_netrc():
            return ""
        return "no login: run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"
    variable = {"mlflow": "MLFLOW_TRACKING_URI", "trackio": "TRACKIO_SERVER_URL"}[name]
    url = urlsplit(os.environ.get(variable, ""))
    if url.scheme not in ("http", "https"):
        return ""
    try:
        socket.create_connection(
            (url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme]), PATIENCE
        ).close()
    except OSError as error:
        return f"{variable} is {url.geturl()}, which does not answer ({error}); start it, or name another"
    return ""


def _in_netrc() -> bool:
    """Returns whether W&B's own login has left a key there."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
