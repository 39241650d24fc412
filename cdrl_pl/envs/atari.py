"""Atari games on ale-py's emulator itself: no wrappers, the screen is resized into the caller's memory. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec, frame_cap, registry
from cdrl_pl.envs.games import chosen_actions
from cdrl_pl.envs.pictures import picture
from cdrl_pl.envs.view import Array, Observer, View

FRAMES_PER_SECOND = 60  # of the console


class AtariGame:
    """An Atari game on ale-py's emulator; by default with the paper's preprocessing: crop, grey, resize, one frame.

    Methods as in ``Game``.

    Args:
        config: the task, resolved.
        seed: of the copy, without unit.
        others: views beside the config's own, resolved.
    """

    mask: Array | None = None

    def __init__(self, config: EnvConfig, seed: int, others: Sequence[View] = ()) -> None:
        import ale_py

        self.config = config
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._ale: Any = ale_py.ALEInterface()
        self._ale.setInt("random_seed", int(seed % 2**31))
        skip, sticky = config.frame_skip, config.repeat_action_probability
        rom = ale_py.roms.get_rom_path(registry()[config.id.rpartition(":")[2]].kwargs["game"])
        assert skip is not None and sticky is not None and config.max_episode_steps is not None  # resolved
        assert config.view is not None
        if rom is None:
            raise EnvError(f"env.id {config.id!r}: the game's ROM is not among those that ale-py brings")
        self._ale.setFloat("repeat_action_probability", sticky)
        self._ale.loadROM(rom)
        own = self._ale.getLegalActionSet() if config.full_action_space else self._ale.getMinimalActionSet()
        self._noop, self._actions = own[0], chosen_actions(config, own)
        self._fire = next((a for a in own if a.name == "FIRE"), None) if config.fire_on_reset else None
        self.goes_on, self._lives = False, 0
        height, width = self._ale.getScreenDims()
        views = (config.view, *others)
        self._observers = [Observer(view, picture(view, config.id, height, width)) for view in views]
        self._screens = {kind: _Screen(self._ale, *kind) for kind in {(v.colour, v.maximum) for v in views}}
        self._shown = [self._screens[view.colour, view.maximum] for view in views]
        self._doubled = [screen for screen in self._screens.values() if screen.maximum]
        first = self._observers[0]
        self.spec = EnvSpec(first.shape, first.dtype, tuple(a.name for a in self._actions))
        self._low, self._high = (skip, skip) if isinstance(skip, int) else skip
        self.decisions_per_second = FRAMES_PER_SECOND / ((self._low + self._high) / 2)
        self._limit = config.max_episode_steps
        # Where the skip is drawn, a limit in frames is none in decisions: as registered, the emulator's frames count.
        registered = registry()[config.id.rpartition(":")[2]]
        own_limit = registered.max_episode_steps is None and self._limit == frame_cap(registered) // self._low
        self._frame_cap = frame_cap(registered) if own_limit and self._low < self._high else None
        self._steps = 0

    def reset(self, *outs: Array) -> None:
        """Starts an episode, after up to ``noop_max`` no-ops."""
        ale = self._ale
        if self.goes_on:  # a life ended, not the game
            ale.act(self._noop)
        else:
            ale.reset_game()
            self._steps = 0
            if self.config.noop_max:
                for _ in range(int(self._rng.integers(self.config.noop_max + 1))):
                    ale.act(self._noop)
                    if ale.game_over():
                        ale.reset_game()
        if self._fire is not None:
            self._press_fire()
            if ale.game_over():
                ale.reset_game()
        self.goes_on, self._lives = False, ale.lives()
        for screen in self._screens.values():
            screen.take()
        for observer, screen, out in zip(self._observers, self._shown, outs, strict=True):
            observer.begin(screen.pixels, out)

    def step(self, action: Any, *outs: Array) -> tuple[float, bool, bool]:
        """Plays one decision of as many frames as the skip says."""
        act, name = self._ale.act, self._actions[action]
        frames = self._low if self._low == self._high else int(self._rng.integers(self._low, self._high + 1))
        reward = 0
        for _ in range(frames - 1):
            reward += act(name)
        for screen in self._doubled:
            screen.take()
        reward += act(name)
        self._steps += 1
        terminated = self._ale.game_over()
        if self._fire is not None or self.config.episodic_life:
            terminated = self._lost_a_life() or terminated
        for screen in self._screens.values():
            screen.take_next(frames)
        for observer, screen, out in zip(self._observers, self._shown, outs, strict=True):
            observer.see(screen.pixels, out)
        capped = self._frame_cap is not None and self._ale.getEpisodeFrameNumber() >= self._frame_cap
        return float(reward), terminated, not terminated and (capped or self._steps >= self._limit)

    def _lost_a_life(self) -> bool:
        """Whether an episode ended with a life; where only lives end, FIRE begins the next one at once."""
        lives, over = self._ale.lives(), self._ale.game_over()
        lost, self._lives = 0 < lives < self._lives and not over, lives
        self.goes_on = lost and self.config.episodic_life
        if lost and not self.goes_on and self._fire is not None:
            self._press_fire()
        return self.goes_on

    def _press_fire(self) -> None:
        for _ in range(self._low):
            self._ale.act(self._fire)

    def snapshot(self) -> dict[str, Any]:
        """The emulator's state, the last screens, what views stack, and this game's randomness."""
        return {
            "emulator": np.frombuffer(self._ale.cloneSystemState().__getstate__(), np.uint8).copy(),
            "screens": [self._screens[kind].pixels.copy() for kind in sorted(self._screens)],
            "stacks": [o.memory.copy() for o in self._observers if o.memory is not None],
            "rng": self._rng.bit_generator.state,
            "steps": self._steps,
            "lives": self._lives,
        }

    def restore(self, snapshot: dict[str, Any], *outs: Array) -> None:
        """Goes on from a snapshot."""
        import ale_py

        state: Any = ale_py.ALEState.__new__(ale_py.ALEState)
        state.__setstate__(bytes(snapshot["emulator"]))
        self._ale.restoreSystemState(state)
        self._rng.bit_generator.state = snapshot["rng"]
        self._steps, self._lives, self.goes_on = snapshot["steps"], snapshot["lives"], False
        # The emulator draws its screen anew only when it plays on.
        for kind, pixels in zip(sorted(self._screens), snapshot["screens"], strict=True):
            self._screens[kind].pixels[...] = pixels
        stacks = iter(snapshot["stacks"])
        for observer, screen, out in zip(self._observers, self._shown, outs, strict=True):
            if observer.memory is None:
                observer.see(screen.pixels, out)
            else:
                observer.memory[...] = next(stacks)
                observer.again(out)

    def render(self) -> Array:
        """The screen in colour, [H, W, 3] uint8."""
        return np.asarray(self._ale.getScreenRGB())

    def close(self) -> None:
        pass


class _Screen:
    """What the emulator shows, as some view takes it: grey or in colour, of one frame or the maximum of two.

    Args:
        ale: the emulator.
        colour: red, green and blue instead of grey.
        maximum: each pixel's maximum over a decision's last two frames.

    Attributes:
        pixels: [H, W], or [H, W, 3] in colour, uint8: what was taken last.
    """

    def __init__(self, ale: Any, colour: bool, maximum: bool) -> None:
        self.maximum = maximum
        self.pixels = np.empty((*ale.getScreenDims(), 3) if colour else ale.getScreenDims(), np.uint8)
        self._draw = ale.getScreenRGB if colour else ale.getScreenGrayscale
        self._other = np.empty_like(self.pixels) if maximum else self.pixels

    def take(self) -> None:
        """One frame."""
        self._draw(self.pixels)

    def take_next(self, frames: int) -> None:
        """The last of a decision's frames, with the one before it where this is a maximum and there was one."""
        self._draw(self._other)
        if self.maximum:
            if frames > 1:
                np.maximum(self.pixels, self._other, out=self.pixels)
            else:
                self.pixels[...] = self._other
