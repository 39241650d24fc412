"""One training on two nodes, of which one is lost whole, and a restart by hand; of a rank alone: test_nodes.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nodes as two
import pytest
import torch
from command_line import MODULE, callback, environment, pole, tiny, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
nodes = two.nodes

DIES = """
import os
import signal

import pytorch_lightning as pl


class Dies(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if os.environ.get("DIES") and module.clock == 100 and trainer.global_rank == 1:
            for process in (os.getppid(), os.getpid()):  # torchrun's, and its rank: the whole node
                os.kill(process, signal.SIGKILL)
"""
PORT = 29511  # in a network of its own


def start(nodes: list[two.Node], folder: Path, *words: str, **variables: str) -> list[int]:
    """Runs one command line on both nodes; gives both exit codes."""
    running = []
    for rank, node in enumerate(nodes):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
        launcher += ["--nproc_per_node", "1", "--master-addr", nodes[0].address, "--master-port", str(PORT)]
        variables |= {"GLOO_SOCKET_IFNAME": node.device, "PYTHONPATH": str(folder)}
        with (folder / f"node{rank}.txt").open("a") as said:
            running.append(
                subprocess.Popen(
                    node.command(*launcher, *MODULE[1:], "fit", *words),
                    cwd=folder,
                    env=environment(**variables),
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        return [process.wait(180) for process in running]
    finally:
        for process in running:
            process.kill()


def test_a_lost_node_ends_the_run_on_the_other_and_a_restart_goes_on(nodes: list[two.Node], tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DIES)
    config = tiny(callback("dies.Dies"), callback("callbacks.EnvStepsCheckpoint", every=40), pole=pole())
    words = ["--config", str(write(tmp_path / "tiny.yaml", config)), "--T_max", "200"]
    codes = start(nodes, tmp_path, *words, DIES="1")
    said = "".join((tmp_path / f"node{rank}.txt").read_text() for rank in (0, 1))
    assert 0 not in codes, said[-3000:]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"], said[-3000:]
    saved = {path.name for path in (tmp_path / "runs" / "version_0" / "checkpoints").iterdir()}
    assert "env_steps=80.ckpt" in saved and not any("=100" in name for name in saved)

    codes = start(nodes, tmp_path, *words, "--ckpt_path", "runs/version_0")
    said = "".join((tmp_path / f"node{rank}.txt").read_text() for rank in (0, 1))
    assert codes == [0, 0], said[-3000:]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["version_0", "version_1"]
    ended = torch.load(tmp_path / "runs" / "version_1" / "checkpoints" / "env_steps=200.ckpt", weights_only=False)
    assert len(ended["RolloutDataModule"]["ranks"]) == 2  # each with rollouts of its own
    assert ended["collaboration"]["env_steps"] == {"pole": 200}
