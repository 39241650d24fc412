"""Environments: what a config says of one, what the agents need to know of it, and the game a worker plays.

Atari games run on ale-py's emulator directly (no wrappers, the screen is resized into the caller's memory); any other
Gymnasium environment with a Discrete action space runs through Gymnasium. Torch-free.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class EnvError(ValueError):
    """An environment that cannot be used, with the reason and what is allowed."""


@dataclass
class EnvConfig:
    """One task.

    Attributes:
        id: a preset (Pong-2017, Bowling-2017), or any Gymnasium id (ALE/Pong-v5, Bowling-v0, CartPole-v1); module:id
            imports the module that registers it first.
        frame_skip: frames per decision, or [least, most] to draw from each time (both included); null: the id's own.
            Atari only.
        repeat_action_probability: chance per frame that the emulator repeats the last action; null: the id's own.
            Atari only.
        max_episode_steps: decisions after which an episode is truncated; null: the id's own.
        full_action_space: all 18 Atari actions instead of the game's minimal set. Atari only.
        noop_max: up to this many no-ops at an episode's start, drawn per episode. Atari only.
        image_size: side of the square grey image that image observations become, in pixels.
        crop: first and last row (excluded) kept of an image before resizing. null: the paper's 34..194 for Atari (whose
            screens have 210 rows: [0, 210] keeps all of them), all rows elsewhere.
        actions: the game's own action that each action plays, by index: [1, 0] swaps two, [0, 1, 1] has one twice;
            null: the game's own actions. Tasks whose right alignment is known are made this way.
        kwargs: further keyword arguments of gymnasium.make; not for Atari.
    """

    id: str
    frame_skip: int | tuple[int, int] | None = None
    repeat_action_probability: float | None = None
    max_episode_steps: int | None = None
    full_action_space: bool = False
    noop_max: int = 0
    image_size: int = 42
    crop: tuple[int, int] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    actions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class EnvSpec:
    """What the agents need to know of a task: shapes and meanings."""

    obs_shape: tuple[int, ...]  # [C, H, W] or [N]
    obs_dtype: str  # "uint8" or "float32"
    action_meanings: tuple[str, ...]

    @property
    def num_actions(self) -> int:
        """A."""
        return len(self.action_meanings)


class Game(Protocol):
    """One running copy of a task. Observations are written into the caller's memory."""

    spec: EnvSpec

    def reset(self, out: Array) -> None:
        """Starts an episode."""

    def step(self, action: int, out: Array) -> tuple[float, bool, bool]:
        """Plays one decision: reward, terminated, truncated. ``out`` gets the observation after it, final ones too."""

    def snapshot(self) -> dict[str, Any]:
        """Where the game stands, as plain numbers and arrays: no pickles."""

    def restore(self, snapshot: dict[str, Any], out: Array) -> None:
        """Goes on from a snapshot of a game of the same config."""

    def render(self) -> Array:
        """The current picture [H, W, 3] uint8."""

    def close(self) -> None:
        """Frees it."""


PRESETS: dict[str, dict[str, Any]] = {
    # The paper's environments, in today's terms (spec section 5).
    "Pong-2017": {
        "id": "ALE/Pong-v5",
        "frame_skip": 4,
        "repeat_action_probability": 0.0,
        "max_episode_steps": 100_000,
    },
    "Bowling-2017": {
        "id": "ALE/Bowling-v5",
        "frame_skip": (2, 4),
        "repeat_action_probability": 0.25,
        "max_episode_steps": 10_000,
    },
}
ATARI_CROP = (34, 194)


def _registry() -> dict[str, Any]:
    import gymnasium

    try:
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    except ImportError:  # Atari is then an unknown id
        pass
    return dict(gymnasium.registry)


