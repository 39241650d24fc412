"""Environment configs, resolved and checked, and the specs that agents need of them. Torch-free."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, field, replace
from typing import Any

from cdrl_pl.checks import ConfigError
from cdrl_pl.envs.packages import make_known
from cdrl_pl.envs.view import View


class EnvError(ConfigError):
    """An environment that cannot be used, with the reason and what is allowed."""


@dataclass
class EnvConfig:
    """One task.

    Attributes:
        id: A preset (Pong-2017, Bowling-2017), or any Gymnasium id (ALE/Pong-v5, Bowling-v0, CartPole-v1). module:id
            imports the module that registers the id first.
        frame_skip: Frames per decision, or [least, most] to draw from at each decision, both included; null takes the
            id's own. Atari only.
        repeat_action_probability: Probability per frame that the emulator repeats the last action, 0 to 1; null takes
            the id's own. Atari only.
        max_episode_steps: Decisions after which an episode is truncated; null takes the id's own limit.
        full_action_space: Offers all 18 Atari actions instead of the game's minimal set. Atari only.
        noop_max: Most no-op actions at the start of an episode; their number is drawn anew for each episode, from 0 on.
            Atari only.
        view: How the agent sees the game; null is the paper's (pictures become a grey square of 42 pixels, Atari's are
            cropped first), and of a certificated agent in another game its own.
        kwargs: Further keyword arguments of gymnasium.make. Not for Atari.
        wrappers: Gymnasium wrappers around the environment, the innermost first, as module.Class or {module.Class:
            {keyword: value}}. Each is imported; a certificate's are not, unless who plays it names them again or
            trusts their modules. Not for Atari.
        action_mask: The game says with every observation which actions may be played, in info["action_mask"] or under
            the key action_mask of Dict observations; nothing else is then played, nor learned. Not for Atari.
        fire_on_reset: Presses FIRE for a decision where a game begins or a life has been lost, in games that have it.
            Atari only.
        episodic_life: Ends an episode of training with every lost life; returns are still of whole games, and so are
            evaluations. Atari only.
        actions: The game's own action that each action plays, by index: [1, 0] swaps two, [0, 1, 1] has one twice; null
            keeps the game's own. Tasks whose right alignment is known are made this way.
    """

    id: str
    frame_skip: int | tuple[int, int] | None = None
    repeat_action_probability: float | None = None
    max_episode_steps: int | None = None
    full_action_space: bool = False
    noop_max: int = 0
    view: View | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    actions: tuple[int, ...] | None = None
    wrappers: tuple[str | dict[str, Any], ...] = ()
    action_mask: bool = False
    fire_on_reset: bool = False
    episodic_life: bool = False


@dataclass(frozen=True)
class EnvSpec:
    """What the agents need to know of a task: shapes and meanings.

    Attributes:
        obs_shape: Shape of one observation: [C, H, W] of an image, [N] of a vector.
        obs_dtype: Type of its numbers: "uint8" or "float32".
        action_meanings: Name of each action; of several choices one after the other, with the choice's index before it.
        action_counts: Numbers of actions of each of several choices that are made at once (MultiDiscrete); empty where
            one action is chosen.
        masked: Whether the game says which actions may be played.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: str
    action_meanings: tuple[str, ...]
    action_counts: tuple[int, ...] = ()
    masked: bool = False

    @property
    def num_actions(self) -> int:
        """A: of all choices together."""
        return len(self.action_meanings)


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


def registry() -> dict[str, Any]:
    """Every id that Gymnasium knows, ale-py's games among them."""
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
    preset = PRESETS.get(config.id, {})
    merged = replace(
        config, **{k: v if (given := getattr(config, k)) is None or k == "id" else given for k, v in preset.items()}
    )
    spec = _registered(merged.id, config.id)
    _check_values(merged)
    if is_atari(merged):
        return _resolve_atari(merged, spec)
    for option, unset in (
        ("frame_skip", None),
        ("repeat_action_probability", None),
        ("full_action_space", False),
        ("noop_max", 0),
        ("fire_on_reset", False),
        ("episodic_life", False),
    ):
        if (value := getattr(merged, option)) != unset:
            raise EnvError(f"env.{option} is {value!r}, but {config.id} is not an Atari game; leave it out")
    return replace(merged, view=merged.view or View())


