"""The records that cross module boundaries. Shapes: T steps, B environment copies, A actions, S recurrent state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdrl_pl.distributions import IMPOSSIBLE


class PolicyOutput(NamedTuple):
    """What a policy network says about a rollout; logits and values are always fp32."""

    logits: Tensor  # [T, B, A] policy logits
    distill_logits: Tensor  # [T, B, A] logits of the distillation layer; they never decide an action
    values: Tensor  # [T, B]
    state: Tensor  # [B, S] recurrent state after the last step
    masks: Tensor | None = None  # [T, B, A] which actions may be played, where that differs; the logits keep to it

    def masked(self, masks: Tensor | None) -> PolicyOutput:
        """The same for a game that says which actions may be played, [T, B, A]; None: all of them."""
        logits, distill_logits = masked(self.logits, masks), masked(self.distill_logits, masks)
        return self._replace(logits=logits, distill_logits=distill_logits, masks=masks)


class TeacherOutput(NamedTuple):
    """What a teacher says on a student's rollout, without gradient."""

    logits: Tensor  # [T, B, k_alpha]
    features: Tensor | None = (
        None  # [T, B, D] what its heads read, behind trunk and memory; None where F does not read it
    )

    def of(self, copies: slice) -> TeacherOutput:
        """The same of some copies."""
        return TeacherOutput(*(None if part is None else part[:, copies] for part in self))  # type: ignore[arg-type]


class Episode(NamedTuple):
    """A finished episode: the game's own return (never clipped) and its length in decisions."""

    ret: float
    length: int


def masked(logits: Tensor, masks: Tensor | None) -> Tensor:
    """Logits [..., A] under which no action is played that may not be, by ``masks`` [..., A]; None: all may."""
    return logits if masks is None else logits.masked_fill(~masks, IMPOSSIBLE)


# The tensors of a rollout: shape and type of each. T steps, B copies, A actions, K choices that are made at once (where
# there are several), S numbers of recurrent state.
ROLLOUT_SCHEMA: dict[str, tuple[tuple[str, ...], str]] = {
    "obs": (("T+1", "B", "*observation"), "*observation"),
    "resets": (("T+1", "B"), "bool"),
    "actions": (("T", "B", "*K"), "int64"),
    "rewards": (("T", "B"), "float32"),
    "terminated": (("T", "B"), "bool"),
    "truncated": (("T", "B"), "bool"),
    "final_values": (("T", "B"), "float32"),
    "log_probs": (("T", "B"), "float32"),
    "state": (("B", "S"), "float32"),
    "masks": (("T+1", "B", "A"), "bool"),
}
PER_OBSERVATION = ("obs", "resets", "masks")  # with a row for where the next rollout starts, too


