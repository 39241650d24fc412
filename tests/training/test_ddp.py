"""Two processes that train together: launched by Lightning, and by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import MODULE, REPOSITORY, callback, edge, environment, pole, tiny, write

pytestmark = pytest.mark.slow

REPORT = '''
import hashlib
import json
from pathlib import Path

import pytorch_lightning as pl


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


class Report(pl.Callback):
    """Writes what each process saw and ended with."""

    def __init__(self, folder: str) -> None:
        self.folder, self.seen = Path(folder), {"played": [], "clocks": [], "weights": []}

    def on_train_start(self, trainer, module):
        self.seen["weights"].append(digest(module.state_dict().values()))

    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen["clocks"].append(dict(module.env_steps))
        self.seen["played"].append({name: digest([r.obs, r.actions]) for name, r in batch.rollouts.items()})

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.seen["weights"].append(digest(module.state_dict().values()))

    def on_train_end(self, trainer, module):
        self.seen["env_steps"], self.seen["world_size"] = module.env_steps, trainer.world_size
        self.seen["episodes"] = {name: list(map(list, e)) for name, e in module.run_log.episodes.items()}
        switches = {type(c).__name__: c.switched for c in trainer.callbacks if hasattr(c, "switched")}
        self.seen["switched"] = switches
        self.seen["weighting"] = [transfer.weighting.state_dict() for transfer in module.transfers]
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(self.seen))
'''
LAUNCHERS = {
    "ddp": [*MODULE, "fit"],
    "torchrun": [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *MODULE[1:], "fit",
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=LAUNCHERS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw while alpha, learning, taught beta: 2 x 10 decisions in each batch, 240 in all."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "rank_report.py").write_text(REPORT)
    switches = [callback("callbacks.AlignmentSchedule"), callback("callbacks.DistillationSchedule")]
    report = callback("rank_report.Report", folder=str(folder))
    guided = {"weight": {"shape": "linear", "steps": 100}, "alarm": {"every": 1, "span": 2, "release_below": 0.0}}
    transfers = [edge(T1=80, T2=160, alignment={"hidden": 8, "depth": 1, "lr": 1e-2}, **guided)]
    agents = {"alpha": pole(lr=1e-2), "beta": {**pole(lr=1e-2), "teacher_weights": {"by": "value"}}}
    config = tiny(*switches, callback("callbacks.EnvStepsCheckpoint"), report, transfers=transfers, **agents)
    arguments = ["--config", write(folder / "tiny.yaml", config), "--T_max", "240", "--devices", "2"]
    ended = subprocess.run(
        [*LAUNCHERS[request.param], *map(str, arguments), "--trainer.strategy", "ddp"],
        cwd=folder, env=environment(PYTHONPATH=str(folder)), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert [p.name for p in (folder / "runs").iterdir()] == ["version_0"]
    assert (folder / "runs" / "version_0" / "checkpoints" / "env_steps=240.ckpt").is_file()
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_took_part(ranks: list[dict[str, Any]]) -> None:
    assert [seen["world_size"] for seen in ranks] == [2, 2]


def test_weights_are_equal_on_both_ranks_after_every_step_and_change_in_each(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert len(set(ranks[0]["weights"])) == 1 + 12


def test_T_counts_the_decisions_of_both_ranks(ranks: list[dict[str, Any]]) -> None:  # noqa: N802
    for seen in ranks:
        assert seen["clocks"] == [{"alpha": n * 20, "beta": n * 20} for n in range(12)]
        assert seen["env_steps"] == {"alpha": 240, "beta": 240}


def test_every_rank_switches_at_T1_and_T2(ranks: list[dict[str, Any]]) -> None:  # noqa: N802
    for seen in ranks:
        assert seen["switched"] == {
            "AlignmentSchedule": {"alpha-beta": [80]},
            "DistillationSchedule": {"alpha-beta": [160]},
        }


def test_both_ranks_weigh_the_teacher_alike(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["weighting"] == ranks[1]["weighting"]
    (seen,) = ranks[0]["weighting"]
    assert seen["value"][1] == 8 and seen["cosine"][1] == 4 and seen["value"][0] != 0 and seen["cosine"][0] != 0


def test_no_two_rollouts_are_the_same(ranks: list[dict[str, Any]]) -> None:
    played = [rollout for seen in ranks for batch in seen["played"] for rollout in batch.values()]
    assert len(set(played)) == len(played) == 2 * 12 * 2


def test_finished_episodes_are_those_of_both_ranks(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["episodes"] == ranks[1]["episodes"]
    decisions = {name: sum(length for _, length in e) for name, e in ranks[0]["episodes"].items()}
    assert all(120 < total <= 240 for total in decisions.values())


HALVES = """
import os
import sys

import torch
from graphs import FixedData, graph, make_trainer, random_batch, switches, transfer

