"""Atari games on ale-py's emulator itself: no wrappers, the screen is resized into the caller's memory. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec, frame_cap, registry
from cdrl_pl.envs.games import Array, check_crop, chosen_actions, resize

FRAMES_PER_SECOND = 60  # of the console


class AtariGame:
    """An Atari game on ale-py's emulator, with the paper's preprocessing: crop, grey, resize, one frame, uint8.

    Methods as in ``Game``.
    """

    def __init__(self, config: EnvConfig, seed: int) -> None:
        import ale_py

        self.config = config
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._ale: Any = ale_py.ALEInterface()
        self._ale.setInt("random_seed", int(seed % 2**31))
        skip, sticky = config.frame_skip, config.repeat_action_probability
        rom = ale_py.roms.get_rom_path(registry()[config.id.rpartition(":")[2]].kwargs["game"])
        assert skip is not None and sticky is not None and config.max_episode_steps is not None  # resolved
        if rom is None:
            raise EnvError(f"env.id {config.id!r}: the game's ROM is not among those that ale-py brings")
        self._ale.setFloat("repeat_action_probability", sticky)
        self._ale.loadROM(rom)
        own = self._ale.getLegalActionSet() if config.full_action_space else self._ale.getMinimalActionSet()
        self._noop, self._actions = own[0], chosen_actions(config, own)
        self.spec = EnvSpec((1, config.image_size, config.image_size), "uint8", tuple(a.name for a in self._actions))
        self._screen = np.empty(self._ale.getScreenDims(), np.uint8)
        check_crop(config, len(self._screen))
        self._low, self._high = (skip, skip) if isinstance(skip, int) else skip
        self.decisions_per_second = FRAMES_PER_SECOND / ((self._low + self._high) / 2)
        self._limit = config.max_episode_steps
        # Where the skip is drawn, a limit in frames is none in decisions: as registered, the emulator's frames count.
        registered = registry()[config.id.rpartition(":")[2]]
        own_limit = registered.max_episode_steps is None and self._limit == frame_cap(registered) // self._low
        self._frame_cap = frame_cap(registered) if own_limit and self._low < self._high else None
        self._steps = 0

    def _observe(self, out: Array) -> None:
        self._ale.getScreenGrayscale(self._screen)
        resize(self._screen, self.config.crop, out)

    def reset(self, out: Array) -> None:
        """Starts an episode, after up to ``noop_max`` no-ops."""
        ale = self._ale
        ale.reset_game()
        self._steps = 0
        if self.config.noop_max:
            for _ in range(int(self._rng.integers(self.config.noop_max + 1))):
                ale.act(self._noop)
                if ale.game_over():
                    ale.reset_game()
        self._observe(out)

    def step(self, action: int, out: Array) -> tuple[float, bool, bool]:
        """Plays one decision of as many frames as the skip says."""
        act, name = self._ale.act, self._actions[action]
        frames = self._low if self._low == self._high else int(self._rng.integers(self._low, self._high + 1))
        reward = 0
        for _ in range(frames):
            reward += act(name)
        self._steps += 1
        terminated = self._ale.game_over()
        self._observe(out)
        capped = self._frame_cap is not None and self._ale.getEpisodeFrameNumber() >= self._frame_cap
        return float(reward), terminated, not terminated and (capped or self._steps >= self._limit)

    def snapshot(self) -> dict[str, Any]:
        """The emulator's state, the last screen and this game's randomness."""
        return {
            "emulator": np.frombuffer(self._ale.cloneSystemState().__getstate__(), np.uint8).copy(),
            "screen": self._screen.copy(),
            "rng": self._rng.bit_generator.state,
            "steps": self._steps,
        }

    def restore(self, snapshot: dict[str, Any], out: Array) -> None:
        """Goes on from a snapshot."""
        import ale_py

        state: Any = ale_py.ALEState.__new__(ale_py.ALEState)
        state.__setstate__(bytes(snapshot["emulator"]))
        self._ale.restoreSystemState(state)
        self._rng.bit_generator.state = snapshot["rng"]
        self._steps = snapshot["steps"]
        self._screen[...] = snapshot["screen"]  # the emulator draws it anew only when it plays on
        resize(self._screen, self.config.crop, out)

    def render(self) -> Array:
        """The screen in colour, [H, W, 3] uint8."""
        return np.asarray(self._ale.getScreenRGB())

    def close(self) -> None:
        pass
