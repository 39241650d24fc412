"""Run folders as a training leaves them, with made-up numbers."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

Steps = range(10, 101, 10)
GAME = {"id": "ALE/Bowling-v5", "frame_skip": [2, 4], "repeat_action_probability": 0.25, "max_episode_steps": 10000}


def make_run(
    path: Path, seed: int = 1, slope: float = 1.0, taught: bool = False, score: float | None = None, code: str = "a"
) -> Path:
    """A run of 100 decisions whose return grows by ``slope`` per decision."""
    attempt = path / "version_0"
    attempt.mkdir(parents=True)
    names = ["env_steps", "return/b", "seconds", "actions/b/0", "actions/b/1"]
    if taught:
        names += [
            "alignment_kl/p-b",
            "distillation_kl/p-b",
            *(f"actions/p-b/{w}/{i}" for w in ("teacher", "aligned") for i in (0, 1)),
            *(f"state_information/{whose}" for whose in ("p-b/teacher", "p-b/aligned", "b")),
        ]
    lines = [",".join(names)]
    for steps in Steps:
        values = [steps, slope * steps if steps > 10 else "", 2, 0.25, 0.75]
        if taught:
            said = [0.1 / steps, 0.2 / steps, 0.9, 0.1, 0.4, 0.6, 0.4, seed * steps / 1e4, 0.05]
            values += said if steps >= 30 else [""] * len(said)
        lines.append(",".join(map(str, values)))
    (attempt / "metrics.csv").write_text("\n".join(lines) + "\n")
    transfer = {"teacher": "p", "student": "b", "T1": 30, "T2": 60, "stop": "never"}
    model = {"agents": {"b": {"env": GAME}}, "transfers": [transfer] if taught else []}
    (attempt / "config.yaml").write_text(yaml.safe_dump({"seed_everything": seed, "model": model}))
    prints = {"config": str(taught), "code": code, "versions": {"numpy": "2"}}
    (path / "fingerprint.json").write_text(json.dumps(prints))
    if score is not None:
        made = {
            p: {"mean": score + d, "episodes": 100, "noop_max": 30, "policy": p}
            for p, d in (("sampled", 0), ("greedy", 1))
        }
        record = {"env": GAME, "env_steps": 100, "evaluation": made}
        (path / "scores.json").write_text(json.dumps({"format": 1, "agents": {"b": record}}))
    return path
