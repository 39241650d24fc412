"""How the cost grows: decisions per second against workers, copies, teachers and agents; a table and a figure.

    python -m benchmarks.scaling OUT_FOLDER [--decisions N] [--axis workers copies teachers agents]

Each point is one run of the real command (``python -m cdrl_pl fit``) on Pong with the paper's network. Beside the speed
stand the queue's own figures: the share of the time in which the learner waited for rollouts, and the workers for the
learner. Decisions are those of all agents.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.throughput import ENV, random_teacher, training
from cdrl_pl.system.hardware import cores

AXES = {
    "workers": (1, 2, 4, 8, 16),
    "copies": (4, 8, 16, 32, 64),
    "teachers": (0, 1, 2, 3, 4),
    "agents": (1, 2, 3),
}
COPIES = 32  # environment copies per worker where they are not what is varied


def config(axis: str, value: int, teacher: Path) -> dict[str, Any]:
    """The run of one point: 2 workers in all (at least one per agent) unless they are what is varied."""
    agents: dict[str, Any] = {f"pong{i}": {"env": {"id": ENV.id}} for i in range(value if axis == "agents" else 1)}
    transfers = []
    if axis == "teachers":
        for i in range(value):
            agents[f"expert{i}"] = {"certificate": str(teacher)}
            transfers.append({"teacher": f"expert{i}", "student": "pong0", "T1": 0, "T2": 0, "stop": "never"})
    workers = value if axis == "workers" else max(1, 2 // value) if axis == "agents" else 2
    return {
        "seed_everything": 1,
        "model": {"log_every": 5_000, "agents": agents, "transfers": transfers},
        "data": {
            "pool": {"workers": workers, "copies": value if axis == "copies" else COPIES, "steps": 20, "bf16": True}
        },
        "trainer": {
            "accelerator": "cpu",
            "precision": "bf16-mixed",
            "callbacks": [
                {"class_path": f"callbacks.{n}"} for n in ("AlignmentSchedule", "DistillationSchedule", "Progress")
            ],
        },
    }


def measure(axis: str, value: int, decisions: int) -> dict[str, float]:
    """One point."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_teacher(folder / "teacher")
        run = config(axis, value, folder / "teacher")
        figures = training(run, folder, decisions)
        (metrics,) = folder.glob("version_*/metrics.csv")
        with metrics.open(newline="") as file:
            rows = list(csv.DictReader(file))
    last, seconds = rows[-1], sum(float(row["seconds"]) for row in rows)
    played, waited = float(last["workers/playing"]), float(last["workers/waiting_for_learner"])
    return {
        **figures,
        "learner_waits": float(last["time/waiting_for_rollouts"]) / seconds,
        "workers_wait": waited / (waited + played),
    }


def main() -> None:
    """Measures, writes ``scaling.json`` and ``scaling.png``, prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--decisions", type=int, default=60_000, help="decisions of each agent at each point")
    parser.add_argument("--axis", nargs="*", choices=list(AXES), default=list(AXES))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "scaling.json"
    points: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}
    print(f"{cores()} cores\n\n| | decisions/s | learner waits | workers wait | memory, MB |")
    print("|---|---|---|---|---|")
    for axis in arguments.axis:
        points[axis] = {}
        for value in AXES[axis]:
            p = points[axis][str(value)] = measure(axis, value, arguments.decisions)
            print(
                f"| {value} {axis} | {p['decisions_per_s']:,.0f} | {p['learner_waits']:.0%} | {p['workers_wait']:.0%} "
                f"| {p['peak_rss_mb']:,.0f} |",
                flush=True,
            )
            path.write_text(json.dumps(points, indent=1))
    figure, axes = plt.subplots(1, len(points), figsize=(3.2 * len(points), 3), sharey=True, squeeze=False)
    for ax, (axis, line) in zip(axes[0], points.items(), strict=True):
        ax.plot(list(line), [p["decisions_per_s"] for p in line.values()], "o-")
        ax.set_xlabel({"copies": "copies per worker"}.get(axis, axis))
        ax.set_ylim(0, 1.1 * max(p["decisions_per_s"] for line in points.values() for p in line.values()))
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel("decisions/s")
    figure.tight_layout()
    figure.savefig(arguments.out / "scaling.png", dpi=110)


if __name__ == "__main__":
    main()
