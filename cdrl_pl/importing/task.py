"""The task that an imported policy plays: what the person named, and what the policy's own library would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig, EnvSpec, View, describe, is_atari, resolve
from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.storage.verified import record

ATARI_SKIP, ATARI_ROWS = 4, (0, 210)  # of the field's Atari wrappers: frames of a decision, rows of the whole screen


def read_task(text: str) -> EnvConfig:
    """The task that ``--env`` names: an id, a YAML mapping of the options of ``env``, or the path of a file with one.

    Raises:
        ConfigError: no such thing, or an option that there is not, or of another type.
    """
    if text.endswith((".yaml", ".yml")):
        try:
            text = Path(text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--env is {text!r}, which cannot be read: {error}") from None
    given = _plain("--env", text)
    if isinstance(given, str):
        return EnvConfig(given)
    if not isinstance(given, dict) or not isinstance(given.get("id"), str):
        raise ConfigError(f"--env is {text[:200]!r}; it must be an id, or a mapping of env's options with an id")
    try:
        return record(EnvConfig, given)
    except TypeError as error:
        raise ConfigError(f"--env: {str(error).replace('EnvConfig.', 'env.').replace('EnvConfig', 'env')}") from None


def read_mapping(option: str, text: str) -> dict[str, Any]:
    """A YAML mapping.

    Args:
        option: that it is given by, for the message.
        text: of it.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(given := _plain(option, text), dict):
        raise ConfigError(f"{option} is {text[:200]!r}; it must be a mapping")
    return given


def _plain(option: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{option} is no YAML: {str(error).splitlines()[0]}") from None


def as_its_library(env: EnvConfig, policy: ImportedPolicy) -> tuple[EnvConfig, dict[str, Any]]:
    """The task with what the policy's library would do, where it was left open; and what that is, by option.

    Of Atari games: pictures of the policy's size, the maximum of two frames, as many together as it has channels, whole
    screens, four frames a decision, FIRE on reset: the field's wrappers (Mnih et al. 2015).

    Args:
        env: as the person named it.
        policy: that will play it.
    """
    if len(policy.obs_shape) != 3 or not is_atari(resolve(env)):
        return env, {}
    channels, size = policy.obs_shape[0], (policy.obs_shape[1], policy.obs_shape[2])
    filled: dict[str, Any] = {}
    if env.view is None:
        filled["view"] = View(
            size=size if size[0] != size[1] else size[0], crop=ATARI_ROWS, stack=channels, maximum=True
        )
    if env.frame_skip is None and resolve(env).frame_skip == 1:  # of ids such as PongNoFrameskip-v4
        filled["frame_skip"] = ATARI_SKIP
    if not env.fire_on_reset:
        filled["fire_on_reset"] = True
    return replace(env, **filled), filled


def checked(env: EnvConfig, policy: ImportedPolicy) -> tuple[EnvSpec, ImportedPolicy]:
    """The spec of a task whose observations and actions are those of the policy, and the policy that reads them.

    Raises:
        ConfigError: they are others.
        EnvError: the task cannot be used.
    """
    spec = describe(env)
    policy = policy.seeing(spec.obs_shape)
    if spec.obs_shape != policy.obs_shape:
        raise ConfigError(
            f"the policy reads observations of shape {policy.obs_shape}, {env.id} gives {spec.obs_shape}"
            f"{_cause(policy.obs_shape, spec.obs_shape)}"
        )
    if spec.num_actions != policy.num_actions:
        raise ConfigError(
            f"the policy has {policy.num_actions} actions, {env.id} has {spec.num_actions} "
            f"({', '.join(spec.action_meanings)}); env.full_action_space, or wrappers, may change that"
        )
    return spec, policy


def _cause(policy: tuple[int, ...], task: tuple[int, ...]) -> str:
    if len(policy) != len(task):
        return "; env.view says what is read of them"
    times, left = divmod(policy[0], task[0])
    if times > 1 and not left and policy[1:] == task[1:]:
        return f"; env.view.stack {times} reads as many together"
    if len(policy) == 3 and policy[1:] != task[1:]:
        return f"; env.view.size {list(policy[1:])} makes them so large"
    return "; env.view says what is read of them"
