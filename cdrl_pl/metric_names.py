"""Every metric of a run, in one place: its name in the logs, its unit, and what it says. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PHASES = ("reinforce", "align", "distil", "stopped")


@dataclass(frozen=True)
class Metric:
    """One column of a run's log, or one for each agent, transfer, source of actions, optimizer or worker.

    Calling it with what its placeholders stand for gives the column's name: ``RETURN("pong")`` is ``"return/pong"``.

    Attributes:
        pattern: the name, with placeholders in braces.
        unit: of the values; empty where they have none.
        meaning: for people, one sentence.
        vector: one column for each element, whose index follows the name: ``actions/pong/0``.
    """

    pattern: str
    unit: str
    meaning: str
    vector: bool = False

    def __call__(self, *parts: object) -> str:
        name, count = re.subn(r"{\w+}", "{}", self.pattern)
        if count != len(parts):
            raise TypeError(f"{self.pattern} needs {count} parts, got {parts}")
        return name.format(*parts)

    def matches(self, column: str) -> bool:
        """Returns whether this is the name of such a column."""
        parts = re.split(r"{\w+}", self.pattern)
        suffix = r"/\d+" if self.vector else ""
        return re.fullmatch("[^ ]+?".join(map(re.escape, parts)) + suffix, column) is not None


_T = "T: decisions of every playing agent, over all workers and ranks"
_SOURCE = "; a source is an agent, or a transfer's teacher or aligned teacher"
_KNOWN = ", where the right alignment is known"
_LINE, _RUN = ", since the last line", ", since the run began"

ENV_STEPS = Metric("env_steps", "decisions", _T)
RETURN = Metric("return/{agent}", "points", "mean return of the last model.window training episodes, the game's own")
LENGTH = Metric("length/{agent}", "decisions", "mean length of those episodes")
EPISODES = Metric("episodes/{agent}", "episodes", "training episodes finished since the beginning")
DECISIONS_PER_SECOND = Metric("decisions_per_second", "decisions/s", "of all playing agents" + _LINE)
SECONDS = Metric("seconds", "s", "since the last line")
ELAPSED = Metric("elapsed_seconds", "s", "of training" + _RUN + ", over all its starts")
POLICY_LOSS = Metric("policy_loss/{agent}", "", "-log pi(a) A, mean per decision, of scaled rewards")
VALUE_LOSS = Metric("value_loss/{agent}", "", "(R - v)^2, mean per decision, of scaled rewards")
ENTROPY = Metric("entropy/{agent}", "nats", "of the policy, mean per decision")
POLICY_LAG = Metric("policy_lag/{agent}", "updates", "between the policy that played a rollout and the newest")
ACTIONS = Metric("actions/{source}", "", "mean probability of each action, by its index" + _SOURCE, vector=True)
STATE_INFORMATION = Metric("state_information/{source}", "nats", "how much the action depends on the state" + _SOURCE)
PHASE = Metric("phase/{transfer}", "", f"what is on: {', '.join(f'{i} {name}' for i, name in enumerate(PHASES))}")
ALIGNMENT_KL = Metric("alignment_kl/{transfer}", "nats", "KL(student's policy || aligned teacher), per decision")
DISTILLATION_KL = Metric("distillation_kl/{transfer}", "nats", "KL(aligned teacher || distilled layer), per decision")
ALIGNMENT_ACCURACY = Metric(
    "alignment_accuracy/{transfer}", "", "share of states where F's most probable play is the teacher's" + _KNOWN
)
ALIGNMENT_ACCURACY_ONE_HOT = Metric(
    "alignment_accuracy/{transfer}/one_hot", "", "share of the teacher's actions that F alone maps rightly" + _KNOWN
)
GATE = Metric("gate/{transfer}", "", "mean weight of a state's lesson by the transfer's gate, 0 to 1")
DISTILLATION_WEIGHT = Metric("distillation_weight/{transfer}", "", "of the distillation loss, factor and alarm counted")
TEACHER_VALUE = Metric("teacher_value/{transfer}", "", "what following the teacher for one step would gain, -1 to 1")
TEACHER_FACTOR = Metric("teacher_factor/{transfer}", "", "a teacher's share of the attention; a student's average 1")
GRADIENT_COSINE = Metric(
    "gradient_cosine/{transfer}", "", "of the distillation and the reinforcement gradient on the student's trunk"
)
GRADIENT_RATIO = Metric(
    "gradient_ratio/{transfer}", "", "norm of the distillation gradient, unweighted, over the reinforcement's there"
)
GRAD_NORM = Metric("grad_norm/{optimizer}", "", "global norm of the gradient before clipping, mean per step")
SKIPPED_STEPS = Metric("skipped_steps/{optimizer}", "steps", "not taken, the gradient not being finite" + _LINE)
TIME_TEACHERS = Metric("time/teachers", "s", "reading rollouts with the teachers' networks" + _LINE)
TIME_LEARNING = Metric("time/learning", "s", "of the students' forward and backward passes" + _LINE)
TIME_ALIGNMENT = Metric("time/alignment", "s", "training alignment functions" + _LINE)
TIME_DISTILLATION = Metric("time/distillation", "s", "of lessons and of separate distillation steps" + _LINE)
TIME_ALARM = Metric("time/alarm", "s", "measuring gradient cosines" + _LINE)
TIME_SYNCHRONISING = Metric("time/synchronising", "s", "averaging gradients over ranks, the slowest awaited" + _LINE)
TIME_WAITING = Metric("time/waiting_for_rollouts", "s", "the learner waited for rollouts" + _RUN)
WORKERS_WAITING = Metric("workers/waiting_for_learner", "s", "workers waited for the learner, summed" + _RUN)
WORKERS_PLAYING = Metric("workers/playing", "s", "workers played, summed" + _RUN)
WORKER_RESTARTS = Metric("workers/restarts", "workers", "replaced" + _RUN)
WORKER_ROLLOUTS = Metric("workers/rollouts/{agent}-{worker}", "rollouts", "finished by this worker" + _RUN)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
# The groups of TensorBoard's cards, which it sorts by name; metrics of learning are all others.
CARDS = {
    "1 returns": (RETURN, LENGTH, EPISODES),
    "2 transfers": (
        PHASE, ALIGNMENT_KL, DISTILLATION_KL, STATE_INFORMATION, ALIGNMENT_ACCURACY, ALIGNMENT_ACCURACY_ONE_HOT,
        GATE, DISTILLATION_WEIGHT, TEACHER_VALUE, TEACHER_FACTOR, GRADIENT_COSINE, GRADIENT_RATIO,
    ),
    "3 actions": (ACTIONS,),
    "5 speed": (
        ENV_STEPS, ELAPSED, SECONDS, DECISIONS_PER_SECOND, TIME_TEACHERS, TIME_LEARNING, TIME_ALIGNMENT,
        TIME_DISTILLATION, TIME_ALARM, TIME_SYNCHRONISING, TIME_WAITING, WORKERS_WAITING, WORKERS_PLAYING,
        WORKER_RESTARTS, WORKER_ROLLOUTS,
    ),
}  # fmt: skip
LEARNING = "4 learning"


def card(column: str, action_names: Mapping[str, Sequence[str]]) -> str:
    """The name of a column's card in TensorBoard: its group, then the column, with an action's name for its index.

    Args:
        column: of the log; one that is no metric here is its own card.
        action_names: by source. Actions of one name keep their index beside it.
    """
    metric = next((metric for metric in METRICS if metric.matches(column)), None)
    if metric is None:
        return column
    if metric.vector:
        source, _, index = column.rpartition("/")
        names = action_names.get(source.removeprefix(ACTIONS("")), ())
        if int(index) < len(names):
            name = names[int(index)]
            column = f"{source}/{name if names.count(name) == 1 else f'{name} {index}'}"
    return f"{next((group for group, metrics in CARDS.items() if metric in metrics), LEARNING)}/{column}"