def resolve(config: EnvConfig) -> EnvConfig:
    """The config with its preset's and its id's own values filled in, checked.

    Raises:
        EnvError: unknown id (with the nearest known one), an option that this kind of environment does not have, or a
            value out of range.
    """
    name = config.id
    preset = PRESETS.get(name, {})
    given = {k: v for k, v in asdict(config).items() if v is not None and k != "id"}
    merged = replace(config, **{**preset, **{k: v for k, v in given.items() if k in preset}})
    registry = _registry()
    module, _, bare = merged.id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EnvError(f"env.id is {name!r}, but the module {module!r} cannot be imported: {error}") from None
        registry = _registry()
    spec = registry.get(bare)
    if spec is None:
        near = difflib.get_close_matches(name, [*PRESETS, *registry], n=1, cutoff=0.0)
        raise EnvError(f"env.id is {name!r}, which is not known; the nearest known id is {near[0]!r}")
    for option, ok, allowed in (
        ("image_size", merged.image_size >= 1, "1 or more"),
        ("noop_max", merged.noop_max >= 0, "0 or more"),
        (
            "crop",
            merged.crop is None or 0 <= merged.crop[0] < merged.crop[1],
            "[first, last] with 0 <= first < last, last being excluded",
        ),
        (
            "actions",
            merged.actions is None or (len(merged.actions) > 0 and min(merged.actions) >= 0),
            "a list of indices into the game's own actions, at least one",
        ),
        ("max_episode_steps", merged.max_episode_steps is None or merged.max_episode_steps >= 1, "1 or more"),
        (
            "repeat_action_probability",
            merged.repeat_action_probability is None or 0 <= merged.repeat_action_probability <= 1,
            "from 0 to 1",
        ),
    ):
        if not ok:
            raise EnvError(f"env.{option} is {getattr(merged, option)}; it must be {allowed}")
    if not is_atari(merged):
        for option in ("frame_skip", "repeat_action_probability"):
            if getattr(merged, option) is not None:
                raise EnvError(
                    f"env.{option} is {getattr(merged, option)!r}, but {name} is not an Atari game; leave it out"
                )
        for option in ("full_action_space", "noop_max"):
            if getattr(merged, option):
                raise EnvError(
                    f"env.{option} is {getattr(merged, option)!r}, but {name} is not an Atari game; leave it out"
                )
        return merged
    if merged.kwargs:
        raise EnvError(f"env.kwargs is {merged.kwargs!r}; Atari games take the named options instead")
    own = spec.kwargs
    skip = merged.frame_skip
    if skip is None:
        skip = own["frameskip"]
        if isinstance(skip, tuple):
            skip = (skip[0], skip[1] - 1)  # ale-py excludes the upper end, this project includes it
    low, high = (skip, skip) if isinstance(skip, int) else skip
    if not 1 <= low <= high:
        raise EnvError(f"env.frame_skip is {skip!r}; it must be 1 or more, or [least, most] with 1 <= least <= most")
    sticky = merged.repeat_action_probability
    frames = own.get("max_num_frames_per_episode", 108_000)
    return replace(
        merged,
        frame_skip=skip,
        repeat_action_probability=own["repeat_action_probability"] if sticky is None else sticky,
        max_episode_steps=merged.max_episode_steps or spec.max_episode_steps or frames // low,
        crop=merged.crop or ATARI_CROP,
    )


def is_atari(config: EnvConfig) -> bool:
    """Whether the lean emulator path plays this (resolved) config."""
    spec = _registry().get(config.id.rpartition(":")[2])
    return (
        spec is not None and spec.entry_point == "ale_py.env:AtariEnv" and spec.kwargs.get("obs_type", "rgb") == "rgb"
    )


def make_game(config: EnvConfig, seed: int, render: bool = False) -> Game:
    """A running copy of the task; the same config and seed give the same game. ``render``: pictures will be asked for.

    Raises:
        EnvError: what ``resolve`` raises, or spaces that the agents cannot use.
    """
    config = resolve(config)
    return AtariGame(config, seed) if is_atari(config) else GymGame(config, seed, render)


def describe(config: EnvConfig) -> EnvSpec:
    """The task's spec, found by making it once; raises as ``make_game``."""
    game = make_game(config, seed=0)
    try:
        return game.spec
    finally:
        game.close()


def _chosen(config: EnvConfig, own: Sequence[Any]) -> list[Any]:
    """What ``config.actions`` picks of what the game has per action of its own.

    Raises:
        EnvError: an index that the game does not have.
    """
    if config.actions is None:
        return list(own)
    if max(config.actions) >= len(own):
        raise EnvError(f"env.actions is {list(config.actions)}; {config.id} has the actions 0 to {len(own) - 1}")
    return [own[i] for i in config.actions]


def _resize(frame: Array, crop: tuple[int, int] | None, out: Array) -> None:
    """A grey frame [H, W] cropped by rows and resized into ``out`` [1, S, S]."""
    import cv2

    if crop is not None:
        frame = frame[crop[0] : crop[1]]
    cv2.resize(frame, (out.shape[2], out.shape[1]), dst=out[0], interpolation=cv2.INTER_AREA)


