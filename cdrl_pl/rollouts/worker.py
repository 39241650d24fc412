"""One worker process: plays B copies of one environment and hands over rollouts by slot index."""

from __future__ import annotations

import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from cdrl_pl.envs import make_game
from cdrl_pl.envs.games import check_finite
from cdrl_pl.rollouts.actor import Actor, LocalActor
from cdrl_pl.rollouts.protocol import Command, Reply, RolloutReply, WorkerConfig
from cdrl_pl.rollouts.shared_memory import observation_names
from cdrl_pl.system.hardware import use_one_thread
from cdrl_pl.system.processes import Failure, die_with_the_trainer
from cdrl_pl.system.stop import ignore_signals
from cdrl_pl.types import Episode

Array = np.ndarray[Any, Any]


class EnvironmentLoop:
    """B games, the actor that decides for them (a ``LocalActor`` unless given), and where each stands."""

    def __init__(self, config: WorkerConfig, actor: Actor | None = None) -> None:
        self.config, copies = config, config.copies
        *game_seeds, own = np.random.SeedSequence(config.entropy).spawn(copies + 1)
        self._rng = np.random.Generator(np.random.PCG64(own))
        views = tuple(config.others)
        self._games = [make_game(config.env, int(s.generate_state(1)[0]), views) for s in game_seeds]
        self._actor: Actor = actor or LocalActor(
            config.network, config.spec, config.weights, copies, self._rng, config.bf16
        )
        specs = (config.spec, *config.others.values())
        self._names = observation_names(len(views))
        self._seen = [np.zeros((copies, *spec.obs_shape), spec.obs_dtype) for spec in specs]  # the agent's own first
        self._resets = np.ones(copies, bool)
        self._masks = np.ones((copies, config.spec.num_actions), bool) if config.spec.masked else None
        self._return = np.zeros(copies)
        self._length = np.zeros(copies, np.int64)
        for b, game in enumerate(self._games):
            game.reset(*(seen[b] for seen in self._seen))
            if self._masks is not None:
                self._masks[b] = game.mask
        check_finite(config.env, self._seen[0])

    def play(self, slot: dict[str, Array]) -> tuple[int, list[Episode]]:
        """Fills the slot with T steps of every copy; returns the policy's version and the episodes that ended."""
        version, episodes = self._actor.refresh(), []
        observations = [slot[name] for name in self._names]
        for rows, seen in zip(observations, self._seen, strict=True):
            rows[0] = seen
        slot["resets"][0], slot["state"][:] = self._resets, self._actor.state.numpy()
        slot["final_values"].fill(0.0)
        masks = slot.get("masks")
        if masks is not None:
            masks[0] = self._masks
        for t in range(self.config.steps):
            may = None if masks is None else masks[t]
            actions, slot["log_probs"][t] = self._actor.act(slot["obs"][t], slot["resets"][t], may)
            slot["actions"][t] = actions
            following = [rows[t + 1] for rows in observations]
            for b, action in enumerate(actions.tolist()):
                outcome = self._games[b].step(action, *[rows[b] for rows in following])
                slot["rewards"][t, b], slot["terminated"][t, b], slot["truncated"][t, b] = outcome
            self._length += 1
            self._return += slot["rewards"][t]
            check_finite(self.config.env, following[0], slot["rewards"][t])
            episodes += self._restart_ended(slot, t, following)
            if masks is not None:
                masks[t + 1] = [game.mask for game in self._games]
        if masks is not None:
            self._masks = masks[-1].copy()
        for rows, seen in zip(observations, self._seen, strict=True):
            seen[:] = rows[-1]
        self._resets[:] = slot["resets"][-1]
        return version, episodes

    def _restart_ended(self, slot: dict[str, Array], t: int, following: list[Array]) -> list[Episode]:
        truncated = slot["truncated"][t]
        ended = slot["terminated"][t] | truncated
        slot["resets"][t + 1] = ended
        if not ended.any():
            return []
        cut = np.flatnonzero(truncated)
        if len(cut):  # the last observations are valued before the new episode overwrites them
            slot["final_values"][t, cut] = self._actor.values(following[0][cut], cut)
        episodes = []
        for b in np.flatnonzero(ended):
            if not self._games[b].goes_on:
                episodes.append(Episode(float(self._return[b]), int(self._length[b])))
                self._return[b], self._length[b] = 0.0, 0
            self._games[b].reset(*[rows[b] for rows in following])
        check_finite(self.config.env, following[0])
        return episodes

    def snapshot(self) -> dict[str, Any]:
        """Where every copy stands, as plain numbers and arrays."""
        return {
            "games": [game.snapshot() for game in self._games],
            "rng": self._rng.bit_generator.state,
            "seen": [seen.copy() for seen in self._seen],
            "state": self._actor.state.numpy().copy(),
            "resets": self._resets.copy(),
            **({} if self._masks is None else {"masks": self._masks.copy()}),
            "return": self._return.copy(),
            "length": self._length.copy(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Goes on from a snapshot of a worker of the same config."""
        for b, (game, saved) in enumerate(zip(self._games, snapshot["games"], strict=True)):
            game.restore(saved, *(seen[b] for seen in self._seen))
        for seen, saved in zip(self._seen, snapshot["seen"], strict=True):
            seen[:] = saved
        self._rng.bit_generator.state = snapshot["rng"]
        if self._masks is not None:
            self._masks[:] = snapshot["masks"]
        self._actor.state = torch.from_numpy(snapshot["state"].copy())
        self._resets[:], self._return[:], self._length[:] = snapshot["resets"], snapshot["return"], snapshot["length"]

    def close(self) -> None:
        """Closes every game."""
        for game in self._games:
            game.close()


def worker_main(config: WorkerConfig, connection: Connection) -> None:
    """The process: answers commands until told to close, or until the trainer is gone."""
    ignore_signals()
    threading.Thread(target=die_with_the_trainer, daemon=True).start()  # holds even where a game hangs
    use_one_thread()
    try:
        player = EnvironmentLoop(config)
        connection.send((Reply.READY, None))
        while True:
            waited = time.perf_counter()
            command, argument = connection.recv()  # EOF when the trainer is gone
            if command is Command.PLAY:
                began = time.perf_counter()
                version, episodes = player.play(config.slots[argument])
                played = RolloutReply(argument, version, tuple(episodes), time.perf_counter() - began, began - waited)
                connection.send((Reply.ROLLOUT, played))
            elif command is Command.SNAPSHOT:
                connection.send((Reply.SNAPSHOT, player.snapshot()))
            elif command is Command.RESTORE:
                player.restore(argument)
            else:
                player.close()
                return
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # carried to the trainer, which raises it
        connection.send((Reply.ERROR, Failure(type(error).__name__, str(error), traceback.format_exc())))
