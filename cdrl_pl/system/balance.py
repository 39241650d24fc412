"""How many workers play and how many threads learn, where the config leaves it open: by costs that were measured.

They come from a table and not from the run's own first seconds: a seed then gives the same workers at every start on a
machine, and a deterministic run can go on. Only their ratios count, which differ less between machines than the costs.
"""

from __future__ import annotations

from dataclasses import dataclass

NEAR = 0.95  # of the best speed: cores that would add less than the rest are left to others
MOST_THREADS = 8  # of a learner: a batch of 20 x 8 decisions has little for each already


@dataclass(frozen=True)
class Costs:
    """What one decision takes of one core, with 32 copies (docs/performance.md).

    Attributes:
        play: game and policy, in ms.
        learn: the agent's own share of an update, in ms.
        teach: what each transfer adds to that, in ms.
        shared: part of an update that threads share, from 0 to 1; they wait for the rest.
    """

    play: float
    learn: float
    teach: float
    shared: float

    def speedup(self, threads: int) -> float:
        """How many times faster so many threads learn than one does (Amdahl's law)."""
        return 1 / (1 - self.shared + self.shared / threads)


PICTURES = Costs(play=0.41, learn=0.17, teach=0.09, shared=0.79)  # Pong, the paper's network
VECTORS = Costs(play=0.019, learn=0.0046, teach=0.0024, shared=0.0)  # CartPole: matrices too small to be shared
LARGE = 1000  # numbers of an observation from which on it is taken for a picture


@dataclass(frozen=True)
class Balance:
    """What a rank's cores do.

    Attributes:
        workers: per agent.
        threads: of the learner on the CPU.
        why: for people.
    """

    workers: int
    threads: int
    why: str


def balance(
    cores: int,
    agents: int,
    costs: Costs,
    teachers: float = 0.0,
    workers: int | None = None,
    threads: int | None = None,
    gpu: bool = False,
    in_turn: bool = False,
) -> Balance:
    """The fewest cores whose reckoned speed is within 5 % of the best.

    Workers play at ``workers / play`` decisions per ms, the learner learns at ``speedup / learn``, and all
    cores together do no more than they can. One learner thread has no core of its own: it and the workers take turns,
    and the queue keeps both busy. Several have theirs, since one that waits for another spins beside busy workers.

    Args:
        cores: of this rank.
        agents: that play.
        costs: of one decision.
        teachers: transfers per agent.
        workers: per agent, where the config says it.
        threads: of the learner, where the config says it.
        gpu: whether it learns on one; then every core plays.
        in_turn: whether nobody plays while the learner learns (``pool.deterministic``); then every core plays, and one
            thread learns, so that sums have one order on every machine.
    """
    most = max(1, cores // agents)
    if gpu or in_turn:
        why = "the learner has a GPU" if gpu else "workers and learner take turns"
        return Balance(workers or most, threads or 1, f"every core plays, since {why}")
    learn = costs.learn + costs.teach * teachers
    found: list[tuple[float, int, int, int]] = []
    for t in [threads] if threads else range(1, min(cores, MOST_THREADS) + 1):
        for w in [workers] if workers else range(1, most + 1):
            speedup, busy = costs.speedup(t), t + w * agents
            if (threads and workers) or t == 1 or busy <= max(cores, agents + 1):
                at_once = cores / (costs.play + learn * t / speedup)
                found.append((min(w * agents / costs.play, speedup / learn, at_once), busy, t, w))
    best = max(found)[0]
    _, busy, t, w = min((option for option in found if option[0] >= NEAR * best), key=lambda option: option[1:])
    why = f"a decision takes about {costs.play:.2g} ms of a core to play and {learn:.2g} ms to learn"
    if (idle := cores - busy) > 1:
        why += f"; {idle} cores are left, which only more ranks would use (docs/scaling.md)"
    return Balance(w, t, why)