ranks, copies, path = int(sys.argv[1]), slice(*map(int, sys.argv[2].split(":"))), sys.argv[3]
module = graph(transfer("alpha", "beta", T1=40, T2=80), transfer("beta", "alpha", T1=0, T2=40), T_max=160)
batches = [random_batch(module, seed, copies=4) for seed in range(8)]
if ranks == 2:  # each process gets its half of the copies
    rank = int(os.environ["LOCAL_RANK"])
    copies = slice(2 * rank, 2 * rank + 2)
data = FixedData(*({name: r.select(copies) for name, r in batch.items()} for batch in batches))
trainer = make_trainer(".", *switches(), devices=ranks, strategy="ddp" if ranks == 2 else "auto")
trainer.fit(module, datamodule=data)
if trainer.is_global_zero:
    torch.save({"weights": module.state_dict(), "steps": trainer.global_step}, path)
"""


def test_two_ranks_learn_as_one_process_from_twice_the_copies(tmp_path: Path) -> None:
    script = tmp_path / "halves.py"
    script.write_text(HALVES)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = {}
    for name, launcher, arguments in (
        ("two ranks", torchrun, ["2", "0:2"]),
        ("one", [], ["1", "0:4"]),
        ("one half", [], ["1", "0:2"]),
    ):
        command = [sys.executable, *launcher, str(script), *arguments, str(tmp_path / f"{name}.pt")]
        paths = environment(PYTHONPATH=os.pathsep.join([str(REPOSITORY / "tests" / "support")]))
        run = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stderr[-3000:]
        ended[name] = torch.load(tmp_path / f"{name}.pt")
    assert ended["two ranks"]["steps"] == ended["one"]["steps"] == 8 * 2 + 6 + 8  # both students, and two alignments

    def furthest(other: str) -> float:
        pairs = zip(ended["one"]["weights"].values(), ended[other]["weights"].values(), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)

    assert furthest("two ranks") < 1e-4  # one Adam step is up to 1e-2; sums are rounded in another order
    assert furthest("one half") > 1e-2


DIES = """
import os
import signal

import pytorch_lightning as pl


class Dies(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if os.environ.get("DIES") and module.clock == 100 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_fault_32_a_rank_that_dies_ends_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DIES)
    saver = callback("callbacks.EnvStepsCheckpoint", every=40)
    config = write(tmp_path / "tiny.yaml", tiny(callback("dies.Dies"), saver))
    command = [*MODULE, "fit", "--config", str(config), "--devices", "2", "--trainer.strategy", "ddp", "--T_max", "200"]

    def go(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        paths = environment(PYTHONPATH=str(tmp_path), **variables)
        return subprocess.run(
            [*command, *options], cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=120
        )

    died = go(DIES="1")
    assert died.returncode != 0
    newest = tmp_path / "runs" / "version_0" / "checkpoints" / "env_steps=80.ckpt"
    assert [p.name for p in newest.parent.iterdir() if "=80" in p.name or "=100" in p.name] == [newest.name]
    resumed = go("--ckpt_path", str(newest))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert (tmp_path / "runs" / "version_1" / "checkpoints" / "env_steps=200.ckpt").is_file()


TELLS = """
import os
import signal

import pytorch_lightning as pl


class Tells(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if module.policy_version == 3 and str(trainer.global_rank) in os.environ["TELLS"]:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(("preset", "told"), [("paper", "0"), ("code", "1"), ("code", "01")])
def test_fault_09_sigterm_to_any_rank_ends_all_of_them_at_one_batch(tmp_path: Path, told: str, preset: str) -> None:
    """The authors' program joins rollouts that wait, so that ranks could join different numbers of them."""
    (tmp_path / "tells.py").write_text(TELLS)
    agents = {"alpha": pole(), "beta": pole()}
    config = tiny(callback("tells.Tells"), transfers=[edge()], **agents)
    config["model"].update(preset=preset, T_max=10**7)
    config["data"]["pool"] = {"workers": 1, "copies": 4, "steps": 5, "queue": 3}
    command = [*MODULE, "fit", "--config", str(write(tmp_path / "tiny.yaml", config)), "--devices", "2"]
    run = subprocess.run(
        [*command, "--trainer.strategy", "ddp"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=environment(PYTHONPATH=str(tmp_path), TELLS=told),
    )  # fmt: skip
    assert run.returncode == 143, run.stderr[-3000:]
    (saved,) = (tmp_path / "runs" / "version_0" / "checkpoints").iterdir()
    clocks = torch.load(saved, weights_only=True)["collaboration"]["env_steps"]
    assert len(set(clocks.values())) == 1 and clocks["alpha"] >= 4 * 40


def test_torchrun_alone_is_enough(tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny())
    launcher = [*LAUNCHERS["torchrun"], "--config", str(config)]

    def go(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*launcher, *options], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
        )

    run = go()
    assert run.returncode == 0, run.stderr[-3000:]
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["version_0"]
    (saved,) = (tmp_path / "runs" / "version_0" / "checkpoints").iterdir()
    assert len(torch.load(saved, weights_only=False)["RolloutDataModule"]["ranks"]) == 2
    refused = go("--devices", "3")
    assert refused.returncode != 0 and "trainer.devices is '3', but torchrun has started 2" in refused.stderr
