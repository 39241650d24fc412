"""Draws runs: mean return, and both KLs where a transfer was on, against decisions.

python -m benchmarks.curves OUT.png LABEL=METRICS.csv [LABEL=METRICS.csv ...] [--agent NAME] [--mark T1=N ...]
"""

from __future__ import annotations

import argparse
import csv

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def column(path: str, prefix: str) -> tuple[list[float], list[float], str]:
    """env_steps and the first column that starts with ``prefix``, where it has values; and the column's name."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name.startswith(prefix)]
    if not names:
        return [], [], prefix
    kept = [(float(r["env_steps"]), float(r[names[0]])) for r in rows if r[names[0]]]
    return [x for x, _ in kept], [y for _, y in kept], names[0]


def main() -> None:
    """Draws one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("runs", nargs="+", metavar="LABEL=METRICS.csv")
    parser.add_argument("--agent", default="", help="draw this agent's return (default: the first)")
    parser.add_argument("--mark", nargs="*", default=[], metavar="NAME=N", help="vertical lines, as T1=100000")
    arguments = parser.parse_args()
    runs = [run.partition("=")[::2] for run in arguments.runs]
    kls = any(column(path, "alignment_kl/")[0] for _, path in runs)
    figure, axes = plt.subplots(1, 2 if kls else 1, figsize=(12 if kls else 7, 4), squeeze=False)
    for label, path in runs:
        x, y, _ = column(path, f"return/{arguments.agent}")
        axes[0][0].plot(x, y, label=label)
        for prefix in ("alignment_kl/", "distillation_kl/") if kls else ():
            x, y, _ = column(path, prefix)
            if x:
                axes[0][1].plot(x, y, label=f"{label}: {prefix.rstrip('/').replace('_', ' ')}")
    axes[0][0].set(xlabel="decisions (env_steps)", ylabel="mean return, last 100 episodes")
    if kls:
        axes[0][1].set(xlabel="decisions (env_steps)", ylabel="nats per step", yscale="log")
    for axis in axes[0]:
        for mark in arguments.mark:
            name, _, value = mark.partition("=")
            axis.axvline(float(value), color="grey", linestyle=":", linewidth=1)
            axis.text(float(value), 1.01, name, transform=axis.get_xaxis_transform(), ha="center", fontsize=8)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
