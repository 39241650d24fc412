"""What two ranks cost on the CPU: gradients averaged over gloo, against one process, on the same cores.

    python -m benchmarks.ranks [--decisions N] [--rounds R]

Both run the real command (``python -m cdrl_pl fit``) on Pong with the paper's network and two workers of 32 copies in
all: one process with both workers, or two ranks with one worker each. In the second, one gradient step is the mean over
both ranks, that is, over twice the copies, and each rank makes it at the same time.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.throughput import ENV, STEPS, training

COPIES = 32  # per worker


def config(ranks: int) -> dict[str, Any]:
    """The run with so many ranks."""
    return {
        "seed_everything": 1,
        "model": {"log_every": 5_000, "agents": {"pong": {"env": {"id": ENV.id}}}},
        "data": {"pool": {"workers": 2 // ranks, "copies": COPIES, "steps": STEPS, "bf16": True}},
        "trainer": {
            "accelerator": "cpu",
            "precision": "bf16-mixed",
            "devices": ranks,
            "strategy": "ddp" if ranks > 1 else "auto",
            "callbacks": [{"class_path": "callbacks.Progress"}],
        },
    }


def measure(ranks: int, decisions: int) -> dict[str, float]:
    """Decisions/s, milliseconds of synchronisation per gradient step, and its share of a rank's time."""
    with tempfile.TemporaryDirectory() as name:
        figures = training(config(ranks), Path(name), decisions)
        (metrics,) = Path(name).glob("version_*/metrics.csv")
        with metrics.open(newline="") as file:
            rows = list(csv.DictReader(file))
    rows = rows[len(rows) // 4 :]  # the first quarter is warm-up
    synchronising = sum(float(row.get("time/synchronising") or 0) for row in rows)
    seconds = sum(float(row["seconds"]) for row in rows)
    decided = sum(float(row["seconds"]) * float(row["decisions_per_second"]) for row in rows)
    updates = decided / (STEPS * COPIES * ranks)
    return {
        "decisions_per_s": figures["decisions_per_s"],
        "sync_ms": 1000 * synchronising / updates,
        "sync_share": synchronising / seconds,
        "peak_rss_mb": figures["peak_rss_mb"],
    }


def main() -> None:
    """Measures in turn, so that a machine that drifts does so for both, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=80_000, help="decisions of each run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind")
    arguments = parser.parse_args()
    print("| ranks | decisions/s | synchronising, ms per gradient step | of the time | memory, MB |")
    print("|---|---|---|---|---|")
    for _ in range(arguments.rounds):
        for ranks in (1, 2):
            p = measure(ranks, arguments.decisions)
            print(
                f"| {ranks} | {p['decisions_per_s']:,.0f} | {p['sync_ms']:.2f} | {p['sync_share']:.1%} | "
                f"{p['peak_rss_mb']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
