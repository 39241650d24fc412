"""Memory of a worker and of an environment copy, and how fast workers start: Pong, paper network.

    python -m benchmarks.memory [--rollouts N]

Starts pools of several sizes, without a learner. Memory is what a worker has for itself (USS); what it shares with the
fork server it came from, and the rollouts in shared memory, are not in it. All workers start side by side: "ready" is
when every one has its games made and at the start of an episode, "played" when it has played a rollout of 20 steps.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import psutil

from cdrl_pl.envs import EnvConfig, describe, resolve
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.rollouts.shared_memory import Slots, rollout_schema

ENV, STEPS, MB = EnvConfig("Pong-2017"), 20, 2**20


def measure(workers: int, copies: int, rollouts: int) -> tuple[float, float, float, float, float]:
    """Seconds until all are ready, and have played; MB of a worker after 5 rollouts and at the end; MB of a rollout."""
    spec = describe(ENV)
    network = PolicyNetwork(NetworkConfig(), spec.obs_shape, spec.num_actions)
    config = PoolConfig(workers=workers, copies=copies, steps=STEPS, bf16=True)
    pool = Pool("pong", resolve(ENV), spec, network.config, config, (0,))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        pool.publish(network, 0)
        began = time.perf_counter()
        pool.start()
        pool.worker_group.receive_until(
            lambda: all(worker.ready for worker in pool.worker_group.workers), "the start of the games"
        )
        ready = time.perf_counter() - began
        missing = set(range(workers))
        while missing:
            missing.discard(pool.next().worker)
        played = time.perf_counter() - began
        for _ in range(5 * workers):
            pool.next()
        early = uss(before)
        for _ in range(rollouts * workers):
            pool.next()
        late = uss(before)
    finally:
        pool.close()
    schema = rollout_schema(spec, network.state_size, STEPS, copies)
    return ready, played, early, late, sum(Slots._bytes(*entry) for entry in schema.values()) / MB


def uss(others: set[int]) -> float:
    """Mean of the workers, MB."""
    started = [p for p in psutil.Process().children(recursive=True) if p.pid not in others]
    own = [p.memory_full_info().uss / MB for p in started if "forkserver" not in p.name() and p.num_threads() > 1]
    return float(np.mean(own))


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=100, help="rollouts of each worker")
    arguments = parser.parse_args()
    measure(1, 1, 0)  # starts the fork server
    print("| workers | copies of each | ready, s | played, s | a worker, MB | after more rollouts | a rollout, MB |")
    print("|---|---|---|---|---|---|---|")
    for workers, copies in ((1, 8), (1, 64), (2, 8), (2, 16), (2, 32), (4, 32), (8, 8)):
        row = measure(workers, copies, arguments.rollouts)
        print(f"| {workers} | {copies} | " + " | ".join(f"{number:.2f}" for number in row) + " |", flush=True)


if __name__ == "__main__":
    main()
