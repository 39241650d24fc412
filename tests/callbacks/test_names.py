"""The callbacks have two names, and one of them is never shadowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MODULE, edge, environment, pole, tiny, write

import callbacks
import callbacks.certificate
import cdrl_pl.callbacks

TEACHER = {"class_path": "cdrl_pl.callbacks.CertificatedTeacher", "init_args": {"agent": "alpha", "threshold": 0}}


def test_both_names_are_one_module() -> None:
    assert callbacks is cdrl_pl.callbacks
    assert callbacks.certificate.CertificatedTeacher is cdrl_pl.callbacks.CertificatedTeacher
    assert sorted(callbacks.__all__) == sorted(cdrl_pl.callbacks.__all__)


@pytest.mark.parametrize("first", ["callbacks", "cdrl_pl.callbacks"])
def test_whichever_is_imported_first(first: str) -> None:
    code = f"import {first}; import callbacks, cdrl_pl.callbacks as ours, callbacks.panel as p; "
    code += (
        "assert callbacks is ours and p is ours.panel and callbacks.Progress.__module__ == 'cdrl_pl.callbacks.progress'"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


@pytest.mark.slow
def test_a_users_folder_called_callbacks_shadows_none_of_ours(tmp_path: Path) -> None:
    """It is found first, and the config's own callback comes from it."""
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text(
        "import pytorch_lightning as pl\n\n\nclass Mine(pl.Callback):\n"
        "    def on_train_end(self, *_):\n        print('mine was asked')\n"
    )
    teacher = {**TEACHER, "init_args": {**TEACHER["init_args"], "window": 1, "episodes": 2}}
    config = tiny(teacher, {"class_path": "callbacks.Mine"}, transfers=[edge()], alpha=pole(), beta=pole())
    write(tmp_path / "run.yaml", config)
    for words in (("run.yaml",), ("runs/version_0/config.yaml", "--T_max", "240")):  # a saved config, too
        run = subprocess.run(
            [*MODULE, "fit", "--config", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert run.returncode == 0 and "mine was asked" in run.stdout, run.stderr
        assert "aligning on of alpha-beta" in run.stderr and "stored runs/version_" in run.stderr