class AtariGame:
    """An Atari game on ale-py's emulator, with the paper's preprocessing: crop, grey, resize, one frame, uint8."""

    def __init__(self, config: EnvConfig, seed: int) -> None:
        import ale_py
        import cv2

        cv2.setNumThreads(1)
        self.config = config
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._ale: Any = ale_py.ALEInterface()
        self._ale.setInt("random_seed", int(seed % 2**31))
        skip, sticky = config.frame_skip, config.repeat_action_probability
        rom = ale_py.roms.get_rom_path(_registry()[config.id.rpartition(":")[2]].kwargs["game"])
        assert skip is not None and sticky is not None and config.max_episode_steps is not None  # resolved
        if rom is None:
            raise EnvError(f"env.id {config.id!r}: the game's ROM is not among those that ale-py brings")
        self._ale.setFloat("repeat_action_probability", sticky)
        self._ale.loadROM(rom)
        own = self._ale.getLegalActionSet() if config.full_action_space else self._ale.getMinimalActionSet()
        self._noop, self._actions = own[0], _chosen(config, own)
        self.spec = EnvSpec((1, config.image_size, config.image_size), "uint8", tuple(a.name for a in self._actions))
        self._screen = np.empty(self._ale.getScreenDims(), np.uint8)
        if config.crop is not None and config.crop[1] > len(self._screen):
            raise EnvError(f"env.crop is {config.crop}; {config.id} has {len(self._screen)} rows")
        self._low, self._high = (skip, skip) if isinstance(skip, int) else skip
        self._limit = config.max_episode_steps
        self._steps = 0

    def _observe(self, out: Array) -> None:
        self._ale.getScreenGrayscale(self._screen)
        _resize(self._screen, self.config.crop, out)

    def reset(self, out: Array) -> None:
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
        act, name = self._ale.act, self._actions[action]
        frames = self._low if self._low == self._high else int(self._rng.integers(self._low, self._high + 1))
        reward = 0
        for _ in range(frames):
            reward += act(name)
        self._steps += 1
        terminated = self._ale.game_over()
        self._observe(out)
        return float(reward), terminated, not terminated and self._steps >= self._limit

    def snapshot(self) -> dict[str, Any]:
        return {
            "emulator": np.frombuffer(self._ale.cloneSystemState().__getstate__(), np.uint8).copy(),
            "screen": self._screen.copy(),
            "rng": self._rng.bit_generator.state,
            "steps": self._steps,
        }

    def restore(self, snapshot: dict[str, Any], out: Array) -> None:
        import ale_py

        state: Any = ale_py.ALEState.__new__(ale_py.ALEState)
        state.__setstate__(bytes(snapshot["emulator"]))
        self._ale.restoreSystemState(state)
        self._rng.bit_generator.state = snapshot["rng"]
        self._steps = snapshot["steps"]
        self._screen[...] = snapshot["screen"]  # the emulator draws it anew only when it plays on
        _resize(self._screen, self.config.crop, out)

    def render(self) -> Array:
        return np.asarray(self._ale.getScreenRGB())

    def close(self) -> None:
        pass


class GymGame:
    """Any Gymnasium environment with a Discrete action space and image or vector observations.

    Every episode is seeded by its number, so where a game stands is the episode's number and its actions so far.
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
        try:
            self._env = gymnasium.make(config.id, **make)
        except (TypeError, gymnasium.error.Error) as error:
            raise EnvError(f"env.id {config.id!r} cannot be made with {make}: {error}") from error
        space, actions = self._env.observation_space, self._env.action_space
        if not isinstance(actions, Discrete):
            raise EnvError(f"env.id {config.id!r} has the action space {actions}; only Discrete can be played")
        if not isinstance(space, Box):
            raise EnvError(
                f"env.id {config.id!r} has the observation space {space}; only Box (images or vectors) can be read"
            )
        count = int(actions.n)
        names = getattr(self._env.unwrapped, "get_action_meanings", lambda: [str(i) for i in range(count)])()
        self._actions = _chosen(config, range(int(actions.start), int(actions.start) + count))
        self._image = len(space.shape) >= 2 and space.dtype == np.uint8
        if self._image and not (len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3))):
            raise EnvError(
                f"env.id {config.id!r} has images of shape {space.shape}; only [H, W], [H, W, 1], [H, W, 3] can be read"
            )
        size = config.image_size
        shape = (1, size, size) if self._image else (int(np.prod(space.shape)),)
        self.spec = EnvSpec(shape, "uint8" if self._image else "float32", tuple(_chosen(config, names)))
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
        _resize(grey, self.config.crop, out)

    def _begin(self, out: Array) -> None:
        entropy = np.random.SeedSequence([self._seed, self._episode])
        obs, _ = self._env.reset(seed=int(entropy.generate_state(1)[0]))
        self._played = []
        self._write(obs, out)

    def reset(self, out: Array) -> None:
        self._episode += 1
        self._begin(out)

    def step(self, action: int, out: Array) -> tuple[float, bool, bool]:
        self._played.append(action)
        obs, reward, terminated, truncated, _ = self._env.step(self._actions[action])
        self._write(obs, out)
        return float(reward), bool(terminated), bool(truncated) and not terminated

    def snapshot(self) -> dict[str, Any]:
        return {"seed": self._seed, "episode": self._episode, "actions": np.asarray(self._played, np.int16)}

    def restore(self, snapshot: dict[str, Any], out: Array) -> None:
        self._seed, self._episode = snapshot["seed"], snapshot["episode"]
        self._begin(out)
        for action in snapshot["actions"].tolist():
            self.step(action, out)

    def render(self) -> Array:
        return np.asarray(self._env.render())

    def close(self) -> None:
        self._env.close()