@dataclass(frozen=True)
class Rollout:
    """T steps of B copies of one environment, played by one worker with one version of the policy.

    Row t holds what was seen before action t; row T of ``obs``, ``resets`` and ``masks`` is where the next rollout
    starts. Every row is a real transition: an ended episode is reset within the same step. ``ROLLOUT_SCHEMA`` has
    shapes and types.

    Attributes:
        obs: uint8 (images, channels first) or float32 (vectors).
        resets: whether this observation is the first of an episode; always on the host.
        actions: as played.
        rewards: the game's own.
        terminated: whether the episode ended with this step.
        truncated: whether it was cut off after this step.
        final_values: V(last observation of the episode) where truncated, else 0.
        log_probs: of the actions, under the policy that played them.
        state: the student's recurrent state before row 0.
        masks: which actions may be played; None where the game does not say.
        worker: index of the worker that played it.
        policy_version: of the policy that played it.
        policy_lag: versions between that policy and the newest.
        episodes: that ended in it.
        views: what ``obs`` would be through other views than the agent's own, by view; teachers read the game so.
    """

    obs: Tensor
    resets: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_values: Tensor
    log_probs: Tensor
    state: Tensor
    masks: Tensor | None = None
    worker: int = 0
    policy_version: int = 0
    policy_lag: int = 0
    episodes: tuple[Episode, ...] = ()
    views: Mapping[Any, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """T, the number of decisions of each copy."""
        return self.actions.shape[0]

    @property
    def copies(self) -> int:
        """B, the number of environment copies."""
        return self.actions.shape[1]

    def tensors(self) -> dict[str, Any]:
        """The tensor fields by name, without the other views."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}

    def map(self, function: Callable[[str, Tensor], Tensor], **changes: Any) -> Rollout:
        """The same rollout with ``function`` of the name and value of each tensor; other views as ``obs``."""
        mapped: dict[str, Any] = {name: function(name, tensor) for name, tensor in self.tensors().items()}
        views = {view: function("obs", tensor) for view, tensor in self.views.items()}
        return replace(self, **mapped, views=views, **changes)

    def check(self) -> None:
        """Compares every tensor with ``ROLLOUT_SCHEMA``; called once, where a rollout enters the learner's process.

        Raises:
            ValueError: naming the tensor, its shape and type, and what they must be.
        """
        (steps, copies, *choices), observation = self.actions.shape, tuple(self.obs.shape[2:])
        sizes = {
            "T+1": (steps + 1,),
            "T": (steps,),
            "B": (copies,),
            "S": self.state.shape[1:],
            "*K": tuple(choices),
            "A": () if self.masks is None else self.masks.shape[2:],
            "*observation": observation,
        }
        own = self.tensors()
        tensors = [(name, own[name], *schema) for name, schema in ROLLOUT_SCHEMA.items() if name in own]
        tensors += [(f"views[{view}]", tensor, *ROLLOUT_SCHEMA["obs"]) for view, tensor in self.views.items()]
        for name, tensor, dims, kind in tensors:
            if name.startswith("views"):
                sizes["*observation"] = tuple(tensor.shape[2:])
            shape = tuple(size for dim in dims for size in sizes[dim])
            kinds = ("uint8", "float32") if kind == "*observation" else (kind,)
            if tuple(tensor.shape) != shape or str(tensor.dtype).removeprefix("torch.") not in kinds:
                raise ValueError(
                    f"rollout.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; it must be {' or '.join(kinds)} "
                    f"of shape [{', '.join(dims)}] = {shape}"
                )

    def to(self, *args: Any, **kwargs: Any) -> Rollout:
        """The same rollout with every tensor moved, as ``Tensor.to``, but for ``resets``.

        Those decide at which rows the memory is cut: read from a GPU, they would make every forward pass wait for it.
        """
        return self.map(lambda name, tensor: tensor if name == "resets" else tensor.to(*args, **kwargs))

    def select(self, copies: slice) -> Rollout:
        """The given copies only (a view)."""
        return self.map(lambda name, v: v[copies] if name == "state" else v[:, copies], episodes=())

    def split(self, copies: int | None) -> Iterator[slice]:
        """Slices over the copies, ``copies`` in each (all of them where None)."""
        size = min(copies or self.copies, self.copies)
        for start in range(0, self.copies, size):
            yield slice(start, min(start + size, self.copies))

    def clone(self) -> Rollout:
        """A copy that owns its memory."""
        return self.map(lambda _, tensor: tensor.clone())


def join(rollouts: list[Rollout]) -> Rollout:
    """Consecutive rollouts of one worker as one longer rollout (spec section 6, row "rollouts")."""
    first, last = rollouts[0], rollouts[-1]

    def joined(name: str, parts: list[Tensor]) -> Tensor:
        if name == "state":
            return parts[0]
        if name not in PER_OBSERVATION:
            return torch.cat(parts)
        return torch.cat([*(part[: r.steps] for r, part in zip(rollouts, parts, strict=True)), parts[-1][last.steps :]])

    tensors: dict[str, Any] = {name: joined(name, [r.tensors()[name] for r in rollouts]) for name in first.tensors()}
    return replace(
        first,
        **tensors,
        views={view: joined("obs", [r.views[view] for r in rollouts]) for view in first.views},
        episodes=tuple(e for r in rollouts for e in r.episodes),
    )
