"""One training on two nodes: one run, T over both, and what happens where one of them loses its process."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import nodes as two
import pytest
import torch
from command_line import MODULE, callback, environment, tiny, write

pytestmark = pytest.mark.slow

nodes = two.nodes
DIES = """
import os
import signal
from pathlib import Path

import pytorch_lightning as pl


class Dies(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if module.clock == 100 and trainer.global_rank == 1 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def launched(node: two.Node, index: int, folder: Path, config: Path) -> subprocess.Popen[str]:
    """torchrun, as it is started on every node: the same command, but for who hosts the meeting."""
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=1",
        "--rdzv_backend=c10d", "--rdzv_endpoint=10.77.0.1:29400", "--rdzv_id=nodes",
        f"--rdzv_conf=is_host={int(index == 0)}", f"--local_addr={node.address}",
    ]  # fmt: skip
    return subprocess.Popen(
        node.command(*torchrun, *MODULE[1:], "fit", "--config", str(config), "--T_max", "200"),
        cwd=folder, env=environment(PYTHONPATH=str(folder), GLOO_SOCKET_IFNAME=node.device),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_rank_that_dies_on_one_of_two_nodes_is_started_again_and_the_run_goes_on(
    nodes: list[two.Node], tmp_path: Path
) -> None:
    (tmp_path / "dies.py").write_text(DIES)
    config = tiny(callback("dies.Dies"), callback("callbacks.EnvStepsCheckpoint", every=40))
    path = write(tmp_path / "tiny.yaml", config)
    running = [launched(node, index, tmp_path, path) for index, node in enumerate(nodes)]
    try:
        said = [process.communicate(timeout=200)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said[0][-3000:] + said[1][-3000:]
    assert "torchrun has started this again: from " in said[0] and (tmp_path / "died").exists()
    first, second = sorted(path for path in (tmp_path / "runs").iterdir())
    assert not (first / "torchrun.json").exists() and not (second / "torchrun.json").exists()
    with (second / "metrics.csv").open() as file:
        clocks = [float(line["env_steps"]) for line in csv.DictReader(file)]
    assert clocks[0] > 80 and clocks[-1] == 200
    whole = torch.load(second / "checkpoints" / "env_steps=200.ckpt", weights_only=False)
    assert len(whole["RolloutDataModule"]["ranks"]) == 2
