"""Inference in the workers against batched inference beside the learner: decisions per second of playing alone.

    python -m benchmarks.inference [--workers W] [--copies B] [--rollouts N]

Both play Pong with the paper's network behind the same ``Actor`` interface. "beside" has one server process that takes
the observations of every worker that waits, runs one batch, and hands the logits back through shared memory.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import time
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from cdrl_pl.distributions import sample
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.protocol import WorkerConfig
from cdrl_pl.rollouts.shared_memory import SharedWeights, Slots, rollout_schema
from cdrl_pl.rollouts.worker import EnvironmentLoop
from cdrl_pl.system.hardware import cores, use_one_thread

ENV = EnvConfig("Pong-2017")
STEPS = 20


class RemoteActor:
    """Asks the server; the recurrent state lives in shared memory, where only the server changes it."""

    def __init__(self, board: dict[str, Any], connection: Connection, rng: np.random.Generator) -> None:
        self._board, self._connection, self._rng = board, connection, rng
        self.state = torch.from_numpy(board["state"])

    def refresh(self) -> int:
        """The server has the weights."""
        return 0

    def act(self, obs: Any, resets: Any, masks: Any = None) -> tuple[Any, Any]:
        """One hand-over there and back per step."""
        self._board["obs"][0], self._board["resets"][0] = obs, resets
        self._connection.send_bytes(b"a")
        self._connection.recv_bytes()
        return sample(self._board["logits"][0], self._rng.random(len(obs)))

    def values(self, obs: Any, copies: Any) -> Any:
        """Pong's episodes are not cut within this measurement."""
        raise NotImplementedError


def board_schema(shape: tuple[int, ...], actions: int, state: int, copies: int) -> dict[str, Any]:
    """What a worker and the server share."""
    return {
        "obs": ((1, copies, *shape), "uint8"),
        "resets": ((1, copies), "bool"),
        "logits": ((1, copies, actions), "float32"),
        "state": ((copies, state), "float32"),
    }


def serve(boards: Slots, connections: list[Connection], bf16: bool) -> None:
    """Answers whoever waits, in one batch, until every worker is gone."""
    use_one_thread()
    spec = describe(ENV)
    network = PolicyNetwork(NetworkConfig(), spec.obs_shape, spec.num_actions).eval().requires_grad_(False)
    if bf16:
        network.to_bf16()
    views = [boards[i] for i in range(len(connections))]
    open_ = dict(enumerate(connections))
    while open_:
        waiting = [i for i, c in open_.items() if c in wait(list(open_.values()), 10.0)]
        for i in list(waiting):
            try:
                open_[i].recv_bytes()
            except EOFError:
                waiting.remove(i)
                del open_[i]
        if not waiting:
            continue
        obs, resets, state = (
            torch.from_numpy(np.concatenate([views[i][k] if k == "state" else views[i][k][0] for i in waiting]))
            for k in ("obs", "resets", "state")
        )
        with torch.inference_mode():
            logits, _, state = network.act(obs, state, resets)
        copies = len(logits) // len(waiting)
        for n, i in enumerate(waiting):
            part = slice(n * copies, (n + 1) * copies)
            views[i]["logits"][0], views[i]["state"][:] = logits[part].numpy(), state[part].numpy()
            open_[i].send_bytes(b"d")


def play(
    config: WorkerConfig, board: Slots | None, index: int, channel: Connection, server: Connection | None, n: int
) -> None:
    """One worker: plays a warm-up rollout, says so, waits for the start, plays ``n``."""
    use_one_thread()
    rng = np.random.default_rng(index)
    actor = None if board is None or server is None else RemoteActor(board[index], server, rng)
    player = EnvironmentLoop(config, actor)
    player.play(config.slots[index])
    channel.send("ready")
    channel.recv()
    for _ in range(n):
        player.play(config.slots[index])
    channel.send("done")


def measure(beside: bool, workers: int, copies: int, rollouts: int, bf16: bool) -> float:
    """Decisions per second of all workers together."""
    context = mp.get_context("spawn")
    spec = describe(ENV)
    network = PolicyNetwork(NetworkConfig(), spec.obs_shape, spec.num_actions)
    slots = Slots(context, rollout_schema(spec, network.state_size, STEPS, copies), workers)
    parameters = parameters_to_vector(network.parameters()).detach()
    weights = SharedWeights(context, parameters.numel())
    with weights.writing(0) as flat:
        flat[:] = parameters.numpy()
    boards = Slots(context, board_schema(spec.obs_shape, spec.num_actions, network.state_size, copies), workers)
    pairs = [context.Pipe() for _ in range(workers)]
    channels = [context.Pipe() for _ in range(workers)]
    processes = []
    if beside:
        processes.append(context.Process(target=serve, args=(boards, [a for a, _ in pairs], bf16), daemon=True))
    for i in range(workers):
        config = WorkerConfig("pong", ENV, spec, NetworkConfig(), STEPS, copies, bf16, (1, i), slots, weights)
        args = (config, boards if beside else None, i, channels[i][1], pairs[i][1] if beside else None, rollouts)
        processes.append(context.Process(target=play, args=args, daemon=True))
    for process in processes:
        process.start()
    for ours, theirs in pairs:  # the processes hold them now; an end that stays open here would hide theirs closing
        ours.close()
        theirs.close()
    for ours, _ in channels:
        assert ours.poll(120) and ours.recv() == "ready"
    began = time.perf_counter()
    for ours, _ in channels:
        ours.send("go")
    for ours, _ in channels:
        assert ours.poll(600) and ours.recv() == "done"
    elapsed = time.perf_counter() - began
    for process in processes:
        process.join(10)
        process.kill()
    return workers * copies * STEPS * rollouts / elapsed


def main() -> None:
    """Measures both in turn, three times, and prints each ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=40)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    for _ in range(3):
        inside, beside = (
            measure(where, arguments.workers, arguments.copies, arguments.rollouts, arguments.bf16)
            for where in (False, True)
        )
        print(f"in the workers {inside:.0f}, beside the learner {beside:.0f} decisions/s: ratio {inside / beside:.2f}")


if __name__ == "__main__":
    main()
