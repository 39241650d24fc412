"""Any other Gymnasium environment with Discrete or MultiDiscrete actions, as Gymnasium makes it. Torch-free."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cdrl_pl.envs.actions import MASK, actions_of
from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec
from cdrl_pl.envs.games import number
from cdrl_pl.envs.packages import package_of, remove_litter
from cdrl_pl.envs.spaces import reading
from cdrl_pl.envs.view import Array, Observer, View

USUAL_SPEED = 30  # decisions per second of a game that does not say its own


class GymGame:
    """Any Gymnasium environment with Discrete or MultiDiscrete actions, and observations that its views can read.

    Methods as in ``Game``. Every episode is seeded by its number, so where a game stands is that number and its
    actions so far.

    Args:
        config: the task, resolved.
        seed: of the copy, without unit.
        others: views beside the config's own.
        render: pictures will be asked for.
    """

    goes_on = False

    def __init__(self, config: EnvConfig, seed: int, others: Sequence[View] = (), render: bool = False) -> None:
        import gymnasium

        assert config.view is not None  # resolved

        self.config = config
        self._package = package_of(config.id)
        make: dict[str, Any] = {}
        if config.max_episode_steps is not None:
            make["max_episode_steps"] = config.max_episode_steps
        if render:
            make["render_mode"] = "rgb_array"
            for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):  # what draws here needs neither screen nor sound
                os.environ.setdefault(variable, "dummy")
        try:
            self._env = gymnasium.make(config.id, **{**self._package.kwargs, **config.kwargs, **make})
        except (TypeError, gymnasium.error.Error) as error:
            if render:
                raise EnvError(
                    f"env.id {config.id!r} cannot be drawn: a video needs rgb_array among its metadata's render_modes, "
                    f"and an argument render_mode of its constructor: {error}"
                ) from error
            raise EnvError(f"env.id {config.id!r} cannot be made{_with(config.kwargs)}: {error}") from error
        for wrapper in config.wrappers:
            self._env = wrapped(self._env, wrapper)
        space = self._env.observation_space
        names = list(getattr(self._env.unwrapped, "get_action_meanings", list)())
        self._actions = actions_of(config, self._env.action_space, names)
        self._observers = [Observer(view, reading(view, space, config.id)) for view in (config.view, *others)]
        first = self._observers[0]
        self.spec = EnvSpec(
            first.shape, first.dtype, self._actions.names, self._actions.counts, masked=config.action_mask
        )
        self.mask: Array | None = None
        self.decisions_per_second = float(self._env.metadata.get("render_fps") or USUAL_SPEED)
        self._seed = seed
        self._episode = -1
        self._played: list[Any] = []

    def _begin(self, outs: Sequence[Array]) -> None:
        entropy = np.random.SeedSequence([self._seed, self._episode])
        obs, info = self._env.reset(seed=int(entropy.generate_state(1)[0]))
        remove_litter(self._package)
        self._played = []
        self._take_mask(obs, info)
        for observer, out in zip(self._observers, outs, strict=True):
            observer.begin(obs, out)

    def reset(self, *outs: Array) -> None:
        """Starts the next episode, seeded by its number."""
        self._episode += 1
        self._begin(outs)

    def step(self, action: Any, *outs: Array) -> tuple[float, bool, bool]:
        """Plays one decision."""
        self._played.append(action)
        obs, reward, terminated, truncated, info = self._env.step(self._actions.play(action))
        self._take_mask(obs, info)
        for observer, out in zip(self._observers, outs, strict=True):
            observer.see(obs, out)
        return number(self.config, reward), bool(terminated), bool(truncated) and not terminated

    def _take_mask(self, obs: Any, info: dict[str, Any]) -> None:
        if self.config.action_mask:
            within = obs if isinstance(obs, dict) and MASK in obs else info
            self.mask = self._actions.mask(within.get(MASK))

    def snapshot(self) -> dict[str, Any]:
        """The episode's number and its actions so far."""
        return {"seed": self._seed, "episode": self._episode, "actions": np.asarray(self._played, np.int16)}

    def restore(self, snapshot: dict[str, Any], *outs: Array) -> None:
        """Plays the episode's actions again."""
        self._seed, self._episode = snapshot["seed"], snapshot["episode"]
        self._begin(outs)
        for action in snapshot["actions"].tolist():
            self.step(action, *outs)

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


def _with(kwargs: dict[str, Any]) -> str:
    """What an environment was to be made with, by the option that says so."""
    return f" with env.kwargs {kwargs}" if kwargs else ""


def wrapped(env: Any, wrapper: str | dict[str, Any]) -> Any:
    """An environment within a wrapper of ``env.wrappers``.

    Raises:
        EnvError: it cannot be imported, is no wrapper, or does not take its keywords.
    """
    path, kwargs = next(iter(wrapper.items())) if isinstance(wrapper, dict) and len(wrapper) == 1 else (wrapper, None)
    module, dot, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not dot or not (kwargs is None or isinstance(kwargs, dict)):
        raise EnvError(
            f"env.wrappers has {wrapper!r}; it must be module.Class, or {{module.Class: {{keyword: value}}}}"
        )
    try:
        made = getattr(importlib.import_module(module), name)(env, **kwargs or {})
    except (ImportError, AttributeError, TypeError, ValueError, AssertionError) as error:
        raise EnvError(f"env.wrappers has {path!r}, which cannot be put around {env}: {error}") from error
    if not all(hasattr(made, part) for part in ("reset", "step", "observation_space", "action_space")):
        raise EnvError(f"env.wrappers has {path!r}, which makes no environment of {env}")
    return made
