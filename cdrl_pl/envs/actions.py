"""Gymnasium's action spaces as agents choose from them: one action, or several at once. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError
from cdrl_pl.envs.games import chosen_actions
from cdrl_pl.envs.view import Array

MASK = "action_mask"  # what environments call it, in their info or among their Dict observations


class Actions(NamedTuple):
    """What an agent chooses from.

    Attributes:
        names: of every action, those of several choices one after the other.
        counts: numbers of actions of each of several choices; empty where one action is chosen.
        play: what the environment is given for an action's index, or for one of each choice.
        mask: of what the environment says, which actions may be played, [A] bool.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    play: Callable[[Any], Any]
    mask: Callable[[Any], Array]


def actions_of(config: EnvConfig, space: Any, names: Sequence[Any]) -> Actions:
    """The actions of a space, as ``config.actions`` picks them.

    Args:
        config: of the task.
        space: of the environment's actions.
        names: that the environment has for them: of a MultiDiscrete a list for each choice. The space decides how many
            there are; where a wrapper has changed that, actions are numbers.

    Raises:
        EnvError: a space that cannot be played, or a choice among actions that there is not.
    """
    from gymnasium.spaces import Discrete, MultiDiscrete

    if isinstance(space, Discrete):
        return _one(config, int(space.n), int(space.start), names)
    if not isinstance(space, MultiDiscrete):
        raise EnvError(
            f"env.id {config.id!r} has the action space {space}; only Discrete and MultiDiscrete can be played"
        )
    if config.actions is not None:
        raise EnvError(
            f"env.actions is {list(config.actions)}, but {config.id} makes several choices, {space}; it is for "
            "Discrete actions alone"
        )
    return _several(config, space, names)


def _one(config: EnvConfig, count: int, start: int, names: Sequence[Any]) -> Actions:
    own = names if len(names) == count else [str(i) for i in range(count)]
    index = chosen_actions(config, range(count))

    def play(action: Any) -> int:
        played: int = start + index[action]
        return played

    def mask(said: Any) -> Array:
        return _checked(config, said, count)[index]

    return Actions(tuple(own[i] for i in index), (), play, _possible(config, mask, ()))


def _several(config: EnvConfig, space: Any, names: Sequence[Any]) -> Actions:
    counts = tuple(int(n) for n in space.nvec.reshape(-1))
    starts, shape = np.asarray(space.start).reshape(-1), space.nvec.shape
    named = len(names) == len(counts) and all(
        isinstance(part, list | tuple) and len(part) == count for part, count in zip(names, counts, strict=True)
    )
    own = names if named else [range(count) for count in counts]

    def play(action: Any) -> Array:
        played: Array = (np.asarray(action) + starts).reshape(shape).astype(space.dtype)
        return played

    def mask(said: Any) -> Array:
        if isinstance(said, tuple | list) and len(said) == len(counts):  # one for each choice
            said = np.concatenate([np.asarray(part).reshape(-1) for part in said])
        return _checked(config, said, sum(counts))

    labels = tuple(f"{choice}:{name}" for choice, part in enumerate(own) for name in part)
    return Actions(labels, counts, play, _possible(config, mask, counts))


def _checked(config: EnvConfig, said: Any, count: int) -> Array:
    mask: Array = np.asarray(said).reshape(-1)
    if mask.shape != (count,):
        raise EnvError(
            f"env.action_mask is true, but {config.id} gave the {MASK} {said!r}; it must be {count} numbers, one for "
            "each action, in info or under this key of Dict observations"
        )
    return mask.astype(bool)


def _possible(config: EnvConfig, mask: Callable[[Any], Array], counts: Sequence[int]) -> Callable[[Any], Array]:
    """The same, but for what leaves a choice without an action."""

    def checked(said: Any) -> Array:
        found = mask(said)
        if not all(part.any() for part in np.split(found, np.cumsum(counts, dtype=int)[:-1])):
            raise EnvError(f"{config.id} gave the {MASK} {said!r}, by which no action may be played")
        return found

    return checked
