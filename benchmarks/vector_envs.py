"""Vector environments of other packages beside what drives the games of one of our workers, on Pong, without a policy.

    python -m benchmarks.vector_envs [--copies B ...] [--rounds N] [--seconds S]

Each plays B games at random on one thread, four frames a decision, grey: once as the field sees them (84 x 84, the
maximum of two frames, four observations together), once as the paper does (42 x 42, one frame; only ours cuts rows off
first). In turn, round by round; what counts is the time that the cores of this process were busy, since a core's worth
of it is what a worker has. EnvPool is left out where it is not installed (pip install envpool).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from cdrl_pl.envs import EnvConfig, View, make_game
from cdrl_pl.system.hardware import use_one_thread

VIEWS = {"84 x 84 x 4": View(84, (0, 210), maximum=True, stack=4), "42 x 42 x 1": View(42)}
Play = Callable[[np.ndarray], object]


def ours(view: View, copies: int) -> Play:
    """B single games that write what they show into one array, as in a worker."""
    games = [make_game(EnvConfig("Pong-2017", noop_max=30, view=view), seed) for seed in range(copies)]
    seen = np.zeros((copies, *games[0].spec.obs_shape), np.uint8)
    for game, out in zip(games, seen, strict=True):
        game.reset(out)

    def play(actions: np.ndarray) -> None:
        for game, out, action in zip(games, seen, actions.tolist(), strict=True):
            _, terminated, truncated = game.step(action, out)
            if terminated or truncated:
                game.reset(out)

    return play


def ale(view: View, copies: int) -> Play:
    """ale-py's AtariVectorEnv."""
    from ale_py.vector_env import AtariVectorEnv

    size, stack, maximum = view.size, view.stack, view.maximum
    shown = {"img_height": size, "img_width": size, "stack_num": stack, "maxpool": maximum}
    env = AtariVectorEnv("pong", copies, num_threads=1, reward_clipping=False, use_fire_reset=False, **shown)
    env.reset(seed=0)
    return env.step


def envpool(view: View, copies: int) -> Play:
    """EnvPool, which always takes the maximum of two frames."""
    import envpool

    shown = {"img_height": view.size, "img_width": view.size, "stack_num": view.stack}
    env = envpool.make_gymnasium("Pong-v5", num_envs=copies, num_threads=1, seed=0, use_fire_reset=False, **shown)
    env.reset()
    return env.step


def decisions_per_second(play: Play, copies: int, seconds: float, rng: np.random.Generator) -> float:
    """Of the time that this process was busy."""
    played, began = 0, time.process_time()
    while (busy := time.process_time() - began) < seconds:
        play(rng.integers(6, size=copies).astype(np.int32))
        played += copies
    return played / busy


def main() -> None:
    """Prints a line for every view, number of copies and back end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a measurement, seconds that cores were busy")
    options = parser.parse_args()
    use_one_thread()
    rng = np.random.default_rng(0)
    print(f"{'view':12} {'B':>3} {'':8} decisions/s, and as a ratio to ours, round by round")
    for name, view in VIEWS.items():
        for copies in options.copies:
            played: dict[str, Play] = {"ours": ours(view, copies), "ale": ale(view, copies)}
            with suppress(ImportError):
                played["envpool"] = envpool(view, copies)
            for play in played.values():  # warm
                decisions_per_second(play, copies, 0.2, rng)
            rounds = [
                {who: decisions_per_second(play, copies, options.seconds, rng) for who, play in played.items()}
                for _ in range(options.rounds)
            ]
            for who in played:
                rates = ", ".join(f"{made[who]:,.0f}" for made in rounds)
                ratios = ", ".join(f"{made[who] / made['ours']:.2f}" for made in rounds)
                print(f"{name:12} {copies:>3} {who:8} {rates}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