def _registered(env_id: str, name: str) -> Any:
    """What Gymnasium knows of an id, whose module, if it has one, is imported first; ``name`` is what was asked for."""
    module, _, bare = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EnvError(f"env.id is {name!r}, but the module {module!r} cannot be imported: {error}") from None
    if extra := make_known(bare):
        raise EnvError(f"env.id is {name!r}, whose package is not installed; pip install 'cdrl-pl[{extra}]'")
    known = registry()
    if bare not in known:
        hint = "" if module else "; one of your own is named with the module that registers it, as module:id"
        near = difflib.get_close_matches(name, [*PRESETS, *known], n=1, cutoff=0.0)
        raise EnvError(f"env.id is {name!r}, which is not known; the nearest known id is {near[0]!r}{hint}")
    return known[bare]


def _check_values(config: EnvConfig) -> None:
    actions = config.actions
    limit, sticky = config.max_episode_steps, config.repeat_action_probability
    for option, ok, allowed in (
        ("noop_max", config.noop_max >= 0, "0 or more"),
        (
            "actions",
            actions is None or (len(actions) > 0 and min(actions) >= 0),
            "a list of indices into the game's own actions, at least one",
        ),
        ("max_episode_steps", limit is None or limit >= 1, "1 or more"),
        ("repeat_action_probability", sticky is None or 0 <= sticky <= 1, "from 0 to 1"),
    ):
        if not ok:
            raise EnvError(f"env.{option} is {getattr(config, option)}; it must be {allowed}")


def _resolve_atari(config: EnvConfig, spec: Any) -> EnvConfig:
    """What the registration says, where the config leaves it open."""
    if config.kwargs:
        raise EnvError(f"env.kwargs is {config.kwargs!r}; Atari games take the named options instead")
    if config.action_mask:
        raise EnvError(f"env.action_mask is true, but in {config.id} every action may always be played; leave it out")
    if config.wrappers:
        raise EnvError(f"env.wrappers is {config.wrappers!r}; Atari games take the named options and views instead")
    own, skip, sticky = spec.kwargs, config.frame_skip, config.repeat_action_probability
    if skip is None:
        skip = own["frameskip"]
        if isinstance(skip, tuple):
            skip = (skip[0], skip[1] - 1)  # ale-py excludes the upper end, this project includes it
    low, high = (skip, skip) if isinstance(skip, int) else skip
    if not 1 <= low <= high:
        raise EnvError(f"env.frame_skip is {skip!r}; it must be 1 or more, or [least, most] with 1 <= least <= most")
    frames, view = frame_cap(spec), config.view or View()
    for option, unset in (("keys", None), ("codes", None)):
        if (value := getattr(view, option)) != unset:
            raise EnvError(f"env.view.{option} is {list(value)}, but {config.id} shows a screen; leave it out")
    return replace(
        config,
        frame_skip=skip,
        repeat_action_probability=own["repeat_action_probability"] if sticky is None else sticky,
        max_episode_steps=config.max_episode_steps or spec.max_episode_steps or frames // low,
        view=replace(view, crop=view.crop or ATARI_CROP),
    )


def renamed(record: dict[str, Any]) -> dict[str, Any]:
    """A task's record with today's names: what was ``image_size`` and ``crop`` is its view's."""
    record, names = dict(record), {"image_size": "size", "crop": "crop"}
    view = {new: record.pop(old) for old, new in names.items() if old in record}
    return {**record, "view": view} if view else record


def frame_cap(spec: Any) -> int:
    """Frames after which the emulator's own environment of this registration truncates an episode."""
    return int(spec.kwargs.get("max_num_frames_per_episode", 108_000))


def with_noops(config: EnvConfig, noop_max: int) -> EnvConfig:
    """The resolved task as policies are scored in it: whole games, from up to so many no-ops, where it is Atari."""
    config = resolve(config)
    return replace(config, noop_max=noop_max, episodic_life=False) if is_atari(config) else config


def is_atari(config: EnvConfig) -> bool:
    """Returns whether the lean emulator path plays this (resolved) config."""
    spec = registry().get(config.id.rpartition(":")[2])
    return (
        spec is not None and spec.entry_point == "ale_py.env:AtariEnv" and spec.kwargs.get("obs_type", "rgb") == "rgb"
    )
