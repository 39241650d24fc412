"""Any other Gymnasium environment with a Discrete action space, as Gymnasium makes it. Torch-free."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec
from cdrl_pl.envs.games import Array, check_crop, chosen_actions, number, resize

USUAL_SPEED = 30  # decisions per second of a game that does not say its own
SMALL = 16  # pixels: images of fewer rows or columns are seldom pictures


class GymGame:
    """Any Gymnasium environment with a Discrete action space and image or vector observations.

    Methods as in ``Game``. Every episode is seeded by its number, so where a game stands is that number and its
    actions so far.

    Args:
        config: the task, resolved.
        seed: of the copy, without unit.
        render: pictures will be asked for.
    """

    def __init__(self, config: EnvConfig, seed: int, render: bool = False) -> None:
        import gymnasium
        from gymnasium.spaces import Box, Discrete

        self.config = config
        make = dict(config.kwargs)
        if config.max_episode_steps is not None:
            make["max_episode_steps"] = config.max_episode_steps
        if render:
            make["render_mode"] = "rgb_array"
            for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):  # what draws here needs neither screen nor sound
                os.environ.setdefault(variable, "dummy")
        try:
            self._env = gymnasium.make(config.id, **make)
        except (TypeError, gymnasium.error.Error) as error:
            if render:
                raise EnvError(
                    f"env.id {config.id!r} cannot be drawn: a video needs rgb_array among its metadata's render_modes, "
                    f"and an argument render_mode of its constructor: {error}"
                ) from error
            raise EnvError(f"env.id {config.id!r} cannot be made{_with(make)}: {error}") from error
        space, actions = self._env.observation_space, self._env.action_space
        if not isinstance(actions, Discrete):
            raise EnvError(f"env.id {config.id!r} has the action space {actions}; only Discrete can be played")
        if not isinstance(space, Box):
            raise EnvError(
                f"env.id {config.id!r} has the observation space {space}; only Box (images or vectors) can be read"
            )
        count = int(actions.n)
        names = list(getattr(self._env.unwrapped, "get_action_meanings", list)())
        if len(names) != count:  # the space decides how many actions there are; a wrapper may have changed it
            names = [str(i) for i in range(count)]
        self.doubt = ""  # what may be wrong with the task; empty: nothing
        self._actions = chosen_actions(config, range(int(actions.start), int(actions.start) + count))
        self._image = len(space.shape) >= 2 and space.dtype == np.uint8
        if self._image and not (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3))):
            raise EnvError(
                f"env.id {config.id!r} has images of shape {space.shape}; only [H, W], [H, W, 1], [H, W, 3] can be read"
            )
        if self._image and min(space.shape[:2]) < SMALL:
            self.doubt = (
                f"env.id {config.id!r} has images of {space.shape[0]} x {space.shape[1]} pixels: where their numbers "
                "are codes of things, and no colours, making them grey mixes codes up; wrap it so that it gives vectors"
            )
        if self._image:
            check_crop(config, space.shape[0])
        elif config.crop is not None:
            raise EnvError(f"env.crop is {config.crop}, but {config.id} gives no images; leave it out")
        size = config.image_size
        shape = (1, size, size) if self._image else (int(np.prod(space.shape)),)
        self.spec = EnvSpec(shape, "uint8" if self._image else "float32", tuple(chosen_actions(config, names)))
        self.decisions_per_second = float(self._env.metadata.get("render_fps") or USUAL_SPEED)
        self._seed = seed
        self._episode = -1
        self._played: list[int] = []

    def _write(self, obs: Any, out: Array) -> None:
        if not self._image:
            out[...] = np.asarray(obs, np.float32).reshape(-1)
            return
        import cv2

        grey = (
            cv2.cvtColor(obs, cv2.COLOR_RGB2GRAY)
            if obs.ndim == 3 and obs.shape[-1] == 3
            else obs.reshape(obs.shape[:2])
        )
        resize(grey, self.config.crop, out)

    def _begin(self, out: Array) -> None:
        entropy = np.random.SeedSequence([self._seed, self._episode])
        obs, _ = self._env.reset(seed=int(entropy.generate_state(1)[0]))
        self._played = []
        self._write(obs, out)

    def reset(self, out: Array) -> None:
        """Starts the next episode, seeded by its number."""
        self._episode += 1
        self._begin(out)

    def step(self, action: int, out: Array) -> tuple[float, bool, bool]:
        """Plays one decision."""
        self._played.append(action)
        obs, reward, terminated, truncated, _ = self._env.step(self._actions[action])
        self._write(obs, out)
        return number(self.config, reward), bool(terminated), bool(truncated) and not terminated

    def snapshot(self) -> dict[str, Any]:
        """The episode's number and its actions so far."""
        return {"seed": self._seed, "episode": self._episode, "actions": np.asarray(self._played, np.int16)}

    def restore(self, snapshot: dict[str, Any], out: Array) -> None:
        """Plays the episode's actions again."""
        self._seed, self._episode = snapshot["seed"], snapshot["episode"]
        self._begin(out)
        for action in snapshot["actions"].tolist():
            self.step(action, out)

    def render(self) -> Array:
        """The current picture [H, W, 3] uint8; raises EnvError where there is none, such as for want of a library."""
        import gymnasium

        try:
            picture = np.asarray(self._env.render())
        except gymnasium.error.Error as error:
            raise EnvError(f"env.id {self.config.id!r} cannot be drawn: {error}") from None
        if picture.ndim != 3 or picture.shape[-1] != 3:
            raise EnvError(f"env.id {self.config.id!r} draws no picture [H, W, 3] in the render mode rgb_array")
        return picture

    def close(self) -> None:
        self._env.close()


def _with(make: dict[str, Any]) -> str:
    """What an environment was to be made with, by the options that say so."""
    kwargs = {name: value for name, value in make.items() if name not in ("render_mode", "max_episode_steps")}
    return f" with env.kwargs {kwargs}" if kwargs else ""
