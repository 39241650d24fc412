"""One training on two machines: network namespaces, each with its own torchrun; a process or a node is lost."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import two_nodes
from command_line import MODULE, callback, environment, pole, tiny, write

from cdrl_pl.cli.elastic import MARK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
nodes = two_nodes.nodes

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
FRESH = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else ranks may find their peers' addresses of before a restart


def start(
    nodes: tuple[two_nodes.Node, two_nodes.Node],
    folder: Path,
    *words: str,
    launcher: Sequence[str] = (),
    **variables: str,
) -> list[int]:
    """Runs one command line on both nodes; gives both exit codes. They meet at the first, or as the launcher says."""
    running = []
    for rank, node in enumerate(nodes):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        torchrun += ["--rdzv-conf", f"is_host={int(rank == 0)}", "--local-addr", node.address, *launcher]
        if not launcher:
            torchrun += ["--node-rank", str(rank), "--master-addr", nodes[0].address, "--master-port", str(PORT)]
        variables |= {"GLOO_SOCKET_IFNAME": node.interface, "PYTHONPATH": str(folder)}
        with (folder / f"node{rank}.txt").open("a") as said:
            running.append(
                subprocess.Popen(
                    [*node.prefix, *torchrun, *MODULE[1:], "fit", *words],
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


def test_a_lost_node_ends_the_run_on_the_other_and_a_restart_goes_on(
    nodes: tuple[two_nodes.Node, two_nodes.Node], tmp_path: Path
) -> None:
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


DIES_ONCE = """
import os
import signal
from pathlib import Path

import pytorch_lightning as pl


class DiesOnce(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if module.clock == 100 and trainer.global_rank == 1 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_lost_is_started_again_with_the_others_and_the_run_goes_on(
    nodes: tuple[two_nodes.Node, two_nodes.Node], tmp_path: Path
) -> None:
    (tmp_path / "dies_once.py").write_text(DIES_ONCE)
    config = tiny(callback("dies_once.DiesOnce"), callback("callbacks.EnvStepsCheckpoint", every=40), pole=pole())
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{nodes[0].address}:{PORT}", "--rdzv-id", "nodes"]
    words = ["--config", str(write(tmp_path / "tiny.yaml", config)), "--T_max", "200"]
    codes = start(nodes, tmp_path, *words, launcher=[*meeting, "--max-restarts", "2"], **FRESH)
    said = "".join((tmp_path / f"node{rank}.txt").read_text() for rank in (0, 1))
    assert codes == [0, 0] and (tmp_path / "died").exists(), said[-3000:]
    assert "torchrun has started this again: from " in said
    first, second = sorted((tmp_path / "runs").iterdir())
    assert not (first / MARK).exists() and not (second / MARK).exists()
    with (second / "metrics.csv").open() as file:
        clocks = [float(line["env_steps"]) for line in csv.DictReader(file)]
    assert clocks[0] > 80 and clocks[-1] == 200
    ended = torch.load(second / "checkpoints" / "env_steps=200.ckpt", weights_only=False)
    assert len(ended["RolloutDataModule"]["ranks"]) == 2
