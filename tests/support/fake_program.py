"""Stands in for ``python -m cdrl_pl`` where experiments are tested: the same files, in milliseconds, without learning.

It notes every start in ``run_log`` of the current folder. The override ``--fault=WHAT@RUN`` makes one run misbehave at
T = 20, if it has not been there before: "die", "refuse", "wait" (told to end, it saves and ends with 143, as real runs
do) or "meet" (it goes on when another run is there too). ``--change=FILE@fit`` (or ``@test``) changes a file once;
``--stored=true`` makes it use a stored teacher and alignment. ``--gain`` is a factor of every return.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any


def options(words: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words if "=" in word)}


def save(folder: Path, steps: int) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "checkpoints" / f"env_steps={steps}.ckpt", "w") as archive:
        archive.writestr("data", f"{steps}" * 100)


def fit(given: dict[str, str], root: Path) -> None:
    first = given.get("--ckpt_path", "env_steps=0.ckpt").rpartition("=")[2].removesuffix(".ckpt")
    folder = root / f"version_{len(list(root.glob('version_*')))}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config(given)))
    with (folder / "metrics.csv").open("w") as file:
        file.write("env_steps,return/pole,seconds\n")
        for steps in range(int(first) + 10, int(given["--T_max"]) + 1, 10):
            file.write(f"{steps},{steps / 10 * float(given.get('--gain', 1))},1.5\n")
            file.flush()
            if steps == 20 and given.get("--fault", "").endswith(f"@{root.parent.name}/{root.name}"):
                misbehave(given["--fault"].partition("@")[0], folder)
            save(folder, steps)


def misbehave(what: str, folder: Path) -> None:
    if folder.name == "version_0":
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "refuse":
            print("error: this cannot be", file=sys.stderr)
            raise SystemExit(2)
        elif what == "wait":
            signal.signal(signal.SIGTERM, lambda *_: (save(folder, 20), sys.exit(143)))
            with open("fifo", "w") as fifo:  # blocks until the test reads; closed by this process's end
                fifo.write("there\n")
                fifo.flush()
                signal.pause()
    if what == "meet":
        with open("fifo", "r" if "one" in str(folder) else "w"):  # blocks until both ends are open
            pass


def config(given: dict[str, str]) -> dict[str, Any]:
    callbacks: list[dict[str, Any]] = []
    transfers: list[dict[str, Any]] = []
    agents: dict[str, Any] = {"pole": {"env": {"id": "CartPole-v1"}}, "expert": {"certificate": "nowhere"}}
    if "--early" in given:
        callbacks.append({"class_path": "callbacks.CertificatedTeacher", "init_args": {"stop": True}})
    if "--stored" in given:
        agents["expert"] = {"certificate": "expert"}
        transfers = [{"alignment": {"file": "map.safetensors"}}]
    learning = {k: v for k, v in given.items() if k in ("--lr", "--T_max")}
    checkpoints = "--no_checkpoints" not in given
    trainer = {
        "callbacks": callbacks,
        "enable_checkpointing": checkpoints,
        "default_root_dir": given.get("--trainer.default_root_dir"),
    }
    return {
        "seed_everything": int(given.get("--seed", 0)), "trainer": trainer,
        "model": {"agents": agents, "transfers": transfers, **learning},
        "data": {"seed": int(given["--own_seed"]) if "--own_seed" in given else None},
    }  # fmt: skip


def test(given: dict[str, str], root: Path) -> None:
    base = float(given.get("--lr", 1)) * 10 + int(given["--seed"])
    score = {"mean": base, "episodes": int(given["--episodes"]), "returns": [base], "noop_max": 0}
    record = {"env": {"id": "CartPole-v1"}, "env_steps": 40, "evaluation": {"sampled": score, "greedy": score}}
    folder = root / os.environ["CDRL_PL_RUN_VERSION"]
    folder.mkdir(exist_ok=True)
    (folder / "scores.json").write_text(json.dumps({"format": 1, "agents": {"pole": record}}))


def main() -> None:
    command, *words = sys.argv[1:]
    given = options(words)
    if "--print_config" in words:
        if "--unknown" in given:
            print("error: there is no option --unknown\nsee --help", file=sys.stderr)
            raise SystemExit(2)
        print(json.dumps(config(given)))
        return
    root = Path(given["--trainer.default_root_dir"])
    resumed = given.get("--ckpt_path", "").rpartition("=")[2] if command == "fit" else ""
    with open("run_log", "a") as run_log:
        run_log.write(f"{command} {root.parent.name}/{root.name}{' from ' + resumed if resumed else ''}\n")
    file, _, when = given.get("--change", "").partition("@")
    if when == command and not Path("changed").exists():
        Path(file).write_text("as it was not")
        Path("changed").touch()
    (fit if command == "fit" else test)(given, root)


main()
