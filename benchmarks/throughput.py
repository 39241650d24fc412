"""Decisions per second on Pong with the paper's network, as ratios to a ceiling measured in the same run.

    python -m benchmarks.throughput [--env ID] [--json] [--decisions N] [--precision P] [--copies B] [--workers W]
                                    [--accelerator gpu]

Prints t_env, t_act and t_learn (single-core milliseconds per decision: the game with its preprocessing, the policy on B
copies, one update of the learner), the composed ceiling cores / (t_env + t_act + t_learn), and what the real command
(``python -m cdrl_pl fit``) reaches: A3C alone, and with teacher, alignment and distillation all on. The last line is
JSON under --json. On a GPU t_learn is the GPU's, with the batch's way to it, and no core pays for it: the ceiling is
what the cores can play, cores / (t_env + t_act), or what the GPU can learn, 1 / t_learn, if that is less.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.agents.student import LearnerConfig, Student
from cdrl_pl.distributions import sample
from cdrl_pl.envs import EnvConfig, describe, make_game, resolve
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.system.hardware import cores, keep_freed_memory, use_one_thread
from cdrl_pl.types import Rollout

ENV = EnvConfig("Pong-2017")
STEPS = 20


def seconds_per(call: Callable[[], Any], at_least: float = 2.0) -> float:
    """Mean seconds of one call, after a warm-up, over at least so many seconds."""
    for _ in range(3):
        call()
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < at_least:
        call()
        count += 1
    return elapsed / count


def single_core(env: EnvConfig, copies: int, batch_copies: int, bf16: bool, device: torch.device) -> dict[str, float]:
    """t_env, t_act and t_learn in seconds per decision, each alone on one thread; t_learn on ``device``."""
    use_one_thread()
    keep_freed_memory()
    rng = np.random.default_rng(0)
    game = make_game(env, 0)
    screen = np.empty(game.spec.obs_shape, game.spec.obs_dtype)
    game.reset(screen)

    def play() -> None:
        for action in rng.integers(game.spec.num_actions, size=200).tolist():
            _, terminated, truncated = game.step(action, screen)
            if terminated or truncated:
                game.reset(screen)

    spec = describe(env)
    network = PolicyNetwork(NetworkConfig(), spec.obs_shape, spec.num_actions).eval().requires_grad_(False)
    if bf16:
        network.to_bf16()
    obs = torch.randint(0, 255, (copies, *spec.obs_shape), dtype=torch.uint8)
    state, resets = network.initial_state(copies), torch.zeros(copies, dtype=torch.bool)

    def act() -> None:
        with torch.inference_mode():
            logits = network.act(obs, state, resets)[0]
        sample(logits.numpy(), rng.random(copies))

    student = Student(env, NetworkConfig(), LearnerConfig()).to(device)
    optimizer = torch.optim.Adam(student.network.parameters(), 1e-4, fused=True)
    per_step = (STEPS, batch_copies)
    rollout = Rollout(
        obs=torch.randint(0, 255, (STEPS + 1, batch_copies, *spec.obs_shape), dtype=torch.uint8),
        resets=torch.zeros(STEPS + 1, batch_copies, dtype=torch.bool),
        actions=torch.zeros(per_step, dtype=torch.int64),
        rewards=torch.zeros(per_step),
        terminated=torch.zeros(per_step, dtype=torch.bool),
        truncated=torch.zeros(per_step, dtype=torch.bool),
        final_values=torch.zeros(per_step),
        log_probs=torch.zeros(per_step),
        state=network.initial_state(batch_copies),
    )

    def learn() -> None:
        """One gradient step."""
        optimizer.zero_grad(set_to_none=True)
        batch = rollout.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = student.reinforcement_losses(student(batch), batch).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.network.parameters(), 40.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return {
        "t_env": seconds_per(play) / 200,
        "t_act": seconds_per(act) / copies,
        "t_learn": seconds_per(learn) / (STEPS * batch_copies),
    }


def training(config: dict[str, Any], folder: Path, decisions: int) -> dict[str, float]:
    """Runs the real command: decisions/s after the warm-up, seconds to the first update, peak memory in all."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "cdrl_pl", "fit", "--config", str(path)]
    command += ["--trainer.default_root_dir", str(folder), "--T_max", str(decisions)]
    began, peak, first = time.perf_counter(), 0.0, None
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.2)
            peak = max(peak, sum(_rss(p) for p in _tree(watched)))
            if first is None and "first update" in (folder / "output.txt").read_text():
                first = time.perf_counter() - began
            if time.perf_counter() - began > 600:
                process.kill()
    if process.returncode:
        raise RuntimeError(
            f"the training ended with {process.returncode}:\n{(folder / 'output.txt').read_text()[-3000:]}"
        )
    (metrics,) = folder.glob("version_*/metrics.csv")
    rows = [row for row in csv.DictReader(metrics.open()) if row["decisions_per_second"]]
    rows = rows[len(rows) // 4 :]  # the first quarter is warm-up
    done = sum(float(r["decisions_per_second"]) * float(r["seconds"]) for r in rows)
    return {
        "decisions_per_s": done / sum(float(r["seconds"]) for r in rows),
        "first_update_s": first if first is not None else float("nan"),
        "peak_rss_mb": peak / 2**20,
    }


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def random_teacher(folder: Path, env: EnvConfig = ENV) -> None:
    """A teacher with random weights: the same cost as a trained one."""
    spec = describe(env)
    score = Score(1, 0.0, 0.0, 0.0, (0.0,), "sampled", 0, 0)
    network = PolicyNetwork(NetworkConfig(), spec.obs_shape, spec.num_actions)
    save_certificate(folder, network, resolve(env), spec, {"sampled": score, "greedy": score}, {})


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default=ENV.id, help="the game")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--decisions", type=int, default=80_000, help="decisions of each training run")
    parser.add_argument("--precision", default="bf16-mixed", help="of the learner and of the actors (bf16)")
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes")
    parser.add_argument("--copies", type=int, default=32, help="environment copies per worker")
    parser.add_argument("--batch-copies", type=int, default=None, help="copies per gradient step (default: all)")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="what the learner learns on")
    arguments = parser.parse_args()
    gpu = arguments.accelerator == "gpu"
    if gpu and not torch.cuda.is_available():
        parser.error("--accelerator gpu: this machine has none that torch can use")
    device = torch.device("cuda" if gpu else "cpu")
    env = EnvConfig(arguments.env)
    copies = arguments.copies
    bf16 = arguments.precision.startswith("bf16")
    config: dict[str, Any] = {
        "seed_everything": 1,
        "model": {
            "log_every": 5_000,
            "agents": {"agent": {"env": {"id": env.id}, "learner": {"batch_copies": arguments.batch_copies}}},
        },
        "data": {"pool": {"workers": arguments.workers, "copies": copies, "steps": STEPS, "bf16": bf16}},
        "trainer": {
            "accelerator": arguments.accelerator,
            "precision": arguments.precision,
            "callbacks": [
                {"class_path": f"callbacks.{name}"}
                for name in ("AlignmentSchedule", "DistillationSchedule", "Progress")
            ],
        },
    }
    before = single_core(env, copies, arguments.batch_copies or copies, bf16, device)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("a3c", "cdrl"):
            (root / name).mkdir()
        a3c = training(config, root / "a3c", arguments.decisions)
        random_teacher(root / "teacher", env)
        config["model"]["agents"]["expert"] = {"certificate": str(root / "teacher")}
        config["model"]["transfers"] = [{"teacher": "expert", "student": "agent", "T1": 0, "T2": 0, "stop": "never"}]
        cdrl = training(config, root / "cdrl", arguments.decisions)
    after = single_core(env, copies, arguments.batch_copies or copies, bf16, device)
    terms = {k: (before[k] + after[k]) / 2 for k in before}  # the machine drifts: before and after
    playing = terms["t_env"] + terms["t_act"]
    ceiling = min(cores() / playing, 1 / terms["t_learn"]) if gpu else cores() / (playing + terms["t_learn"])
    print(f"{env.id}, {cores()} cores")
    if gpu:
        print(f"learning on {torch.cuda.get_device_name()}")
    print("single core, ms per decision: " + ", ".join(f"{k} {1000 * v:.3f}" for k, v in terms.items()))
    print(f"ceiling {ceiling:.0f} decisions/s")
    print(f"A3C {a3c['decisions_per_s']:.0f} decisions/s, {a3c['decisions_per_s'] / ceiling:.0%} of the ceiling")
    print(f"with teacher, alignment and distillation {cdrl['decisions_per_s']:.0f} decisions/s")
    print(f"first update after {a3c['first_update_s']:.1f} s, peak memory {a3c['peak_rss_mb']:.0f} MB (all processes)")
    if arguments.json:
        result = {
            "a3c_decisions_per_s": a3c["decisions_per_s"],
            "cdrl_decisions_per_s": cdrl["decisions_per_s"],
            "ceiling_decisions_per_s": ceiling,
            "ceiling_ratio": a3c["decisions_per_s"] / ceiling,
            "peak_rss_mb": max(a3c["peak_rss_mb"], cdrl["peak_rss_mb"]),
            "first_update_s": max(a3c["first_update_s"], cdrl["first_update_s"]),
        }
        print(json.dumps({k: round(v, 4) for k, v in result.items()}))


if __name__ == "__main__":
    main()
