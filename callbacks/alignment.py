"""Storage of trained alignments: the first stage of the offline protocol (paper section 5.3, Figure 6a)."""

from __future__ import annotations

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError
from cdrl_pl.class_paths import is_class_path
from cdrl_pl.storage.atomic import check_below
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.transfer.alignment_file import save_alignment


class StoredAlignment(pl.Callback):
    """Stores F of every transfer that trained one when the run ends, to load with a transfer's ``alignment.file``.

    Writes ``alignment.safetensors`` and ``alignment.json`` to ``<folder>/<teacher>-<student>/`` below the run folder.

    Args:
        folder: Folder below the run folder.
    """

    def __init__(self, folder: str = "alignment") -> None:
        check_below("StoredAlignment.folder", folder)
        self.folder = folder

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses a graph in which no F is trained."""
        assert isinstance(pl_module, Collaboration)
        trained = [transfer for transfer in pl_module.transfers if transfer.alignment.trainable]
        if stage == "fit" and not trained:
            raise ConfigError("StoredAlignment: no transfer has an alignment function to train")
        for transfer in trained:
            if is_class_path(kind := transfer.config.alignment.kind):
                raise ConfigError(f"StoredAlignment: {transfer.name} has alignment.kind {kind}; only 'deep' is stored")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the files."""
        assert isinstance(pl_module, Collaboration)
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        root = pl_module.run_folder / self.folder
        for transfer in pl_module.transfers:
            config = transfer.config
            if not transfer.alignment.trainable:
                continue
            teacher, student = pl_module.agents[config.teaching_agent], pl_module.agents[config.student]
            training = {
                "teacher": teacher.env.id,
                "student": student.env.id,
                "control": config.control,
                "env_steps": pl_module.env_steps[config.student],
                "T1": transfer.schedule.T1,
                "alignment_kl": pl_module.run_log.latest.get(metric_names.ALIGNMENT_KL(transfer.name)),
            }
            path = root / transfer.name / "alignment.safetensors"
            meanings = (teacher.spec.action_meanings, student.spec.action_meanings)
            save_alignment(path, transfer.alignment.network, meanings, training, config.alignment.input)
            rank_zero_info("stored %s", path)
