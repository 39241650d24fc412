"""A long run in bad company: does it stay exact, small and alone, and does it still learn?

    python -m benchmarks.soak [--minutes N] [--json]

Two agents and a transfer learn a task of which every decision is known (benchmarks/known_task.py), by the real command
(``python -m cdrl_pl fit``), asynchronously, in four parts. The first is ended by SIGTERM, the second by an environment
that raises, the third by Ctrl-C; the fourth goes on to a T_max. Meanwhile a worker is killed every few seconds, and one
environment hangs for good in each part. What must hold is checked, and printed; the exit code is 1 where something does
not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytorch_lightning as pl
import yaml

from benchmarks.known_task import read
from cdrl_pl.storage.checkpoints import is_whole, saved

REPOSITORY = Path(__file__).parents[1]
MARK = "CDRL_PL_SOAK"
AGENTS, BATCH, MB = ("alpha", "beta"), 80, 2**20
ENDS = ("SIGTERM", "raise", "SIGINT", "T_max")
CODES = {"SIGTERM": 143, "raise": 1, "SIGINT": 130, "T_max": 0}
GROWTH = 24.0  # MB that a part's trainer may grow from its first half to its second: what is cached, not what is lost
ENOUGH = 100 * BATCH  # decisions in which the student learns, at the least
STARTING, ENDING = 120.0, 60.0  # seconds that a part may take to begin, and to end


class Witness(pl.Callback):
    """Writes what is learned from: a line per batch, with T after it, decisions of each agent, and episodes begun.

    Args:
        folder: where the file goes, named after the process.
    """

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / f"{time.time_ns()}.txt"

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """One line."""
        words = [str(module.clock)]
        for name, rollout in batch.rollouts.items():
            decisions = [read(obs) for row in rollout.obs[:-1] for obs in row]
            begun = [f"{name}:{decision.seed}" for decision in decisions if decision.step == 0]
            words += [str(len(decisions)), *begun]
        with self._path.open("a") as file:
            file.write(" ".join(words) + "\n")


@dataclass
class Part:
    """One process, from start or resume to its end.

    Attributes:
        end: one of ``ENDS``.
        code: its exit code.
        resumed_from: T of the checkpoint that it went on from.
        env_steps: T of its newest checkpoint.
        seconds: of training.
        kills: workers that were killed.
        hangs: workers that were taken for hung and replaced.
        samples: of the trainer: MB, file descriptors, threads.
        left: processes that it left behind.
    """

    end: str
    code: int = -1
    resumed_from: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    kills: int = 0
    hangs: int = 0
    samples: list[tuple[float, int, int]] = field(default_factory=list, repr=False)
    left: int = 0

    def growth(self) -> tuple[float, int, int]:
        """From the first half of the part to the second: MB (medians), descriptors and threads (least numbers)."""
        settled = self.samples[len(self.samples) // 5 : -10]  # its end is left out, too
        halves = settled[: len(settled) // 2], settled[len(settled) // 2 :]
        if not all(halves):
            return 0.0, 0, 0
        (mb, descriptors, threads), later = ([list(column) for column in zip(*half, strict=True)] for half in halves)
        return median(later[0]) - median(mb), min(later[1]) - min(descriptors), min(later[2]) - min(threads)


def config(folder: Path) -> dict[str, Any]:
    """Alpha has an action more than beta, so the alignment has something to learn."""
    network = {"trunk": "mlp", "depth": 1, "hidden": 32, "lstm": 0}

    def agent(actions: int) -> dict[str, Any]:
        kwargs = {"actions": actions, "faults": str(folder / "faults")}
        task = {"id": "benchmarks.known_task:KnownTask-v0", "kwargs": kwargs}
        return {"env": task, "network": network, "learner": {"lr": 1e-2, "lr_end": 1e-3, "lr_steps": 100_000}}

    return {
        "seed_everything": 1,
        "model": {
            "log_every": 10 * BATCH,
            "agents": {"alpha": agent(3), "beta": agent(2)},
            "transfers": [{"teacher": "alpha", "student": "beta", "T1": 400, "T2": 2000, "stop": "never"}],
        },
        "data": {
            "pool": {"workers": 3, "copies": 8, "steps": 10, "stall_timeout": 20.0, "hang_rollouts": 20}
        },
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "default_root_dir": str(folder / "runs"),
            "callbacks": [
                {"class_path": "benchmarks.soak.Witness", "init_args": {"folder": str(folder / "seen")}},
                {"class_path": "callbacks.EnvStepsCheckpoint", "init_args": {"every": 2000}},
            ],
        },
    }  # fmt: skip


def by_chance(episodes: int) -> float:
    """Most episodes whose seeds, of 32 bits, other episodes have, too, where no seed is drawn twice: the number that is
    expected (of pairs, n (n - 1) / 2 / 2^32), and five of its deviations. One worker's episodes played again are more.
    """
    expected = episodes * (episodes - 1) / 2 / 2**32
    return expected + 5 * expected**0.5


class Soak:
    """The parts, one after another, and what must hold of them.

    Args:
        folder: for everything.
        seconds: of training, all parts together.
        kill_every: seconds between two workers' deaths, on the average.
        seed: of what happens when.
    """

    def __init__(self, folder: Path, seconds: float, kill_every: float, seed: int = 0) -> None:
        self.folder, self._each, self._kill_every = folder, seconds / len(ENDS), kill_every
        self._random, self._mark = random.Random(seed), uuid.uuid4().hex
        self.parts: list[Part] = []
        for name in ("faults", "seen"):
            (folder / name).mkdir()
        (folder / "soak.yaml").write_text(yaml.safe_dump(config(folder)))

    def run(self) -> None:
        """All parts."""
        shared = set(os.listdir("/dev/shm"))
        for end in ENDS:
            self.parts.append(self._part(Part(end)))
        self.left_in_shared_memory = len(set(os.listdir("/dev/shm")) - shared)

    def _part(self, part: Part) -> Part:
        resume, T_max = self._newest(), 10**9
        part.resumed_from = int(resume.stem.partition("=")[2]) if resume else 0
        if part.end == "T_max":
            last = self.parts[-1]
            gained = (last.env_steps - last.resumed_from) / last.seconds * self._each
            T_max = max(ENOUGH, (part.resumed_from + int(gained)) // BATCH * BATCH + BATCH)
        options = [f"--T_max={T_max}", *([f"--ckpt_path={resume}"] if resume else [])]
        before, output = set(os.listdir(self.folder / "seen")), self.folder / f"output_{len(self.parts)}.txt"
        with output.open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "cdrl_pl", "fit", "--config", str(self.folder / "soak.yaml"), *options],
                cwd=self.folder, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", MARK: self._mark},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
            )  # fmt: skip
        try:
            (self.folder / "faults" / "hang").touch()
            self._wait(lambda: set(os.listdir(self.folder / "seen")) != before, process, STARTING)
            self._accompany(part, process, output)
            part.code = process.wait(ENDING)
        finally:
            process.kill()
        part.left = len(psutil.wait_procs(self._members(), timeout=20)[1])
        part.env_steps = next((c.env_steps for c in saved(self._runs()) if is_whole(c.path)), 0)
        if part.code != CODES[part.end]:
            print(output.read_text()[-3000:], file=sys.stderr)
        return part

    def _accompany(self, part: Part, process: subprocess.Popen[bytes], output: Path) -> None:
        """Does what befalls a part, and notes how its trainer is; it lasts until a worker was killed, and one hung."""
        trainer, began = psutil.Process(process.pid), time.monotonic()
        end = began + self._each * self._random.uniform(0.9, 1.1)
        death = began + self._random.expovariate(1 / self._kill_every)
        while process.poll() is None:
            with suppress(psutil.Error):  # it has ended meanwhile
                part.samples.append((trainer.memory_info().rss / MB, trainer.num_fds(), trainer.num_threads()))
                if time.monotonic() > death:
                    death = time.monotonic() + self._random.expovariate(1 / self._kill_every)
                    part.kills += self._kill_a_worker(trainer)
            part.hangs = output.read_text().count("taken for hung")
            if part.end != "T_max" and time.monotonic() > end and part.kills and part.hangs:
                break
            time.sleep(0.2)
        part.seconds = time.monotonic() - began
        if part.end == "raise":
            (self.folder / "faults" / "raise").touch()
        elif part.end == "SIGTERM":
            process.terminate()
        elif part.end == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)

    def _kill_a_worker(self, trainer: psutil.Process) -> bool:
        """SIGKILL to a child of the server that workers are forked from; not to the one that hangs."""
        hung = self.folder / "faults" / "hung"
        spared = hung.read_text() if hung.exists() else ""
        workers = [w for server in trainer.children() for w in server.children() if str(w.pid) != spared]
        if workers:
            self._random.choice(workers).kill()
        return bool(workers)

    def _wait(self, done: Any, process: subprocess.Popen[bytes], patience: float) -> None:
        deadline = time.monotonic() + patience
        while not done():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"a part did not begin: {sorted(self.folder.glob('output_*'))[-1].read_text()[-3000:]}"
                )
            time.sleep(0.1)

    def _members(self) -> list[psutil.Process]:
        """Every process that this soak's parts started, and theirs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # it has ended, or is another user's
                pass
        return found

    def _runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("version_*"))

    def _newest(self) -> Path | None:
        return next((c.path for c in saved(self._runs()) if is_whole(c.path)), None)

    # What was seen

    def lineage(self) -> Iterator[list[str]]:
        """The witnesses' lines of all that the last checkpoint has come from, without what a failed part lost."""
        files = sorted((self.folder / "seen").iterdir())
        ends = [*(part.resumed_from for part in self.parts[1:]), self.parts[-1].env_steps]
        for path, end in zip(files, ends, strict=True):
            for line in path.read_text().splitlines():
                if int((words := line.split())[0]) <= end:
                    yield words

    def returns(self) -> list[list[float]]:
        """The student's mean return per decision, as logged, of each part."""
        parts: list[list[float]] = []
        for run in self._runs():
            head, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
            ret, steps = head.index("return/beta"), head.index("length/beta")
            parts.append([float(row[ret]) / float(row[steps]) for row in rows if row[ret]])
        return parts

    def verdicts(self) -> dict[str, bool]:
        """What must hold, in words, and whether it does."""
        clocks, decisions, begun = [0], 0, list[str]()
        for clock, *words in self.lineage():
            clocks.append(int(clock))
            decisions += sum(int(word) for word in words if ":" not in word)
            begun += [word.partition(":")[2] for word in words if ":" in word]
        last, growth = self.parts[-1], [part.growth() for part in self.parts]
        returns = self.returns()
        return {
            "every part ended as it was told to": all(part.code == CODES[part.end] for part in self.parts),
            "T rises by one batch at a time, through every resume": clocks == list(range(0, last.env_steps + 1, BATCH)),
            "T is what was learned from, decision by decision": decisions == len(AGENTS) * last.env_steps,
            "no episode was learned from twice": len(begun) > len(begun) - len(set(begun)) <= by_chance(len(begun)),
            "workers were killed, and some hung": all(part.kills and part.hangs for part in self.parts[:-1]),
            "memory is flat": all(mb <= GROWTH for mb, _, _ in growth),
            "file descriptors and threads are flat": all(max(more) <= 1 for _, *more in growth),
            "no process and no shared memory is left": not any(p.left for p in self.parts)
            and not self.left_in_shared_memory,
            "the student learned": returns[0][0] < 0.7 and min(returns[-1][-3:]) > 0.85,
        }  # fmt: skip

    def summary(self) -> str:
        """For people, in Markdown."""
        head = ("part ended by", "s", "from T", "to T", "killed", "hung", "MB", "MB more", "files more", "threads more")
        rows: list[Sequence[str]] = [head, ["---"] * len(head)]
        for part in self.parts:
            mb, descriptors, threads = part.growth()
            size = median(sample[0] for sample in part.samples)
            numbers = (part.seconds, part.resumed_from, part.env_steps, part.kills, part.hangs, size)
            rows.append((part.end, *(f"{n:,.0f}" for n in numbers), f"{mb:+.1f}", f"{descriptors:+d}", f"{threads:+d}"))
        returns = self.returns()
        least = ", ".join(f"{min(lines[len(lines) // 4 :]):.2f}" for lines in returns)
        return "\n".join(
            [
                *(f"| {' | '.join(row)} |" for row in rows),
                f"\nThe student's mean return per decision: {returns[0][0]:.2f} at first, {returns[-1][-1]:.2f} at "
                f"last; at least {least} in each part but for its first quarter.\n",
                *(f"- {'yes' if holds else 'NO'}: {what}" for what, holds in self.verdicts().items()),
            ]
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Soaks, prints the summary, and returns whether anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, all parts together")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds between two workers' deaths")
    parser.add_argument("--json", action="store_true", help="also print what was measured as JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), 60 * given.minutes, given.kill_every)
        soak.run()
        print(soak.summary())
        if given.json:
            print(json.dumps([{**asdict(part), "growth": part.growth(), "samples": None} for part in soak.parts]))
        return 0 if all(soak.verdicts().values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
